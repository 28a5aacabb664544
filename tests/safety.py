"""What a running search shows to others: the addresses that it listens on, and its token."""

from __future__ import annotations

import contextlib
import ipaddress
import os
from pathlib import Path

from tests.system.conftest import descendants


def listening_addresses(pid):
    """The addresses on which ``pid`` and the processes below it listen."""
    found = set()
    for process in (pid, *descendants(pid)):
        with contextlib.suppress(OSError):  # it has ended
            folder = Path(f"/proc/{process}")
            links = {os.readlink(link) for link in (folder / "fd").iterdir()}
            for line in [*(folder / "net/tcp").open(), *(folder / "net/tcp6").open()]:
                _, local, _, state, *_, inode = line.split()[:10]
                if state == "0A" and f"socket:[{inode}]" in links:
                    digits = bytes.fromhex(local.partition(":")[0])
                    words = b"".join(digits[place : place + 4][::-1] for place in range(0, len(digits), 4))
                    address = ipaddress.ip_address(words)
                    found.add(str(getattr(address, "ipv4_mapped", None) or address))
    return found


def keeps_its_token(place, *outputs):
    """Whether the token of this user's Ray is nowhere in ``place`` or what was printed."""
    token = Path("~/.ray/auth_token").expanduser()
    assert token.stat().st_mode & 0o777 == 0o600
    texts = [*(path.read_text(errors="replace") for path in place.rglob("*") if path.is_file()), *outputs]
    return not any(token.read_text() in text for text in texts)
