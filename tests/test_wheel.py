"""The wheel holds what the package needs beside its code: spaces, images, the page of the report."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import vae_tune

ROOT = Path(__file__).parents[1]
READ = """
from pathlib import Path
from vae_tune import TrialConfig
from vae_tune.images import datasets as data
from vae_tune.views.report.page import read_resource
from vae_tune.config.space import load_space
files = ("page.html", "page.css", "figures.js")
print(data.__file__, len(load_space(Path("wide"), TrialConfig()).distributions), all(map(read_resource, files)))
"""


def test_a_wheel_holds_every_file_of_the_package_and_runs(tmp_path):
    source = tmp_path / "source"
    shutil.copytree(ROOT / "vae_tune", source / "vae_tune", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    offline = ["--no-deps", "--no-index", "--no-build-isolation", "--quiet", "--disable-pip-version-check"]
    build = [sys.executable, "-m", "pip", "wheel", *offline, "--wheel-dir", tmp_path, source]
    subprocess.run(build, check=True)
    (wheel,) = tmp_path.glob(f"vae_tune-{vae_tune.__version__}-*.whl")
    with zipfile.ZipFile(wheel) as packed:
        names = {name for name in packed.namelist() if name.startswith("vae_tune/")}
        packed.extractall(tmp_path / "installed")
    assert names == {str(path.relative_to(source)) for path in (source / "vae_tune").rglob("*") if path.is_file()}
    run = {"cwd": tmp_path / "installed", "capture_output": True, "text": True, "env": {"PATH": "/usr/bin:/bin"}}
    place, searched, page = subprocess.run([sys.executable, "-c", READ], check=True, **run).stdout.split()
    assert (Path(place).is_relative_to(tmp_path), int(searched) > 3, page) == (True, True, "True")
