r"""Draw tables of learning curves from the prior of ifBO (Rakotoarison et al. 2024, arXiv:2404.16795).

No curve of ours had a part in them. The package (MIT) stays out of vae_tune's environment; its code needs no weights::

    pip install --target build/ifbo --no-deps ifbo==0.4.1 submitit
    PYTHONPATH=build/ifbo python benchmarks/ifbo_tables.py benchmarks/curves/ifbo
    PYTHONPATH=build/ifbo python benchmarks/ifbo_tables.py build/unseen --tasks 10-19

A task is one draw of the prior: a random network that gives each configuration its curve. Tasks 0 to 9 may be looked
at while a search method is developed. Tasks 10 to 19 are drawn again when a finished method is measured, and not kept:
see docs/curves.md.
"""

from __future__ import annotations

import argparse
import hashlib
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from optuna.distributions import FloatDistribution
from scipy.stats import qmc

from vae_tune.config.csv_tables import to_csv
from vae_tune.config.fields import to_dict
from vae_tune.config.names import EPOCH, SEARCH, SECONDS, TRIAL, VAL_LOSS
from vae_tune.config.settings import NO_EARLY_STOPPING, SearchConfig, TrialConfig
from vae_tune.config.space import Space
from vae_tune.record.metadata import SCHEMA, space_to_dict, this_run
from vae_tune.replay.curves import write_table

TASKS, SEEN = 20, 10
HYPERPARAMETERS = (2, 3, 4, 6, 8)  # of tasks 0 to 4, and so on
CONFIGURATIONS, EPOCHS = 256, 27
OUTPUTS = 23  # random numbers that the prior's network gives a curve
KIND = "1 - performance, drawn from the prior of ifBO"


def draw(prior: Any, task: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the configurations of a task, (n, d) in 0..1, and their losses, (n, epochs) in 0..1.

    The first configuration is the middle of the space; the others are a scrambled Sobol sequence.
    """
    count = HYPERPARAMETERS[task % len(HYPERPARAMETERS)]
    sobol = qmc.Sobol(count, seed=task).random(CONFIGURATIONS)[1:].round(4)
    points = np.concatenate([np.full((1, count), 0.5), sobol])
    np.random.seed(task)  # the prior draws from NumPy's and torch's global generators
    torch.manual_seed(task)
    torch.set_num_threads(1)
    curves = prior.DatasetPrior(count, OUTPUTS).curves_for_configs(points)
    times = np.arange(1, EPOCHS + 1) / EPOCHS
    return points, 1 - np.array([curves(times, number) for number in range(CONFIGURATIONS)])


def write_task(prior: Any, task: int, output: Path) -> Path:
    """Write the table of a task into the folder ``output``; return the file of its curves."""
    points, losses = draw(prior, task)
    names = [f"model.x{number + 1}" for number in range(points.shape[1])]
    table = pd.DataFrame(points.repeat(EPOCHS, axis=0), columns=names)
    table.insert(0, TRIAL, np.arange(CONFIGURATIONS).repeat(EPOCHS))
    table.insert(1, EPOCH, np.tile(np.arange(1, EPOCHS + 1), CONFIGURATIONS))
    table[VAL_LOSS] = losses.ravel().round(4)
    table[SECONDS] = 1.0
    return write_table(table, _metadata(task, names, table), output)


def _metadata(task: int, names: list[str], table: pd.DataFrame) -> dict[str, Any]:
    """Return the content of ``study.json``: the losses rank as those of a user's metric, whose scale is not known."""
    options = {name.removeprefix("model."): 0.5 for name in names}
    base = TrialConfig(model="ifbo", model_options=options, max_epochs=EPOCHS)
    config = SearchConfig(num_samples=CONFIGURATIONS, sampler="qmc", asha=NO_EARLY_STOPPING, trial=base)
    source = {"dataset": f"ifbo {version('ifbo')}, task {task}", "sha256": hashlib.sha256(to_csv(table)).hexdigest()}
    return {
        "name": f"ifbo-{task:02}",
        "schema": SCHEMA,
        "kind": SEARCH,
        "config": to_dict(config),
        "reference": to_dict(base),
        **space_to_dict(Space({name: FloatDistribution(0.0, 1.0) for name in names})),
        "data": {**source, "train": 0, "validation": 0, "test": 0, "shape": [28, 28]},
        "metric": {"name": VAL_LOSS, "unit": "", "kind": KIND, "direction": "minimize", "columns": [VAL_LOSS]},
        "rungs": [],
        "runs": [this_run()],
        "status": "complete",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="folder of the tables; each gets one of its own")
    parser.add_argument("--tasks", default=f"0-{SEEN - 1}", help="first and last task; default: those to look at")
    options = parser.parse_args()
    first, last = map(int, options.tasks.split("-"))
    if not 0 <= first <= last < TASKS:
        parser.error(f"--tasks must be FIRST-LAST in 0-{TASKS - 1}, but got {options.tasks}")
    prior = import_module("ifbo.priors.ftpfn_prior")
    for task in range(first, last + 1):
        path = write_task(prior, task, options.output / f"{task:02}")
        print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
