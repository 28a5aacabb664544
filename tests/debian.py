"""Programs of Debian that the tests need, installed where they run as root."""

import fcntl
import os
import shutil
import subprocess
import tempfile
from pathlib import Path


def install(package):
    """Install a package of Debian; return why that is impossible, or an empty text. One process at a time does it."""
    if not (hasattr(os, "geteuid") and os.geteuid() == 0 and shutil.which("apt-get")):
        return f"only root may install {package}"
    with (Path(tempfile.gettempdir()) / "vae_tune_tests_apt.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for command in (["update"], ["install", "-y", "--no-install-recommends", package]):
            done = subprocess.run(
                ["apt-get", "-q", *command],
                capture_output=True,
                text=True,
                check=False,
                env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
            )
            if done.returncode:
                return f"apt-get {command[0]} failed: {done.stderr.strip()[-300:]}"
    return ""
