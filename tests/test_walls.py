"""Which module may import what: DESIGN's walls, read from the source and checked in fresh interpreters."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import vae_tune
from vae_tune.cli.main import COMMANDS

HEAVY = {"torch", "ray", "optuna", "pandas", "numpy"}
PACKAGE = Path(vae_tune.__file__).parent
ROOMS = ["cli", "tasks", "views", "replay", "analysis", "search", "cluster", "record", "vae", "images", "config"]
"""Highest first: a module imports from its own room and from rooms below it."""
NEVER = {
    "config/settings": {"torch", "ray", "optuna", "pandas", "numpy"},
    "config/errors": {"torch", "ray", "optuna", "pandas", "numpy"},
    "config/fields": {"torch", "ray", "optuna", "pandas", "numpy"},
    "config/suggestions": {"torch", "ray", "optuna", "pandas", "numpy"},
    "cli/parsing": {"torch", "ray", "optuna", "pandas", "numpy"},
    "images/datasets": {"ray", "optuna", "pandas"},
    "images/torchvision_sets": {"torch", "ray", "optuna", "pandas"},
    "images/code_length": {"torch", "ray", "optuna", "pandas"},
    "vae/model": {"ray", "optuna", "vae_tune.images.datasets"},
    "vae/objective": {"ray", "optuna"},
    "vae/training": {"ray", "optuna"},
    "vae/fused_step": {"ray", "optuna", "vae_tune.images.datasets"},
    "vae/autograd_step": {"ray", "optuna", "vae_tune.images.datasets"},
    "vae/networks/mlp": {"ray", "optuna", "vae_tune.images.datasets", "vae_tune.vae.objective"},
    "vae/likelihoods/bernoulli": {"ray", "optuna", "vae_tune.images.datasets", "vae_tune.vae.model"},
    "vae/likelihoods/likelihood": {"ray", "optuna", "pandas", "numpy"},
    "vae/schedule": {"ray", "optuna", "torch"},
    "vae/checkpoint": {"ray", "optuna"},
    "vae/nll": {"ray", "optuna", "vae_tune.images.datasets", "vae_tune.vae.model"},
    "tasks/evaluate": {"ray", "optuna", "pandas"},
    "tasks/train": {"ray", "optuna", "pandas"},
    "vae/pictures": {"ray", "optuna", "pandas"},
    "tasks/generate": {"ray", "optuna", "pandas"},
    "analysis/study": {"ray", "torch"},
    "analysis/progress": {"ray", "torch", "matplotlib", "plotly"},
    "analysis/hyperparameters": {"ray", "torch", "matplotlib", "plotly"},
    "analysis/models": {"ray", "torch", "matplotlib", "plotly"},
    "analysis/advice": {"ray", "torch", "matplotlib", "plotly"},
    "analysis/range_edges": {"ray", "torch", "matplotlib", "plotly"},
    "analysis/next_space": {"ray", "torch", "matplotlib", "plotly"},
    "analysis/view": {"ray", "torch", "matplotlib", "plotly"},
    "views/figures/chart": {"ray", "torch", "matplotlib", "plotly"},
    "views/figures/progress": {"ray", "torch", "matplotlib", "plotly"},
    "views/figures/hyperparameters": {"ray", "torch", "matplotlib", "plotly"},
    "views/figures/models": {"ray", "torch", "matplotlib", "plotly"},
    "views/figures/matplotlib_renderer": {"ray", "torch", "matplotlib.pyplot", "plotly"},
    "views/report/page": {"ray", "torch", "matplotlib"},
    "views/report/summary": {"ray", "torch", "matplotlib"},
    "views/report/provenance": {"ray", "torch", "matplotlib"},
    "views/report/figures": {"ray", "torch", "matplotlib"},
    "analysis/compute_cost": {"ray", "torch"},
    "tasks/compare": {"ray", "torch", "matplotlib.pyplot"},
    "analysis/early_stopping_audit": {"ray", "torch", "matplotlib", "plotly"},
    "record/sampler_view": {"ray", "torch", "pandas"},
    "replay/setting": {"torch", "ray", "optuna", "pandas", "numpy"},
    "replay/curves": {"ray", "torch", "matplotlib"},
    "replay/surrogate": {"ray", "torch", "matplotlib"},
    "replay/simulator": {"torch", "matplotlib"},
    "replay/tables": {"ray", "torch", "matplotlib"},
    "replay/forecast": {"torch", "matplotlib"},
    "tasks/replay": {"ray", "torch", "matplotlib.pyplot"},
    "cli/check/document": {"ray", "torch", "optuna", "pandas", "numpy"},
    "cli/check/schema": {"ray", "torch", "optuna", "pandas", "numpy"},
    "cli/check/clouds": {"ray", "torch", "optuna", "pandas", "numpy", "boto3"},
    "cli/check/commands": {"ray", "torch", "optuna", "pandas", "numpy"},
    "cli/check/security": {"ray", "torch", "optuna", "pandas", "numpy"},
    "cli/check/kuberay": {"ray", "torch", "optuna", "pandas", "numpy"},
    "cli/check/live": {"optuna", "pandas"},
    "cli/check/trial": {"ray", "optuna", "pandas"},
    "vae/memory": {"ray", "torch", "optuna", "pandas", "numpy"},
    "config/machine_limits": {"ray", "torch", "optuna", "pandas", "numpy"},
    "cluster/auth_token": {"ray", "torch", "optuna", "pandas", "numpy"},
    "record/trials": {"ray", "torch", "pandas"},
    "record/study_record": {"ray", "torch", "pandas"},
    "record/recovery": {"ray", "torch", "pandas"},
    "views/live/__init__": {"ray", "torch", "vae_tune.tasks.search"},
    "views/live/view": {"ray", "torch", "vae_tune.record.study_record"},
    "views/live/background": {"ray", "torch", "vae_tune.record.study_record"},
    "views/live/samples": {"ray", "torch", "vae_tune.record.study_record"},
    "views/live/tensorboard": {"ray", "torch", "vae_tune.record.study_record"},
    "views/live/mlflow": {"ray", "torch", "vae_tune.record.study_record"},
    "views/live/visdom": {"ray", "torch", "vae_tune.record.study_record"},
    "views/live/postgresql": {"ray", "torch", "vae_tune.record.study_record"},
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
        (", ".join(f"vae_tune.cli.{name}" for name in ("main", *COMMANDS)), HEAVY | {"yaml", "jsonschema"}),
        ("vae_tune.config.settings", {"torch", "ray", "optuna", "pandas", "numpy"}),
        (
            "vae_tune.views.report.summary, vae_tune.views.report.provenance, vae_tune.views.report.figures",
            {"torch", "ray", "matplotlib"},
        ),  # and so study, compute_cost
        ("vae_tune.replay.simulator, vae_tune.tasks.replay", {"torch", "matplotlib", "sklearn"}),
        ("vae_tune.cli.check.command", {"torch", "ray", "optuna", "pandas", "numpy", "botocore"}),
        (
            "vae_tune.views.live.tensorboard, vae_tune.views.live.mlflow, vae_tune.views.live.visdom, "
            "vae_tune.views.live.postgresql",
            {"torch", "ray", "pandas", "mlflow", "visdom", "tensorboardX", "psycopg"},
        ),
        (
            "vae_tune.tasks.search, vae_tune.cluster.worker_entry",
            {"torch", "torchvision", "matplotlib", "sklearn", "mlflow"},
        ),
    ],
)
def test_importing_a_module_loads_nothing_heavy_behind_its_wall(module, heavy):
    code = f"import sys, {module}; print(*sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not heavy & set(loaded)


WITH_TORCH = {
    "vae_tune.replay.forecast, vae_tune.views.report.summary, vae_tune.tasks.winner": {"sklearn", "scipy.stats"},
    "vae_tune.vae.training": {"ray", "optuna", "pandas", "torchvision"},
    "vae_tune.cluster.trainable": {"optuna", "torchvision"},
    "vae_tune.vae.checkpoint": {"ray", "optuna"},
    "vae_tune.tasks.train": {"ray", "optuna", "pandas", "torchvision", "matplotlib"},
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
