"""Spaces of models: what only some models have is proposed for their trials alone."""

from __future__ import annotations

import math

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from vae_tune.config.names import COMPLETE, EPOCH, VAL_LOSS
from vae_tune.config.settings import TrialConfig
from vae_tune.config.space import Space
from vae_tune.replay.simulator import _MemoryRecord
from vae_tune.search.proposals import Proposals
from vae_tune.search.sampler import configuration_key, count_configurations

CONDITIONS = {"hidden_width": ("mlp",), "model.channels": ("conv",), "model.blocks": ("conv",)}
MODELS = CategoricalDistribution(["mlp", "conv"])
SMALL = Space(
    {
        "model": MODELS,
        "latent_size": IntDistribution(2, 3),
        "hidden_width": IntDistribution(400, 401),
        "model.channels": CategoricalDistribution([8, 16]),
        "model.blocks": IntDistribution(0, 2),
    },
    conditions=CONDITIONS,
)
WIDE = Space(
    {
        "model": MODELS,
        "learning_rate": FloatDistribution(1e-4, 1e-2, log=True),
        "hidden_width": IntDistribution(64, 1024, log=True),
        "model.channels": IntDistribution(8, 64),
        "model.blocks": IntDistribution(0, 2),
    },
    conditions=CONDITIONS,
)


def proposed(space, sampler, count, base=None, loss=lambda _: 100.0):
    """The hyperparameters of the first trials of a search, each of which ends with a loss of its own."""
    record = _MemoryRecord()
    proposals = Proposals(record, space, base or TrialConfig(latent_size=2), sampler)
    for number in range(count):
        assert proposals.propose() == number
        record.report(number, {EPOCH: 1, VAL_LOSS: loss(record.row(number).values)})
        record.finish(number, COMPLETE)
    return [dict(row.values) for row in record.rows]


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_every_configuration_of_each_model_is_proposed_once(sampler):
    assert count_configurations(SMALL) == 2 * 2 + 2 * 2 * 3
    found = proposed(SMALL, sampler, 16)
    assert len({configuration_key(SMALL.distributions, values) for values in found}) == 16
    assert all(SMALL.is_complete(values) for values in found)


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_a_trial_has_what_its_model_has(sampler):
    found = proposed(WIDE, sampler, 40)
    assert count_configurations(WIDE) == math.inf
    assert found[0] == {"model": "mlp", "learning_rate": 1e-3, "hidden_width": 400}
    for values in found:
        own = ["hidden_width"] if values["model"] == "mlp" else ["model.channels", "model.blocks"]
        assert list(values) == ["model", "learning_rate", *own]
    assert {values["model"] for values in found} == {"mlp", "conv"}


def test_a_reference_outside_of_the_models_has_what_all_have():
    found = proposed(WIDE, "tpe", 3, TrialConfig(model="other"))
    assert found[0] == {"model": "other", "learning_rate": 1e-3}
    assert all(WIDE.is_complete(values) for values in found[1:])


def test_tpe_learns_the_options_of_the_better_model_together():
    def loss(values):
        return 200.0 if values["model"] == "mlp" else abs(values["model.channels"] - 32) + 20 * values["model.blocks"]

    last = proposed(WIDE, "tpe", 60, loss=loss)[40:]
    assert sum(values["model"] == "conv" for values in last) >= 14
    near = [values for values in last if values["model"] == "conv" and abs(values["model.channels"] - 32) < 12]
    assert len(near) >= 12


def test_proposals_are_a_function_of_seed_and_history():
    assert proposed(WIDE, "tpe", 20) == proposed(WIDE, "tpe", 20)
