r"""Record the learning curves of a published table, each configuration trained to the end: see docs/curves.md.

    nice python benchmarks/record_curves.py mnist-wide build/mnist-wide
    nice python benchmarks/record_curves.py emoji-mlp build/emoji-mlp --dataset emoji
    nice python benchmarks/record_curves.py emoji-conv build/emoji-conv --dataset emoji

The folder ``emoji`` is that of ``benchmarks/emoji.py``. Without Ray: each process trains one configuration at a time
on one thread, and writes its curve into the folder when it has ended. The same command goes on after an interruption;
trainings that had not ended start again. Once all curves are there, the table is written into benchmarks/curves.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import torch

from vae_tune.config.fields import from_dict, to_dict
from vae_tune.config.files import write_json
from vae_tune.config.machine_limits import usable_cpus
from vae_tune.config.names import EPOCH, SECONDS, TRIAL, VAL_KL, VAL_LOSS, VAL_RECONSTRUCTION
from vae_tune.config.optuna_logging import silence_optuna
from vae_tune.config.settings import NO_EARLY_STOPPING, DataConfig, SearchConfig, TrialConfig
from vae_tune.config.space import Space, load_space
from vae_tune.config.trial_values import with_values
from vae_tune.images.datasets import Images, load_images
from vae_tune.record.metadata import new_metadata, this_run
from vae_tune.replay.curves import write_table
from vae_tune.search.initial_trials import reference_values
from vae_tune.search.sampler import make_sampler
from vae_tune.tasks.model_code import signature_of_named, with_options
from vae_tune.vae.training import Diverged, fit

FOLDER = Path(__file__).parent
REPORTED = (EPOCH, VAL_LOSS, VAL_RECONSTRUCTION, VAL_KL, SECONDS)
EPOCHS = 27
EMOJI = DataConfig(dataset="emoji", image_size="16")
TABLES = {
    "mnist-wide": SearchConfig(
        num_samples=300,
        space=Path("wide"),
        data=DataConfig(train_size=6000),
        trial=TrialConfig(max_epochs=EPOCHS, encoder_activation="linear", precision="bfloat16"),  # half the time
    ),
    "emoji-mlp": SearchConfig(
        num_samples=100,
        space=FOLDER / "spaces" / "emoji-mlp.yaml",
        data=EMOJI,
        trial=TrialConfig(max_epochs=EPOCHS, encoder_activation="relu", likelihood="logistic"),
    ),
    "emoji-conv": SearchConfig(
        num_samples=100,
        space=FOLDER / "spaces" / "emoji-conv.yaml",
        data=EMOJI,
        trial=TrialConfig(
            model="conv",
            model_options={"channels": 16, "residual_blocks": 0},
            max_epochs=EPOCHS,
            learning_rate=1e-3,
            likelihood="logistic",
        ),
    ),
}
"""The search of each table, as ``--sampler qmc --scheduler none`` would run it."""


@dataclass(frozen=True)
class Recording:
    """A table to record."""

    config: SearchConfig
    space: Space
    base: TrialConfig

    @classmethod
    def of(cls, config: SearchConfig) -> Recording:
        """Return the recording for the search ``config``."""
        config = replace(config, sampler="qmc", asha=NO_EARLY_STOPPING)
        space = load_space(config.space, config.trial, signature_of_named)
        config = replace(config, trial=with_options(config.trial, space))
        return cls(config, space, with_values(config.trial, space.fixed))

    def points(self) -> Iterator[dict[str, Any]]:
        """Yield the configurations: the reference, then the points of a scrambled Sobol sequence."""
        with silence_optuna():
            study = optuna.create_study(sampler=make_sampler("qmc", self.base.seed, 0, self.space, ()))
            study.enqueue_trial(reference_values(self.space, self.base))
            for _ in range(self.config.num_samples):
                yield study.ask(dict(self.space.distributions)).params


@cache
def images_of(data: str) -> Images:
    """Return the images of a data configuration in JSON, loaded once per process."""
    return load_images(from_dict(DataConfig, json.loads(data)))


def train(base: TrialConfig, data: str, task: tuple[Path, dict[str, Any]]) -> Path:
    """Train a configuration, given with the file to write its curve to, to the end; return the file.

    Seconds are those of this process on its processor: they change less than the clock where other programs run.
    """
    file, values = task
    torch.set_num_threads(1)
    images = images_of(data)
    curve: dict[str, Any] = {"values": values, "reports": [], "diverged": None}
    start = time.process_time()
    try:
        for report in fit(with_values(base, values), images, torch.device("cpu")):
            end = time.process_time()
            curve["reports"].append(
                [report.epoch, report.val_loss, report.val_reconstruction, report.val_kl, end - start]
            )
            start = end
    except Diverged as diverged:
        curve["diverged"] = diverged.epoch
    write_json(file, curve)
    return file


def record(recording: Recording, folder: Path, processes: int) -> None:
    """Train what the folder lacks, on so many processes."""
    files = [folder / f"{number:05}.json" for number in range(recording.config.num_samples)]
    missing = [pair for pair in zip(files, recording.points(), strict=True) if not pair[0].exists()]
    work = partial(train, recording.base, json.dumps(to_dict(recording.config.data)))
    start = time.monotonic()
    with get_context("spawn").Pool(processes) as pool:
        for done, file in enumerate(pool.imap_unordered(work, missing), start=1):
            left = len(missing) - done
            minutes = (time.monotonic() - start) / done * left / 60
            print(f"{file}; {left} left, {minutes:.0f} minutes", flush=True)


def table_of(recording: Recording, folder: Path) -> pd.DataFrame:
    """Return the recorded curves as a table; a diverged one ends with an infinite loss."""
    rows = []
    for path in sorted(folder.glob("*.json")):
        curve = json.loads(path.read_text())
        reports = [dict(zip(REPORTED, cells, strict=True)) for cells in curve["reports"]]
        if curve["diverged"]:
            pace = sum(report[SECONDS] for report in reports) / len(reports) if reports else None
            reports.append({EPOCH: curve["diverged"], VAL_LOSS: float("inf"), SECONDS: pace})
        rows += [{TRIAL: int(path.stem), **curve["values"], **report} for report in reports]
    columns = [TRIAL, EPOCH, *recording.space.distributions, *REPORTED[1:]]
    table = pd.DataFrame(rows, columns=columns)
    return table.fillna({SECONDS: table[SECONDS].mean()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=TABLES)
    parser.add_argument("folder", type=Path, help="folder of the curves that have been recorded")
    parser.add_argument("--dataset", help="folder of the pictures")
    parser.add_argument("--processes", type=int, default=usable_cpus())
    parser.add_argument("--output", type=Path, help="folder of the table; default: benchmarks/curves/TABLE")
    parser.add_argument("--now", action="store_true", help="train nothing; write the table of the curves so far")
    parser.add_argument("--count", type=int, help="record so many configurations only, for a try: no table is written")
    parser.add_argument("--seed", type=int, default=0, help="of configurations and weights; another one is for a try")
    options = parser.parse_args()
    config = TABLES[options.table]
    data = replace(config.data, dataset=options.dataset or config.data.dataset)
    tries = options.count is not None or options.seed != 0
    count = config.num_samples if options.count is None else options.count
    config = replace(config, data=data, num_samples=count, trial=replace(config.trial, seed=options.seed))
    recording = Recording.of(config)
    options.folder.mkdir(parents=True, exist_ok=True)
    if not options.now:
        record(recording, options.folder, options.processes)
    if tries:
        return
    images = load_images(recording.config.data)
    metadata = new_metadata(options.table, recording.config, recording.base, recording.space, images)
    metadata |= {"runs": [this_run()], "status": "complete"}
    output = options.output or FOLDER / "curves" / options.table
    path = write_table(table_of(recording, options.folder), metadata, output)
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
