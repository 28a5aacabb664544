"""A trial of a second, on images of noise: whether a node can train, and how fast."""

from __future__ import annotations

import time

import numpy as np
import torch

from vae_tune.config.settings import TrialConfig
from vae_tune.images.datasets import Images
from vae_tune.vae.training import fit

_SECONDS = 1.0


def one_second_trial(gpu: bool, seconds: float = _SECONDS) -> tuple[float, str]:
    """Train the reference configuration for about a second; return images per second and the device's name."""
    noise = np.random.default_rng(0).integers(0, 256, (1_536, 1, 28, 28), np.uint8)
    images = Images(noise[:1_280], noise[1_280:], noise[1_280:])
    config = TrialConfig(max_epochs=1_000)
    device = torch.device("cuda" if gpu else "cpu")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as a trial with one CPU has
    try:
        end = time.monotonic() + seconds
        reports = fit(config, images, device)
        report = next(reports)
        while time.monotonic() < end:
            report = next(reports)
    finally:
        torch.set_num_threads(threads)
    return report.images_per_second, torch.cuda.get_device_name(device) if gpu else "cpu"
