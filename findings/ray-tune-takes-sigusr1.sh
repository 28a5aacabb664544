#!/usr/bin/env bash
# Ray 2.60.0: Tuner.fit() puts a handler of its own in the place of the program's for SIGUSR1, and leaves it there.
#
# A program that is told of the end of its job by SIGUSR1, as `sbatch --signal=B:USR1@180` does, does not hear of it while
# Tune runs: Tune takes the signal as Ctrl-C. fit() then returns normally, with fewer results than samples and no error,
# so the program cannot tell such an end from a whole search. After fit() the handler is still Tune's.
#
# Why this is surprising: TUNE_DISABLE_SIGINT_HANDLER=1 says that Tune handles no interrupts, and does so for SIGINT only
# (ray/tune/tune.py, _setup_signal_catching). SIGUSR1 is documented nowhere as Tune's, and a library that borrows a
# handler usually gives it back.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check 'ray[tune]==2.60.0'
cd "$place"
RAY_USAGE_STATS_ENABLED=0 TUNE_DISABLE_SIGINT_HANDLER=1 "$place/venv/bin/python" - <<'PYTHON' 2>/dev/null
import os
import signal
import time
from pathlib import Path

import ray
from ray import tune

heard = []


def ours(number, frame):
    heard.append(number)


def interrupt(number, frame):
    heard.append(number)


class TellOnce(tune.Callback):
    """Sends the signal to this process after the first trial."""

    def on_trial_complete(self, iteration, trials, trial, **info):
        if len(trials) == 1:
            os.kill(os.getpid(), signal.SIGUSR1)


signal.signal(signal.SIGUSR1, ours)
signal.signal(signal.SIGINT, interrupt)
ray.init("local", num_cpus=1, include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1")
tuner = tune.Tuner(
    lambda config: {"loss": config["x"]},
    param_space={"x": tune.uniform(0, 1)},
    tune_config=tune.TuneConfig(num_samples=20, max_concurrent_trials=1),
    run_config=tune.RunConfig(storage_path=str(Path.cwd() / "results"), verbose=0, callbacks=[TellOnce()]),
)
results = tuner.fit()
ray.shutdown()
after = signal.getsignal(signal.SIGUSR1)
print(f"ray {ray.__version__}: {len(results)} of 20 trials, {results.num_errors} errors, signals heard {heard}")
print(f"handler of SIGUSR1 after fit(): {after.__module__}.{after.__qualname__}; of SIGINT: {signal.getsignal(signal.SIGINT).__name__}")
assert heard == []
assert len(results) < 20 and results.num_errors == 0
assert after is not ours and after.__module__ == "ray.tune.tune"
PYTHON
echo "As described: Tune takes SIGUSR1, ends the search without an error, and keeps the signal."
