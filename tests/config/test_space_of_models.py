"""Spaces with options of models, and with models to choose from."""

from __future__ import annotations

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from vae_tune.config.errors import UsageError
from vae_tune.config.model_options import Option
from vae_tune.config.settings import TrialConfig
from vae_tune.config.space import DEFAULT_SPACE, load_space
from vae_tune.config.trial_values import value_of, with_values

SIGNATURES = {
    "mlp": {},
    "layers": {
        "depth": Option("depth", "int", 2),
        "slope": Option("slope", "float", 0.1),
        "act": Option("act", "choice", "silu", ("relu", "silu")),
    },
    "deep": {"depth": Option("depth", "int", 5)},
    "text": {"depth": Option("depth", "str", "deep")},
}
LAYERS = TrialConfig(model="layers")
BOTH = {
    "model": {"type": "categorical", "choices": ["mlp", "layers"]},
    "latent_size": {"type": "int", "low": 2, "high": 8},
    "hidden_width": {"type": "int", "low": 8, "high": 16},
    "model.depth": {"type": "int", "low": 1, "high": 4},
    "model.act": "relu",
}


def read_signature(model):
    if model not in SIGNATURES:
        raise UsageError(f"model must be mlp or layers, but got {model!r}.")
    return SIGNATURES[model]


def load(source, base=LAYERS):
    return load_space(source, base, read_signature)


def test_options_of_a_model_are_searched_and_fixed_by_their_names():
    space = load(
        {
            "model.depth": {"type": "int", "low": 1, "high": 4},
            "model.slope": {"type": "float", "low": "1e-3", "high": 1, "log": True},
            "model.act": {"type": "categorical", "choices": ["silu", "relu"]},
            "learning_rate": 1e-3,
        }
    )
    assert space.distributions == {
        "model.depth": IntDistribution(1, 4),
        "model.slope": FloatDistribution(1e-3, 1.0, log=True),
        "model.act": CategoricalDistribution(["silu", "relu"]),
    }
    assert space.conditions == {}
    trial = with_values(LAYERS, {"model.depth": 3, "learning_rate": 0.1})
    assert (trial.model_options, trial.learning_rate) == ({"depth": 3}, 0.1)
    assert (value_of(trial, "model.depth"), value_of(trial, "model.act")) == (3, None)


@pytest.mark.parametrize(
    ("name", "spec", "message"),
    [
        (
            "model.depht",
            3,
            r"model\.depht is no option of layers; choose from model\.depth, .* Did you mean model\.dep",
        ),
        ("model.depth", 2.5, r"model\.depth must be a whole number, but got 2\.5\.$"),
        (
            "model.depth",
            {"type": "int", "low": 1, "high": "many"},
            r"model\.depth must be a whole number, but got 'many",
        ),
        (
            "model.depth",
            {"type": "float", "low": 1, "high": 2},
            r"model\.depth is of type int, which float does not fit",
        ),
        (
            "model.act",
            {"type": "int", "low": 1, "high": 2},
            r"model\.act must be relu, silu, which int does not fit: take categorical\.$",
        ),
        (
            "model.act",
            {"type": "categorical", "choices": ["silu", "tanh"]},
            r"model\.act must be one of relu, silu, but",
        ),
        ("hidden_width", 64, r"hidden_width is not of layers: it is an option of mlp\.$"),
        ("act", "silu", r"act is no field of a trial; .* Did you mean model\.act\?$"),
        ("model_options", 3, r"model_options is no field of a trial"),
        ("model", "layer", r"space: model must be mlp or layers, but got 'layer'\.$"),
    ],
)
def test_what_a_model_does_not_have_is_refused(name, spec, message):
    with pytest.raises(UsageError, match=message):
        load({"latent_size": {"type": "int", "low": 2, "high": 8}, name: spec})


def test_options_are_searched_for_the_models_that_have_them():
    space = load(BOTH)
    assert space.conditions == {"hidden_width": ("mlp",), "model.depth": ("layers",), "model.act": ("layers",)}
    assert list(space.active("mlp")) == ["model", "latent_size", "hidden_width"]
    assert list(space.active("layers")) == ["model", "latent_size", "model.depth"]
    assert list(space.shared) == ["model", "latent_size"]
    assert space.is_complete({"model": "mlp", "latent_size": 2, "hidden_width": 8})
    assert not space.is_complete({"model": "layers", "latent_size": 2, "hidden_width": 8})
    assert not space.is_complete({"latent_size": 2})


def test_a_reference_lies_in_a_space_of_models_where_its_own_options_do():
    space, mlp = load(BOTH), TrialConfig(latent_size=8, hidden_width=16)
    layers = with_values(LAYERS, {"latent_size": 8, "model.depth": 2, "model.act": "relu"})
    assert space.contains(mlp)
    assert space.contains(layers)
    assert not space.contains(with_values(layers, {"model.act": "silu"}))
    assert space.outside(with_values(layers, {"model.depth": 5, "hidden_width": 1})) == {"model.depth": 5}
    assert space.values(layers) == {"model": "layers", "latent_size": 8, "model.depth": 2}


def test_an_option_that_all_models_have_has_no_condition():
    models = {"type": "categorical", "choices": ["layers", "deep"]}
    space = load({"model": models, "model.depth": {"type": "int", "low": 1, "high": 4}, "model.act": "relu"})
    assert space.conditions == {"model.act": ("layers",)}


def test_an_option_that_the_reference_alone_lacks_has_a_condition():
    models = {"type": "categorical", "choices": ["layers", "deep"]}
    source = {"model": models, "latent_size": BOTH["latent_size"], "model.depth": {"type": "int", "low": 1, "high": 4}}
    space = load(source, TrialConfig())
    assert space.conditions == {"model.depth": ("layers", "deep")}
    assert space.values(TrialConfig()) == {"model": "mlp", "latent_size": 20}
    assert load(source).conditions == {}


def test_an_option_of_two_types_is_refused():
    with pytest.raises(UsageError, match=r"model\.depth is of different types in layers and text: int, str"):
        load({"model": {"type": "categorical", "choices": ["layers", "text"]}, "model.depth": 3})


def test_without_a_file_what_every_model_has_is_searched():
    assert load(None, TrialConfig()) is DEFAULT_SPACE
    assert list(load(None).distributions) == ["latent_size", "learning_rate"]
