r"""Make a table of learning curves from a study, to be published and replayed: see docs/curves.md.

The table in benchmarks/curves/mnist was made with these two commands, which take hours of two cores::

    python search.py --sampler qmc --scheduler none --num-samples 320 --max-epochs 10 --train-size 6000 \
        --study-name curves
    python benchmarks/curves.py results/curves benchmarks/curves/mnist
"""

import argparse
import gzip
from pathlib import Path

from vae_tune.analysis.study import load_study
from vae_tune.config.csv_tables import to_csv
from vae_tune.config.errors import UsageError
from vae_tune.config.files import address, atomic, write_json
from vae_tune.config.names import (
    COMPLETE,
    CURVES_FILE,
    EPOCH,
    SECONDS,
    STATE,
    STUDY_FILE,
    TRIAL,
    VAL_KL,
    VAL_LOSS,
    VAL_RECONSTRUCTION,
)


def write_curves(study: Path, output: Path) -> Path:
    """Write the curves of a study's COMPLETE trials as a table into the folder ``output``; return its file.

    Raises:
        UsageError: the folder is not a study, or has no complete trial.
    """
    loaded = load_study(study)
    complete = loaded.trials[loaded.trials[STATE] == COMPLETE]
    if complete.empty:
        raise UsageError(f"{address(study)} has no complete trial, and so no curve to publish.")
    names = list(loaded.space.distributions)
    reports = loaded.epochs[[TRIAL, EPOCH, VAL_LOSS, VAL_RECONSTRUCTION, VAL_KL, SECONDS]].round(4)
    table = complete[names].merge(reports, left_index=True, right_on=TRIAL).sort_values([TRIAL, EPOCH])
    columns = [TRIAL, EPOCH, *names, VAL_LOSS, VAL_RECONSTRUCTION, VAL_KL, SECONDS]
    output.mkdir(parents=True, exist_ok=True)
    with atomic(output / CURVES_FILE) as file:
        file.write(gzip.compress(to_csv(table[columns]), mtime=0))
    write_json(output / STUDY_FILE, loaded.metadata)
    return output / CURVES_FILE


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
