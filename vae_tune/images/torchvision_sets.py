"""Read torchvision's data sets other than the 28 x 28 gray ones: cifar10, svhn, celeba, and other picture classes.

torchvision downloads the files, checks their MD5 sums and reads its formats. The pictures are then prepared like a
user's own pictures, and kept in the cache.
"""

from __future__ import annotations

import inspect
import io
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from vae_tune.config.cache_folder import TORCHVISION_FOLDER, cache_dir
from vae_tune.config.compat.torchvision import kept_labels
from vae_tune.config.errors import UsageError, telling_line
from vae_tune.config.message_hints import did_you_mean
from vae_tune.images.arrays import as_images
from vae_tune.images.decoding import Pixels
from vae_tune.images.named_sets import DATASETS, DOWNLOAD, TORCHVISION_FOLDERS, created
from vae_tune.images.prepare import Options, Prepared, Progress, Source
from vae_tune.images.prepared_cache import CODE, file_sha256, key_of, prepare_once

PREFIX = "torchvision:"
_FILES = {
    "CIFAR10": ("cifar-10-batches-py",),
    "CIFAR100": ("cifar-100-python",),
    "SVHN": ("train_32x32.mat", "test_32x32.mat"),
    "STL10": ("stl10_binary",),
    "Omniglot": ("omniglot-py",),
    "CelebA": ("celeba",),
}
"""The classes with a short name, and the files and folders of each."""
TORCHVISION_SETS = {name.lower(): name for name in _FILES}
"""The classes by the short name of the data set."""
_NO_PICTURES = {
    "MovingMNIST": "its items are videos",
    "LFWPairs": "its items are pairs of pictures",
    "Middlebury2014Stereo": "its items are pairs of pictures",
}
_SPLIT_NAMES = {"train": ("train",), "validation": ("val", "valid", "validation"), "test": ("test",)}
_HASHED = 500_000_000
"""The files of a set are hashed up to this number of bytes."""


def is_torchvision(dataset: str) -> bool:
    """Whether ``dataset`` names a set of this module."""
    return dataset in TORCHVISION_SETS or dataset.startswith(PREFIX)


def read_torchvision(dataset: str, data_dir: Path | None, options: Options, progress: Progress) -> Prepared:
    """Return the images of a torchvision data set in three splits, from the cache if possible.

    The set keeps its own test and validation splits. A missing one is cut from the training split by the SHA-256 of
    the pixels. Omniglot trains on its background alphabets and tests on the evaluation alphabets. STL10's unlabeled
    pictures are not used.

    The name in the cache depends on the class, the versions, the options and the files of the set: on their bytes if
    they have at most 500 MB together, otherwise on their names, sizes and modification times. Without ``data_dir`` the
    files are in the cache, one folder per class. For a class without a short name, all files in ``data_dir`` count.

    Args:
        dataset: a short name, or ``torchvision:CLASS``.
        data_dir: a folder in torchvision's layout, or an empty one for a download.
        options: how to prepare the pictures.
        progress: called with the number of decoded pictures and the total.

    Raises:
        UsageError: there is no such class, it has no pictures in splits, its files are missing and cannot be
            downloaded, or they cannot be read.
    """
    found = _Set(dataset, _class(dataset), data_dir or cache_dir() / TORCHVISION_FOLDER / _name(dataset))
    if not found.is_there():
        found.download(is_cache=data_dir is None)
    code = f"{CODE} torchvision {version('torchvision')} {found.name}"
    key = key_of(found.checksums(), options, code)
    return prepare_once(key, lambda: _sources(dataset, found.open()), options, progress, dataset)


@dataclass(frozen=True)
class _Set:
    """A torchvision class and the folder for its files."""

    dataset: str
    kind: Callable[..., Any]
    root: Path

    @property
    def name(self) -> str:
        return _name(self.dataset)

    def is_there(self) -> bool:
        """Whether the files of the set exist or, for a class without a short name, whether it can be opened."""
        if self.name in _FILES:
            return all((self.root / name).exists() for name in _FILES[self.name])
        try:
            return self.root.is_dir() and bool(self._opened)
        except (OSError, RuntimeError):  # torchvision: "Dataset not found or corrupted."
            return False
        except Exception:  # it exists but is damaged: open() reports how
            return True

    def open(self) -> dict[str, Any]:
        """Return torchvision's data set of each split.

        Raises:
            UsageError: a file is missing or damaged.
        """
        try:
            return self._opened
        except Exception as error:  # on damaged files, torchvision's readers raise almost any exception
            files = " and ".join(_FILES.get(self.name, ())) or "its files"
            raise UsageError(
                f"{self.dataset} in {self.root} cannot be read: {telling_line(error)}\n"
                f"Delete {files} there, and torchvision will download the set again."
            ) from error

    @cached_property
    def _opened(self) -> dict[str, Any]:
        return self._open(self.root)

    def download(self, *, is_cache: bool) -> None:
        """Let torchvision download the set into a temporary folder, then move it to its place.

        Raises:
            UsageError: the download failed, or the folder that a user named holds other things.
        """
        if not is_cache and (foreign := [name for name in _entries(self.root) if not _is_known(name)]):
            raise UsageError(
                f"data_dir {self.root} does not hold {self.name}, but {foreign[0]!r}: nothing is written into such a "
                "folder.\nName one in torchvision's layout or an empty one, or leave out --data-dir."
            )
        try:
            with created(self.root), tempfile.TemporaryDirectory(dir=self.root, prefix=DOWNLOAD) as temporary:
                self._open(Path(temporary), download=True)
                for entry in Path(temporary).iterdir():
                    os.replace(entry, self.root / entry.name)
        except Exception as error:  # each class has its own way to download
            raise UsageError(
                f"{self.dataset} is not in {self.root} and could not be downloaded: {telling_line(error)}\n"
                "Connect to the network, or name a folder in torchvision's layout with --data-dir."
            ) from error

    def checksums(self) -> Iterator[tuple[str, bytes]]:
        """Yield each file's relative path, and its SHA-256 or, for large sets, its size and modification time."""
        files = sorted(path for path in self._files() if path.is_file())
        stats = [path.stat() for path in files]
        hashed = sum(stat.st_size for stat in stats) <= _HASHED
        for path, stat in zip(files, stats, strict=True):
            name = path.relative_to(self.root).as_posix()
            yield name, file_sha256(path) if hashed else f"{stat.st_size} {stat.st_mtime_ns}".encode()

    def _files(self) -> Iterator[Path]:
        if self.name not in _FILES:
            yield from self.root.rglob("*")
        for name in _FILES.get(self.name, ()):
            yield self.root / name
            yield from (self.root / name).rglob("*")

    def _open(self, root: Path, *, download: bool = False) -> dict[str, Any]:
        parameters = inspect.signature(self.kind).parameters
        # torchvision's own loaders would drop the alpha channel
        options = {"loader": _read_bytes} if "loader" in parameters else {}
        for flag in ("train", "background"):
            if flag in parameters:
                return {
                    name: self.kind(root, **{flag: name == "train"}, download=download, **options)
                    for name in ("train", "test")
                }
        names = {**_SPLIT_NAMES, "train": ("train", parameters["split"].default)}
        found = {split: self._first(root, words, download=download, **options) for split, words in names.items()}
        return {split: opened for split, opened in found.items() if opened is not None}

    def _first(self, root: Path, words: Sequence[str], **options: Any) -> Any:
        """Return the data set for the first of ``words`` that the class accepts as a split, or None."""
        for word in words:
            try:
                return self.kind(root, split=word, **options)
            except ValueError as error:
                if not str(error).startswith("Unknown value"):
                    raise
        return None


def _name(dataset: str) -> str:
    return TORCHVISION_SETS.get(dataset, dataset.removeprefix(PREFIX))


def _class(dataset: str) -> Callable[..., Any]:
    """Return torchvision's class of a data set.

    Raises:
        UsageError: there is none, or it cannot be used; the message gives the reason.
    """
    from torchvision import datasets

    name = _name(dataset)
    kind = getattr(datasets, name, None) if name in datasets.__all__ else None
    if not inspect.isclass(kind):
        message = f"torchvision {version('torchvision')} has no data set {name!r}."
        raise UsageError(message + did_you_mean(name, datasets.__all__))
    if issubclass(kind, datasets.MNIST):
        names = [known for known in DATASETS if known.replace("-", "").startswith(name.lower())]
        raise UsageError(f"{dataset} has a short name in vae_tune. Use {' or '.join(names)}.")
    reason = _NO_PICTURES.get(name) or _lacks(inspect.signature(kind).parameters)
    if reason:
        raise UsageError(
            f"{dataset} cannot be used: {reason}.\nIf its pictures are files in a folder, use that as the data set."
        )
    return kind


def _lacks(parameters: Any) -> str | None:
    """Return the reason why a class with these parameters cannot be used, or None."""
    more = [
        name
        for name, each in parameters.items()
        if name != "root" and each.default is each.empty and each.kind is not each.VAR_KEYWORD
    ]
    if more:
        return f"it also needs {', '.join(more)}"
    if not {"train", "split", "background"} & set(parameters):
        return "it does not take train= or split="
    return None if "download" in parameters else "torchvision does not download it"


def _sources(dataset: str, opened: dict[str, Any]) -> tuple[list[Source], list[str]]:
    """Return the pictures of all splits, and the names of the classes if each picture has one."""
    names = {split: _labels(each) for split, each in opened.items()}
    classes = list(dict.fromkeys(name for labels in names.values() for name in labels))
    numbers = {name: number for number, name in enumerate(classes)}
    labeled = len(classes) > 1 and all(len(names[split]) == len(each) for split, each in opened.items())
    sources = []
    for split, each in opened.items():
        images = _array(each, f"{dataset}, {split}")
        if images is None and len(each):
            _check_items(dataset, each)
        for index in range(len(each)):
            read = partial(_item, each, index) if images is None else partial(np.ascontiguousarray, images[index])
            label = numbers[names[split][index]] if labeled else None
            sources.append(Source(f"{split} {index}", read, split, label))
    return sources, classes if labeled else []


def _array(opened: Any, name: str) -> Pixels | None:
    """Return the images of a data set that holds them as one array, otherwise None."""
    data = getattr(opened, "data", None)
    if data is None or getattr(data, "dtype", None) != np.uint8:
        return None
    return as_images(data, name, None)


def _labels(opened: Any) -> Sequence[str]:
    """Return the name of each picture's class, or an empty list if the pictures do not have one class each."""
    found, classes = kept_labels(opened)
    try:
        labels: npt.NDArray[Any] = np.asarray(found)
    except ValueError:  # lists of different lengths: annotations
        return []
    if labels.shape != (len(opened),) or labels.dtype.kind not in "iu":
        return []
    named = len(classes) > labels.max(initial=0)
    return [str(classes[label] if named else label) for label in labels]


def _check_items(dataset: str, opened: Any) -> None:
    """Refuse a data set whose items are not one picture each.

    Raises:
        UsageError: they are something else. The message names their types.
    """
    try:
        item = opened[0]
    except OSError:  # later counted as unreadable
        return
    parts = item if isinstance(item, tuple) else (item,)
    if not isinstance(parts[0], (bytes, Image.Image)) or any(isinstance(part, Image.Image) for part in parts[1:]):
        kinds = ", ".join(type(part).__name__ for part in parts)
        raise UsageError(f"{dataset} cannot be used: its items are ({kinds}), not one picture each.")


def _item(opened: Any, index: int) -> bytes | Pixels:
    """Return a picture: the bytes of its file if possible, so that all pictures are decoded the same way."""
    item = opened[index]
    picture = item[0] if isinstance(item, tuple) else item
    if isinstance(picture, bytes):
        return picture
    with picture:
        if path := getattr(picture, "filename", ""):
            return Path(path).read_bytes()
        if picture.mode in ("L", "RGB"):
            return np.asarray(picture)
        file = io.BytesIO()
        picture.save(file, "PNG")
        return file.getvalue()


def _read_bytes(path: str | Path) -> bytes:
    return Path(path).read_bytes()


def _entries(folder: Path) -> list[str]:
    return sorted(os.listdir(folder)) if folder.is_dir() else []


def _is_known(name: str) -> bool:
    return (
        name in TORCHVISION_FOLDERS
        or name.startswith(DOWNLOAD)
        or any(name in files for files in _FILES.values())
        or name.endswith((".tar.gz", ".tgz", ".zip", ".bz2"))
    )
