"""Which module may import what: DESIGN's walls, read from the source and checked in fresh interpreters."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import vae_tune
from vae_tune.cli.main import COMMANDS

HEAVY = {"torch", "ray", "optuna", "pandas", "numpy"}
PACKAGE = Path(vae_tune.__file__).parent
ROOMS = ["cli", "tasks", "views", "replay", "analysis", "search", "cluster", "record", "vae", "images", "config"]
"""Highest first: a module imports from its own room and from rooms below it, never from the top of the house."""
NAMED_ONLY_IN = {
    "ray": "cluster search cli/check/running_cluster config/compat replay/simulator tasks/search_run",
    "torch": "vae images/datasets cluster/trainable config/compat cli/check/node_trial "
    "tasks/evaluate tasks/repeats tasks/train tasks/winner",
    "torchvision": "images/torchvision_sets",  # config/compat loads a part of it by name
    "optuna": "search record config/space config/optuna_logging config/compat analysis cli/dashboard "
    "replay/curves replay/simulator tasks/confirm tasks/explore tasks/resumed_study "
    "tasks/search_record tasks/search_start views/live/postgresql",
    "pandas": "analysis config/csv_tables views/figures views/report "
    "views/json_values replay/curves replay/surrogate replay/tables "
    "tasks/compare tasks/confirm tasks/explore tasks/repeats tasks/replay",
    "numpy": "search/expected_gain search/learning_curves search/unit_cube "
    "analysis images vae config/compat views/figures views/json_values views/live tasks/generate cli/check/node_trial "
    "replay/curves replay/forecast replay/surrogate replay/tables",
    "scipy": "search/expected_gain search/learning_curves analysis config/compat replay/surrogate tasks/repeats",
    "sklearn": "replay/surrogate",
    "matplotlib": "plots views/figures",
    "matplotlib.pyplot": "",
    "plotly": "",  # only its JavaScript is used
    "yaml": "analysis/next_space cli/check/document cli/check/rules config/space search/initial_trials",
    "boto3": "config/object_stores",
    "mlflow": "views/live/mlflow",
    "pynvml": "cluster/gpus",
    "visdom": "views/live/visdom",
    "wandb": "views/live/wandb",
    "tensorboardX": "views/live/tensorboard",
    "psycopg": "",  # SQLAlchemy loads it
    "optuna_dashboard": "cli/dashboard",
    "vae_tune.images": "cli tasks replay analysis cluster record images vae/training vae/pictures",
    "vae_tune.record.study_record": "tasks record search replay views/live/__init__",
    "vae_tune.vae.model": "cli tasks analysis cluster vae/training "
    "vae/user_metric vae/checkpoint vae/pictures vae/fused_step vae/autograd_step vae/probe vae/model_cost",
    "vae_tune.vae.objective": "tasks vae/training vae/pictures vae/autograd_step vae/probe",
}
"""Where a library, or a part of the package, may be named at all: rooms, folders or modules."""


def modules():
    """Every module of the package by its dotted name, with its file."""
    for path in PACKAGE.rglob("*.py"):
        yield ".".join(["vae_tune", *path.relative_to(PACKAGE).with_suffix("").parts]).removesuffix(".__init__"), path


FILES = dict(modules())


def imports(path):
    """Every module that a file imports: at its top, inside a function, or for type checking alone."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for name in (f"{node.module}.{alias.name}" for alias in node.names):
                yield name if name in FILES or node.module not in FILES else node.module


def room(module):
    """The room of a module, None for the top of the house."""
    name = [*module.split("."), ""][1]
    return name if name in ROOMS else None


def within(name, part):
    return name == part or name.startswith(f"{part}.")


@pytest.mark.parametrize("importer", ROOMS)
def test_imports_go_down_only(importer):
    lower = ROOMS[ROOMS.index(importer) :]
    upwards = [
        f"{module} -> {name}"
        for module, path in FILES.items()
        if room(module) == importer
        for name in imports(path)
        if within(name, "vae_tune") and room(name) not in lower
    ]
    assert upwards == []


def test_no_modules_import_each_other_in_a_circle():
    graph = {module: {name for name in imports(path) if name in FILES} for module, path in FILES.items()}
    tuple(TopologicalSorter(graph).static_order())  # raises CycleError, which names the circle


@pytest.mark.parametrize("part", NAMED_ONLY_IN)
def test_a_library_is_named_only_where_it_may_be(part):
    allowed = NAMED_ONLY_IN[part].split()
    naming = {
        path.relative_to(PACKAGE).with_suffix("").as_posix()
        for path in FILES.values()
        if any(within(name, part) for name in imports(path))
    }
    assert not {name for name in naming if not any(name == place or name.startswith(f"{place}/") for place in allowed)}


@pytest.mark.parametrize("module", ["vae_tune.vae.memory_estimate", "vae_tune.vae.schedule"])
def test_arithmetic_of_the_vae_room_needs_no_torch(module):
    assert not [name for name in imports(FILES[module]) if within(name, "torch") or within(name, "numpy")]


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("vae_tune", {"torch", "ray", "optuna", "pandas"}),
        (", ".join(f"vae_tune.cli.{name}" for name in ("main", *COMMANDS)), HEAVY | {"yaml", "jsonschema"}),
        ("vae_tune.images.datasets", {"torch", "torchvision"}),
        ("vae_tune.config.settings", {"torch", "ray", "optuna", "pandas", "numpy"}),
        (
            "vae_tune.views.report.summary, vae_tune.views.report.provenance, vae_tune.views.report.figures",
            {"torch", "ray", "matplotlib"},
        ),  # and so study, compute_cost
        ("vae_tune.replay.simulator, vae_tune.tasks.replay", {"torch", "matplotlib", "sklearn"}),
        ("vae_tune.cli.check.command", {"torch", "ray", "optuna", "pandas", "numpy", "botocore"}),
        (
            "vae_tune.views.live.tensorboard, vae_tune.views.live.mlflow, vae_tune.views.live.visdom, "
            "vae_tune.views.live.postgresql, vae_tune.views.live.wandb",
            {"torch", "ray", "pandas", "mlflow", "visdom", "tensorboardX", "psycopg", "wandb"},
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
    assert not [path for path in FILES.values() if "search" in set(imports(path))]


def test_no_module_passes_400_lines():
    assert not [path.name for path in FILES.values() if len(path.read_text().splitlines()) > 400]
