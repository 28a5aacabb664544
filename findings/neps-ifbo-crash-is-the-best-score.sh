#!/usr/bin/env bash
# NePS 0.17.0: ifBO's model is told that a configuration that crashed has the best score there is.
#
# ifBO maximizes a score of 1 - loss, with losses in [0, 1]. `encode_ftpfn` gives a crashed evaluation the *loss*
# `error_value`, which is 0 by default, before it turns losses into scores (neps/optimizers/models/ftpfn.py). So a
# configuration that ran out of memory enters the model with a score of 1.0, above every one that was trained, also as
# the best score so far (`f_best` in neps/optimizers/ifbo.py), which new ones have to exceed. `ifbo` calls the function
# without an `error_value`.
#
# Why this is surprising: its documentation says that crashed configurations get "an error value of 0", in a paragraph
# that has just called the values scores, and a search that meets an error should move away from it.
#
# Needs no weights of ifBO's network: the function that encodes the trials is called alone.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check neural-pipeline-search==0.17.0 torch==2.13.0
"$place/venv/bin/python" -W ignore - >"$place/output" <<'PYTHON'
import neps
from neps.optimizers.models.ftpfn import encode_ftpfn
from neps.optimizers.optimizer import SampledConfig
from neps.space import ConfigEncoder, Domain

space = neps.SearchSpace({"x": neps.HPOFloat(0, 1), "epochs": neps.HPOInteger(1, 10, is_fidelity=True)})
results = {"1_0": 0.9, "2_0": 0.1, "3_0": MemoryError("out of memory")}
names = iter(results)
search = neps.AskAndTell(lambda trials, budget, n: SampledConfig(next(names), {"x": 0.5, "epochs": 1}))
for result in results.values():
    search.tell(search.ask(), result)
encoder = ConfigEncoder.from_parameters(space.searchables)
_, scores = encode_ftpfn(search.trials, space.fidelity, Domain.floating(1e-6, 1), encoder)
for result, score in zip(results.values(), scores):
    print(f"{f'loss {result}' if isinstance(result, float) else 'crashed'}: score {score:.1f}")
PYTHON
cat "$place/output"
diff "$place/output" - <<'EXPECTED'
loss 0.9: score 0.1
loss 0.1: score 0.9
crashed: score 1.0
EXPECTED
echo "As described: NePS 0.17.0 tells ifBO that a crash is the best result."
