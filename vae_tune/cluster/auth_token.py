"""The token without which nobody may use a Ray: made with 256 random bits, readable by its owner alone."""

from __future__ import annotations

import os
import secrets
import tempfile
from contextlib import suppress
from pathlib import Path

DEFAULT_TOKEN = Path("~/.ray/auth_token")
"""Where Ray looks by itself."""


def make_token(path: Path) -> Path | None:
    """Make the file where it is missing or empty, with mode 0600; return it, or None where there was one.

    Raises:
        OSError: it cannot be written.
    """
    with suppress(FileNotFoundError):
        if path.read_text().strip():
            return None
        path.unlink()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent)  # 0600 from its first moment
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(32))
        os.link(temporary, path)  # whole, and never over one that another process has made meanwhile
    except FileExistsError:
        return None
    finally:
        os.unlink(temporary)
    return path


def protect() -> None:
    """See to it that the Ray which this process is about to start has a token that nobody else can read.

    Ray would make one by itself, but readable by every user of the machine.
    """
    if os.environ.get("RAY_AUTH_MODE", "token").lower() != "token":
        return
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return
    try:
        path = DEFAULT_TOKEN.expanduser()
        make_token(path)
        if path.stat().st_mode & 0o077:
            path.chmod(0o600)
    except (OSError, RuntimeError):  # no home, or none that can be written
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
