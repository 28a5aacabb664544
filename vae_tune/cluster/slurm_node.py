"""A further node of a job's Ray: ``python -m vae_tune.cluster.slurm_node ADDRESS``, run as a step of the job.

It ends when its standard input does, that is with the search, or when a process of its Ray has exited.
"""

from __future__ import annotations

import select
import signal
import sys

from vae_tune.cluster.node_resources import own_resources
from vae_tune.cluster.ray_folder import create_ray_folder
from vae_tune.cluster.ray_processes import RayProcesses
from vae_tune.cluster.slurm import address_towards
from vae_tune.cluster.worker_server import worker_server
from vae_tune.config.compat.ray import start_node

_POLL_SECONDS = 0.5


def run(address: str) -> str:
    """Take part in the Ray at ``address`` until the search ends; return "", or which process has exited."""
    # Slurm notifies all processes of a job; the search then ends in order, which takes its nodes
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGUSR1})
    ip = address_towards(address.rpartition(":")[0])
    processes, folder = RayProcesses(), create_ray_folder()
    with worker_server() as server:
        try:
            launcher = server.listen(folder.path) if server else None
            path = str(folder.path)
            start_node(address, ip, own_resources(), path, launcher, processes.start, processes.get_node)
            while (exited := processes.exited()) is None:
                if select.select([sys.stdin], [], [], _POLL_SECONDS)[0] and not sys.stdin.buffer.read(1):
                    return ""
            return f"its {' '.join(exited)}"
        finally:
            processes.kill()
            folder.delete()


if __name__ == "__main__":
    sys.exit(run(sys.argv[1]))
