#!/usr/bin/env bash
# Ray 2.60.0: ray.init(include_dashboard=False) still starts the dashboard's process and both of its agents.
#
# The first node runs dashboard.py with fewer modules, and each node runs DashboardAgent and RuntimeEnvAgent: three Python
# processes that import most of Ray. The agents write the ports that they listen on into the session folder, where the
# raylet looks for them. On one machine that uses neither a dashboard nor runtime environments, all of them cost memory,
# CPU and the time of a start.
#
# Why this is surprising: the option's documentation says that it starts no dashboard, and DashboardAgent only serves it.
#
# It prints what each process holds privately. This differs between machines; only that it is tens of megabytes is checked.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check 'ray==2.60.0' psutil
cd "$place"
RAY_USAGE_STATS_ENABLED=0 "$place/venv/bin/python" - <<'PYTHON' 2>/dev/null
from pathlib import Path

import psutil
import ray

ray.init("local", num_cpus=1, include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1")
session = Path(ray._private.worker.global_worker.node.get_session_dir_path())
names = ("DashboardAgent", "RuntimeEnvAgent", "dashboard/agent.py", "runtime_env/agent/main.py", "dashboard/dashboard.py")
started = {}
for process in psutil.Process().children(recursive=True):
    for name in names:
        if name in " ".join(process.cmdline()):
            started[process.pid] = name, process.memory_full_info().uss / 1e6
ports = sorted(path.name.partition("_")[0] for path in session.glob("*agent*port*"))
ray.shutdown()
words = ", ".join(f"{name} {uss:.0f} MB" for name, uss in started.values())
print(f"ray {ray.__version__}, include_dashboard=False: {words}")
print(f"port files of agents in the session folder: {ports}")
found = {name for name, _ in started.values()}
assert found & {"DashboardAgent", "dashboard/agent.py"}
assert found & {"RuntimeEnvAgent", "runtime_env/agent/main.py"}
assert all(uss > 10 for _, uss in started.values())
PYTHON
echo "As described: both agents run without a dashboard."
