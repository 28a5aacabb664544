"""The tables in benchmarks/curves: what docs/curves.md says of them, and how others use them."""

import contextlib
import io
import random
import re
from pathlib import Path

import numpy as np
import optuna
import pytest

from vae_tune.config.settings import AshaConfig
from vae_tune.replay.curves import Tabular, load_curves, read_table
from vae_tune.replay.setting import Setting
from vae_tune.replay.simulator import simulate

ROOT = Path(__file__).parents[2]
FOLDERS = sorted(path.parent for path in (ROOT / "benchmarks" / "curves").rglob("study.json"))


@pytest.fixture(params=FOLDERS, ids=lambda folder: str(folder.relative_to(ROOT)))
def folder(request):
    return request.param


def example(folder):
    """Run the example of docs/curves.md on a table; return its names and what it prints."""
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "curves.md").read_text(), re.DOTALL)
    names, text = {}, io.StringIO()
    code = code.replace("benchmarks/curves/mnist", str(folder))
    random.seed(0)
    with contextlib.redirect_stdout(text):
        exec(code, names)
    return names, text.getvalue()


def test_a_table_is_small_and_all_of_its_curves_end(folder):
    assert (folder / "curves.csv.gz").stat().st_size < 300_000
    table, curves = read_table(folder), load_curves(folder)
    assert not table.isna().all(axis=1).any()
    assert curves.can_be_replayed_alone
    assert curves.values[0] == curves.space.values(curves.reference)
    assert (curves.whole | np.isinf(curves.losses).any(axis=1)).all()


def test_the_example_finds_the_curves_that_a_replay_finds(folder):
    names, text = example(folder)
    epochs, regret = re.fullmatch(r"(\d+) epochs, (\d+\.\d\d) above the best final loss\n", text).groups()
    source = Tabular(load_curves(folder))
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(20):
        values = study.ask(dict(source.curves.space.distributions)).params
        own, found = names["curve"](values), source.curve(values).losses
        np.testing.assert_array_equal(own, found[: len(own)])
        assert np.isinf(found[len(own) :]).all()
    assert 0 < int(epochs) <= 50 * source.curves.max_epochs
    assert float(regret) >= 0
    assert min(losses[-1] for losses in names["curves"].values()) == source.best


def test_a_search_is_replayed_on_a_table(folder):
    source = Tabular(load_curves(folder))
    trials = simulate(source, Setting("tpe", AshaConfig(), 2), 12, 0)
    assert [trial.trial for trial in trials] == list(range(12))
    assert any(trial.epochs == source.curves.max_epochs for trial in trials)
