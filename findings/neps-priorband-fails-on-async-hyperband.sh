#!/usr/bin/env bash
# NePS 0.17.0: PriorBand on asynchronous Hyperband ends in an AssertionError in about one search of four.
#
# `priorband(space, base="async_hb")` starts configurations in any bracket, so the first two may both start in the last
# one, at the highest fidelity. The next proposal then fails. PriorBand samples around the incumbent only under three
# conditions, one of them that some rung has `eta` evaluations. But it tests them with `... is False`
# (neps/optimizers/priorband.py), and two of the three are NumPy booleans, which never are the object `False`. So with
# two evaluations it takes the best `2 // 3 = 0` of them, scores them 0 and 0, and divides 0 by 0: the weights are NaN.
#
# Why this is surprising: `base` lists "async_hb" among its four values, and the error is a bare AssertionError about
# weights that the user did not give. The comment above the code says that a rung with eta evaluations is checked. On
# synchronous Hyperband, the default, the first rung is full by then.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check neural-pipeline-search==0.17.0 torch==2.13.0
"$place/venv/bin/python" -W ignore - >"$place/output" <<'PYTHON'
import neps
import numpy as np
import torch


class Space(neps.PipelineSpace):
    rate = neps.Float(1e-4, 1e-2, log=True, prior=1e-3, prior_confidence="medium")
    width = neps.Integer(64, 1024, prior=400, prior_confidence="medium")
    epochs = neps.IntegerFidelity(1, 10)


def failure(base, seed):
    np.random.seed(seed)
    torch.manual_seed(seed)
    search = neps.AskAndTell(neps.algorithms.priorband(Space(), base=base))
    for number in range(20):
        try:
            trial = search.ask()
        except AssertionError:
            return number
        search.tell(trial, trial.config["rate"] + 1 / trial.config["epochs"])
    return None


for base in ("hyperband", "async_hb"):
    failed = [number for seed in range(20) if (number := failure(base, seed)) is not None]
    print(f"{base}: {len(failed)} of 20 searches fail" + (f", after {failed} trials" if failed else ""))
PYTHON
cat "$place/output"
diff "$place/output" - <<'EXPECTED'
hyperband: 0 of 20 searches fail
async_hb: 5 of 20 searches fail, after [2, 2, 2, 3, 3] trials
EXPECTED
echo "As described: NePS 0.17.0's PriorBand fails on asynchronous Hyperband."
