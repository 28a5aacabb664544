"""The classes and the commands of docs/models.md work as they stand there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from vae_tune.config.settings import TrialConfig
from vae_tune.config.space import load_space
from vae_tune.tasks.model_code import signature_of_named

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "models.md").read_text()
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", TEXT, re.DOTALL)
CLASSES = {match[1]: text for _, text in BLOCKS if (match := re.match(r"# (\w+\.py)\n", text))}
PYTHAE = "pythae==0.1.2"


@pytest.fixture
def files(tmp_path, monkeypatch):
    """The files of the document, in the current folder."""
    for name, text in CLASSES.items():
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def shown(folder, command, **environment):
    """What a command of the document prints."""
    words = [sys.executable, "-m", *command.replace("vae-tune", "vae_tune").split("#")[0].split()]
    paths = os.pathsep.join([str(ROOT), *environment.values()])
    options = {"cwd": folder, "env": os.environ | {"PYTHONPATH": paths}, "capture_output": True, "text": True}
    found = subprocess.run(words, check=False, **options)
    assert found.returncode == 0, found.stderr
    return found.stdout


def commands(word):
    return [
        line for _, text in BLOCKS for line in text.splitlines() if line.startswith("vae-tune model") and word in line
    ]


def test_the_example_passes_the_probe_and_shows_its_options(files):
    (command,) = commands("my_vae.py")
    text = shown(files, command)
    assert "The probe found nothing against it." in text
    assert re.findall(r"model\.\w+", text) == ["model.depth", "model.act"]
    number = r"(\d[\d.,]*)"
    cost = rf"{number} ms per image here, on one thread of the CPU, and an epoch .*; it keeps {number} kB per image"
    assert all(float(found.replace(",", "")) > 0 for found in re.search(cost, text).groups())


def test_the_spaces_of_the_document_load(files):
    spaces = [yaml.safe_load(text) for kind, text in BLOCKS if kind == "yaml"]
    loaded = [load_space(space, TrialConfig(model="my_vae.py:MyVAE"), signature_of_named) for space in spaces]
    assert [len(space.conditions) for space in loaded] == [0, 2]


def test_networks_of_pythae_pass_the_probe_through_an_adapter_of_twenty_lines(files):
    lines = [line for line in CLASSES["pythae_vae.py"].partition("class ")[2].splitlines() if line.strip()]
    assert len(lines) <= 20
    target = files / "packages"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--disable-pip-version-check", PYTHAE]
    subprocess.run([*install, "--target", target], check=True)
    for command in commands("pythae_vae.py"):
        assert "The probe found nothing against it." in shown(files, command, packages=str(target))
    assert len(commands("pythae_vae.py")) == 2
