"""A space file becomes distributions, or a message that says which line is wrong."""

from __future__ import annotations

import json
import re
import warnings
from collections import UserDict
from itertools import product
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
import yaml
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from vae_tune.config.errors import UsageError
from vae_tune.config.fields import from_dict, to_dict
from vae_tune.config.settings import SearchConfig, TrialConfig
from vae_tune.config.space import DEFAULT_SPACE, Space, load_space
from vae_tune.config.trial_values import with_values
from vae_tune.vae.networks.registry import read_signature

BASE = TrialConfig()
SEARCHED = "latent_size: {type: int, low: 2, high: 64}\n"


@pytest.fixture
def load(tmp_path):
    """Return a function from the text of a space file to the space."""

    def load(text: str, base: TrialConfig = BASE) -> Space:
        path = tmp_path / "space.yaml"
        path.write_text(text)
        return load_space(path, base)

    return load


def test_without_a_file_there_is_the_built_in_space():
    assert load_space(None, BASE) is DEFAULT_SPACE


def test_the_built_in_space_is_the_one_that_the_help_tells_of():
    assert DEFAULT_SPACE.distributions == {
        "latent_size": IntDistribution(2, 64, log=True),
        "hidden_width": IntDistribution(64, 1024, log=True),
        "learning_rate": FloatDistribution(1e-4, 1e-2, log=True),
    }
    assert DEFAULT_SPACE.fixed == {}


@pytest.mark.parametrize(
    ("line", "distribution"),
    [
        ("latent_size: {type: int, low: 2, high: 64}", IntDistribution(2, 64)),
        ("latent_size: {type: int, low: 2, high: 64, log: true}", IntDistribution(2, 64, log=True)),
        ("latent_size: {type: int, low: 2, high: 10, step: 4}", IntDistribution(2, 10, step=4)),
        ("learning_rate: {type: float, low: 0.001, high: 0.1}", FloatDistribution(0.001, 0.1)),
        (
            "learning_rate: {type: float, low: 1.0e-4, high: 1.0e-2, log: true}",
            FloatDistribution(1e-4, 1e-2, log=True),
        ),
        ("learning_rate: {type: float, low: 0.25, high: 0.75, step: 0.25}", FloatDistribution(0.25, 0.75, step=0.25)),
        ("learning_rate: {type: float, low: 1e-4, high: 1e-2}", FloatDistribution(1e-4, 1e-2)),
        ("learning_rate: {type: float, low: 1e-4, high: 1}", FloatDistribution(1e-4, 1.0)),
        (
            "learning_rate: {type: float, low: 1e-4, high: 9e-4, step: 1e-4}",
            FloatDistribution(1e-4, 9e-4, step=1e-4),
        ),
        (
            "encoder_activation: {type: categorical, choices: [linear, relu]}",
            CategoricalDistribution(("linear", "relu")),
        ),
        ("batch_size: {type: categorical, choices: [64, 128]}", CategoricalDistribution((64, 128))),
        ("learning_rate: {type: categorical, choices: [1e-3, 1]}", CategoricalDistribution((1e-3, 1.0))),
    ],
)
def test_a_range_becomes_a_distribution(load, line, distribution):
    assert dict(load(line).distributions) == {line.partition(":")[0]: distribution}


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("batch_size: 256", 256),
        ("learning_rate: 1e-4", 1e-4),
        ("learning_rate: 1", 1.0),
        ("encoder_activation: relu", "relu"),
        ("max_epochs: 5", 5),
        ("precision: bfloat16", "bfloat16"),
    ],
)
def test_a_plain_value_is_fixed_for_all_trials(load, line, value):
    space = load(SEARCHED + line)
    assert space.fixed == {line.partition(":")[0]: value}
    assert list(space.distributions) == ["latent_size"]


def test_a_whole_number_for_a_float_becomes_a_float(load):
    assert isinstance(load(SEARCHED + "learning_rate: 1").fixed["learning_rate"], float)


def test_the_bounds_are_whole_numbers_for_an_int_and_fractions_for_a_float(load):
    space = load(SEARCHED + "learning_rate: {type: float, low: 1, high: 2}")
    assert isinstance(space.distributions["latent_size"].low, int)
    assert isinstance(space.distributions["learning_rate"].low, float)


def test_the_fields_keep_the_order_of_the_file(load):
    text = "learning_rate: {type: float, low: 0.1, high: 1}\nhidden_width: {type: int, low: 1, high: 9}\n" + SEARCHED
    assert list(load(text).distributions) == ["learning_rate", "hidden_width", "latent_size"]


def test_a_range_may_be_written_in_several_lines(load):
    text = "# the size\nlatent_size:\n  type: int\n  low: 2\n  high: 64\n"
    assert load(text).distributions["latent_size"] == IntDistribution(2, 64)


# Each bad line stands third in its file, below a comment and a good line.
BAD_LINES = [
    ("latent: {type: int, low: 2, high: 4}", "latent is no field of a trial; choose from model, latent_size, "),
    ("latent: 3", "latent is no field of a trial"),
    (
        "hidden_width: {type: integer, low: 2, high: 4}",
        "hidden_width needs a type, one of int, float, categorical, but got",
    ),
    (
        "hidden_width: {type: integer, low: 2, high: 4}",
        "hidden_width needs a type, one of int, float, categorical, but",
    ),
    ("hidden_width: {low: 2, high: 4}", "hidden_width needs a type, one of int, float, categorical, but got None"),
    ("hidden_width: {}", "hidden_width needs a type"),
    ("hidden_width: {type: [int], low: 2, high: 4}", "hidden_width needs a type"),
    (
        "hidden_width: {type: int, low: 2, high: 4, base: 2}",
        "hidden_width has an unknown key 'base'; int takes high, ",
    ),
    ("hidden_width: {type: int, low: 2, high: 4, choices: [3]}", "hidden_width has an unknown key 'choices'"),
    ("hidden_width: {type: categorical, low: 2, high: 4}", "hidden_width has an unknown key 'high'"),
    ("hidden_width: {type: int, low: 2, low: 3, high: 4}", "hidden_width "),
    ("hidden_width: {type: int, high: 4}", "hidden_width needs low"),
    ("hidden_width: {type: int, low: 4}", "hidden_width needs high"),
    ("hidden_width: {type: int, low: 4, high: 2}", "hidden_width low < high must hold, but got 4 >= 2"),
    ("hidden_width: {type: int, low: 4, high: 4}", "hidden_width low < high must hold, but got 4 >= 4"),
    ("hidden_width: {type: int, low: 0, high: 4, log: true}", "hidden_width must be >= 1, but got 0"),
    ("hidden_width: {type: int, low: 2.5, high: 4}", "hidden_width must be of type int, but got 2.5"),
    ("hidden_width: {type: int, low: few, high: 4}", "hidden_width must be a whole number, but got 'few'"),
    ("hidden_width: {type: int, low: true, high: 4}", "hidden_width must be a number"),
    ("hidden_width: {type: int, low: 1, high: [4]}", "hidden_width must be of type int, but got [4]"),
    ("hidden_width: {type: float, low: 2.0, high: 4.0}", "hidden_width is of type int, which float does not fit"),
    ("learning_rate: {type: int, low: 1, high: 2}", "learning_rate is of type float, which int does not fit"),
    ("encoder_activation: {type: int, low: 1, high: 2}", "encoder_activation is of type"),
    ("learning_rate: {type: float, low: 0, high: 1, log: true}", "learning_rate must be > 0 and finite, but got 0.0"),
    ("learning_rate: {type: float, low: -0.1, high: 1}", "learning_rate must be > 0 and finite, but got -0.1"),
    ("learning_rate: {type: float, low: .nan, high: 1}", "learning_rate must be > 0 and finite, but got nan"),
    ("learning_rate: {type: float, low: 0.1, high: .inf}", "learning_rate must be > 0 and finite, but got inf"),
    ("learning_rate: {type: float, low: 0.1, high: nan}", "learning_rate must be > 0 and finite, but got nan"),
    ("seed: {type: int, low: 0, high: 9, log: true}", "seed low must be > 0 on a log scale, but got 0"),
    ("hidden_width: {type: int, low: 2, high: 8, log: 1}", "hidden_width log must be true or false, but got 1"),
    ("hidden_width: {type: int, low: 2, high: 8, log: true, step: 2}", "hidden_width takes log or step, not both"),
    ("hidden_width: {type: int, low: 2, high: 8, step: 0}", "hidden_width step must be a whole number > 0, but got 0"),
    (
        "hidden_width: {type: int, low: 2, high: 8, step: -2}",
        "hidden_width step must be a whole number > 0, but got -2",
    ),
    (
        "hidden_width: {type: int, low: 2, high: 8, step: 1.5}",
        "hidden_width step must be a whole number > 0, but got 1.5",
    ),
    (
        "hidden_width: {type: int, low: 2, high: 8, step: true}",
        "hidden_width step must be a whole number > 0, but got",
    ),
    ("learning_rate: {type: float, low: 0.1, high: 1, step: 0}", "learning_rate step must be > 0, but got 0"),
    ("learning_rate: {type: float, low: 0.1, high: 1, step: .nan}", "learning_rate step must be > 0, but got nan"),
    ("learning_rate: {type: float, low: 0.1, high: 1, step: .inf}", "learning_rate step must be > 0, but got inf"),
    ("max_epochs: {type: int, low: 2, high: 8}", "max_epochs cannot be searched"),
    ("max_epochs: {type: categorical, choices: [2, 8]}", "max_epochs cannot be searched"),
    (
        "encoder_activation: {type: categorical, choices: [relu, sigmoid]}",
        "encoder_activation must be one of linear, ",
    ),
    ("encoder_activation: {type: categorical, choices: []}", "encoder_activation needs choices, a list, but got []"),
    (
        "encoder_activation: {type: categorical, choices: relu}",
        "encoder_activation needs choices, a list, but got 'relu'",
    ),
    ("encoder_activation: {type: categorical}", "encoder_activation needs choices, a list, but got None"),
    ("batch_size: {type: categorical, choices: [64, 0]}", "batch_size must be >= 1, but got 0"),
    ("learning_rate: -1.0", "learning_rate must be > 0 and finite, but got -1.0"),
    ("learning_rate: .nan", "learning_rate must be > 0 and finite, but got nan"),
    ("learning_rate: fast", "learning_rate must be a number, but got 'fast'"),
    ("learning_rate:", "learning_rate must be of type float, but got None"),
    ("learning_rate: [0.1, 0.2]", "learning_rate must be of type float, but got [0.1, 0.2]"),
    ("learning_rate: 1" + "0" * 400, "learning_rate must be"),
    ("latent_size: 3", "latent_size is there twice"),
    ("latent_size: {type: int, low: 1, high: 3}", "latent_size is there twice"),
    ("hidden_width: !!python/name:os.system x", "hidden_width "),
    ("hidden_width: !unknown 3", "hidden_width "),
    ("hidden_width: !!int many", "hidden_width "),
    ("hidden_width: 2020-13-45", "hidden_width "),
    ("hidden_width: &again {type: int, low: *again, high: 3}", "hidden_width "),
    ("[hidden_width, latent_size]: 3", ""),
    ("? {hidden_width: 3}\n: 3", ""),
]


@pytest.mark.parametrize(("line", "message"), BAD_LINES, ids=[line[:70] for line, _ in BAD_LINES])
def test_a_bad_line_is_refused_by_file_line_field_and_value(load, tmp_path, line, message):
    with pytest.raises(UsageError) as caught:
        load(f"# a space\n{SEARCHED}{line}\n")
    assert str(caught.value).startswith(f"{tmp_path / 'space.yaml'}:3: {message}")
    assert str(caught.value).count("\n") <= 1


def test_the_line_of_a_range_in_several_lines_is_where_its_field_stands(load):
    with pytest.raises(UsageError, match=r"space\.yaml:2: hidden_width low < high"):
        load(f"{SEARCHED}hidden_width:\n  type: int\n  low: 8\n  high: 2\n")


def test_a_missing_file_is_refused_by_name(tmp_path):
    with pytest.raises(UsageError, match=re.escape(str(tmp_path / "nowhere.yaml"))):
        load_space(tmp_path / "nowhere.yaml", BASE)


def test_a_folder_is_refused_by_name(tmp_path):
    with pytest.raises(UsageError, match=re.escape(str(tmp_path))):
        load_space(tmp_path, BASE)


def test_a_file_that_is_no_text_is_refused_by_name(tmp_path):
    path: Path = tmp_path / "space.yaml"
    path.write_bytes(b"\x80\x04\xff\xfe")
    with pytest.raises(UsageError, match=re.escape(str(path))):
        load_space(path, BASE)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("latent_size: {type: int, low: 2\nhidden_width: 3\n", 2),
        ("latent_size: 3\n  hidden_width: 4\n", 2),
        ("latent_size: 3\n\thidden_width: 4\n", 2),
        ("a: *unknown\n", 1),
        ("latent_size: 3\n---\nlatent_size: 4\n", 2),
        ("latent_size: 3\nhidden_width: \x01\n", 2),
    ],
)
def test_what_is_no_yaml_is_refused_by_file_and_line(load, tmp_path, text, line):
    with pytest.raises(UsageError) as caught:
        load(text)
    assert str(caught.value).startswith(f"{tmp_path / 'space.yaml'}:{line}: not valid YAML: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "# nothing\n", "{}\n", "- latent_size\n", "latent_size\n", "3\n", "null\n"])
def test_a_file_that_is_no_mapping_is_refused_with_an_example(load, tmp_path, text):
    with pytest.raises(UsageError) as caught:
        load(text)
    assert str(caught.value).startswith(f"{tmp_path / 'space.yaml'}:1: a space is a mapping from fields to ranges")
    assert "learning_rate: {type: float" in str(caught.value)


def test_the_example_of_the_message_is_itself_a_good_space(load):
    with pytest.raises(UsageError) as caught:
        load("")
    assert list(load(str(caught.value).splitlines()[-1].strip()).distributions) == ["learning_rate"]


def test_a_space_where_all_fields_are_fixed_is_refused(load):
    with pytest.raises(UsageError, match=r"space\.yaml: nothing to search: every field is fixed"):
        load("latent_size: 3\nhidden_width: 4\n")


def test_a_step_that_does_not_reach_high_draws_no_warning(load):
    """Whatever becomes of it, a person who reads the terminal must not see Optuna's line number."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            distribution = load("latent_size: {type: int, low: 2, high: 9, step: 3}").distributions["latent_size"]
        except UsageError:
            return
    assert distribution == IntDistribution(2, 8, step=3)


@pytest.mark.parametrize(
    ("line", "inside", "outside"),
    [
        ("latent_size: {type: int, low: 2, high: 8}", [2, 5, 8], [1, 9]),
        ("latent_size: {type: int, low: 2, high: 8, step: 3}", [2, 5, 8], [3, 4]),
        ("latent_size: {type: int, low: 2, high: 8, log: true}", [2, 8], [1, 9]),
        ("learning_rate: {type: float, low: 1e-4, high: 1e-2, log: true}", [1e-4, 1e-3, 1e-2], [9e-5, 0.011]),
        ("learning_rate: {type: float, low: 0.25, high: 0.75, step: 0.25}", [0.25, 0.5, 0.75], [0.3]),
        ("encoder_activation: {type: categorical, choices: [relu, elu]}", ["relu", "elu"], ["linear"]),
        ("batch_size: {type: categorical, choices: [64, 128]}", [64, 128], [65]),
    ],
)
def test_a_space_contains_what_its_sampler_could_propose(load, line, inside, outside):
    space, name = load(line), line.partition(":")[0]
    assert [space.contains(TrialConfig(**{name: value})) for value in inside] == [True] * len(inside)
    assert [space.contains(TrialConfig(**{name: value})) for value in outside] == [False] * len(outside)


def test_one_value_outside_is_enough_to_be_outside():
    assert DEFAULT_SPACE.contains(BASE)
    assert not DEFAULT_SPACE.contains(TrialConfig(hidden_width=2000))


def test_a_field_that_is_not_searched_may_have_any_value():
    assert DEFAULT_SPACE.contains(TrialConfig(batch_size=999, encoder_activation="relu"))


SPACES = Path(__file__).parents[2] / "spaces"


def test_a_space_can_be_given_as_a_mapping():
    text = (
        "latent_size: {type: int, low: 2, high: 8}\nbatch_size: 64\nprecision: {type: categorical, choices: [tf32]}\n"
    )
    assert load_space(yaml.safe_load(text), BASE) == Space(
        {"latent_size": IntDistribution(2, 8), "precision": CategoricalDistribution(["tf32"])}, {"batch_size": 64}
    )
    numpy = {"latent_size": {"type": "int", "low": np.int64(2), "high": np.float64(8)}, "batch_size": np.int32(64)}
    space = load_space(numpy, BASE)
    assert (space.distributions["latent_size"], space.fixed) == (IntDistribution(2, 8), {"batch_size": 64})
    assert json.dumps(to_dict(SearchConfig(space=numpy)))


def test_a_mapping_may_be_of_any_kind_and_hold_what_numpy_makes():
    given = {
        "latent_size": MappingProxyType({"type": "int", "low": 2, "high": 8, "log": np.True_}),
        "batch_size": {"type": "categorical", "choices": np.array([64, 128])},
        "precision": UserDict(type="categorical", choices=np.array(["tf32", "float32"])),
    }
    config = SearchConfig(space=MappingProxyType(given))
    assert load_space(config.space, BASE).distributions == {
        "latent_size": IntDistribution(2, 8, log=True),
        "batch_size": CategoricalDistribution([64, 128]),
        "precision": CategoricalDistribution(["tf32", "float32"]),
    }
    assert from_dict(SearchConfig, json.loads(json.dumps(to_dict(config)))) == config


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({}, "space: nothing to search"),
        ({"latent_size": 3}, "space: nothing to search"),
        ({"latent_sizes": 3}, "space: latent_sizes is no field of a trial; .* Did you mean latent_size?"),
        ({"latent_size": {"type": "int", "low": 9, "high": 8}}, "space: latent_size low < high must hold"),
        ({3: 4}, "space: 3 is no field"),
    ],
)
def test_a_bad_mapping_is_refused_as_a_bad_file_is(space, message):
    with pytest.raises(UsageError, match=message):
        load_space(SearchConfig(space=space).space, BASE)


@pytest.mark.parametrize("name", ["default", "wide", "color"])
def test_a_space_of_the_package_has_a_name(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_space(Path(name), BASE) == load_space(SPACES / f"{name}.yaml", BASE)
    (tmp_path / name).write_text("batch_size: {type: int, low: 2, high: 8}")  # a file that is there comes first
    assert list(load_space(Path(name), BASE).distributions) == ["batch_size"]


def test_the_default_space_file_is_the_built_in_space():
    assert load_space(SPACES / "default.yaml", TrialConfig()) == DEFAULT_SPACE


@pytest.mark.parametrize("name", ["wide", "color", "conv", "mlp-or-conv"])
def test_a_space_of_the_package_loads_and_every_corner_of_it_is_a_configuration(name):
    space = load_space(SPACES / f"{name}.yaml", TrialConfig(), read_signature)
    base = with_values(TrialConfig(), space.fixed)
    for end, branch in product((0, -1), space.branches):
        values = {
            name: distribution.choices[end]
            if hasattr(distribution, "choices")
            else (distribution.low, distribution.high)[end]
            for name, distribution in branch.items()
        }
        assert space.contains(with_values(base, values))
    assert space.contains(base) == (name != "color")  # gp and cmaes need that; color leaves out the linear encoder


def test_a_reference_of_zero_lies_outside_of_a_logarithmic_range(load):
    space = load("weight_decay: {type: float, low: 1.0e-6, high: 0.1, log: true}\n")
    assert not space.contains(TrialConfig(weight_decay=0.0))
    assert space.contains(TrialConfig(weight_decay=0.01))
