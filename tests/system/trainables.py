"""Trainables that cost nothing, in a module that costs next to nothing to import: each worker does."""

import math

from ray import tune

MAX_EPOCHS = 9


def report(epoch, loss):
    parts = {"train_loss": loss, "val_reconstruction": loss, "val_kl": 0.0, "active_units": 1}
    tune.report(
        {"epoch": epoch, "val_loss": loss, **parts, "seconds": 0.01, "images_per_second": 1.0, "device": "cpu"}
    )


def loss_of(config, epoch):
    return 100 + abs(math.log(config["values"]["learning_rate"] / 1e-3)) + 10 / epoch


def good(config):
    for epoch in range(1, MAX_EPOCHS + 1):
        report(epoch, loss_of(config, epoch))
