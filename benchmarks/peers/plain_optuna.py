"""One of two processes that search with Optuna alone: a journal file between them, SuccessiveHalvingPruner.

A trial that diverges has failed, and the search goes on: by ``catch`` where the training raises an exception, by
Optuna's handling of NaN where it reports the loss.

python plain_optuna.py KERNEL FOLDER NUM_SAMPLES TRAIN_SIZE MAX_EPOCHS
"""

import math
import sys
from pathlib import Path

import optuna
from common import logged, ranges, train
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import MaxTrialsCallback
from optuna.trial import TrialState

from vae_tune.vae.training import Diverged


def main() -> None:
    kernel, place, num_samples, train_size, max_epochs = sys.argv[1:]
    folder = Path(place)
    space = ranges(folder)

    def objective(trial: optuna.Trial) -> float:
        values: dict[str, float] = {
            "latent_size": trial.suggest_int("latent_size", *space["latent_size"], log=True),
            "hidden_width": trial.suggest_int("hidden_width", *space["hidden_width"], log=True),
            "learning_rate": trial.suggest_float("learning_rate", *space["learning_rate"], log=True),
        }
        loss = float("inf")
        losses = train(kernel, values, int(train_size), int(max_epochs))
        for epoch, loss in logged(folder, trial.number, losses):
            if not math.isfinite(loss):
                return math.nan
            trial.report(loss, epoch)
            if trial.should_prune():
                raise optuna.TrialPruned
        return loss

    study = optuna.create_study(
        study_name="search",
        storage=JournalStorage(JournalFileBackend(str(folder / "journal.log"))),
        pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=3),
        load_if_exists=True,
    )
    states = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.RUNNING)
    study.optimize(objective, catch=(Diverged,), callbacks=[MaxTrialsCallback(int(num_samples), states=states)])


if __name__ == "__main__":
    main()
