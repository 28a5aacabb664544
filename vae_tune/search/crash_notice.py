"""What is said when this process ends without a word: killed, out of memory, or ended by Ray's own core."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator, Sequence

_SCRIPT = """
exec 3<&0
{ trap "" INT TERM HUP; read answer <&3 || { printf "\\n%s\\n" "$1" >&2; shift; exec "$@" >/dev/null 2>&1; } } &
"""


@contextlib.contextmanager
def last_word(text: str, command: Sequence[str] = ()) -> Iterator[None]:
    """Have ``text`` written to standard error if this process ends before the block does, and then a command run.

    No ``except``, ``atexit`` or signal handler runs then, so a shell waits beside it: at the other end of a pipe that
    the system closes when the process is gone. It is the child of a shell that has ended, since Ray's core kills the
    children of its process before it ends that.
    """
    shell = subprocess.Popen(["/bin/sh", "-c", _SCRIPT, "sh", text, *command], stdin=subprocess.PIPE)
    shell.wait()
    try:
        yield
    finally:
        shell.communicate(b"all is well\n")
