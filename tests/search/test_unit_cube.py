"""Configurations as points of a unit cube, and back."""

import numpy as np
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from vae_tune.config.space import DEFAULT_SPACE, Space
from vae_tune.search.unit_cube import UnitCube

MIXED = Space(
    {
        "latent_size": IntDistribution(2, 64, log=True),
        "learning_rate": FloatDistribution(1e-4, 1e-2, log=True),
        "kl_weight": FloatDistribution(0.9, 1.0, step=0.05),
        "encoder_activation": CategoricalDistribution(["relu", "gelu", "tanh"]),
        "hidden_layers": IntDistribution(2, 2),
    }
)
CONDITIONAL = Space(
    {
        "model": CategoricalDistribution(["mlp", "conv"]),
        "learning_rate": FloatDistribution(1e-4, 1e-2, log=True),
        "hidden_width": IntDistribution(64, 1024, log=True),
        "model.channels": IntDistribution(8, 64, log=True),
    },
    conditions={"hidden_width": ("mlp",), "model.channels": ("conv",)},
)


@pytest.mark.parametrize("space", [DEFAULT_SPACE, MIXED, CONDITIONAL])
def test_a_point_of_the_cube_is_a_configuration_of_the_space_and_the_way_back_leads_to_it(space):
    cube = UnitCube(space)
    for place in cube.snap(np.random.default_rng(0).random((200, len(space.distributions)))):
        values = cube.values(place)
        assert space.is_complete(values)
        for name, value in values.items():
            distribution = space.distributions[name]
            assert distribution._contains(distribution.to_internal_repr(value))
            assert type(value) is type(getattr(distribution, "low", value))
        assert cube.place(values) == pytest.approx(place)
        assert cube.values(cube.place(values)) == pytest.approx(values)


def test_each_value_of_a_stepped_range_and_each_choice_has_its_share():
    cube = UnitCube(MIXED)
    uniform = np.random.default_rng(0).random((6000, 5))
    values = [cube.values(place) for place in cube.snap(uniform)]
    for name, count in (("kl_weight", 3), ("encoder_activation", 3), ("hidden_layers", 1)):
        found = [one[name] for one in values]
        shares = [found.count(value) / 6000 for value in set(found)]
        assert shares == pytest.approx([1 / count] * count, abs=0.03)


def test_what_a_model_lacks_is_at_a_fixed_place():
    cube = UnitCube(CONDITIONAL)
    place = cube.place({"model": "conv", "learning_rate": 1e-3, "model.channels": 8})
    assert place[2] == 0.5
    assert "hidden_width" not in cube.values(place)


def test_a_reference_outside_of_the_space_has_a_place():
    place = UnitCube(MIXED).place({"latent_size": 100, "learning_rate": 1e-3, "kl_weight": 0, "hidden_layers": 2})
    assert place[0] > 1
    assert place[2] < 0
    assert place[3] == -1


def test_a_spread_place_snaps_back_to_itself():
    cube = UnitCube(MIXED)
    places = cube.snap(np.random.default_rng(0).random((100, 5)))
    assert cube.snap(cube.spread(places)) == pytest.approx(places)
