"""URLs of servers and databases, and addresses of object storage: whether a text is one, and without a secret."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

from vae_tune.config.errors import UsageError
from vae_tune.config.files import SCHEMES, address, is_remote

_SECRET = re.compile(
    r"^https?:.*@|//.*:.*@|[?&;][^=]*(pass|pwd|token|secret|key)|(^|\s)(pass\w*|pwd)\s*=", re.IGNORECASE
)
"""A login or a password in a URL, or in a malformed one."""


def is_url(text: str, *schemes: str) -> bool:
    """Return whether ``text`` is a URL with one of ``schemes``; http and https need a host."""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:  # no port, or no IPv6 address
        return False
    scheme = parts.scheme.partition("+")[0]  # postgresql+psycopg names its driver
    web = scheme in ("http", "https")
    whole = bool(parts.hostname) and port != 0 and not parts.query and not parts.fragment if web else "://" in text
    return scheme in schemes and whole and text.isprintable() and " " not in text


def has_secret(text: str) -> bool:
    """Return whether a URL, which may be malformed, contains a login or a password."""
    return _SECRET.search(text) is not None


def check_place(name: str, path: Path) -> None:
    """Refuse unknown object storage, and a login in its address, which would be recorded."""
    scheme = path.parts[0] if path.parts else ""
    if is_remote(path) and re.search(r"[@?]", address(path)):
        raise UsageError(f"{name} must be without a login or options: set those in the environment (AWS_...).")
    if re.fullmatch(r"[A-Za-z0-9]{2,}:", scheme) and (scheme not in SCHEMES or len(path.parts) < 2):
        known = " and ".join(f"{known}//BUCKET/..." for known in SCHEMES)
        raise UsageError(f"{name} {scheme}//{'/'.join(path.parts[1:])} is neither a folder nor one of {known}.")
