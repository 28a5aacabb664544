"""Data sets with a name: the embedded MNIST, and torchvision's other 28 x 28 gray sets.

A further set of IDX files is one entry in ``_TORCHVISION_CLASSES`` and its name in ``DATASETS``.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import re
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPException
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vae_tune.config.cache_folder import CACHE_VARIABLE, COPIES_FOLDER, PREPARED_FOLDER, TORCHVISION_FOLDER, cache_dir
from vae_tune.config.compat.torchvision import mnist_module
from vae_tune.config.errors import UsageError, telling_line
from vae_tune.config.files import atomic

VALIDATION_SIZE = 10_000
Split = npt.NDArray[np.uint8]
"""(images, 1, height, width)"""

_MNIST_SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}

_TORCHVISION_CLASSES = {
    "mnist": "MNIST",
    "fashion-mnist": "FashionMNIST",
    "kmnist": "KMNIST",
    "qmnist": "QMNIST",
    "emnist": "EMNIST",
}
DATASETS = (
    "mnist",
    "fashion-mnist",
    "kmnist",
    "qmnist",
    "emnist-balanced",
    "emnist-byclass",
    "emnist-bymerge",
    "emnist-digits",
    "emnist-letters",
    "emnist-mnist",
)
"""The names of data sets."""
TORCHVISION_FOLDERS = {
    *_TORCHVISION_CLASSES.values(),
    *["caltech101", "caltech256", "celeba", "cifar-10-batches-py", "cifar-10-python.tar.gz", "cifar-100-python"],
    *["cifar-100-python.tar.gz", "clevr", "country211", "dtd", "eurosat", "fer2013", "fgvc-aircraft-2013b"],
    *["flowers-102", "food-101", "gtsrb", "Kitti", "lfw-py", "MovingMNIST", "omniglot-py", "oxford-iiit-pet"],
    *["pcam", "rendered-sst2", "stanford_cars", "stl10_binary", "VOCdevkit"],
}
"""Files and folders that torchvision's data sets create side by side in one folder."""
_IDX_FILE = re.compile(r"-idx\d-(ubyte|int)")
"""Part of the name of each file of such a set."""
DOWNLOAD = ".vae_tune-download-"
"""Prefix of the temporary folder of a download."""


def read_splits(dataset: str, data_dir: Path | None) -> tuple[Split, Split, Split]:
    """Return training, validation and test images: the last 10,000 of the training file validate.

    MNIST ships with the package and is unpacked once into the cache. torchvision downloads a missing set into
    ``data_dir`` or the cache.

    Raises:
        UsageError: a file is corrupt, the set is missing and cannot be downloaded, or ``data_dir`` holds something
            else.
    """
    root = data_dir or cache_dir()
    if data_dir is not None:
        _refuse_foreign(root, dataset, "data_dir", "--data-dir")
    elif os.environ.get(CACHE_VARIABLE):
        _refuse_foreign(root, dataset, CACHE_VARIABLE, CACHE_VARIABLE)
    if dataset == "mnist":
        _unpack_mnist(root / "MNIST" / "raw")
        _check_mnist(root / "MNIST" / "raw")
    train, test = _read(dataset, root)
    if len(train) <= VALIDATION_SIZE:
        raise UsageError(f"{dataset} in {root} has only {len(train)} training images; it needs more than 10,000.")
    return train[:-VALIDATION_SIZE], train[-VALIDATION_SIZE:], test


def read_labels(dataset: str, data_dir: Path | None, split: str) -> tuple[npt.NDArray[np.int64], list[str]]:
    """Return the labels of the validation or test images, and the names of the classes."""
    data = _class(dataset)(data_dir or cache_dir(), train=split == "validation", **_options(dataset))
    labels = data.targets.numpy().reshape(len(data.targets), -1)[:, 0]  # QMNIST adds columns of other facts
    names = [name.partition(" - ")[0] for name in data.classes]  # "3 - three"
    return (labels[-VALIDATION_SIZE:] if split == "validation" else labels), names


def _refuse_foreign(root: Path, dataset: str, what: str, option: str) -> None:
    """Refuse a folder that lacks the set and holds other things, so that nothing is written there.

    Args:
        root: the folder that a user named.
        dataset: the set to read from it.
        what: the setting that names it.
        option: the option of that setting, which can be left out.

    Raises:
        UsageError: it is such a folder. The message names one of the other things.
    """
    name, raw = _folder(dataset), _raw(root, dataset)
    files = _names(raw)
    if any(_IDX_FILE.search(file) for file in files) or (raw.is_dir() and not files):
        return
    beside = {*TORCHVISION_FOLDERS, COPIES_FOLDER, PREPARED_FOLDER, TORCHVISION_FOLDER}
    for folder, known in ((root, beside), (raw.parent, {"processed", "raw"}), (raw, set())):
        if foreign := [entry for entry in _names(folder) if entry not in known and not entry.startswith(DOWNLOAD)]:
            raise UsageError(
                f"{what} {root} does not hold {name}, but {foreign[0]!r}: nothing is written into such a folder.\n"
                f"Name one in torchvision's layout or an empty one, or leave out {option}."
            )


def _names(folder: Path) -> list[str]:
    """Return the sorted names in a folder; none where it does not exist."""
    return sorted(os.listdir(folder)) if folder.is_dir() else []


def _unpack_mnist(raw: Path) -> None:
    """Unpack the embedded files that are missing in ``raw``. Several processes may do so at once."""
    packed = resources.files("vae_tune.images") / "mnist"
    try:
        for name in _MNIST_SHA256:
            if (raw / name).exists():
                continue
            raw.mkdir(parents=True, exist_ok=True)
            with (
                (packed / f"{name}.gz").open("rb") as source,
                gzip.open(source) as unpacked,
                atomic(raw / name) as target,
            ):
                shutil.copyfileobj(unpacked, target)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UsageError(f"The MNIST files in {packed} are corrupt ({error}): install vae_tune again.") from error
    except OSError as error:
        raise UsageError(
            f"Cannot unpack MNIST into {raw}: {error.strerror or error}.\n"
            "Name a writable folder with --data-dir or VAE_TUNE_CACHE."
        ) from error


def _check_mnist(raw: Path) -> None:
    for name, expected in _MNIST_SHA256.items():
        path = raw / name
        try:
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except FileNotFoundError as error:
            message = f"{path} is missing. Without --data-dir the MNIST that ships with vae_tune is used."
            raise UsageError(message) from error
        except OSError as error:
            raise UsageError(f"{path} cannot be read: {error.strerror or error}.") from error
        if found != expected:
            raise UsageError(
                f"{path} is corrupt: its SHA-256 is {found[:12]}..., not {expected[:12]}...\n"
                "Delete that file: vae_tune unpacks it again."
            )


def _read(dataset: str, root: Path) -> tuple[Split, Split]:
    """Return the training and the test file of a set, read by torchvision, after a download if they are missing."""
    try:
        return _open(dataset, root, train=True), _open(dataset, root, train=False)
    except RuntimeError as error:  # torchvision: "Dataset not found"
        if "not found" not in str(error):
            raise _unreadable(dataset, root, error) from error
    except (AssertionError, ValueError, TypeError, KeyError, IndexError, OSError) as error:
        raise _unreadable(dataset, root, error) from error
    _download(dataset, root)
    return _read(dataset, root)


def _unreadable(dataset: str, root: Path, error: Exception) -> UsageError:
    reason = str(error).splitlines()[0] if str(error) else "it is not an IDX file"
    return UsageError(
        f"{dataset} in {_raw(root, dataset)} cannot be read, because a file is corrupt: {reason}\nReplace the files."
    )


def _download(dataset: str, root: Path) -> None:
    """Let torchvision download a set into a temporary folder, then move it, so that no partial set appears."""
    raw = _raw(root, dataset)
    try:
        with created(raw), tempfile.TemporaryDirectory(dir=root, prefix=DOWNLOAD) as temporary:
            for train in (True, False):
                _open(dataset, Path(temporary), train=train, download=True)
            for file in _raw(Path(temporary), dataset).iterdir():
                os.replace(file, raw / file.name)
    except (OSError, RuntimeError, HTTPException) as error:
        raise UsageError(
            f"{dataset} is not in {raw} and could not be downloaded: {telling_line(error)}\n"
            "Connect to the network, or name a folder in torchvision's layout with --data-dir."
        ) from error


def _raw(root: Path, dataset: str) -> Path:
    """Return the folder of a set's files."""
    return root / _folder(dataset) / "raw"


@contextmanager
def created(folder: Path) -> Iterator[None]:
    """Create ``folder`` and its parents; if the block fails, remove those that were missing."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        for path in missing:
            with suppress(OSError):  # it was never created, or another process has put something into it
                path.rmdir()
        raise


def _folder(dataset: str) -> str:
    """Return the name of torchvision's class, which is also its folder."""
    return _TORCHVISION_CLASSES[dataset.partition("-")[0] if dataset.startswith("emnist") else dataset]


def _options(dataset: str) -> dict[str, str]:
    """Return the options of torchvision's class of a data set."""
    return {"split": dataset.removeprefix("emnist-")} if dataset.startswith("emnist-") else {}


def _open(dataset: str, root: Path, *, train: bool, download: bool = False) -> Split:
    """Return one file of a torchvision data set."""
    images = _class(dataset)(root, train=train, download=download, **_options(dataset)).data
    if dataset.startswith("emnist-"):
        images = images.transpose(1, 2)  # EMNIST stores its images on their side
    return np.ascontiguousarray(images.numpy()[:, None])


def _class(dataset: str) -> Any:
    return getattr(mnist_module(), _folder(dataset))
