"""A study of several classes of a user's is resumed with the files that are named, wherever they are now."""

from __future__ import annotations

import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest

from tests.vae.test_own_model import TEXT
from vae_tune.cluster.slots import Slots
from vae_tune.config.errors import UsageError
from vae_tune.config.settings import SearchConfig, TrialConfig
from vae_tune.config.trial_values import with_values
from vae_tune.tasks.search_plan import make_plan
from vae_tune.tasks.search_record import open_record
from vae_tune.vae.model import build_model
from vae_tune.vae.networks import registry

SPACE = {
    "model": {"type": "categorical", "choices": ["old/a.py:MyVAE", "old/b.py:MyVAE"]},
    "latent_size": {"type": "int", "low": 2, "high": 8},
    "model.width": {"type": "int", "low": 2, "high": 8},
    "model.depth": 3,
}


@pytest.fixture
def config(tmp_path, tiny, monkeypatch):
    """The settings of a study of two classes of one name, which differ in an option."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "a.py").write_text(TEXT)
    (tmp_path / "old" / "b.py").write_text(TEXT.replace("width: int = 8", "width: int = 7, depth: int = 1"))
    config = SearchConfig(num_samples=9, space=SPACE, study_name="s", results_dir=tmp_path)
    as_new(monkeypatch)
    view = SimpleNamespace(say=pytest.fail, warn=pytest.fail)
    open_record(make_plan(config, None, tmp_path / "s"), tiny, Slots(count=1, cpus=1, gpus=0), view).close()
    as_new(monkeypatch)
    return replace(config, resume=tmp_path / "s", space=None)


def as_new(monkeypatch):
    """Let this process run no class, as a new one."""
    monkeypatch.setattr(registry, "_ADMITTED", {})


def test_two_classes_of_one_name_from_two_files_are_two_models(config, tmp_path):
    space = make_plan(replace(config, space=SPACE), None, tmp_path / "s").space
    both = ("old/a.py:MyVAE", "old/b.py:MyVAE")
    assert space.conditions == {"model.width": both, "model.depth": both[1:]}
    widths = {
        model: build_model(with_values(TrialConfig(latent_size=2), {"model": model}), (1, 4, 3)).network.inner[1]
        for model in SPACE["model"]["choices"]
    }
    assert {model: layer.out_features for model, layer in widths.items()} == {"old/a.py:MyVAE": 8, "old/b.py:MyVAE": 7}


def test_files_that_have_moved_are_named_in_a_space_file_and_told_apart_by_their_code(config, tmp_path):
    shutil.move(tmp_path / "old" / "a.py", tmp_path / "b.py")
    shutil.move(tmp_path / "old" / "b.py", tmp_path / "a.py")
    moved = SPACE | {"model": {"type": "categorical", "choices": ["b.py:MyVAE", "a.py:MyVAE"]}}
    plan = make_plan(replace(config, space=moved), None, tmp_path / "s")
    assert plan.space == make_plan(config, None, tmp_path / "s").space  # which has them admitted
    assert registry.admitted_code("old/b.py:MyVAE").paths == {"a": "a.py"}


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("mlp", r"^The models of .* are old/a\.py:MyVAE and old/b\.py:MyVAE, code of yours.*\nName all .* --space"),
        ("old/b.py:MyVAE", r"^The models of .* are old/a\.py:MyVAE and old/b\.py:MyVAE, code of yours"),
        ("other.py:Another", r"^The models of .* are"),
        ("other.py:MyVAE", r"^The code of other\.py:MyVAE is not that of .*: only comments"),
    ],
)
def test_a_class_that_is_not_named_is_asked_for(config, tmp_path, model, message):
    (tmp_path / "other.py").write_text(TEXT.replace("0.3", "0.4"))
    with pytest.raises(UsageError, match=message):
        make_plan(replace(config, trial=replace(config.trial, model=model)), None, tmp_path / "s")


def test_a_class_that_the_study_does_not_have_is_another_model(tmp_path, tiny, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config, view = SearchConfig(study_name="s", results_dir=tmp_path), SimpleNamespace(say=pytest.fail)
    open_record(make_plan(config, None, tmp_path / "s"), tiny, Slots(count=1, cpus=1, gpus=0), view).close()
    (tmp_path / "my_vae.py").write_text(TEXT)
    another = replace(config, resume=tmp_path / "s", trial=replace(config.trial, model="my_vae.py:MyVAE"))
    with pytest.raises(UsageError, match=r"^model is 'mlp' in this study, but got 'my_vae\.py:MyVAE'"):
        make_plan(another, None, tmp_path / "s")
