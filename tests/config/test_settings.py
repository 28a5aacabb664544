"""Configurations refuse what cannot be trained and survive JSON."""

from __future__ import annotations

import json
import math
from dataclasses import FrozenInstanceError
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from vae_tune.config.errors import UsageError
from vae_tune.config.fields import from_dict, to_dict
from vae_tune.config.settings import (
    AshaConfig,
    DataConfig,
    ResourceConfig,
    SearchConfig,
    TrialConfig,
    ViewsConfig,
    duration_seconds,
)

ALL = (TrialConfig, DataConfig, AshaConfig, ResourceConfig, ViewsConfig, SearchConfig)

BAD_VALUES = [
    *((TrialConfig, "latent_size", value) for value in (0, -3, 2.5, math.nan, "20", None, True)),
    *((TrialConfig, "hidden_width", value) for value in (0, -1, 1.5, math.inf, "400", False)),
    *((TrialConfig, "learning_rate", value) for value in (0.0, -1e-3, math.nan, math.inf, -math.inf, "1e-3", True)),
    *((TrialConfig, "batch_size", value) for value in (0, -128, 128.5, "128", [128], True)),
    *((TrialConfig, "encoder_activation", value) for value in ("sigmoid", "", "ReLU", 1, ["relu"], True)),
    *((TrialConfig, "decoder_activation", value) for value in ("sigmoid", None)),
    *((TrialConfig, "kl_weight", value) for value in (-0.1, math.nan, math.inf, "1", True)),
    *((TrialConfig, "kl_warmup_epochs", value) for value in (-1, 1.5, None)),
    *((TrialConfig, "free_bits", value) for value in (-0.1, math.nan, None)),
    *((TrialConfig, "iwae_samples", value) for value in (0, 1.5, "5")),
    *((TrialConfig, "weight_decay", value) for value in (-1e-3, math.inf)),
    *((TrialConfig, "lr_schedule", value) for value in ("linear", "", None)),
    *((TrialConfig, "grad_clip", value) for value in (-1.0, math.nan)),
    *((TrialConfig, "max_epochs", value) for value in (0, -1, 2.5, math.nan, "10", True)),
    *((TrialConfig, "precision", value) for value in ("float16", 32, None)),
    *((TrialConfig, "seed", value) for value in (-1, 2**32, 0.5, "0", True)),
    *((DataConfig, "dataset", value) for value in ("", "a\0b", 3, None)),
    *((DataConfig, "data_dir", value) for value in (3, 1.5, ["data"], True)),
    *((DataConfig, "binarization", value) for value in ("gray", "", None, True)),
    *((DataConfig, "train_size", value) for value in (0, -5, 10.5, "100", math.inf, True)),
    *((AshaConfig, "scheduler", value) for value in ("hyperband", None, True)),
    *((AshaConfig, "grace_period", value) for value in (0, -1, 1.5, "1", True)),
    *((AshaConfig, "reduction_factor", value) for value in (1, 0, -3, 3.5, math.nan, "3", True)),
    *((ResourceConfig, "cpus_per_trial", value) for value in (0, -1, 0.5, "1", True)),
    *((ResourceConfig, "gpus_per_trial", value) for value in (-0.5, 1.5, math.nan, math.inf, "1", True)),
    *((ResourceConfig, "max_concurrent", value) for value in (0, -2, 2.5, "2", True)),
    *((ResourceConfig, "address", value) for value in (6379, Path("auto"), True)),
    *((ViewsConfig, "tensorboard", value) for value in (1, None, "yes")),
    *(
        (ViewsConfig, "mlflow", value)
        for value in ("", "localhost:5000", "http://", "ftp://h", "http://h:x", "mlruns", 3)
    ),
    *((ViewsConfig, "mlflow", value) for value in ("http://h/a b", "http://h?q=1", "http://[::1", "http://h:0", True)),
    *(
        (ViewsConfig, "visdom", value)
        for value in ("", "localhost", "localhost:8097", "sqlite:///x.db", "http://h#x", 1)
    ),
    *((ViewsConfig, "wandb", value) for value in ("", "a/b/c", "a b", "a:b", "/a", "a/", "x" * 129, 3, True)),
    *(
        (ViewsConfig, "study_storage", value)
        for value in (
            "",
            "teams",
            "sqlite:///x.db",
            "postgres://host/teams",
            "mysql://host/teams",
            "postgresql:teams",
            1,
        )
    ),
    *((SearchConfig, "num_samples", value) for value in (0, -50, 50.5, "50", None, True)),
    *((SearchConfig, "confirm", value) for value in (-1, 1.5, None, True)),
    *((SearchConfig, "confirm_seeds", value) for value in (0, "3", None)),
    *((SearchConfig, "study_name", value) for value in ("", ".", "..", "a/b", "/a", "a/", " a", "a ", 3, True)),
    *((SearchConfig, "results_dir", value) for value in (3, None, True)),
    *((SearchConfig, "space", value) for value in (3, [], True)),
    *((SearchConfig, "resume", value) for value in (3, True)),
    *((SearchConfig, "time_budget", value) for value in ("", "soon", "0s", "-5m", "45", "1.5h", "m", 45, True)),
    *((SearchConfig, "target_loss", value) for value in (math.nan, math.inf, -math.inf, "100", True)),
    *((SearchConfig, "notify", value) for value in ("", " ", 3, True)),
    *((SearchConfig, "sampler", value) for value in ("grid", None, True)),
    *((SearchConfig, "asha", value) for value in (None, 3, {"grace_period": 1}, TrialConfig())),
    *((SearchConfig, "trial", value) for value in (None, {}, AshaConfig())),
]

NESTED = SearchConfig(
    num_samples=7,
    study_name="a-name",
    results_dir=Path("elsewhere"),
    space=Path("space.yaml"),
    resume=Path("results/old"),
    time_budget="1h30m",
    target_loss=101.5,
    sampler="random",
    asha=AshaConfig(scheduler="none", grace_period=2, reduction_factor=4),
    resources=ResourceConfig(cpus_per_trial=2, gpus_per_trial=0.25, max_concurrent=3, address="auto"),
    views=ViewsConfig(tensorboard=True, mlflow="sqlite:///runs.db", visdom="http://127.0.0.1:8097"),
    data=DataConfig(dataset="emnist-letters", data_dir=Path("data"), train_size=100),
    trial=TrialConfig(latent_size=3, learning_rate=5e-4, encoder_activation="relu", precision="bfloat16", seed=9),
)


@pytest.mark.parametrize("cls", ALL)
def test_the_defaults_are_valid(cls):
    cls()


def test_the_defaults_are_the_reference_configuration():
    config = TrialConfig()
    assert (config.latent_size, config.hidden_width, config.learning_rate, config.batch_size) == (20, 400, 1e-3, 128)
    assert (config.decoder_activation, config.max_epochs, config.precision) == ("relu", 10, "float32")
    assert (config.encoder_activation, config.likelihood) == (None, None)  # left to the images


@pytest.mark.parametrize(("cls", "name", "value"), BAD_VALUES)
def test_a_bad_value_is_refused_by_field_and_value(cls: type[Any], name: str, value: Any):
    with pytest.raises(UsageError) as caught:
        cls(**{name: value})
    assert str(caught.value).startswith(f"{name} must be ")
    shown = str(value) if isinstance(value, Path) else value  # as it was typed
    assert str(caught.value).partition(". Did you mean ")[0].removesuffix(".").endswith(f"but got {shown!r}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mlflow", "http://me:hunter2@host:5000"),
        ("mlflow", "https://hunter2@host"),
        ("mlflow", "htp://me:hun/ter2@host"),
        ("mlflow", "postgresql://me:hunter2@host/mlflow"),
        ("mlflow", "mysql://host/mlflow?user=me&Password=hunter2"),
        ("visdom", "http://me:hunter2@host:8097"),
        ("study_storage", "postgresql://me:hunter2@host/teams"),
        ("study_storage", "postgresql://host/teams?user=me&password=hunter2"),
        ("study_storage", "host=host dbname=teams password=hunter2"),
        ("study_storage", "password = hunter2 host=host"),
    ],
)
def test_a_password_in_a_url_is_refused_and_not_repeated(name, value):
    with pytest.raises(UsageError, match=r"(_|PG)PASSWORD.* in the environment instead") as caught:
        ViewsConfig(**{name: value})
    assert "ter2" not in str(caught.value)


@pytest.mark.parametrize(
    "twenty",
    [
        20.0,
        np.int64(20),
        np.uint8(20),
        np.float64(20),
        np.float32(20),
        np.array(20),
        pd.array([20], dtype="Int64")[0],
        pd.Series({"latent_size": 20, "learning_rate": 0.1}).latent_size,
        torch.tensor(20),
        torch.tensor(20.0),
        Fraction(20),
        Decimal("20"),
    ],
)
def test_a_whole_number_of_any_numeric_type_is_one(twenty):
    config = TrialConfig(latent_size=twenty, learning_rate=twenty)
    assert (config.latent_size, config.learning_rate) == (20, 20.0)
    assert (type(config.latent_size), type(config.learning_rate)) == (int, float)
    assert json.loads(json.dumps(to_dict(config)))["latent_size"] == 20


@pytest.mark.parametrize(
    "value",
    [np.True_, torch.tensor(True), np.float64(20.5), np.array([20]), np.float64("nan"), pd.NA, 20j, "20", "20.0"],
)
def test_what_is_no_whole_number_is_refused_whatever_its_type(value):
    with pytest.raises(UsageError, match="latent_size must be"):
        TrialConfig(latent_size=value)


def test_a_text_or_truth_value_of_numpy_is_one():
    assert type(TrialConfig(precision=np.str_("tf32")).precision) is str
    assert ViewsConfig(tensorboard=np.True_).tensorboard is True


@pytest.mark.parametrize(("value", "meant"), [("statik", "static"), ("gray", "grey"), ("colourful", None)])
def test_the_nearest_value_is_named(value, meant):
    with pytest.raises(UsageError, match=f"Did you mean {meant}" if meant else r"'colourful'\.$"):
        DataConfig(binarization=value)


def test_a_whole_number_too_large_for_a_float_is_refused_by_field():
    with pytest.raises(UsageError, match="learning_rate"):
        TrialConfig(learning_rate=10**400)


@pytest.mark.parametrize(
    ("cls", "name", "value"),
    [
        (TrialConfig, "seed", 2**32 - 1),
        (TrialConfig, "latent_size", 1),
        (DataConfig, "train_size", 1),
        (DataConfig, "train_size", None),
        (AshaConfig, "reduction_factor", 2),
        (ResourceConfig, "gpus_per_trial", 0.0),
        (ResourceConfig, "gpus_per_trial", 0.25),
        (ResourceConfig, "gpus_per_trial", 1.0),
        (ResourceConfig, "gpus_per_trial", 4.0),
        (ResourceConfig, "address", "ray://head:10001"),
        (ViewsConfig, "mlflow", "http://127.0.0.1:5000"),
        (ViewsConfig, "mlflow", "https://mlflow.example/team"),
        (ViewsConfig, "mlflow", "sqlite:////tmp/a folder/mlflow.db".replace(" ", "-")),
        (ViewsConfig, "mlflow", "postgresql+psycopg://me@host/mlflow"),
        (ViewsConfig, "visdom", "http://[::1]:8097"),
        (ViewsConfig, "study_storage", "postgresql://me@host:5432/teams?sslmode=verify-full"),
        (ViewsConfig, "study_storage", "postgresql+psycopg://host/teams"),
        (ViewsConfig, "study_storage", "postgresql:///teams?host=/run/postgresql"),
        (SearchConfig, "num_samples", 1),
        (SearchConfig, "study_name", "mnist 2026.01.01-12_00"),
        (SearchConfig, "target_loss", -1.0),
    ],
)
def test_a_value_at_the_edge_is_accepted(cls: type[Any], name: str, value: Any):
    assert getattr(cls(**{name: value}), name) == value


@pytest.mark.parametrize(
    ("cls", "name"),
    [(TrialConfig, "learning_rate"), (ResourceConfig, "gpus_per_trial"), (SearchConfig, "target_loss")],
)
def test_a_whole_number_is_accepted_for_a_float_and_becomes_one(cls: type[Any], name: str):
    value = getattr(cls(**{name: 2}), name)
    assert value == 2.0
    assert isinstance(value, float)


@pytest.mark.parametrize(
    ("cls", "name"),
    [(DataConfig, "data_dir"), (SearchConfig, "results_dir"), (SearchConfig, "space"), (SearchConfig, "resume")],
)
def test_a_text_is_accepted_for_a_path_and_becomes_one(cls: type[Any], name: str):
    assert getattr(cls(**{name: "some/where"}), name) == Path("some/where")


@pytest.mark.parametrize("cls", ALL)
def test_a_configuration_is_frozen(cls):
    config = cls()
    name, value = next(iter(vars(config).items()))
    with pytest.raises(FrozenInstanceError):
        setattr(config, name, value)


def test_a_grace_period_beyond_the_last_epoch_is_refused():
    with pytest.raises(UsageError, match=r"^grace_period <= max_epochs must hold, but got 20 > 10\.$"):
        SearchConfig(asha=AshaConfig(grace_period=20), trial=TrialConfig(max_epochs=10))


def test_a_grace_period_up_to_the_last_epoch_is_accepted():
    SearchConfig(asha=AshaConfig(grace_period=10), trial=TrialConfig(max_epochs=10))


def test_a_grace_period_does_not_matter_without_asha():
    SearchConfig(asha=AshaConfig(scheduler="none", grace_period=20), trial=TrialConfig(max_epochs=10))


@pytest.mark.parametrize(
    ("grace_period", "reduction_factor", "max_epochs", "rungs"),
    [
        (1, 3, 10, (1, 3, 9)),
        (1, 3, 9, (1, 3)),
        (2, 2, 9, (2, 4, 8)),
        (4, 3, 10, (4,)),
        (10, 3, 10, ()),
        (1, 3, 1, ()),
    ],
)
def test_rungs_grow_by_the_reduction_factor_and_end_before_the_last_epoch(
    grace_period, reduction_factor, max_epochs, rungs
):
    config = AshaConfig(grace_period=grace_period, reduction_factor=reduction_factor)
    assert config.rungs(max_epochs) == rungs


def test_without_asha_there_are_no_rungs():
    assert AshaConfig(scheduler="none").rungs(10) == ()


@pytest.mark.parametrize("config", [*(cls() for cls in ALL), NESTED], ids=lambda config: type(config).__name__)
def test_a_configuration_survives_json(config):
    assert from_dict(type(config), json.loads(json.dumps(to_dict(config)))) == config


def test_a_nested_configuration_becomes_plain_values():
    values = to_dict(NESTED)
    assert values["trial"]["latent_size"] == 3
    assert values["data"]["data_dir"] == "data"
    assert to_dict(SearchConfig())["study_name"] is None


def test_fields_left_out_get_their_defaults():
    assert from_dict(SearchConfig, {"trial": {"latent_size": 5}}) == SearchConfig(trial=TrialConfig(latent_size=5))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"latent": 3}, r"^SearchConfig has no field 'latent'\. Its fields: num_samples, "),
        (
            {"trial": {"latent": 3}},
            r"^TrialConfig has no field 'latent'\. Did you mean latent_size\? Its fields: model",
        ),
        ({"trial": 3}, r"^trial must be of type TrialConfig, but got 3\.$"),
        ({"trial": {"latent_size": 0}}, r"^latent_size must be >= 1, but got 0\.$"),
    ],
)
def test_a_dictionary_that_does_not_fit_is_refused(values, message):
    with pytest.raises(UsageError, match=message):
        from_dict(SearchConfig, values)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("45m", 2700), ("2h", 7200), ("1h30m", 5400), ("1h1m1s", 3661), ("0s", 0), ("", 0), ("1 h", 0)],
)
def test_a_duration_is_read_in_hours_minutes_and_seconds(text, seconds):
    assert duration_seconds(text) == seconds
