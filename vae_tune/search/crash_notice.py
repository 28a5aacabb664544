"""A message printed after an abnormal exit of this process: killed, out of memory, or ended by Ray's own core."""

from __future__ import annotations

import contextlib
import shlex
import subprocess
from collections.abc import Iterator, Sequence

_SCRIPT = """
exec 3<&0
{ trap "" INT TERM HUP; read answer <&3 || { printf "\\n%s\\n" "$1" >&2; exec >/dev/null 2>&1; eval "$2"; } } &
"""


@contextlib.contextmanager
def crash_notice(text: str, *commands: Sequence[str]) -> Iterator[None]:
    """Print ``text`` to standard error and run ``commands`` if this process ends before the block does.

    No ``except``, ``atexit`` or signal handler runs then. So a shell waits at the other end of a pipe, which the
    system closes when the process is gone. The parent of that shell has ended already, since Ray's core kills the
    children of its process before it ends the process. Nobody who reads the output has to wait for ``commands``.
    """
    script = "; ".join(shlex.join(command) for command in commands if command)
    shell = subprocess.Popen(["/bin/sh", "-c", _SCRIPT, "sh", text, script], stdin=subprocess.PIPE)
    shell.wait()
    try:
        yield
    finally:
        shell.communicate(b"all is well\n")
