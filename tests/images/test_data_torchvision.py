"""torchvision's data sets: read from its layout, downloaded where they are missing, refused where broken."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import io
import socket
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from torchvision import datasets

from tests.images.test_datasets import MNIST_FILES, everything_in, refusal
from vae_tune.config.settings import DataConfig
from vae_tune.images.datasets import load_images

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
    """Return pictures of 2 x 3 pixels that are all different from their neighbors, with a channel."""
    return np.random.default_rng(count).integers(0, 256, (count, 1, 2, 3), np.uint8)


def _files(dataset: str, train: int = TRAIN) -> dict[str, bytes]:
    """Return tiny IDX files of a data set under the names that torchvision gives them."""
    files = {}
    for part, count in (("train", train), ("test", TEST)):
        prefix = {"qmnist": f"qmnist-{part}", "emnist-letters": f"emnist-letters-{part}"}.get(
            dataset, "t10k" if part == "test" else part
        )
        labels = np.zeros((count, 8), np.int32) if dataset == "qmnist" else np.zeros(count, np.uint8)
        files[f"{prefix}-images-idx3-ubyte"] = _idx(_pictures(count)[:, 0])
        files[f"{prefix}-labels-idx{labels.ndim}-{'int' if dataset == 'qmnist' else 'ubyte'}"] = _idx(labels)
    return files


def _write_set(root: Path, dataset: str, train: int = TRAIN) -> Path:
    """Write a tiny data set in torchvision's layout; return the folder of its files."""
    raw = root / SETS[dataset][0] / "raw"
    raw.mkdir(parents=True)
    for name, content in _files(dataset, train).items():
        (raw / name).write_bytes(content)
    return raw


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
    assert images.train.shape == (50, 1, 3, 2)
    np.testing.assert_array_equal(images.train, _pictures(TRAIN)[:50].transpose(0, 1, 3, 2))
    np.testing.assert_array_equal(images.test, _pictures(TEST).transpose(0, 1, 3, 2))
    assert images.train.flags.c_contiguous


def test_a_set_is_read_from_the_cache_where_no_data_dir_is_given(tmp_path, offline, monkeypatch):
    monkeypatch.setenv("VAE_TUNE_CACHE", str(tmp_path))
    _write_set(tmp_path, "kmnist")
    assert load_images(DataConfig(dataset="kmnist")).pixels == 6


def test_a_set_without_images_to_train_on_is_refused(tmp_path, offline):
    _write_set(tmp_path, "kmnist", train=10_000)
    assert "has only 10000 training images" in refusal(DataConfig(dataset="kmnist", data_dir=tmp_path))


def test_a_set_may_have_a_single_image_to_train_on(tmp_path, offline):
    _write_set(tmp_path, "kmnist", train=10_001)
    assert load_images(DataConfig(dataset="kmnist", data_dir=tmp_path)).train.shape == (1, 1, 2, 3)


@pytest.mark.parametrize("dataset", ["fashion-mnist", "qmnist", "emnist-letters"])
@pytest.mark.parametrize("size", [0, 3, 10, 16, 1000, -1])
def test_an_idx_file_that_was_cut_is_refused_and_kept(tmp_path, offline, dataset, size):
    raw = _write_set(tmp_path, dataset)
    path = next(raw.glob("*train-images*"))
    path.write_bytes(path.read_bytes()[:size])
    before = path.read_bytes()
    message = refusal(DataConfig(dataset=dataset, data_dir=tmp_path))
    assert message.startswith(f"{dataset} in {raw} cannot be read, because a file is corrupt: ")
    assert message.count("\n") == 1
    assert path.read_bytes() == before


def test_an_idx_file_of_another_kind_is_refused(tmp_path, offline):
    raw = _write_set(tmp_path, "fashion-mnist")
    (raw / "t10k-images-idx3-ubyte").write_bytes(b"<html>Not found</html>" * 10)
    assert "cannot be read" in refusal(DataConfig(dataset="fashion-mnist", data_dir=tmp_path))


@pytest.mark.parametrize("dataset", sorted(SETS))
@pytest.mark.parametrize("folder", [".", "not/there/yet"])
def test_a_failed_download_is_told_in_two_lines_and_creates_nothing(tmp_path, offline, dataset, folder):
    root = tmp_path / folder
    message = refusal(DataConfig(dataset=dataset, data_dir=root))
    first, second = message.splitlines()
    raw = root / SETS[dataset][0] / "raw"
    assert first.startswith(f"{dataset} is not in {raw} and could not be downloaded: ")
    assert "refused" in first
    assert "--data-dir" in second
    assert everything_in(tmp_path) == []


def test_a_failed_download_leaves_the_files_that_are_there(tmp_path, offline):
    raw = _write_set(tmp_path, "fashion-mnist")
    (raw / "t10k-images-idx3-ubyte").unlink()
    before = everything_in(tmp_path)
    assert "could not be downloaded" in refusal(DataConfig(dataset="fashion-mnist", data_dir=tmp_path))
    assert everything_in(tmp_path) == before


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
    np.testing.assert_array_equal(images.test, _pictures(TEST).transpose(0, 1, 3, 2))


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
    message = refusal(DataConfig(dataset="fashion-mnist", data_dir=tmp_path / "data"))
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
        message = refusal(DataConfig(dataset="fashion-mnist", data_dir=tmp_path))
        thread.join(timeout=30)
    assert message.startswith("fashion-mnist is not in ")
    assert message.count("\n") == 1
    assert everything_in(tmp_path) == []
