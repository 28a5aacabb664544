#!/usr/bin/env bash
# NePS 0.17.0: with string choices, a search proposes other configurations in each process, though all seeds are fixed.
#
# NePS draws from the generators of NumPy and torch. With both seeded, a space of numbers gives the same proposals in
# each run. A `neps.Categorical` of strings does not: `convert_neps_to_classic_search_space` passes its choices on as
# `list(set(choices))` (neps/space/neps_spaces/neps_space.py), whose order depends on Python's hash randomization, so the
# same draw means another choice in the next process. With PYTHONHASHSEED fixed, the proposals repeat.
#
# Why this is surprising: the choices are given in an order, and seeding everything that NePS draws from does not help.
# A search that several processes share, or that is resumed, encodes the same configurations differently in each.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check neural-pipeline-search==0.17.0 torch==2.13.0
cat >"$place/propose.py" <<'PYTHON'
import neps
import numpy as np
import torch


class Space(neps.PipelineSpace):
    rate = neps.Float(0, 1)
    activation = neps.Categorical(("relu", "gelu", "tanh", "elu", "silu", "selu"))


np.random.seed(0)
torch.manual_seed(0)
search = neps.AskAndTell(neps.algorithms.random_search(Space()))
configs = [search.ask().config for _ in range(12)]
print(*(f"{config['rate']:.3f}" for config in configs), *(config["activation"] for config in configs))
PYTHON
propose() { PYTHONHASHSEED=$1 "$place/venv/bin/python" -W ignore "$place/propose.py"; }
for seed in 1 2 3 4; do propose $seed; done >"$place/four"
for _ in 1 2; do propose 1; done >"$place/fixed"
{
    echo "different rates in four processes: $(cut -d' ' -f1-12 "$place/four" | sort -u | wc -l)"
    echo "different activations in four processes: $(cut -d' ' -f13- "$place/four" | sort -u | wc -l)"
    echo "different activations with one PYTHONHASHSEED: $(cut -d' ' -f13- "$place/fixed" | sort -u | wc -l)"
} | tee "$place/output"
diff "$place/output" - <<'EXPECTED'
different rates in four processes: 1
different activations in four processes: 4
different activations with one PYTHONHASHSEED: 1
EXPECTED
echo "As described: NePS 0.17.0 orders string choices by their hashes."
