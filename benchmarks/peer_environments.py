"""Make an environment for each peer whose dependencies clash with those of vae_tune.

    python benchmarks/peer_environments.py [--envs /tmp/peers] [NAME ...]

Optuna and Ray run in the environment of vae_tune, which has the versions of the comparison.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import venv
from pathlib import Path

DEFAULT = Path("/tmp/peers")
REQUIREMENTS = {
    "syne": ["syne-tune==0.16.0", "huggingface_hub==2.4.0"],
    "smac": ["smac==2.4.1"],
    "neps": ["neural-pipeline-search==0.17.0", "torch==2.13.0"],
}


def python_of(name: str, environments: Path) -> Path:
    """Return the Python of an environment: that of this process where the peer needs none of its own."""
    return environments / name / "bin" / "python" if name in REQUIREMENTS else Path(sys.executable)


def make(name: str, environments: Path) -> None:
    folder = environments / name
    venv.create(folder, with_pip=True, clear=True)
    command = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*command, *REQUIREMENTS[name]], check=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", default=list(REQUIREMENTS))
    parser.add_argument("--envs", type=Path, default=DEFAULT)
    options = parser.parse_args()
    for name in options.names:
        print(f"{name}: {', '.join(REQUIREMENTS[name])}", flush=True)
        make(name, options.envs)
