"""Which module may import what: DESIGN's walls, read from the source and checked in fresh interpreters."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import vae_tune

PACKAGE = Path(vae_tune.__file__).parent
NEVER = {
    "config": {"torch", "ray", "optuna", "pandas", "numpy"},
    "errors": {"torch", "ray", "optuna", "pandas", "numpy"},
    "fields": {"torch", "ray", "optuna", "pandas", "numpy"},
    "hints": {"torch", "ray", "optuna", "pandas", "numpy"},
    "parsing": {"torch", "ray", "optuna", "pandas", "numpy"},
    "listing": {"torch", "ray"},
    "data": {"ray", "optuna", "pandas"},
    "model": {"ray", "optuna", "vae_tune.data"},
    "objective": {"ray", "optuna"},
    "training": {"ray", "optuna"},
    "step": {"ray", "optuna", "vae_tune.data"},
    "bound": {"ray", "optuna", "vae_tune.data"},
    "schedule": {"ray", "optuna", "torch"},
    "checkpoint": {"ray", "optuna"},
    "likelihood": {"ray", "optuna", "vae_tune.data", "vae_tune.model"},
    "evaluate": {"ray", "optuna", "pandas"},
    "single": {"ray", "optuna", "pandas"},
    "generate": {"ray", "optuna", "pandas"},
    "gallery": {"ray", "optuna", "pandas"},
    "options": {"ray", "optuna", "torch", "numpy"},
    "study": {"ray", "torch"},
    "plots/progress": {"ray", "torch", "matplotlib", "plotly"},
    "plots/hyperparameters": {"ray", "torch", "matplotlib", "plotly"},
    "plots/models": {"ray", "torch", "matplotlib", "plotly"},
    "advice": {"ray", "torch", "matplotlib", "plotly"},
    "edges": {"ray", "torch", "matplotlib", "plotly"},
    "refine": {"ray", "torch", "matplotlib", "plotly"},
    "plots/captions": {"ray", "torch", "matplotlib", "plotly"},
    "plots/view": {"ray", "torch", "matplotlib", "plotly"},
    "plots/style": {"ray", "torch", "matplotlib.pyplot"},
    "plots/draw_progress": {"ray", "torch", "matplotlib.pyplot"},
    "plots/draw_hyperparameters": {"ray", "torch", "matplotlib.pyplot"},
    "plots/draw_models": {"ray", "torch", "matplotlib.pyplot"},
    "plots/traces": {"ray", "torch", "matplotlib", "plotly"},
    "plots/interactive": {"ray", "torch", "matplotlib", "plotly"},
    "plots/coordinates": {"ray", "torch", "matplotlib", "plotly"},
    "report/__init__": {"ray", "torch", "matplotlib"},
    "report/summary": {"ray", "torch", "matplotlib"},
    "report/cards": {"ray", "torch", "matplotlib"},
    "ledger": {"ray", "torch"},
    "compare": {"ray", "torch", "matplotlib.pyplot"},
    "stops": {"ray", "torch", "matplotlib", "plotly"},
    "seen": {"ray", "torch", "pandas"},
    "replay/options": {"torch", "ray", "optuna", "pandas", "numpy"},
    "replay/curves": {"ray", "torch", "matplotlib"},
    "replay/surrogate": {"ray", "torch", "matplotlib"},
    "replay/simulator": {"torch", "matplotlib"},
    "replay/tables": {"ray", "torch", "matplotlib"},
    "replay/forecast": {"torch", "matplotlib"},
    "replay/command": {"ray", "torch", "matplotlib.pyplot"},
    "check/options": {"ray", "torch", "optuna", "pandas", "numpy", "yaml"},
    "check/findings": {"ray", "torch", "optuna", "pandas", "numpy", "yaml"},
    "check/document": {"ray", "torch", "optuna", "pandas", "numpy"},
    "check/schema": {"ray", "torch", "optuna", "pandas", "numpy"},
    "check/clouds": {"ray", "torch", "optuna", "pandas", "numpy", "boto3"},
    "check/commands": {"ray", "torch", "optuna", "pandas", "numpy"},
    "check/security": {"ray", "torch", "optuna", "pandas", "numpy"},
    "check/kuberay": {"ray", "torch", "optuna", "pandas", "numpy"},
    "check/live": {"optuna", "pandas"},
    "check/trial": {"ray", "optuna", "pandas"},
    "memory": {"ray", "torch", "optuna", "pandas", "numpy"},
    "limits": {"ray", "torch", "optuna", "pandas", "numpy"},
    "credentials": {"ray", "torch", "optuna", "pandas", "numpy"},
    "trials": {"ray", "torch", "pandas"},
    "record": {"ray", "torch", "pandas"},
    "leftovers": {"ray", "torch", "pandas"},
    "dashboard": {"ray", "torch"},
    "loggers/__init__": {"ray", "torch", "vae_tune.tuning"},
    "loggers/channel": {"ray", "torch", "vae_tune.record"},
    "loggers/pictures": {"ray", "torch", "vae_tune.record"},
    "loggers/tensorboard": {"ray", "torch", "vae_tune.record"},
    "loggers/mlflow": {"ray", "torch", "vae_tune.record"},
    "loggers/visdom": {"ray", "torch", "vae_tune.record"},
    "loggers/postgresql": {"ray", "torch", "vae_tune.record"},
}


def imports(path):
    """Every module that a file imports, at its top or inside a function."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("module", NEVER)
def test_a_module_names_nothing_beyond_its_wall(module):
    names = set(imports(PACKAGE / f"{module}.py"))
    crossed = {name for name in names for wall in NEVER[module] if name == wall or name.startswith(f"{wall}.")}
    assert not crossed


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("vae_tune", {"torch", "ray", "optuna", "pandas"}),
        ("vae_tune.cli", {"torch", "ray", "optuna", "pandas", "numpy"}),
        ("vae_tune.config", {"torch", "ray", "optuna", "pandas", "numpy"}),
        ("vae_tune.report.summary, vae_tune.report.cards", {"torch", "ray", "matplotlib"}),  # and so study, ledger
        ("vae_tune.replay.simulator, vae_tune.replay.command", {"torch", "matplotlib", "sklearn"}),
        ("vae_tune.dashboard", {"torch", "ray", "optuna_dashboard"}),
        ("vae_tune.check.command", {"torch", "ray", "optuna", "pandas", "numpy", "botocore"}),
        (
            "vae_tune.loggers.tensorboard, vae_tune.loggers.mlflow, vae_tune.loggers.visdom, "
            "vae_tune.loggers.postgresql",
            {"torch", "ray", "pandas", "mlflow", "visdom", "tensorboardX", "psycopg"},
        ),
        ("vae_tune.tuning, vae_tune.worker", {"torch", "torchvision", "matplotlib", "sklearn", "mlflow"}),
    ],
)
def test_importing_a_module_loads_nothing_heavy_behind_its_wall(module, heavy):
    code = f"import sys, {module}; print(*sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not heavy & set(loaded)


WITH_TORCH = {
    "vae_tune.replay.forecast, vae_tune.report.summary, vae_tune.winner": {"sklearn", "scipy.stats"},
    "vae_tune.training": {"ray", "optuna", "pandas", "torchvision"},
    "vae_tune.trainable": {"optuna", "torchvision"},
    "vae_tune.checkpoint": {"ray", "optuna"},
    "vae_tune.single": {"ray", "optuna", "pandas", "torchvision", "matplotlib"},
}
FORKS = """
import os, sys, torch
for module in sys.argv[1:]:
    if not os.fork():
        exec(f"import {module}")
        print(module, *sorted(sys.modules), sep=";", flush=True)
        os._exit(0)
    os.wait()
"""


@pytest.fixture(scope="module")
def loaded():
    """What importing each alone loads; torch, which takes longest and all of them may have, is there before."""
    command = [sys.executable, "-c", FORKS, *WITH_TORCH]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return {module: set(names) for module, *names in (line.split(";") for line in lines)}


@pytest.mark.parametrize("module", WITH_TORCH)
def test_importing_a_module_that_needs_torch_loads_nothing_else_behind_its_wall(module, loaded):
    assert {*module.split(", "), "torch"} <= loaded[module]
    assert not WITH_TORCH[module] & loaded[module]


def test_nothing_imports_the_script():
    for path in PACKAGE.rglob("*.py"):
        assert "search" not in set(imports(path))


def test_no_module_passes_400_lines():
    assert not [path.name for path in PACKAGE.rglob("*.py") if len(path.read_text().splitlines()) > 400]
