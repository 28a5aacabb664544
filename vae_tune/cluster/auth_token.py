"""Ray's authentication token: 256 random bits in a file that only its owner can read."""

from __future__ import annotations

import os
import secrets
import tempfile
from contextlib import suppress
from pathlib import Path

DEFAULT_TOKEN = Path("~/.ray/auth_token")
"""Where Ray looks by default."""


def make_token(path: Path) -> Path | None:
    """Create the file with mode 0600 if it is missing or empty; return its path, or None if it was there already.

    Raises OSError if it cannot be written.
    """
    with suppress(FileNotFoundError):
        if path.read_text().strip():
            return None
        path.unlink()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent)  # mkstemp creates it with mode 0600
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(32))
        os.link(temporary, path)  # a complete file, and never over one that another process has just made
    except FileExistsError:
        return None
    finally:
        os.unlink(temporary)
    return path


def ensure_private_token() -> None:
    """Give the Ray that this process is about to start a token that no other user can read.

    Ray would create one itself, but every user of the machine could read it.
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
    except (OSError, RuntimeError):  # there is no home directory, or it cannot be written
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
