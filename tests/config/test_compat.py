"""config/compat names all private parts of libraries that the package uses; each is still there, and does its part."""

import ast
import importlib
import re
import subprocess
import sys
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from unittest import mock

import optuna
import pytest
import torch
import tyro
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.importance import FanovaImportanceEvaluator
from optuna.importance._fanova import _fanova
from optuna.importance._fanova._tree import _FanovaTree
from optuna.samplers._tpe import _truncnorm

import vae_tune
from vae_tune.config.compat import optuna as private_optuna
from vae_tune.config.compat import torch as private_torch
from vae_tune.config.compat import tyro as private_tyro

PACKAGE = Path(vae_tune.__file__).parent
ROOT = PACKAGE.parent
RAY_INTERNAL = ("ray.air", "ray.tune.execution")
"""Parts of Ray that their names do not mark as private."""
UNMARKED = {"fixed_params", "run_metadata"}
"""Keys and attributes that are private although their names do not say so."""


def private(name):
    return re.match(r"_(?!_)", name) is not None


def own_names(tree):
    """The private names that a module gives to its own functions, classes and attributes."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self":
            yield node.attr


def private_parts_of_others(source):
    """What a module names that is private to a library, or that patches one."""
    tree = ast.parse(source)
    own = set(own_names(tree))
    for node in ast.walk(tree):
        match node:
            case ast.ImportFrom(module=str(module), names=names):
                named = [*module.split("."), *(alias.name for alias in names)]
                found = any(map(private, named)) or module.startswith(("unittest", *RAY_INTERNAL))
            case ast.Import(names=names):
                found = any(map(private, chain(*(alias.name.split(".") for alias in names))))
            case ast.Attribute(value=value, attr=name):
                found = private(name) and name not in own and ast.unparse(value) not in ("self", "cls")
                found = found and ast.unparse(node) != "os._exit"  # documented, in spite of its name
                found = found or name in UNMARKED
            case ast.Constant(value=str(text)):
                found = text in UNMARKED
            case ast.keyword(arg=str(name)):
                found = private(name)
            case ast.Call(func=ast.Name(id="getattr" | "setattr"), args=[_, ast.Constant(value=str(name)), *_]):
                found = private(name)
            case ast.Assign(targets=targets) | ast.Delete(targets=targets):
                found = any(ast.unparse(target).startswith("sys.modules[") for target in targets)
            case _:
                found = False
        if found:
            yield ast.unparse(node)


def test_no_other_module_names_a_private_part_of_a_library():
    modules = [path for path in PACKAGE.rglob("*.py") if path.parent.name != "compat"]
    named = {path.name: list(private_parts_of_others(path.read_text())) for path in modules}
    assert {name: parts for name, parts in named.items() if parts} == {}


@pytest.mark.parametrize(
    "line",
    [
        "from ray._private import state",
        "import ray._private.services",
        "from optuna.samplers._tpe import _truncnorm",
        "from unittest import mock",
        "from ray.air._internal import usage",
        "study._storage.get_all_studies()",
        "trial.system_attrs['fixed_params']",
        "trial.run_metadata.metric_analysis.clear()",
        "ray.init(_temp_dir='a')",
        "getattr(study, '_study_id')",
        "sys.modules['torchvision'] = None",
        "del sys.modules['torchvision']",
    ],
)
def test_such_a_line_is_found(line):
    assert list(private_parts_of_others(line))


@pytest.mark.parametrize("library", ["optuna", "ray", "ray_tune", "torch", "torchvision", "tyro"])
def test_each_module_states_the_installed_version(library):
    said = importlib.import_module(f"vae_tune.config.compat.{library}").__doc__
    minor = ".".join(version(library.partition("_")[0]).split(".")[:2])
    assert f" {minor}" in said


# optuna


def test_attributes_of_a_study_and_ids_of_its_trials_are_those_of_its_storage():
    study = optuna.create_study()
    private_optuna.set_study_system_attr(study, "key", {"a": 1})
    assert private_optuna.study_system_attrs(study) == {"key": {"a": 1}}
    trial = study.ask()
    assert private_optuna.trial_id(trial) == private_optuna.trial_id(study.trials[0]) == 0


def test_an_enqueued_trial_has_its_fixed_values_before_and_after_it_starts():
    study = optuna.create_study()
    study.enqueue_trial({"given": 7})
    assert private_optuna.fixed_params(study.trials[0]) == {"given": 7}
    study.ask()
    assert private_optuna.fixed_params(study.trials[0]) == {"given": 7}
    study.ask()
    assert private_optuna.fixed_params(study.trials[1]) == {}


def test_a_value_is_suggested_once_and_kept():
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(0))
    study.enqueue_trial({"given": 7})
    trial = study.ask()
    range_ = IntDistribution(0, 1000)
    assert private_optuna.suggest(trial, "given", range_) == 7
    proposed = private_optuna.suggest(trial, "new", range_)
    assert private_optuna.suggest(trial, "new", range_) == proposed == study.trials[0].params["new"]


@pytest.mark.parametrize(
    ("distribution", "inside", "outside"),
    [
        (IntDistribution(2, 8, step=2), 4, 5),
        (FloatDistribution(1e-4, 1e-2, log=True), 1e-3, 0.1),
        (FloatDistribution(1e-4, 1e-2, log=True), 1e-4, 0.0),
        (FloatDistribution(0.0, 1.0, step=0.25), 0.75, 0.8),
        (CategoricalDistribution(["relu", "tanh"]), "relu", "gelu"),
    ],
)
def test_a_distribution_contains_what_it_could_propose(distribution, inside, outside):
    assert private_optuna.contains(distribution, inside) is True
    assert private_optuna.contains(distribution, outside) is False


def test_tpes_log_ndtr_is_replaced_by_an_equal_one():
    numbers = torch.linspace(-30, 5, 50, dtype=torch.float64).numpy()
    with mock.patch.object(_truncnorm, "_log_ndtr"):
        private_optuna.vectorize_tpe()
        fast = _truncnorm._log_ndtr(numbers)
    assert fast == pytest.approx([_truncnorm._log_ndtr_single(number) for number in numbers], rel=1e-12)


def test_fanovas_trees_are_replaced_by_equal_ones():
    space = {
        "width": IntDistribution(2, 64),
        "rate": FloatDistribution(0.0, 1.0),
        "activation": CategoricalDistribution(["relu", "tanh", "elu"]),
    }
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(0))
    for _ in range(60):
        trial = study.ask(space)
        width, rate, activation = trial.params.values()
        study.tell(trial, width * rate + 40 * (activation == "tanh"))

    def shares():
        return FanovaImportanceEvaluator(seed=0, max_depth=8).evaluate(study)

    with mock.patch.object(_fanova, "_FanovaTree", _FanovaTree):
        theirs = shares()
        private_optuna.vectorize_fanova()
        assert _fanova._FanovaTree is not _FanovaTree
        ours = shares()
    assert ours == pytest.approx(theirs, rel=1e-9)
    assert len(ours) == 3
    assert min(ours.values()) > 0.05


# torch, torchvision, tyro


def test_the_fused_kernel_takes_the_step_of_adamw():
    ours, theirs = (torch.nn.Parameter(torch.tensor([1.0, -2.0])) for _ in range(2))
    gradient, zeros = torch.tensor([0.5, 0.25]), (torch.zeros(2), torch.zeros(2))
    options = {"lr": 0.1, "weight_decay": 0.01, "eps": 1e-8}
    private_torch.fused_adamw(
        [ours.detach()],
        [gradient],
        *([tensor] for tensor in zeros),
        [],
        [torch.ones(())],
        amsgrad=False,
        beta1=0.9,
        beta2=0.999,
        maximize=False,
        **options,
    )
    theirs.grad = gradient
    torch.optim.AdamW([theirs], fused=True, **options).step()
    assert torch.equal(ours, theirs)


def test_onednn_multiplies_matrices_that_may_be_transposed():
    x, weight, bias = torch.rand(5, 3), torch.rand(4, 3), torch.rand(4)
    expected = torch.nn.functional.linear(x, weight, bias)
    torch.testing.assert_close(private_torch.onednn_linear(x, weight, bias), expected)
    for a, b in ((x.t().contiguous().t(), weight), (x, weight.t().contiguous().t())):
        torch.testing.assert_close(private_torch.onednn_linear(a, b), expected - bias)


def test_the_module_of_mnist_is_loaded_alone_and_torchvision_whole_after_it():
    code = (
        "import sys; from vae_tune.config.compat.torchvision import mnist_module; module = mnist_module();"
        "print([name for name in sys.modules if name.startswith('torchvision')], module.EMNIST.__name__);"
        "import torchvision; from torchvision.datasets import MNIST, FashionMNIST;"
        "assert issubclass(FashionMNIST, MNIST) and torchvision.datasets.MNIST is MNIST;"
        "print(torchvision.models.resnet18.__name__, torchvision.ops.nms.__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[] EMNIST", "resnet18 nms"]


def test_tyros_parse_errors_are_passed_to_a_function():
    events = []
    with pytest.raises(SystemExit), private_tyro.on_parse_error(events.append):
        tyro.cli(int, args=["a"], console_outputs=False)
    assert [isinstance(event, private_tyro.ParseErrorEvent) for event in events] == [True]
