"""What a trial costs beyond its training: searches of trials that cost nothing, five reports each.

    python benchmarks/scale.py [--trials 200,1000,5000] [--samplers tpe,random]

Each search runs in a process of its own, two trials side by side. A trial's cost is the wall-clock between two ends of
trials; the first 100 and the last 100 tell whether it grows with the history.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from harness import publish


def worker(sampler: str, trials: int, folder: Path) -> dict[str, float]:
    """Run one search in this process."""
    import math
    import resource
    from itertools import pairwise

    import numpy as np
    from ray import tune

    from vae_tune.cluster.ray_runtime import running_ray
    from vae_tune.cluster.slots import Slots
    from vae_tune.config.settings import AshaConfig, ResourceConfig, SearchConfig, TrialConfig
    from vae_tune.config.space import DEFAULT_SPACE
    from vae_tune.images.datasets import Images
    from vae_tune.record.metadata import new_metadata
    from vae_tune.record.study_record import StudyRecord
    from vae_tune.record.trials import TrialRow
    from vae_tune.search.stopping import Stopping
    from vae_tune.search.tuner import run_trials

    epochs = 5

    def train(config: dict[str, object]) -> None:
        values = config["values"]
        for epoch in range(1, epochs + 1):
            loss = 100 + abs(math.log(values["learning_rate"] / 1e-3)) + 10 / epoch  # type: ignore[index]
            parts = {"train_loss": loss, "val_reconstruction": loss, "val_kl": 0.0, "active_units": 1}
            times = {"seconds": 0.0, "images_per_second": 1.0, "device": "cpu"}
            tune.report({"epoch": epoch, "val_loss": loss, **parts, **times})

    config = SearchConfig(
        num_samples=trials,
        sampler=sampler,  # type: ignore[arg-type]
        trial=TrialConfig(max_epochs=epochs),
        asha=AshaConfig(scheduler="none"),
    )
    image = np.zeros((1, 1, 2, 2), np.uint8)
    metadata = new_metadata(folder.name, config, config.trial, DEFAULT_SPACE, Images(image, image, image))
    ended: dict[int, float] = {}  # when each trial ended first

    def note_end(row: TrialRow) -> None:
        if row.ended:
            ended.setdefault(row.trial, time.perf_counter())

    with running_ray(ResourceConfig()):
        record = StudyRecord.create(folder, metadata)
        record.listeners.append(note_end)
        before = resource.getrusage(resource.RUSAGE_SELF)
        run_trials(train, config, DEFAULT_SPACE, record, lambda: Slots(count=2, cpus=1, gpus=0), Stopping())
        after = resource.getrusage(resource.RUSAGE_SELF)
        record.close()
    ends = list(ended.values())
    gaps = [later - earlier for earlier, later in pairwise(ends)]
    return {
        "trials": len(ends),
        "ms_per_trial": 1e3 * (ends[-1] - ends[0]) / (len(ends) - 1),
        "driver_cpu_ms": 1e3 * (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / len(ends),
        "first_100_ms": 1e3 * statistics.mean(gaps[:100]),
        "last_100_ms": 1e3 * statistics.mean(gaps[-100:]),
        "driver_mb": after.ru_maxrss / 1e3,
        "record_mb": sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", default="200,1000,5000")
    parser.add_argument("--samplers", default="tpe,random")
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        sampler, trials, place = options.worker
        print(json.dumps(worker(sampler, int(trials), Path(place))))
        return
    rows, measured = [], {}
    for sampler in options.samplers.split(","):
        for trials in options.trials.split(","):
            with tempfile.TemporaryDirectory() as place:
                command = [sys.executable, __file__, "--worker", sampler, trials, f"{place}/study"]
                output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
            found = json.loads(output.splitlines()[-1])
            print(f"  {sampler}, {trials} trials: {found['ms_per_trial']:.1f} ms each", flush=True)
            measured[f"{sampler}, {trials} trials"] = found
            rows.append(
                [
                    f"{sampler}, {trials} trials",
                    f"{found['ms_per_trial']:.1f}",
                    f"{found['driver_cpu_ms']:.1f}",
                    f"{found['first_100_ms']:.1f}",
                    f"{found['last_100_ms']:.1f}",
                    f"{found['driver_mb']:.0f}",
                    f"{found['record_mb']:.2f}",
                ]
            )
    columns = ["", "ms a trial", "driver's CPU, ms", "first 100", "last 100", "driver, MB", "record, MB"]
    few, many = options.trials.split(",")[0], options.trials.split(",")[-1]
    remarks = []
    for sampler in options.samplers.split(","):
        least, most = (measured[f"{sampler}, {trials} trials"] for trials in (few, many))
        cost, memory = most["ms_per_trial"] / least["ms_per_trial"], most["driver_mb"] - least["driver_mb"]
        remarks.append(
            f"{many} trials against {few}, {sampler}: {cost:.2f} x a trial, {memory:+.0f} MB in the driver."
        )
    publish("scale", "Trials that cost nothing, 5 reports each, two side by side", columns, rows, measured, remarks)


if __name__ == "__main__":
    main()
