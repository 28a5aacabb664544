#!/usr/bin/env bash
# Ray 2.60.0: `taskset -c 0 python` with `ray.init()` offers all CPUs of the machine, not the one that the process may use.
#
# Ray counts with multiprocessing.cpu_count() (ray/_private/utils.py, get_num_cpus). It ignores the affinity that taskset,
# Slurm (--cpus-per-task with task/affinity) and cpusets set, although each Ray worker inherits it. So two tasks of one
# CPU each run in parallel on one CPU.
#
# Why this is surprising: len(os.sched_getaffinity(0)), which `nproc`, joblib and torch use, returns 1 in the same process.
# Ray reads a control group's quota in one case only: in a container that it recognizes as Docker's.
#
# Needs a machine with two or more CPUs.
set -euo pipefail
[ "$(nproc)" -ge 2 ] || { echo "needs two CPUs"; exit 1; }
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check ray==2.60.0
RAY_USAGE_STATS_ENABLED=0 taskset -c 0 "$place/venv/bin/python" - <<'PYTHON' 2>/dev/null
import os

import ray

ray.init("local", include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1")
may_use, offered = len(os.sched_getaffinity(0)), int(ray.cluster_resources()["CPU"])
worker = ray.get(ray.remote(num_cpus=1)(lambda: len(os.sched_getaffinity(0))).remote())
ray.shutdown()
print(f"ray {ray.__version__}: CPUs that may be used {may_use}, that a worker may use {worker}, that Ray offers {offered}")
assert may_use == worker == 1
assert offered == os.cpu_count() > 1
PYTHON
echo "As described: Ray 2.60.0 offers CPUs that may not be used."
