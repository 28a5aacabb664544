"""Start a search, kill -9 its driver at a random moment, resume, until it completes; then audit what is left.

    python -m tests.system.chaos [--kills 30] [--seed 0]

The same search also runs unbroken. Each trial of both has the same hyperparameters (random sampler: they depend on
seed and number alone), so each epoch that both trained must have the same losses, to the last bit. The last line is
``rounds, kills, trials lost, epochs repeated``; repeated are at most the epochs in flight at a kill.
"""

from __future__ import annotations

import argparse
import random
import signal
import tempfile
import time
from pathlib import Path

from tests.system.conftest import Command, alive, table
from vae_tune.analysis.audit import audit
from vae_tune.config.files import read_json
from vae_tune.record.trials import read_trials
from vae_tune.vae.checkpoint import checkpoint_folder, checkpoints

LOSSES = ("train_loss", "val_loss", "val_reconstruction", "val_kl", "active_units")


def run_chaos(place: Path, kills: int, seed: int, num_samples: int) -> dict[str, int]:
    """Run both searches in ``place`` and return the counts; raises AssertionError where anything was lost."""
    chance = random.Random(seed)
    options = ("--num-samples", num_samples, "--sampler", "random", "--train-size", 4000, "--max-epochs", 9)
    options = (*options, "--results-dir", "out", "--seed", seed)
    folder, counts = place / "out" / "chaos", {"rounds": 0, "kills": 0, "trials lost": 0, "epochs repeated": 0}
    everyone: set[int] = set()
    while True:
        counts["rounds"] += 1
        resumed = (folder / "study.json").exists()
        search = Command(*(("--resume", folder) if resumed else (*options, "--study-name", "chaos")), cwd=place)
        if counts["kills"] < kills and _killed(search, chance, folder, everyone):
            counts["kills"] += 1
            counts["epochs repeated"] += in_flight(folder)
            print(f"kill {counts['kills']}: {_epochs(folder)} epochs of {_trials(folder)} trials recorded", flush=True)
            continue
        code, output = search.wait(3600)
        assert code == 0, output
        if counts["kills"] >= kills or read_json(folder / "study.json")["status"] == "complete":
            break
    code, output = Command(*options, "--study-name", "unbroken", cwd=place).wait(3600)  # meanwhile Ray's agents end
    assert code == 0, output
    check(place, folder, num_samples, everyone)
    counts["trials lost"] = num_samples - len(table(folder / "trials.csv"))
    return counts


def _killed(search: Command, chance: random.Random, folder: Path, everyone: set[int]) -> bool:
    """Kill the driver, one time in four while it starts, else while it trains; False if it ended before."""
    early, before = chance.random() < 0.25, _epochs(folder)
    patience = time.monotonic() + (chance.uniform(0, 8) if early else 300)
    while search.process.poll() is None and time.monotonic() < patience:
        if not early and _epochs(folder) > before:
            early, patience = True, time.monotonic() + chance.uniform(0, 3)
        everyone.update(search.children())
        time.sleep(0.1)
    if search.process.poll() is not None:
        return False
    everyone.update(search.children())
    search.kill(signal.SIGKILL)
    search.process.communicate()
    return True


def in_flight(folder: Path) -> int:
    """Count the trials whose epoch in flight is lost; no epoch that was recorded may be."""
    if not (folder / "study.json").exists():
        return 0
    running = [trial for trial in read_trials(folder) if trial.state.name == "RUNNING"]
    for trial in running:
        recorded = max(trial.intermediate_values, default=0)
        newest = checkpoints(checkpoint_folder(folder, trial.number))[:1]
        assert recorded <= sum(int(path.stem.partition("_")[2]) for path in newest), (trial.number, recorded, newest)
    return len(running)


def check(place: Path, folder: Path, num_samples: int, everyone: set[int]) -> None:
    contradictions = audit(folder)
    assert not contradictions, contradictions
    trials, epochs = table(folder / "trials.csv"), table(folder / "epochs.csv")
    assert [row["trial"] for row in trials] == [str(number) for number in range(num_samples)]
    assert {row["state"] for row in trials} <= {"COMPLETE", "PRUNED"}
    seen = [(row["trial"], row["epoch"]) for row in epochs]
    assert len(seen) == len(set(seen)), "an epoch is recorded twice"
    unbroken = {(row["trial"], row["epoch"]): row for row in table(place / "out" / "unbroken" / "epochs.csv")}
    shared = [row for row in epochs if (row["trial"], row["epoch"]) in unbroken]
    assert len(shared) >= num_samples
    for row in shared:
        other = unbroken[row["trial"], row["epoch"]]
        assert [row[name] for name in LOSSES] == [other[name] for name in LOSSES], (row, other)
    complete = [float(row["val_loss"]) for row in trials if row["state"] == "COMPLETE"]
    assert read_json(folder / "best" / "metrics.json")["winner"]["validation"]["negative_elbo"] == min(complete)
    leftovers = [path for path in folder.rglob("*") if path.name.endswith(".tmp")]
    assert not leftovers, leftovers
    patience = time.monotonic() + 180  # Ray's agents notice after a minute or two that their raylet is gone
    while left := [pid for pid in everyone if alive(pid)]:
        assert time.monotonic() < patience, f"processes are left: {left}"
        time.sleep(0.5)


def _epochs(folder: Path) -> int:
    return len(table(folder / "epochs.csv"))


def _trials(folder: Path) -> int:
    return len(table(folder / "trials.csv"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--num-samples", type=int, default=0, help="default: as many as the kills need")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vae_tune-chaos-") as place:
        num_samples = arguments.num_samples or 4 * arguments.kills
        counts = run_chaos(Path(place), arguments.kills, arguments.seed, num_samples)
    if counts["kills"] < arguments.kills:
        raise SystemExit(f"The search ended after {counts['kills']} kills: take more --num-samples.")
    print(", ".join(f"{count} {name}" for name, count in counts.items()))


if __name__ == "__main__":
    main()
