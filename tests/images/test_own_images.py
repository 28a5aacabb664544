"""Own images from a folder or a file are prepared once and come back from the cache."""

import errno
import os

import numpy as np
import pytest
from PIL import Image

from tests.images.test_arrays import write_parquet
from tests.images.test_prepare import noise, rows
from vae_tune.config.errors import UsageError
from vae_tune.config.settings import DataConfig
from vae_tune.images import arrays, prepare
from vae_tune.images.datasets import load_images
from vae_tune.images.decoding import Form
from vae_tune.images.own_images import read_own_images
from vae_tune.images.prepare import SPLITS, Options


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VAE_TUNE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, image in enumerate(noise(1300)):
        Image.fromarray(image).save(folder / f"{number}.png")
    return folder


def read(place, options=None, levels=None, progress=lambda done, total: None):
    return read_own_images(place, options or Options(), levels, progress)


def test_the_second_reading_decodes_nothing_and_gives_the_same(photos, monkeypatch):
    first = read(photos)
    assert [len(first.splits[name]) for name in SPLITS] == [1040, 130, 130]
    monkeypatch.setattr(prepare, "prepare", None)
    second = read(photos)
    for name in SPLITS:
        assert np.array_equal(first.splits[name], second.splits[name])
    with pytest.raises(TypeError):
        read(photos, Options(Form((2, 2))))  # other options are prepared anew


def test_what_is_left_out_is_named_as_the_folder_is_now(photos):
    Image.fromarray(noise(1)[0]).save(photos / "copy.png")
    (photos / "loop.png").symlink_to("loop.png")
    duplicates = "Left out 1 of 1,301 pictures as duplicates."
    unreadable = f"Left out 1 of 1,302 pictures that cannot be read (loop.png: {os.strerror(errno.ELOOP)})."
    assert read(photos).notes == [unreadable, duplicates]
    (photos / "notes.txt").touch()
    moved = photos.rename(photos.with_name("moved"))
    assert read(moved).notes == [f"Left out 1 other file in {moved}.", unreadable, duplicates]


def test_the_second_reading_of_a_file_does_not_open_it_as_images(tmp_path, monkeypatch):
    images = noise(1300)
    np.savez_compressed(tmp_path / "a.npz", images)
    write_parquet(tmp_path / "b.parquet", images)
    files = [tmp_path / "a.npz", tmp_path / "b.parquet"]
    first = [read(file) for file in files]
    monkeypatch.setattr(arrays, "read_arrays", None)
    monkeypatch.setattr(arrays, "parquet_sources", None)
    for file, prepared in zip(files, first, strict=True):
        again = read(file)
        for name in SPLITS:
            assert np.array_equal(again.splits[name], prepared.splits[name])
        with pytest.raises(TypeError):
            read(file, levels=256)  # other options are prepared anew


def test_a_changed_file_is_prepared_anew(photos):
    first = read(photos)
    Image.fromarray(noise(1, seed=9)[0]).save(photos / "0.png")
    assert rows(np.concatenate(list(read(photos).splits.values()))) != rows(
        np.concatenate(list(first.splits.values()))
    )


def test_a_folder_and_an_array_of_the_same_pictures_give_the_same_images(photos, tmp_path):
    images = noise(1300)
    np.save(tmp_path / "a.npy", images)
    np.save(tmp_path / "b.npy", np.moveaxis(images, 3, 1))
    np.savez(tmp_path / "c.npz", images / 255)
    found = [read(photos), read(tmp_path / "a.npy"), read(tmp_path / "b.npy"), read(tmp_path / "c.npz", levels=256)]
    for name in SPLITS:
        for other in found[1:]:
            assert np.array_equal(found[0].splits[name], other.splits[name])


def test_given_splits_and_labels_of_an_array_are_kept(tmp_path):
    images = noise(1200)
    np.savez(
        tmp_path / "a.npz",
        train_images=images[:1000],
        val_images=images[1000:1100],
        test_images=images[1100:],
        train_labels=images[:1000, 0, 0, 0] % 2 * 5,
        val_labels=images[1000:1100, 0, 0, 0] % 2 * 5,
        test_labels=images[1100:, 0, 0, 0] % 2 * 5,
    )
    prepared = read(tmp_path / "a.npz")
    assert [len(prepared.splits[name]) for name in SPLITS] == [1000, 100, 100]
    assert prepared.classes == ["0", "5"]
    for name in SPLITS:
        assert np.array_equal(prepared.labels[name], prepared.splits[name][:, 0, 0, 0] % 2)


def test_what_is_no_set_of_images_is_refused_and_nothing_is_kept(tmp_path):
    (tmp_path / "a.txt").write_text("")
    np.save(tmp_path / "few.npy", noise(100))
    for place, words in (
        (tmp_path / "missing", "does not exist"),
        (tmp_path / "a.txt", "is neither a folder nor a file of images"),
        (tmp_path / "few.npy", "has 80 train pictures"),
    ):
        with pytest.raises(UsageError, match=words):
            read(place)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("dataset", "meant"), [("MNIST", "mnist"), ("cifar", "cifar10"), ("letters", "emnist-letters"), ("x", None)]
)
def test_what_is_neither_a_name_nor_a_path_is_refused(dataset, meant):
    with pytest.raises(UsageError) as caught:
        load_images(DataConfig(dataset=dataset))
    message = str(caught.value)
    assert message.startswith("dataset must be a folder, a file or one of mnist, ")
    assert f", but got {dataset!r}." in message
    assert message.endswith(f" Did you mean {meant}?" if meant else f"{dataset!r}.")


def test_more_than_shared_memory_holds_is_refused(photos, monkeypatch):
    monkeypatch.setattr(prepare, "shared_memory_limit", lambda: 50_000)
    with pytest.raises(UsageError, match="--image-size"):
        read(photos)
