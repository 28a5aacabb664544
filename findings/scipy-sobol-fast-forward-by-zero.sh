#!/usr/bin/env bash
# SciPy 1.17.1: Sobol.fast_forward(0) raises an OverflowError on a new sequence, and does nothing on one that has begun.
#
# fast_forward(n) skips n points. A search that gives its trial number k the k-th point of a sequence skips 0 points for
# its first trial. A new sequence has a case of its own (scipy/stats/_qmc.py): its first point is stored, so it asks the
# compiled code to skip n - 1 points, which is -1 as an unsigned number.
#
# Why this is surprising: skipping nothing is valid for Halton, for Sobol.random(0), and for the same Sobol sequence after
# its first point. The documentation of n says: number of points to skip.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check scipy==1.17.1
"$place/venv/bin/python" - <<'PYTHON'
import numpy as np
import scipy
from scipy.stats import qmc

try:
    qmc.Sobol(2, rng=0).fast_forward(0)
    raised = None
except OverflowError as error:
    raised = error
print(f"scipy {scipy.__version__}: Sobol(2).fast_forward(0): {raised!r}")
assert raised is not None

whole = qmc.Sobol(2, rng=0).random(4)
begun = qmc.Sobol(2, rng=0)
begun.random(1)
assert np.array_equal(begun.fast_forward(0).random(3), whole[1:])
assert np.array_equal(qmc.Sobol(2, rng=0).fast_forward(1).random(3), whole[1:])
assert qmc.Sobol(2, rng=0).random(0).shape == (0, 2)
assert np.array_equal(qmc.Halton(2, rng=0).fast_forward(0).random(2), qmc.Halton(2, rng=0).random(2))
print("the same after one point, Halton(2).fast_forward(0) and Sobol(2).random(0): nothing happens")
PYTHON
echo "As described: a new Sobol sequence cannot skip zero points."
