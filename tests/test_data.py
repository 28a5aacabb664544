"""The data sets: where they come from, how they are split, and what happens to broken ones."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import io
import socket
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision import datasets

from vae_tune.config import DataConfig, UsageError
from vae_tune.data import Images, cache_dir, load_images, to_tensor

MNIST_FILES = {
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
}
TRAIN, TEST = 10_050, 30
SETS = {
    "fashion-mnist": ("FashionMNIST", datasets.FashionMNIST),
    "kmnist": ("KMNIST", datasets.KMNIST),
    "qmnist": ("QMNIST", datasets.QMNIST),
    "emnist-letters": ("EMNIST", datasets.EMNIST),
}


def _idx(array: np.ndarray) -> bytes:
    """Return an array as an IDX file: type, axes, their sizes and the values, big-endian."""
    kind = {"uint8": 8, "int32": 12}[array.dtype.name]
    header = bytes([0, 0, kind, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    return header + array.astype(array.dtype.newbyteorder(">")).tobytes()


def _pictures(count: int) -> np.ndarray:
    """Return pictures of 2 x 3 pixels that are all different from their neighbours."""
    return np.random.default_rng(count).integers(0, 256, (count, 2, 3), np.uint8)


def _files(dataset: str, train: int = TRAIN) -> dict[str, bytes]:
    """Return tiny IDX files of a data set under the names that torchvision gives them."""
    files = {}
    for part, count in (("train", train), ("test", TEST)):
        prefix = {"qmnist": f"qmnist-{part}", "emnist-letters": f"emnist-letters-{part}"}.get(
            dataset, "t10k" if part == "test" else part
        )
        labels = np.zeros((count, 8), np.int32) if dataset == "qmnist" else np.zeros(count, np.uint8)
        files[f"{prefix}-images-idx3-ubyte"] = _idx(_pictures(count))
        files[f"{prefix}-labels-idx{labels.ndim}-{'int' if dataset == 'qmnist' else 'ubyte'}"] = _idx(labels)
    return files


def _write_set(root: Path, dataset: str, train: int = TRAIN) -> Path:
    """Write a tiny data set in torchvision's layout; return the folder of its files."""
    raw = root / SETS[dataset][0] / "raw"
    raw.mkdir(parents=True)
    for name, content in _files(dataset, train).items():
        (raw / name).write_bytes(content)
    return raw


def _everything_in(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


def _refusal(config: DataConfig) -> str:
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


@pytest.fixture
def offline(monkeypatch) -> None:
    """Every download goes to a port where nobody listens."""
    monkeypatch.setenv("no_proxy", "*")
    nowhere = "http://127.0.0.1:9/"
    monkeypatch.setattr(datasets.MNIST, "mirrors", [nowhere])
    monkeypatch.setattr(datasets.FashionMNIST, "mirrors", [nowhere])
    monkeypatch.setattr(datasets.KMNIST, "mirrors", [nowhere])
    monkeypatch.setattr(datasets.EMNIST, "url", f"{nowhere}gzip.zip")
    _point_qmnist_at(nowhere, monkeypatch)


def _point_qmnist_at(address: str, monkeypatch) -> None:
    resources = {
        part: [(address + url.rpartition("/")[2], md5) for url, md5 in files]
        for part, files in datasets.QMNIST.resources.items()
    }
    monkeypatch.setattr(datasets.QMNIST, "resources", resources)


class _Silent(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server(tmp_path, monkeypatch) -> Iterator[tuple[Path, str]]:
    """A web server of this machine: the folder that it serves, and its address."""
    monkeypatch.setenv("no_proxy", "*")
    folder = tmp_path / "served"
    folder.mkdir()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(_Silent, directory=str(folder))) as served:
        thread = threading.Thread(target=served.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield folder, f"http://127.0.0.1:{served.server_address[1]}/"
        served.shutdown()
        thread.join()


def _serve_fashion(folder: Path, address: str, monkeypatch) -> None:
    """Serve a tiny fashion-mnist, gzipped, and tell torchvision its checksums."""
    resources = []
    for name, content in _files("fashion-mnist").items():
        packed = gzip.compress(content, mtime=0)
        (folder / f"{name}.gz").write_bytes(packed)
        resources.append((f"{name}.gz", hashlib.md5(packed).hexdigest()))
    monkeypatch.setattr(datasets.FashionMNIST, "mirrors", [address])
    monkeypatch.setattr(datasets.FashionMNIST, "resources", resources)


def test_mnist_is_split_into_50000_10000_and_10000_images(whole_mnist):
    assert whole_mnist.train.shape == (50_000, 28, 28)
    assert whole_mnist.validation.shape == whole_mnist.test.shape == (10_000, 28, 28)
    assert {split.dtype for split in (whole_mnist.train, whole_mnist.validation, whole_mnist.test)} == {
        np.dtype(np.uint8)
    }


def test_the_last_10000_of_the_training_file_validate(whole_mnist):
    reference = datasets.MNIST(cache_dir(), train=True).data.numpy()
    np.testing.assert_array_equal(whole_mnist.train, reference[:50_000])
    np.testing.assert_array_equal(whole_mnist.validation, reference[50_000:])


def test_the_test_file_tests(whole_mnist):
    np.testing.assert_array_equal(whole_mnist.test, datasets.MNIST(cache_dir(), train=False).data.numpy())


def test_a_train_size_takes_the_first_images_and_leaves_the_other_splits(whole_mnist, mnist):
    np.testing.assert_array_equal(mnist.train, whole_mnist.train[:2000])
    np.testing.assert_array_equal(mnist.validation, whole_mnist.validation)
    np.testing.assert_array_equal(mnist.test, whole_mnist.test)


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
    getattr(tiny, split)[-1, -1, -1] ^= 1
    assert tiny.sha256() != before


def test_the_checksum_changes_with_the_split_of_the_same_images(tiny):
    moved = Images(
        train=tiny.train[:-1], validation=np.concatenate([tiny.train[-1:], tiny.validation]), test=tiny.test
    )
    assert moved.sha256() != tiny.sha256()


def test_the_checksum_does_not_depend_on_the_layout_in_memory(tiny):
    other = Images(train=np.asfortranarray(tiny.train), validation=tiny.validation, test=tiny.test)
    assert other.sha256() == tiny.sha256()


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
    reference = datasets.MNIST(unpacked.parent.parent, train=True).data.numpy()
    np.testing.assert_array_equal(whole_mnist.train, reference[:50_000])


def test_mnist_is_not_unpacked_a_second_time(unpacked):
    before = {path.name: path.stat().st_mtime_ns for path in unpacked.iterdir()}
    load_images(DataConfig(train_size=1))
    assert {path.name: path.stat().st_mtime_ns for path in unpacked.iterdir()} == before


def test_a_file_that_is_missing_in_the_cache_is_unpacked_again(unpacked):
    (unpacked / "t10k-images-idx3-ubyte").unlink()
    assert load_images(DataConfig(train_size=1)).test.shape == (10_000, 28, 28)


def test_many_first_runs_at_once_leave_whole_files_and_nothing_else(tmp_path, monkeypatch, mnist):
    """Six processes unpack and check at the same moment, without torchvision, which takes seconds to import."""
    code = (
        "import sys; from pathlib import Path; from vae_tune.data import _check_mnist, _unpack_mnist\n"
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
    message = _refusal(DataConfig())
    assert message.startswith(f"{path} is corrupt: ")
    assert message.count("\n") == 1
    assert path.read_bytes() == damaged
    assert {file.name for file in unpacked.iterdir()} == MNIST_FILES


def test_a_folder_in_the_place_of_a_file_is_named(unpacked):
    path = unpacked / "t10k-labels-idx1-ubyte"
    path.unlink()
    path.mkdir()
    assert str(path) in _refusal(DataConfig())


def test_a_cache_that_cannot_be_written_is_named_with_the_way_out(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("VAE_TUNE_CACHE", str(tmp_path / "file"))
    message = _refusal(DataConfig())
    assert message.startswith(f"Cannot unpack MNIST into {tmp_path / 'file' / 'MNIST' / 'raw'}: ")
    assert message.endswith("\nSet VAE_TUNE_CACHE to a writable folder.")


def test_a_package_with_a_damaged_file_asks_to_be_installed_again(tmp_path, monkeypatch):
    packed = tmp_path / "package" / "mnist"
    packed.mkdir(parents=True)
    content = bytearray(gzip.compress(bytes(range(256)) * 40))
    content[len(content) // 2] ^= 0xFF
    for name in MNIST_FILES:
        (packed / f"{name}.gz").write_bytes(content)
    monkeypatch.setattr("importlib.resources.files", lambda package: tmp_path / "package")
    monkeypatch.setenv("VAE_TUNE_CACHE", str(tmp_path / "cache"))
    assert "install vae_tune again" in _refusal(DataConfig())
    assert [path for path in _everything_in(tmp_path / "cache") if path.is_file()] == []


def test_mnist_is_read_from_a_data_dir_too(unpacked, mnist, monkeypatch):
    monkeypatch.setenv("VAE_TUNE_CACHE", "/nowhere")
    config = DataConfig(data_dir=unpacked.parent.parent, train_size=2000)
    assert load_images(config).sha256() == mnist.sha256()


def test_a_data_dir_without_mnist_gets_the_embedded_one(tmp_path):
    images = load_images(DataConfig(data_dir=tmp_path, train_size=10))
    assert images.train.shape == (10, 28, 28)
    assert len(list((tmp_path / "MNIST" / "raw").iterdir())) == 4


def test_a_train_size_beyond_the_data_is_refused():
    assert _refusal(DataConfig(train_size=50_001)) == "train_size must be <= 50000 for mnist, but got 50001."


def test_a_train_size_of_all_the_data_is_accepted(whole_mnist):
    assert load_images(DataConfig(train_size=50_000)).sha256() == whole_mnist.sha256()


@pytest.mark.parametrize("dataset", ["fashion-mnist", "kmnist", "qmnist"])
def test_a_set_is_read_from_the_layout_of_torchvision(tmp_path, offline, dataset):
    _write_set(tmp_path, dataset)
    images = load_images(DataConfig(dataset=dataset, data_dir=tmp_path))
    np.testing.assert_array_equal(images.train, _pictures(TRAIN)[:50])
    np.testing.assert_array_equal(images.validation, _pictures(TRAIN)[50:])
    np.testing.assert_array_equal(images.test, _pictures(TEST))


def test_emnist_is_turned_upright(tmp_path, offline):
    _write_set(tmp_path, "emnist-letters")
    images = load_images(DataConfig(dataset="emnist-letters", data_dir=tmp_path))
    assert images.train.shape == (50, 3, 2)
    np.testing.assert_array_equal(images.train, _pictures(TRAIN)[:50].transpose(0, 2, 1))
    np.testing.assert_array_equal(images.test, _pictures(TEST).transpose(0, 2, 1))
    assert images.train.flags.c_contiguous


def test_a_set_is_read_from_the_cache_where_no_data_dir_is_given(tmp_path, offline, monkeypatch):
    monkeypatch.setenv("VAE_TUNE_CACHE", str(tmp_path))
    _write_set(tmp_path, "kmnist")
    assert load_images(DataConfig(dataset="kmnist")).pixels == 6


def test_a_set_without_images_to_train_on_is_refused(tmp_path, offline):
    _write_set(tmp_path, "kmnist", train=10_000)
    assert "has only 10000 training images" in _refusal(DataConfig(dataset="kmnist", data_dir=tmp_path))


def test_a_set_may_have_a_single_image_to_train_on(tmp_path, offline):
    _write_set(tmp_path, "kmnist", train=10_001)
    assert load_images(DataConfig(dataset="kmnist", data_dir=tmp_path)).train.shape == (1, 2, 3)


@pytest.mark.parametrize("dataset", ["fashion-mnist", "qmnist", "emnist-letters"])
@pytest.mark.parametrize("size", [0, 3, 10, 16, 1000, -1])
def test_an_idx_file_that_was_cut_is_refused_and_kept(tmp_path, offline, dataset, size):
    raw = _write_set(tmp_path, dataset)
    path = next(raw.glob("*train-images*"))
    path.write_bytes(path.read_bytes()[:size])
    before = path.read_bytes()
    message = _refusal(DataConfig(dataset=dataset, data_dir=tmp_path))
    assert message.startswith(f"{dataset} in {raw} cannot be read, a file is corrupt: ")
    assert message.count("\n") == 1
    assert path.read_bytes() == before


def test_an_idx_file_of_another_kind_is_refused(tmp_path, offline):
    raw = _write_set(tmp_path, "fashion-mnist")
    (raw / "t10k-images-idx3-ubyte").write_bytes(b"<html>Not found</html>" * 10)
    assert "cannot be read" in _refusal(DataConfig(dataset="fashion-mnist", data_dir=tmp_path))


@pytest.mark.parametrize("dataset", sorted(SETS))
@pytest.mark.parametrize("folder", [".", "not/there/yet"])
def test_a_failed_download_is_told_in_two_lines_and_creates_nothing(tmp_path, offline, dataset, folder):
    root = tmp_path / folder
    message = _refusal(DataConfig(dataset=dataset, data_dir=root))
    first, second = message.splitlines()
    raw = root / SETS[dataset][0] / "raw"
    assert first.startswith(f"{dataset} is not in {raw} and could not be downloaded: ")
    assert "refused" in first
    assert "--data-dir" in second
    assert _everything_in(tmp_path) == []


def test_a_failed_download_leaves_the_files_that_are_there(tmp_path, offline):
    raw = _write_set(tmp_path, "fashion-mnist")
    (raw / "t10k-images-idx3-ubyte").unlink()
    before = _everything_in(tmp_path)
    assert "could not be downloaded" in _refusal(DataConfig(dataset="fashion-mnist", data_dir=tmp_path))
    assert _everything_in(tmp_path) == before


def test_a_set_that_is_missing_is_downloaded(tmp_path, server, monkeypatch):
    _serve_fashion(*server, monkeypatch)
    root = tmp_path / "data"
    images = load_images(DataConfig(dataset="fashion-mnist", data_dir=root))
    np.testing.assert_array_equal(images.train, _pictures(TRAIN)[:50])
    np.testing.assert_array_equal(images.test, _pictures(TEST))
    assert [path.name for path in root.iterdir()] == ["FashionMNIST"]
    assert {path.name for path in (root / "FashionMNIST" / "raw").iterdir()} >= MNIST_FILES


def test_a_downloaded_set_is_not_downloaded_again(tmp_path, server, monkeypatch):
    _serve_fashion(*server, monkeypatch)
    config = DataConfig(dataset="fashion-mnist", data_dir=tmp_path / "data")
    first = load_images(config)
    for path in server[0].iterdir():
        path.unlink()
    assert load_images(config).sha256() == first.sha256()


def test_emnist_is_downloaded_from_its_archive(tmp_path, server, monkeypatch):
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        for name, content in _files("emnist-letters").items():
            file.writestr(f"gzip/{name}.gz", gzip.compress(content))
    (server[0] / "gzip.zip").write_bytes(archive.getvalue())
    monkeypatch.setattr(datasets.EMNIST, "url", f"{server[1]}gzip.zip")
    monkeypatch.setattr(datasets.EMNIST, "md5", hashlib.md5(archive.getvalue()).hexdigest())
    images = load_images(DataConfig(dataset="emnist-letters", data_dir=tmp_path / "data"))
    np.testing.assert_array_equal(images.test, _pictures(TEST).transpose(0, 2, 1))


def test_qmnist_is_downloaded_training_file_and_test_file(tmp_path, server, monkeypatch):
    resources = {"train": [], "test": []}
    for name, content in _files("qmnist").items():
        packed = gzip.compress(content, mtime=0)
        (server[0] / f"{name}.gz").write_bytes(packed)
        resources[name.split("-")[1]].append((f"{server[1]}{name}.gz", hashlib.md5(packed).hexdigest()))
    monkeypatch.setattr(datasets.QMNIST, "resources", resources)
    images = load_images(DataConfig(dataset="qmnist", data_dir=tmp_path / "data"))
    np.testing.assert_array_equal(images.train, _pictures(TRAIN)[:50])
    np.testing.assert_array_equal(images.test, _pictures(TEST))


@pytest.mark.parametrize("fault", ["missing", "cut", "other"])
def test_a_download_that_fails_half_way_creates_nothing(tmp_path, server, monkeypatch, fault):
    _serve_fashion(*server, monkeypatch)
    last = server[0] / "t10k-labels-idx1-ubyte.gz"
    content = last.read_bytes()
    last.write_bytes({"missing": b"", "cut": content[:-5], "other": b"<html>Log in first</html>"}[fault])
    if fault == "missing":
        last.unlink()
    message = _refusal(DataConfig(dataset="fashion-mnist", data_dir=tmp_path / "data"))
    assert message.startswith("fashion-mnist is not in ")
    assert message.count("\n") == 1
    assert not (tmp_path / "data").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["served"]


def test_a_server_that_speaks_no_http_is_told_in_two_lines(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"SSH-2.0-OpenSSH_9.6\r\n")

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        monkeypatch.setattr(datasets.FashionMNIST, "mirrors", [f"http://127.0.0.1:{listener.getsockname()[1]}/"])
        message = _refusal(DataConfig(dataset="fashion-mnist", data_dir=tmp_path))
        thread.join(timeout=30)
    assert message.startswith("fashion-mnist is not in ")
    assert message.count("\n") == 1
    assert _everything_in(tmp_path) == []


def test_a_tensor_is_flat_and_shares_the_memory_of_its_images(tiny):
    tensor = to_tensor(tiny.train, torch.device("cpu"))
    assert tensor.shape == (60, 35)
    assert tensor.dtype == torch.uint8
    assert tensor.data_ptr() == tiny.train.ctypes.data
    np.testing.assert_array_equal(tensor.numpy().reshape(60, 5, 7), tiny.train)


def test_importing_the_data_module_imports_neither_torchvision_nor_torch():
    code = "import sys, vae_tune.data; print(sorted({'torch', 'torchvision'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
