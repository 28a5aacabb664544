"""The data sets: where they come from, how they are split, and what happens to broken ones."""

from __future__ import annotations

import gzip
import hashlib
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision import datasets

from vae_tune.config.cache_folder import cache_dir
from vae_tune.config.errors import UsageError
from vae_tune.config.settings import DataConfig
from vae_tune.images import named_sets
from vae_tune.images.datasets import Images, binarize, load_images, load_labels, to_tensor

MNIST_FILES = {
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
}


def everything_in(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


def refusal(config: DataConfig) -> str:
    with pytest.raises(UsageError) as caught:
        load_images(config)
    return str(caught.value)


@pytest.fixture(scope="module")
def whole_mnist() -> Images:
    return load_images(DataConfig())


@pytest.fixture
def unpacked(tmp_path, monkeypatch) -> Path:
    """An own cache with MNIST in it: the folder of its files."""
    monkeypatch.setenv("VAE_TUNE_CACHE", str(tmp_path / "cache"))
    load_images(DataConfig(train_size=1))
    return tmp_path / "cache" / "MNIST" / "raw"


def test_mnist_is_split_into_50000_10000_and_10000_images(whole_mnist):
    assert whole_mnist.train.shape == (50_000, 1, 28, 28)
    assert whole_mnist.validation.shape == whole_mnist.test.shape == (10_000, 1, 28, 28)
    assert {split.dtype for split in (whole_mnist.train, whole_mnist.validation, whole_mnist.test)} == {
        np.dtype(np.uint8)
    }


def test_the_last_10000_of_the_training_file_validate(whole_mnist):
    reference = datasets.MNIST(cache_dir(), train=True).data.numpy()[:, None]
    np.testing.assert_array_equal(whole_mnist.train, reference[:50_000])
    np.testing.assert_array_equal(whole_mnist.validation, reference[50_000:])


def test_the_test_file_tests(whole_mnist):
    np.testing.assert_array_equal(whole_mnist.test, datasets.MNIST(cache_dir(), train=False).data.numpy()[:, None])


def test_a_train_size_takes_the_first_images_and_leaves_the_other_splits(whole_mnist, mnist):
    np.testing.assert_array_equal(mnist.train, whole_mnist.train[:2000])
    np.testing.assert_array_equal(mnist.validation, whole_mnist.validation)
    np.testing.assert_array_equal(mnist.test, whole_mnist.test)


@pytest.fixture(scope="module")
def static() -> Images:
    return load_images(DataConfig(train_size=2000, binarization="static"))


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_static_binarization_makes_every_pixel_black_or_white(static, split):
    assert np.unique(getattr(static, split)).tolist() == [0, 255]


def test_a_pixel_is_white_as_often_as_its_grey_value_says():
    grey = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 20_000, axis=1)
    share = binarize(grey, (1,)).mean(axis=1) / 255
    assert share[0] == 0
    assert share[255] == 1
    assert np.abs(share - np.arange(256) / 255).max() < 5 * 0.5 / math.sqrt(20_000)


def test_static_binarization_is_the_same_in_every_study(static):
    again = load_images(DataConfig(train_size=1000, binarization="static"))
    np.testing.assert_array_equal(again.train, static.train[:1000])
    np.testing.assert_array_equal(again.test, static.test)


def test_dynamic_binarization_leaves_the_training_images_grey_and_draws_the_others_as_static_does(static, mnist):
    dynamic = load_images(DataConfig(train_size=2000, binarization="dynamic"))
    assert dynamic.binarization == "dynamic"
    np.testing.assert_array_equal(dynamic.train, mnist.train)
    np.testing.assert_array_equal(dynamic.validation, static.validation)
    np.testing.assert_array_equal(dynamic.test, static.test)
    assert len({images.sha256() for images in (dynamic, static, mnist)}) == 3


def test_images_know_how_they_were_binarized(static, mnist):
    assert (static.binarization, mnist.binarization) == ("static", "grey")
    assert static.sha256() != mnist.sha256()


@pytest.mark.parametrize("split", ["validation", "test"])
def test_labels_belong_to_their_images(mnist, split):
    labels, classes = load_labels(DataConfig(), split)
    whole = datasets.MNIST(cache_dir(), train=split == "validation")
    images = getattr(mnist, split)
    assert classes == list("0123456789")
    assert len(labels) == len(images)
    for number in (0, 77, len(labels) - 1):
        (place,) = (whole.data.numpy() == images[number, 0]).all(axis=(1, 2)).nonzero()[0]
        assert labels[number] == whole.targets[place]


def test_the_pixels_are_those_of_one_image(mnist, tiny):
    assert (mnist.pixels, tiny.pixels) == (784, 35)


def test_the_checksum_is_the_same_for_the_same_images(mnist):
    assert mnist.sha256() == load_images(DataConfig(train_size=2000)).sha256()
    assert len(mnist.sha256()) == 64


def test_the_checksum_changes_with_the_train_size(mnist, whole_mnist):
    assert len({mnist.sha256(), whole_mnist.sha256(), load_images(DataConfig(train_size=1999)).sha256()}) == 3


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_the_checksum_changes_with_one_pixel_of_any_split(tiny, split):
    before = tiny.sha256()
    getattr(tiny, split)[-1, -1, -1, -1] ^= 1
    assert tiny.sha256() != before


def test_the_checksum_changes_with_the_split_of_the_same_images(tiny):
    moved = Images(
        train=tiny.train[:-1], validation=np.concatenate([tiny.train[-1:], tiny.validation]), test=tiny.test
    )
    assert moved.sha256() != tiny.sha256()


def test_the_checksum_does_not_depend_on_the_layout_in_memory(tiny):
    other = Images(train=np.asfortranarray(tiny.train), validation=tiny.validation, test=tiny.test)
    assert other.sha256() == tiny.sha256()


def test_the_checksum_of_grey_images_is_that_of_version_0_1_0():
    images = Images(*(np.zeros((n, 1, 2, 3), np.uint8) for n in (3, 2, 1)))
    digest = hashlib.sha256()
    for split in (np.zeros((n, 2, 3), np.uint8) for n in (3, 2, 1)):  # it knew no channels
        digest.update(repr(split.shape).encode())
        digest.update(split.data)
    assert images.sha256() == digest.hexdigest()
    assert images.recorded_shape == (2, 3)


def test_the_checksum_tells_colors_from_grey_images_of_the_same_bytes():
    color, grey = (Images(*[np.zeros((2, *shape), np.uint8)] * 3) for shape in ((3, 4, 5), (1, 12, 5)))
    assert color.recorded_shape == (3, 4, 5)
    assert color.sha256() != grey.sha256()


@pytest.mark.parametrize("shape", [(2, 28, 28), (2, 784), (2, 1, 1, 28, 28)])
def test_images_of_another_layout_are_refused(tiny, shape):
    with pytest.raises(ValueError, match=r"must be \(n, channels, height, width\), but got the shape \(2, "):
        Images(tiny.train, np.zeros(shape, np.uint8), tiny.test)


def test_the_environment_names_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VAE_TUNE_CACHE", str(tmp_path))
    assert cache_dir() == tmp_path


def test_an_empty_variable_names_no_cache(monkeypatch):
    monkeypatch.delenv("VAE_TUNE_CACHE", raising=False)
    default = cache_dir()
    monkeypatch.setenv("VAE_TUNE_CACHE", "")
    assert cache_dir() == default != Path()


def test_mnist_is_unpacked_into_the_cache_in_the_layout_of_torchvision(unpacked, whole_mnist):
    assert {path.name for path in unpacked.iterdir()} == MNIST_FILES
    reference = datasets.MNIST(unpacked.parent.parent, train=True).data.numpy()[:, None]
    np.testing.assert_array_equal(whole_mnist.train, reference[:50_000])


def test_mnist_is_not_unpacked_a_second_time(unpacked):
    before = {path.name: path.stat().st_mtime_ns for path in unpacked.iterdir()}
    load_images(DataConfig(train_size=1))
    assert {path.name: path.stat().st_mtime_ns for path in unpacked.iterdir()} == before


def test_a_file_that_is_missing_in_the_cache_is_unpacked_again(unpacked):
    (unpacked / "t10k-images-idx3-ubyte").unlink()
    assert load_images(DataConfig(train_size=1)).test.shape == (10_000, 1, 28, 28)


def test_many_first_runs_at_once_leave_whole_files_and_nothing_else(tmp_path, monkeypatch, mnist):
    """Six processes unpack and check at the same moment, without torchvision, which takes seconds to import."""
    code = (
        "import sys; from pathlib import Path; from vae_tune.images.named_sets import _check_mnist, _unpack_mnist\n"
        "print('ready', flush=True); sys.stdin.readline(); raw = Path(sys.argv[1])\n"
        "_unpack_mnist(raw); _check_mnist(raw)"
    )
    raw = tmp_path / "MNIST" / "raw"
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(raw)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(6)
    ]
    try:
        for run in runs:
            assert run.stdout.readline() == "ready\n"
        for run in runs:
            run.stdin.write("go\n")
            run.stdin.flush()
        assert [run.wait(timeout=120) for run in runs] == [0] * 6
    finally:
        for run in runs:
            run.kill()
            run.communicate()
    assert {path.name for path in raw.iterdir()} == MNIST_FILES
    monkeypatch.setenv("VAE_TUNE_CACHE", str(tmp_path))
    assert load_images(DataConfig(train_size=2000)).sha256() == mnist.sha256()


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        *((name, "one bit") for name in sorted(MNIST_FILES)),
        ("train-images-idx3-ubyte", "cut"),
        ("t10k-labels-idx1-ubyte", "empty"),
    ],
)
def test_a_corrupt_file_is_named_and_nothing_is_deleted(unpacked, name, damage):
    path = unpacked / name
    content = bytearray(path.read_bytes())
    if damage == "one bit":
        content[-1] ^= 1
    damaged = bytes(content[: {"cut": len(content) // 2, "one bit": None, "empty": 0}[damage]])
    path.write_bytes(damaged)
    message = refusal(DataConfig())
    assert message.startswith(f"{path} is corrupt: ")
    assert message.count("\n") == 1
    assert path.read_bytes() == damaged
    assert {file.name for file in unpacked.iterdir()} == MNIST_FILES


def test_a_folder_in_the_place_of_a_file_is_named(unpacked):
    path = unpacked / "t10k-labels-idx1-ubyte"
    path.unlink()
    path.mkdir()
    assert str(path) in refusal(DataConfig())


def test_a_cache_that_cannot_be_written_is_named_with_the_way_out(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("VAE_TUNE_CACHE", str(tmp_path / "file"))
    message = refusal(DataConfig())
    assert message.startswith(f"Cannot unpack MNIST into {tmp_path / 'file' / 'MNIST' / 'raw'}: ")
    assert message.endswith("\nName a writable folder with --data-dir or VAE_TUNE_CACHE.")


def test_a_package_with_a_damaged_file_asks_to_be_installed_again(tmp_path, monkeypatch):
    packed = tmp_path / "package" / "mnist"
    packed.mkdir(parents=True)
    content = bytearray(gzip.compress(bytes(range(256)) * 40))
    content[len(content) // 2] ^= 0xFF
    for name in MNIST_FILES:
        (packed / f"{name}.gz").write_bytes(content)
    monkeypatch.setattr("importlib.resources.files", lambda package: tmp_path / "package")
    monkeypatch.setenv("VAE_TUNE_CACHE", str(tmp_path / "cache"))
    assert "install vae_tune again" in refusal(DataConfig())
    assert [path for path in everything_in(tmp_path / "cache") if path.is_file()] == []


def test_mnist_is_read_from_a_data_dir_too(unpacked, mnist, monkeypatch):
    monkeypatch.setenv("VAE_TUNE_CACHE", "/nowhere")
    config = DataConfig(data_dir=unpacked.parent.parent, train_size=2000)
    assert load_images(config).sha256() == mnist.sha256()


def test_a_data_dir_without_mnist_gets_the_embedded_one(tmp_path):
    images = load_images(DataConfig(data_dir=tmp_path, train_size=10))
    assert images.train.shape == (10, 1, 28, 28)
    assert len(list((tmp_path / "MNIST" / "raw").iterdir())) == 4


@pytest.mark.parametrize("dataset", ["mnist", "kmnist"])
@pytest.mark.parametrize(
    ("files", "named"),
    [
        (["b.png", "a.png"], "a.png"),
        (["FashionMNIST/raw/x", "notes.txt"], "notes.txt"),
        ([".hidden"], ".hidden"),
        (["MNIST/0/1.png", "KMNIST/0/1.png"], "0"),  # a folder of pictures by the name of a set
        (["MNIST/raw/photo.png", "KMNIST/raw/photo.png"], "photo.png"),
    ],
)
@pytest.mark.parametrize("option", ["data_dir", "VAE_TUNE_CACHE"])
def test_a_folder_of_other_things_is_refused_and_stays_as_it_is(tmp_path, monkeypatch, dataset, files, named, option):
    monkeypatch.setattr(named_sets, "_download", lambda *_: pytest.fail("It may not be downloaded."))
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    before = everything_in(tmp_path)
    monkeypatch.setenv("VAE_TUNE_CACHE", str(tmp_path))
    message = refusal(DataConfig(dataset=dataset, data_dir=tmp_path if option == "data_dir" else None))
    assert message.startswith(f"{option} {tmp_path} does not hold ")
    assert message.endswith(f"leave out {option if option.isupper() else '--data-dir'}.")
    assert f"but {named!r}: nothing is written" in message
    assert everything_in(tmp_path) == before


def test_a_folder_of_data_sets_gets_the_embedded_mnist(tmp_path):
    for name in ("FashionMNIST", "cifar-10-batches-py", ".vae_tune-download-abc", "MNIST/processed"):
        (tmp_path / name).mkdir(parents=True)
    load_images(DataConfig(data_dir=tmp_path, train_size=1))
    assert {path.name for path in (tmp_path / "MNIST" / "raw").iterdir()} == MNIST_FILES


def test_an_empty_raw_folder_and_a_cache_with_copies_of_studies_get_the_embedded_mnist(tmp_path, monkeypatch):
    (tmp_path / "MNIST" / "raw").mkdir(parents=True)
    (tmp_path / "cache" / "studies").mkdir(parents=True)
    monkeypatch.setenv("VAE_TUNE_CACHE", str(tmp_path / "cache"))
    for root, named in ((tmp_path, tmp_path), (tmp_path / "cache", None)):
        load_images(DataConfig(data_dir=named, train_size=1))
        assert {path.name for path in (root / "MNIST" / "raw").iterdir()} == MNIST_FILES


def test_a_set_is_read_beside_other_things(unpacked, mnist):
    root = unpacked.parent.parent
    (root / "notes.txt").write_text("mine")
    assert load_images(DataConfig(data_dir=root, train_size=len(mnist.train))).sha256() == mnist.sha256()


def test_a_train_size_beyond_the_data_is_refused():
    assert refusal(DataConfig(train_size=50_001)) == "train_size must be <= 50000 for mnist, but got 50001."


def test_a_train_size_of_all_the_data_is_accepted(whole_mnist):
    assert load_images(DataConfig(train_size=50_000)).sha256() == whole_mnist.sha256()


def test_a_tensor_has_the_shape_of_its_images_and_shares_the_memory_of_its_images(tiny):
    tensor = to_tensor(tiny.train, torch.device("cpu"))
    assert tensor.shape == (60, 1, 5, 7)
    assert tensor.dtype == torch.uint8
    assert tensor.data_ptr() == tiny.train.ctypes.data
    np.testing.assert_array_equal(tensor.numpy(), tiny.train)


def test_images_that_no_one_can_change_are_brought_to_a_device_once(tiny):
    """The device ``meta`` stands for a GPU: it is none, but not the CPU."""
    device, images = torch.device("meta"), tiny.train.copy()
    assert to_tensor(images, device) is not to_tensor(images, device)
    images.setflags(write=False)
    once = to_tensor(images, device)
    assert to_tensor(images[:], device) is once
    assert to_tensor(images[:10], device).shape == (10, 1, 5, 7)
    assert to_tensor(images[::6], device) is not to_tensor(images[:10], device)  # the same place and shape
    assert to_tensor(images, device) is once


def test_images_that_can_be_changed_elsewhere_are_brought_to_a_device_again(tiny):
    device, images = torch.device("meta"), tiny.train.copy()
    view = images[:]
    view.setflags(write=False)
    assert to_tensor(view, device) is not to_tensor(view, device)


def test_reading_mnist_loads_no_more_of_torchvision_than_that_takes():
    code = """
import sys
from vae_tune.config.settings import DataConfig
from vae_tune.images.datasets import load_images
load_images(DataConfig(train_size=100))
assert not [name for name in sys.modules if name.startswith(("torchvision", "torch._dynamo"))]
"""
    subprocess.run([sys.executable, "-c", code], check=True)
