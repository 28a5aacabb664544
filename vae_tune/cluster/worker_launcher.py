"""The command that Ray starts for a worker of this machine: asks the worker server for a fork, and ends with it.

It runs as a script once per worker, and so imports little.
"""

import json
import os
import socket
import sys
from contextlib import suppress

SOCKET = "workers.socket"
"""A file in the folder of a Ray."""
_FOLDER = "--temp-dir="
_FOR_SETUP = ("--language=", "--serialized-runtime-env-context=")
"""Options that Ray's own command takes for itself."""


def main() -> None:
    """Stand for a worker until it ends, or become one."""
    words = sys.argv[1:]
    folder = next(word.removeprefix(_FOLDER) for word in words if word.startswith(_FOLDER))
    with socket.socket(socket.AF_UNIX) as server:
        try:
            server.connect(os.path.join(folder, SOCKET))
            socket.send_fds(server, [b"."], [0, 1, 2])
            server.sendall(f"{json.dumps(_request(words))}\n".encode())
            is_forked = bool(server.recv(1))
        except OSError:
            is_forked = False
        if not is_forked:  # the server has ended
            setup = os.path.join(os.path.dirname(words[0]), "setup_worker.py")
            os.execv(sys.executable, [sys.executable, setup, *words])
        with suppress(OSError):
            server.recv(1)  # nothing more is sent: it ends with the worker


def _request(words: list[str]) -> dict[str, object]:
    with open("/proc/self/oom_score_adj") as file:
        oom_score = file.read()
    return {
        "words": [word for word in words if not word.startswith(_FOR_SETUP)],
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "group": os.getpgid(0),
        "niceness": os.getpriority(os.PRIO_PROCESS, 0),
        "oom_score": oom_score,
    }


if __name__ == "__main__":
    main()
