#!/usr/bin/env bash
# Optuna 5.0.0: one finished trial without parameters ends TPE's joint proposals for the rest of the study.
#
# Since Optuna 5, TPE is multivariate by default for a single objective: it proposes all parameters together, from the
# intersection of the finished trials' search spaces (optuna/samplers/_tpe/sampler.py, infer_relative_search_space). A
# baseline outside of the space, recorded with `study.tell(study.ask(), 5.0)`, has no parameters. So the intersection is
# empty, and TPE proposes each parameter independently from then on. A pruned baseline has the same effect, a failed one
# has none. With group=True, TPE keeps its joint proposals.
#
# Why this is surprising: such a trial contains nothing that TPE could learn from, so it should change nothing. The logged
# warning mentions a dynamic search space, which this is not.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check optuna==5.0.0
"$place/venv/bin/python" -W ignore - >"$place/output" <<'PYTHON'
import optuna
from optuna.trial import TrialState

optuna.logging.set_verbosity(optuna.logging.ERROR)


def proposed_together(baseline, **options):
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0, **options))
    if baseline != "none":
        trial = study.ask()
        trial.report(5.0, 1)
        study.tell(trial, 5.0 if baseline == "COMPLETE" else None, TrialState[baseline])
    for _ in range(15):
        trial = study.ask()
        x, y = trial.suggest_float("x", 0, 1), trial.suggest_float("y", 0, 1)
        study.tell(trial, (x - y) ** 2)
    return sorted(study.ask().relative_params)


for baseline in ("none", "COMPLETE", "PRUNED", "FAIL"):
    print(f"baseline {baseline}: default {proposed_together(baseline)}, "
          f"group {proposed_together(baseline, multivariate=True, group=True)}")
PYTHON
cat "$place/output"
diff "$place/output" - <<'EXPECTED'
baseline none: default ['x', 'y'], group ['x', 'y']
baseline COMPLETE: default [], group ['x', 'y']
baseline PRUNED: default [], group ['x', 'y']
baseline FAIL: default ['x', 'y'], group ['x', 'y']
EXPECTED
echo "As described: a finished trial without parameters makes Optuna 5.0.0's TPE propose each parameter by itself."
