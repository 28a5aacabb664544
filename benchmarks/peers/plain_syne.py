"""Syne Tune as its documentation shows it: ASHA on the local backend, a process for each trial.

python plain_syne.py KERNEL FOLDER NUM_SAMPLES TRAIN_SIZE MAX_EPOCHS
"""

import sys
from pathlib import Path

from common import ranges
from syne_tune import StoppingCriterion, Tuner
from syne_tune.backend import LocalBackend
from syne_tune.config_space import lograndint, loguniform
from syne_tune.optimizer.baselines import ASHA


def main() -> None:
    kernel, folder, num_samples, train_size, max_epochs = sys.argv[1:]
    searched = ranges(Path(folder))
    space = {
        "latent_size": lograndint(*searched["latent_size"]),
        "hidden_width": lograndint(*searched["hidden_width"]),
        "learning_rate": loguniform(*searched["learning_rate"]),
        "kernel": kernel,
        "folder": folder,
        "train_size": int(train_size),
        "max_epochs": int(max_epochs),
    }
    asha = ASHA(space, metric="val_loss", time_attr="epoch", max_t=int(max_epochs), grace_period=1, reduction_factor=3)
    tuner = Tuner(
        trial_backend=LocalBackend(entry_point=str(Path(__file__).with_name("syne_trial.py"))),
        scheduler=asha,
        stop_criterion=StoppingCriterion(max_num_trials_started=int(num_samples)),
        n_workers=2,
        max_failures=int(num_samples),  # a trial that diverges has failed, and the search goes on
        wait_trial_completion_when_stopping=True,
    )
    tuner.run()


if __name__ == "__main__":
    main()
