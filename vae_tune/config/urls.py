"""URLs of servers and databases: whether a text is one, and whether it contains a secret."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

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
