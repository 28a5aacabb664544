"""Studies that schema 1 wrote (``tests/old``) are read, resumed and audited by today's code."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from vae_tune.analysis.audit import audit
from vae_tune.analysis.compute_cost import compute_cost
from vae_tune.analysis.study import load_study
from vae_tune.cluster.slots import Slots
from vae_tune.config import message_hints
from vae_tune.config.errors import UsageError
from vae_tune.config.names import CONFIRMATION, EXPLORATION, SEARCH
from vae_tune.images.datasets import Images
from vae_tune.record.metadata import read_metadata, read_search_config
from vae_tune.tasks.search_plan import make_plan
from vae_tune.tasks.search_record import open_record
from vae_tune.views.terminal import PlainView

OLD = {"search": SEARCH, "confirmation-of-sizes": EXPLORATION, "search/confirmation": CONFIRMATION}


@pytest.fixture
def old(tmp_path):
    """A copy of the folder that holds them."""
    return Path(shutil.copytree(Path(__file__).parent / "old", tmp_path / "old"))


def reopen(folder, kind):
    """Open the record of a study as its resume does, once the images are read and Ray has started."""
    random = np.random.default_rng(0)
    images = Images(*(random.integers(0, 256, (n, 1, 28, 28), np.uint8) for n in (6, 4, 4)))
    config = read_search_config(folder, kind)
    return open_record(make_plan(config, None, folder), images, Slots(2, 1, 0.0), PlainView(Console()))


@pytest.mark.parametrize(("name", "kind"), OLD.items())
def test_their_kind_is_known_and_their_record_agrees_with_itself(old, name, kind):
    assert load_study(old / name).kind == kind
    assert audit(old / name) == []


def test_what_their_reasons_tell_of_trials_is_known(old):
    def marks():
        trials = load_study(old / "search").trials
        return [list(trials.index[trials[name].fillna(0) == 1]) for name in ("audited", "collapsed", "diverged")]

    assert marks() == [[2], [1], [3]]
    record = reopen(old / "search", SEARCH)
    record.close()
    assert [row.trial for row in record.rows if row.audited or row.collapsed or row.diverged] == [1, 2, 3]
    assert marks() == [[2], [1], [3]]


@pytest.mark.parametrize(("name", "kind"), OLD.items())
def test_they_are_resumed_and_agree_with_themselves_then_too(old, name, kind):
    before = load_study(old / name)
    record = reopen(old / name, kind)
    assert [row.trial for row in record.rows if row.state == "RUNNING"] == ([4] if name == "search" else [])
    record.close()
    after = load_study(old / name)
    assert (after.kind, after.metadata["schema"], len(after.metadata["runs"])) == (kind, 1, 2)
    assert after.epochs.equals(before.epochs)
    assert after.trials[list(before.trials)].equals(before.trials)
    assert audit(old / name) == []


def test_their_gray_images_have_the_encoder_that_is_the_default_now(old):
    config = read_search_config(old / "search")
    assert config.trial.encoder_activation == "linear"
    make_plan(replace(config, trial=replace(config.trial, encoder_activation=None)), None, old / "search")
    with pytest.raises(UsageError, match="encoder_activation is 'linear' in this study, but got 'relu'"):
        make_plan(replace(config, trial=replace(config.trial, encoder_activation="relu")), None, old / "search")


def test_a_confirmation_is_counted_with_its_search(old):
    assert compute_cost(load_study(old / "search")).entries.loc[CONFIRMATION, "trials"] == 2


def test_a_confirmation_goes_on_with_its_search(old):
    with pytest.raises(UsageError) as raised:
        read_search_config(old / "search" / "confirmation")
    assert str(raised.value).splitlines() == [
        f"{old / 'search' / 'confirmation'} is a confirmation, not a search.",
        f"Go on with: {message_hints.resume(old / 'search')}",
    ]


def test_a_search_over_seeds_without_early_stopping_is_a_search(old):
    """The grids of schema 1 kept every checkpoint."""
    path = old / "confirmation-of-sizes" / "study.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"name": "s"}))
    assert read_metadata(path.parent)["kind"] == EXPLORATION
    for field, value in (("keep", 1), ("sampler", "tpe")):
        metadata = json.loads(path.read_text())
        metadata["config"][field] = value
        (old / "search" / "study.json").write_text(json.dumps(metadata))
        assert read_metadata(old / "search")["kind"] == SEARCH
