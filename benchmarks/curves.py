r"""Make a table of learning curves from a study, to be published and replayed: see docs/curves.md.

The table in benchmarks/curves/mnist was made with these two commands, which take hours of two cores::

    python search.py --sampler qmc --scheduler none --num-samples 320 --max-epochs 10 --train-size 6000 \
        --study-name curves
    python benchmarks/curves.py results/curves benchmarks/curves/mnist
"""

import argparse
from pathlib import Path

from vae_tune.analysis.study import load_study
from vae_tune.config.errors import UsageError
from vae_tune.config.files import address
from vae_tune.config.names import (
    COMPLETE,
    DIVERGED,
    EPOCH,
    SECONDS,
    STATE,
    TRIAL,
    VAL_KL,
    VAL_LOSS,
    VAL_RECONSTRUCTION,
)
from vae_tune.replay.curves import recorded_reports, write_table


def write_curves(study: Path, output: Path) -> Path:
    """Write the curves of a study's COMPLETE and diverged trials as a table into the folder ``output``.

    Returns:
        The file of the curves.

    Raises:
        UsageError: the folder is not a study, or has no complete trial.
    """
    loaded = load_study(study)
    complete = loaded.trials[STATE] == COMPLETE
    if not complete.any():
        raise UsageError(f"{address(study)} has no complete trial, and so no curve to publish.")
    kept = loaded.trials[complete | loaded.trials[DIVERGED]]
    names = list(loaded.space.distributions)
    losses = [VAL_LOSS, VAL_RECONSTRUCTION, VAL_KL, *loaded.ranking.columns]
    table = kept[names].merge(recorded_reports(loaded), left_index=True, right_on=TRIAL)
    return write_table(table[[TRIAL, EPOCH, *names, *losses, SECONDS]], loaded.metadata, output)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", type=Path, help="folder of a study, all of whose trials were trained to the end")
    parser.add_argument("output", type=Path, help="folder of the table")
    options = parser.parse_args()
    try:
        path = write_curves(options.study, options.output)
    except UsageError as error:
        parser.error(str(error))
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")
