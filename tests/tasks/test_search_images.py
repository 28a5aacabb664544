"""The images of a search: given from Python or moved between two runs, by their checksum; without Ray."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from tests.images.test_prepare import noise
from tests.no_ray import without_ray
from vae_tune import DataConfig, SearchConfig, UsageError, resume_search, run_search
from vae_tune.config.names import ARRAYS
from vae_tune.images.datasets import load_images
from vae_tune.record.metadata import read_metadata, read_search_config
from vae_tune.tasks.evaluate import load_trained_model
from vae_tune.vae.checkpoint import write_model
from vae_tune.vae.model import build_model
from vae_tune.views.terminal import View, make_view


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """An empty folder and cache, and no Ray."""
    monkeypatch.setenv("VAE_TUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    without_ray(monkeypatch)


@pytest.fixture
def arrays():
    images = noise(700, shape=(6, 8, 3))
    return {"train": images[:500], "validation": images[500:600], "test": images[600:]}


CONFIG = SearchConfig(study_name="s", num_samples=2)


def test_arrays_from_python_are_the_images_of_a_file_of_them(arrays, tmp_path):
    np.savez(tmp_path / "a.npz", **arrays)
    study = run_search(CONFIG, images=arrays)
    of_file = load_images(DataConfig(dataset="a.npz"))
    assert study.metadata["data"] == {
        "dataset": ARRAYS,
        "sha256": of_file.sha256(),
        **{"train": 500, "validation": 100, "test": 100},
        "shape": [3, 6, 8],
    }
    assert study.config.data.dataset == ARRAYS
    for array in arrays.values():
        array.setflags(write=False)
    whole = np.concatenate(list(arrays.values()))
    np.save(tmp_path / "b.npy", whole)
    study = run_search(replace(CONFIG, study_name=None, data=DataConfig(train_size=300)), images=whole)
    assert re.fullmatch(r"arrays-\d{8}-\d{6}", study.name)
    assert study.metadata["data"]["sha256"] == load_images(DataConfig(dataset="b.npy", train_size=300)).sha256()
    floats = {name: array / 255 for name, array in arrays.items()}
    study = run_search(replace(CONFIG, study_name="f", data=DataConfig(levels=256)), images=floats)
    assert study.metadata["data"]["sha256"] == of_file.sha256()


REFUSED = [
    ({}, "images must hold images, but holds nothing"),
    ({"left": noise(9), "right": noise(9)}, "but holds left, right"),
    (noise(300) / 255, "images holds floats"),
    ({"train": noise(300) / 255}, r"images\['train'\] holds floats"),
    (np.full((300, 4, 4), np.nan), "images holds NaN or infinity"),
    (noise(300).astype(object), "images holds Python objects"),
    ([noise(2), noise(3)], "images is no array: setting an array element with a sequence"),
    (noise(300, shape=(8, 8, 5)), r"images has the shape \(300, 8, 8, 5\)"),
    (noise(100), "images has 80 train pictures; it needs at least 200"),
    ({"train": noise(300), "test": noise(60, shape=(9, 9, 3))}, "sizes"),
]


@pytest.mark.parametrize(("images", "message"), REFUSED, ids=[message[:30] for _, message in REFUSED])
def test_arrays_that_a_file_may_not_hold_are_refused_and_nothing_is_created(images, message, tmp_path):
    with pytest.raises(UsageError, match=message) as caught:
        run_search(CONFIG, images=images)
    assert len(str(caught.value).splitlines()) <= 2
    assert list(tmp_path.iterdir()) == []


def test_images_and_a_data_set_exclude_each_other(arrays, tmp_path):
    for data, message in (
        (DataConfig(dataset="kmnist"), "images are given, but dataset is 'kmnist': leave one out"),
        (DataConfig(data_dir=tmp_path), "images are given, but data_dir is "),
    ):
        with pytest.raises(UsageError, match=message):
            run_search(replace(CONFIG, data=data), images=arrays)
    assert list(tmp_path.iterdir()) == []


def test_a_study_of_arrays_is_resumed_with_the_same_in_whatever_place(arrays, tmp_path):
    folder = run_search(CONFIG, images=arrays).folder
    before = (folder / "study.json").read_bytes()
    with pytest.raises(UsageError, match=r"given from Python, as arrays: use resume_search.*\n.*--dataset"):
        resume_search(folder)
    with pytest.raises(UsageError, match=rf"^{ARRAYS} holds other images than {ARRAYS} when this study began"):
        resume_search(folder, images={**arrays, "test": 255 - arrays["test"]})
    assert (folder / "study.json").read_bytes() == before
    assert len(resume_search(folder, images=arrays, num_samples=3).metadata["runs"]) == 2
    np.savez(tmp_path / "a.npz", **arrays)
    study = resume_search(folder, data=DataConfig(dataset="a.npz"))
    assert study.metadata["data"]["dataset"] == study.config.data.dataset == "a.npz"
    assert len(resume_search(folder).metadata["runs"]) == 4  # found where they were last
    assert len(resume_search(folder, images=arrays).metadata["runs"]) == 5


def test_a_moved_folder_of_pictures_is_named_anew_and_its_checksum_decides(tmp_path):
    for number, image in enumerate(noise(1100)):
        place = tmp_path / ("other" if number >= 550 else "photos")
        place.mkdir(exist_ok=True)
        Image.fromarray(image).save(place / f"{number}.png")
    folder = run_search(replace(CONFIG, data=DataConfig(dataset="photos"))).folder
    (tmp_path / "photos").rename(tmp_path / "moved")
    with pytest.raises(UsageError) as caught:
        resume_search(folder)
    assert str(caught.value) == (
        "The images of this study are no longer at photos.\nName their place with --dataset to go on."
    )
    before = (folder / "study.json").read_bytes()
    recorded = read_search_config(folder)
    known = read_metadata(folder)["data"]["sha256"][:8]
    other = load_images(DataConfig(dataset="other")).sha256()[:8]
    with pytest.raises(UsageError) as caught:
        run_search(replace(recorded, data=DataConfig(dataset="other")))
    line, remedy = str(caught.value).splitlines()
    assert line == f"other holds other images than photos when this study began (SHA-256 {other}, not {known})."
    assert "--dataset" in remedy
    assert (folder / "study.json").read_bytes() == before
    study = run_search(replace(recorded, data=DataConfig(dataset="moved")))
    assert study.metadata["data"]["dataset"] == "moved"
    with pytest.raises(UsageError, match=r"image_size is None in this study, but got '4'"):
        run_search(replace(recorded, data=DataConfig(dataset="moved", image_size="4")))


def test_a_model_of_arrays_is_used_with_a_file_of_them(arrays, tmp_path):
    study = run_search(CONFIG, images=arrays)
    model = build_model(study.reference, (3, 6, 8))
    write_model(study.folder / "best", model, study.reference, study.config.data)
    with pytest.raises(UsageError, match="given from Python, as arrays"):
        load_trained_model(study.folder, {})
    np.savez(tmp_path / "a.npz", **arrays)
    assert len(load_trained_model(study.folder, {"dataset": "a.npz"}).images.test) == 100


def test_the_view_is_told_how_far_the_preparation_is(arrays):
    class Watching(View):
        seen = ()

        def prepare(self, done, total):
            self.seen = (*self.seen, (done, total))

    view = make_view()
    view.__class__ = Watching
    run_search(CONFIG, images=arrays, view=view)
    assert view.seen == tuple((done, 700) for done in range(1, 701))


def test_what_is_recorded_can_be_read_as_json(arrays):
    folder = run_search(CONFIG, images=arrays).folder
    assert json.loads((folder / "study.json").read_text())["config"]["data"]["dataset"] == ARRAYS
