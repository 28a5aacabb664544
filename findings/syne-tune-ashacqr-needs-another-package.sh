#!/usr/bin/env bash
# Syne Tune 0.16.0: the schedulers CQR and ASHACQR fail after `pip install syne-tune`: huggingface_hub is missing.
#
# README.md says that `pip install 'syne-tune'` installs the core library, and that the extra `extra` is for the
# blackbox repository and BoTorch. CQR is a core scheduler, on scikit-learn alone. But its surrogate imports one class
# from `syne_tune.blackbox_repository`, whose `__init__` imports `huggingface_hub`. BORE, which needs XGBoost, works.
#
# Why this is surprising: `from syne_tune.optimizer.baselines import ASHACQR` succeeds, and the error names a package
# that downloads data sets. After `pip install huggingface_hub` alone, both schedulers work.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check syne-tune==0.16.0
cat >"$place/suggest.py" <<'PYTHON'
from syne_tune.config_space import uniform
from syne_tune.optimizer.baselines import ASHABORE, ASHACQR, CQR

for kind in (ASHABORE, ASHACQR, CQR):
    options = {} if kind is CQR else {"time_attr": "epoch", "max_t": 9}
    try:
        suggestion = kind({"x": uniform(0, 1)}, metric="loss", **options).suggest()
        print(f"{kind.__name__}: suggests {', '.join(suggestion.config)}")
    except ModuleNotFoundError as error:
        print(f"{kind.__name__}: {error}")
PYTHON
"$place/venv/bin/python" -W ignore "$place/suggest.py" >"$place/output" 2>"$place/errors"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check huggingface_hub
"$place/venv/bin/python" -W ignore "$place/suggest.py" >>"$place/output" 2>>"$place/errors"
cat "$place/output"
diff "$place/output" - <<'EXPECTED'
ASHABORE: suggests x
ASHACQR: No module named 'huggingface_hub'
CQR: No module named 'huggingface_hub'
ASHABORE: suggests x
ASHACQR: suggests x
CQR: suggests x
EXPECTED
echo "As described: Syne Tune 0.16.0 needs huggingface_hub for CQR, and does not install it."
