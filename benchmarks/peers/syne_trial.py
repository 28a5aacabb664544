"""One trial of Syne Tune: a script that takes its hyperparameters as arguments and reports."""

from argparse import ArgumentParser
from pathlib import Path

from common import logged, train
from syne_tune import Reporter


def main() -> None:
    parser = ArgumentParser()
    for name in ("latent_size", "hidden_width", "train_size", "max_epochs"):
        parser.add_argument(f"--{name}", type=int)
    parser.add_argument("--learning_rate", type=float)
    parser.add_argument("--kernel")
    parser.add_argument("--folder", type=Path)
    options, _ = parser.parse_known_args()
    report = Reporter()
    values = vars(options)
    losses = train(options.kernel, values, options.train_size, options.max_epochs)
    trial = f"{options.latent_size}-{options.hidden_width}-{options.learning_rate}"
    for epoch, loss in logged(options.folder, trial, losses):
        report(epoch=epoch, val_loss=loss)


if __name__ == "__main__":
    main()
