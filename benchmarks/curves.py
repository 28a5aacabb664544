r"""Make a table of learning curves from a study, to be published and replayed: see docs/curves.md.

The table in benchmarks/curves/mnist was made with these two commands, which take hours of two cores::

    python search.py --sampler qmc --scheduler none --num-samples 320 --max-epochs 10 --train-size 6000 \
        --study-name curves
    python benchmarks/curves.py results/curves benchmarks/curves/mnist
"""

import argparse
from pathlib import Path

from vae_tune.config.settings import UsageError
from vae_tune.replay.curves import write_curves

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
