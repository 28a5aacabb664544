"""The models by name, and the options of a class, which its signature is the interface of."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from vae_tune.config.errors import UsageError
from vae_tune.config.model_options import Option
from vae_tune.config.settings import TrialConfig
from vae_tune.vae.model import build_model
from vae_tune.vae.networks.mlp import MLP
from vae_tune.vae.networks.registry import BUILT_IN, BuiltIn, network_class, read_options, read_signature
from vae_tune.vae.networks.signature import signature_of

SHAPE = (1, 4, 3)


class Layers(nn.Module):
    """A network with options of each type."""

    def __init__(
        self,
        shape: tuple[int, int, int],
        outputs: int,
        latent_size: int,
        *,
        depth: int = 2,
        slope: float = 0.1,
        bias: bool = True,
        act: Literal["relu", "silu"] = "silu",
    ):
        super().__init__()
        self.given = {"depth": depth, "slope": slope, "bias": bias, "act": act}
        self.shape, self.outputs = shape, outputs
        self.inner = nn.Linear(12, 2 * latent_size)
        self.outer = nn.Linear(latent_size, outputs * 12)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_variance = self.inner(x.flatten(1)).chunk(2, dim=1)
        return mean, log_variance

    def decode(self, z: Tensor) -> Tensor:
        return self.outer(z).view(-1, self.outputs, *self.shape[1:])


@pytest.fixture(autouse=True)
def built_in(monkeypatch):
    monkeypatch.setitem(BUILT_IN, "layers", BuiltIn(__name__, "Layers"))


def test_the_keyword_only_arguments_of_a_class_are_its_options():
    assert list(read_signature("layers").values()) == [
        Option("depth", "int", 2),
        Option("slope", "float", 0.1),
        Option("bias", "bool", True),
        Option("act", "choice", "silu", ("relu", "silu")),
    ]
    assert read_signature("mlp") == {}


def test_a_configuration_names_the_network_and_its_options():
    assert isinstance(build_model(TrialConfig(), SHAPE).network, MLP)
    options = {"depth": 3, "slope": 1, "bias": "false", "act": "relu", "of_another_model": 7}
    network = build_model(TrialConfig(model="layers", model_options=options), SHAPE).network
    assert network.given == {"depth": 3, "slope": 1.0, "bias": False, "act": "relu"}
    assert build_model(TrialConfig(model="layers"), SHAPE).network.given["depth"] == 2


def test_the_seed_of_a_configuration_draws_the_weights_and_leaves_the_global_state_alone():
    before = torch.get_rng_state()
    config = TrialConfig(model="layers")
    first, again, other = (build_model(replace(config, seed=seed), SHAPE).network.inner.weight for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(before, torch.get_rng_state())


def test_an_unknown_model_is_refused_with_what_there_is():
    with pytest.raises(
        UsageError, match=r"model must be mlp, .*FILE\.py:CLASS or MODULE:CLASS, but got 'layer'\. Did"
    ):
        network_class("layer")


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("depht=3", r"'depht' is no option of layers; choose from depth, slope, bias, act\. Did you mean depth\?"),
        ("depth=2.5", r"depth must be a whole number, but got '2\.5'\.$"),
        ("depth=many", r"depth must be a whole number, but got 'many'\.$"),
        ("slope=nan", r"slope must be a finite number, but got 'nan'\.$"),
        ("bias=1", r"bias must be true or false, but got '1'\.$"),
        ("act=tanh", r"act must be one of relu, silu, but got 'tanh'"),
    ],
)
def test_an_option_that_does_not_fit_is_refused(option, message):
    config = TrialConfig(model="layers", model_options=(option,))
    with pytest.raises(UsageError, match=message):
        read_options(config, {"layers": read_signature("layers")})


def test_texts_of_a_command_line_get_the_types_of_the_signature():
    texts = ("depth=4", "slope=1e-2", "bias=False", "act=relu", "depth=5")
    found = read_options(TrialConfig(model_options=texts), {"layers": read_signature("layers")})
    assert found == {"depth": 5, "slope": 0.01, "bias": False, "act": "relu"}
    assert [type(value) for value in found.values()] == [int, float, bool, str]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            "shape, outputs, latent_size, *, depth=2",
            r"the option depth needs an annotation: int, float, bool, str or L",
        ),
        ("shape, outputs, latent_size, *, depth: int", r"the option depth needs a default"),
        (
            "shape, outputs, latent_size, depth: int = 2",
            r"must take shape, outputs, latent_size, and its options after",
        ),
        ("channels, outputs, latent_size", r"must take .*, but takes \(channels, outputs, latent_size\)\.\n"),
        ("*shape", r"must take shape, outputs, latent_size"),
        (
            "shape, outputs, latent_size, *, widths: list = ()",
            r"widths must be of int, .* or Literal, but is of list\.$",
        ),
        ("shape, outputs, latent_size, *, depth: int = 2.5", r"its default must be a whole number, but got 2\.5\.$"),
        ("shape, outputs, latent_size, *, depth: Unknown = 2", r"its signature cannot be read: name 'Unknown' is not"),
    ],
)
def test_a_signature_that_is_no_interface_is_refused(arguments, message):
    names = {}
    exec(f"from __future__ import annotations\nclass X:\n  def __init__(self, {arguments}): ...", names)
    with pytest.raises(UsageError, match=f"^X.*{message}"):
        signature_of(names["X"], "X")
