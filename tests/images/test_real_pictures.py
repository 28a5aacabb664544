"""Real pictures go through the whole of reading: photographs, digits, emoji with a transparent background."""

import subprocess
import sys
from importlib import import_module
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import emoji
from tests.images.test_prepare import rows
from tests.real_pictures import digits, photo_patches
from vae_tune.config.settings import DataConfig
from vae_tune.images.code_length import code_length
from vae_tune.images.datasets import load_images, load_labels
from vae_tune.images.prepare import SPLITS


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VAE_TUNE_CACHE", str(tmp_path / "cache"))


def splits_of(images):
    return [images.train, images.validation, images.test]


def test_photographs_as_files_and_as_an_array_give_the_same_images(tmp_path):
    patches = photo_patches()
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, patch in enumerate(patches):
        Image.fromarray(patch).save(folder / f"{number}.png")
    np.save(tmp_path / "photos.npy", patches)
    images = load_images(DataConfig(dataset=str(folder)))
    assert [len(split) for split in splits_of(images)] == [416, 52, 52]
    assert rows(np.concatenate(splits_of(images))) == rows(np.moveaxis(patches, 3, 1))
    assert load_images(DataConfig(dataset=str(tmp_path / "photos.npy"))).sha256() == images.sha256()


def test_photographs_take_fewer_bits_than_their_histogram(tmp_path):
    np.save(tmp_path / "photos.npy", photo_patches(step=16))
    images = load_images(DataConfig(dataset=str(tmp_path / "photos.npy")))
    found = code_length(images.train, images.test)
    assert found.smaller_file < found.png < found.histogram < 8


def test_patches_of_different_splits_never_touch(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    photos = import_module("photos")
    columns = np.broadcast_to(np.arange(640, dtype=np.uint16)[None, :, None], (427, 640, 3))
    parts = [np.unique(part) for part in photos.parts(columns).values()]
    assert [len(part) for part in parts] == [345, 115, 115]
    assert all(later.min() - part.max() > photos.SIZE for part, later in pairwise(parts))
    patch = next(photos.patches(columns, 20))
    assert patch.shape == (32, 32, 3)
    assert len(list(photos.patches(columns[:64, :96], 32))) == 6


def test_digits_keep_their_labels(tmp_path):
    images, labels = digits()
    parts = {"train": slice(0, 1300), "val": slice(1300, 1500), "test": slice(1500, None)}
    arrays = {f"{name}_images": images[part] for name, part in parts.items()}
    np.savez(tmp_path / "d.npz", **arrays, **{f"{name}_labels": labels[part] for name, part in parts.items()})
    config = DataConfig(dataset=str(tmp_path / "d.npz"))
    found = load_images(config)
    assert found.shape == (1, 8, 8)
    assert sum(map(len, splits_of(found))) == len(np.unique(images, axis=0))
    numbers, classes = load_labels(config, "test")
    assert classes == [str(digit) for digit in range(10)]
    known = {image.tobytes(): label for image, label in zip(images, labels, strict=True)}
    assert [known[image.tobytes()] for image in found.test] == list(numbers)


@pytest.fixture(scope="module")
def emoji_folder(tmp_path_factory):
    """The pictures of Debian's emoji font; the package is downloaded, not installed."""
    folder = tmp_path_factory.mktemp("emoji")
    done = subprocess.run(
        [sys.executable, emoji.__file__, folder / "png"], cwd=folder, capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"{emoji.PACKAGE} cannot be downloaded: {done.stderr.strip()[-300:]}")
    assert done.stdout.splitlines()[-1] == f"3,926 pictures in {folder / 'png'}"
    return folder / "png"


def test_emoji_are_read_each_once_on_white(emoji_folder: Path):
    notes = []
    config = DataConfig(dataset=str(emoji_folder))
    images = load_images(config, notes.append)
    expected = set()
    for path in emoji_folder.iterdir():
        values = np.asarray(Image.open(path).convert("RGBA")).astype(np.uint16)
        colors, alpha = values[..., :3], values[..., 3:]
        expected.add(((colors * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8).tobytes())
    found = np.concatenate(splits_of(images))
    assert len(found) == len(expected)
    assert found.shape[1:] == (3, 128, 136)
    assert (found[:, :, 0, 0] == 255).mean() > 0.9  # corners
    assert notes == [f"Left out {3926 - len(found)} of 3,926 pictures as duplicates."]
    assert [len(getattr(images, name)) for name in SPLITS] == [3132, 392, 392]


def test_emoji_in_grey_and_small_have_another_checksum(emoji_folder: Path):
    images = load_images(DataConfig(dataset=str(emoji_folder), image_size="17x16", colour="grey"))
    assert images.train.shape[1:] == (1, 16, 17)
    assert code_length(images.train, images.test).smaller_file < 8
