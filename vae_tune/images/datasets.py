"""Images as uint8 arrays: the embedded MNIST, torchvision's other 28 x 28 grey sets, and their splits."""

from __future__ import annotations

import gzip
import hashlib
import os
import re
import shutil
import sys
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from http.client import HTTPException
from importlib import import_module, resources
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from vae_tune.config.files import atomic, named_path
from vae_tune.config.settings import Binarization, DataConfig, UsageError, telling_line

if TYPE_CHECKING:
    import torch

VALIDATION_SIZE = 10_000
_BINARIZATION_SEED = 150_900_519  # the same draws in every study

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
_TORCHVISION_FOLDERS = {
    *_TORCHVISION_CLASSES.values(),
    *["caltech101", "caltech256", "celeba", "cifar-10-batches-py", "cifar-10-python.tar.gz", "cifar-100-python"],
    *["cifar-100-python.tar.gz", "clevr", "country211", "dtd", "eurosat", "fer2013", "fgvc-aircraft-2013b"],
    *["flowers-102", "food-101", "gtsrb", "Kitti", "lfw-py", "MovingMNIST", "omniglot-py", "oxford-iiit-pet"],
    *["pcam", "rendered-sst2", "stanford_cars", "stl10_binary", "VOCdevkit"],
}
"""What torchvision's data sets put side by side into one folder."""
_IDX_FILE = re.compile(r"-idx\d-(ubyte|int)")
"""What the name of each file of such a set holds."""
_CACHE = "VAE_TUNE_CACHE"
COPIES_FOLDER = "studies"
"""What else lies in the cache: working copies of studies on object storage."""
_DOWNLOAD = ".vae_tune-download-"
"""What the name of a folder begins with in which a download is under way."""


@dataclass(frozen=True)
class Images:
    """The three splits of a data set, each (images, height, width), uint8 grey values 0..255."""

    train: npt.NDArray[np.uint8]
    validation: npt.NDArray[np.uint8]
    test: npt.NDArray[np.uint8]
    binarization: Binarization = "grey"
    """How they were made black and white; ``dynamic``: ``train`` is grey, and drawn anew each epoch."""

    @property
    def pixels(self) -> int:
        """Pixels of one image."""
        return int(np.prod(self.train.shape[1:]))

    def sha256(self) -> str:
        """Checksum of the images as they are used, splits included: what makes two studies comparable."""
        digest = hashlib.sha256()
        for split in (self.train, self.validation, self.test):
            digest.update(repr(split.shape).encode())
            digest.update(np.ascontiguousarray(split).data)
        return digest.hexdigest()


def load_images(config: DataConfig) -> Images:
    """Read a data set and split it: the last 10,000 of the training file validate, the test file tests.

    MNIST comes with the package and is unpacked once into the cache; other sets are read from ``data_dir`` or
    the cache, and downloaded by torchvision where they are missing.

    Raises:
        UsageError: a file is corrupt, the set is neither there nor downloadable, ``data_dir`` holds something else, or
            ``train_size`` exceeds the set.
    """
    root = config.data_dir or cache_dir()
    if config.data_dir is not None:
        _refuse_foreign(root, config.dataset, "data_dir", "--data-dir")
    elif _configured_cache():
        _refuse_foreign(root, config.dataset, _CACHE, _CACHE)
    if config.dataset == "mnist":
        _unpack_mnist(root / "MNIST" / "raw")
        _check_mnist(root / "MNIST" / "raw")
    train, test = _read(config, root)
    available = len(train) - VALIDATION_SIZE
    if available < 1:
        raise UsageError(f"{config.dataset} in {root} has only {len(train)} training images; 10,000 validate.")
    size = available if config.train_size is None else config.train_size
    if size > available:
        raise UsageError(f"train_size must be <= {available} for {config.dataset}, but got {size}.")
    splits = [train[:size], train[-VALIDATION_SIZE:], test]
    drawn = {"grey": (), "static": (0, 1, 2), "dynamic": (1, 2)}[config.binarization]  # the rest stays grey
    for number in drawn:
        splits[number] = binarize(splits[number], (_BINARIZATION_SEED, number))
    return Images(splits[0], splits[1], splits[2], config.binarization)


def binarize(images: npt.NDArray[np.uint8], seed: Sequence[int]) -> npt.NDArray[np.uint8]:
    """Draw each pixel as 255, with probability grey value / 255, or as 0 (Salakhutdinov & Murray 2008).

    Under a Bernoulli decoder the images then have a likelihood. The first images of a longer array are drawn alike.
    """
    draws = np.random.default_rng(seed).integers(0, 255, images.shape, np.uint8)
    return np.where(draws < images, np.uint8(255), np.uint8(0))


def load_labels(config: DataConfig, split: str) -> tuple[npt.NDArray[np.int64], list[str]]:
    """Return the labels of the validation or test images that :func:`load_images` read, and the classes' names."""
    options = {"split": config.dataset.removeprefix("emnist-")} if config.dataset.startswith("emnist-") else {}
    data = _class(config.dataset)(config.data_dir or cache_dir(), train=split == "validation", **options)
    labels = data.targets.numpy().reshape(len(data.targets), -1)[:, 0]  # QMNIST adds columns of other facts
    names = [name.partition(" - ")[0] for name in data.classes]  # "3 - three"
    return (labels[-VALIDATION_SIZE:] if split == "validation" else labels), names


def cache_dir() -> Path:
    """Where data sets live: ``$VAE_TUNE_CACHE``, else the platform's cache folder for this program."""
    if configured := _configured_cache():
        return named_path(configured)
    from platformdirs import user_cache_path

    return user_cache_path("vae_tune")


def _configured_cache() -> str:
    return os.environ.get(_CACHE, "")


_Place = tuple["torch.device", int, tuple[int, ...], tuple[int, ...]]
_ON_DEVICE: dict[_Place, tuple[npt.NDArray[np.uint8], torch.Tensor]] = {}
"""What this process has brought to a GPU, by address, shape and strides: held, so that nothing else gets its place."""


def to_tensor(images: npt.NDArray[np.uint8], device: torch.device) -> torch.Tensor:
    """Flatten images to a uint8 tensor (images, pixels) on ``device``; on the CPU it shares their memory.

    The arrays may be read-only (Ray's object store); nothing here writes to them. Those that are, which no one can
    change, are brought to a GPU once per process, however many trials train on them there.
    """
    import warnings

    import torch

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        tensor = torch.from_numpy(images.reshape(len(images), -1))
    if device.type == "cpu" or not _is_constant(images):
        return tensor.to(device)
    place = device, images.ctypes.data, images.shape, images.strides
    if place not in _ON_DEVICE:
        _ON_DEVICE[place] = images, tensor.to(device)
    return _ON_DEVICE[place][1]


def _is_constant(array: npt.NDArray[np.uint8]) -> bool:
    """Whether neither ``array`` nor one that it is a view of can be written to."""
    base: Any = array
    while isinstance(base, np.ndarray):
        if base.flags.writeable:
            return False
        base = base.base
    return True


def _refuse_foreign(root: Path, dataset: str, what: str, option: str) -> None:
    """Refuse a folder without the set in which other things lie: nothing is written there.

    Args:
        root: the folder that a user named.
        dataset: the set that is to be read from it.
        what: what the user named it as.
        option: how it was named, and can be left out.

    Raises:
        UsageError: names one of them.
    """
    name = _folder(dataset)
    raw = root / name / "raw"
    files = _names(raw)
    if any(_IDX_FILE.search(file) for file in files) or (raw.is_dir() and not files):
        return
    beside = {*_TORCHVISION_FOLDERS, COPIES_FOLDER}
    for folder, known in ((root, beside), (raw.parent, {"processed", "raw"}), (raw, set())):
        if foreign := [entry for entry in _names(folder) if entry not in known and not entry.startswith(_DOWNLOAD)]:
            raise UsageError(
                f"{what} {root} does not hold {name}, but {foreign[0]!r}: nothing is written into such a folder.\n"
                f"Name one in torchvision's layout or an empty one, or leave out {option}."
            )


def _names(folder: Path) -> list[str]:
    """Return what lies in a folder, in order; nothing where there is none."""
    return sorted(os.listdir(folder)) if folder.is_dir() else []


def _unpack_mnist(raw: Path) -> None:
    """Unpack the embedded files that ``raw`` lacks; any number of processes may do so at once."""
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


def _read(config: DataConfig, root: Path) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Return training and test file of a set, read by torchvision, downloaded first where they are missing."""
    try:
        return tuple(_open(config.dataset, root, train=train) for train in (True, False))  # type: ignore[return-value]
    except RuntimeError as error:  # torchvision: "Dataset not found"
        if "not found" not in str(error):
            raise _unreadable(config, root, error) from error
    except (AssertionError, ValueError, TypeError, KeyError, IndexError, OSError) as error:
        raise _unreadable(config, root, error) from error
    _download(config, root)
    return _read(config, root)


def _unreadable(config: DataConfig, root: Path, error: Exception) -> UsageError:
    folder = root / _folder(config.dataset) / "raw"
    reason = str(error).splitlines()[0] if str(error) else "it is no IDX file"
    return UsageError(f"{config.dataset} in {folder} cannot be read, a file is corrupt: {reason}\nReplace the files.")


def _download(config: DataConfig, root: Path) -> None:
    """Let torchvision download a set beside its place, then move it there: all of it or nothing appears."""
    raw = root / _folder(config.dataset) / "raw"
    try:
        with _created(raw), tempfile.TemporaryDirectory(dir=root, prefix=_DOWNLOAD) as temporary:
            for train in (True, False):
                _open(config.dataset, Path(temporary), train=train, download=True)
            for file in (Path(temporary) / _folder(config.dataset) / "raw").iterdir():
                os.replace(file, raw / file.name)
    except (OSError, RuntimeError, HTTPException) as error:
        raise UsageError(
            f"{config.dataset} is not in {raw} and could not be downloaded: {telling_line(error)}\n"
            "Connect to the network, or name a folder in torchvision's layout with --data-dir."
        ) from error


@contextmanager
def _created(folder: Path) -> Iterator[None]:
    """Create ``folder`` and its parents; where the block fails, remove again those that were missing."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        for path in missing:
            with suppress(OSError):  # never there, or another process has put something into it
                path.rmdir()
        raise


def _folder(dataset: str) -> str:
    """Return the name of torchvision's class, which is also its folder."""
    return _TORCHVISION_CLASSES[dataset.partition("-")[0] if dataset.startswith("emnist") else dataset]


def _open(dataset: str, root: Path, *, train: bool, download: bool = False) -> npt.NDArray[np.uint8]:
    """Return one file of a torchvision data set: (images, height, width), uint8."""
    if dataset.startswith("emnist-"):
        split = dataset.removeprefix("emnist-")
        images = _class(dataset)(root, split=split, train=train, download=download).data
        images = images.transpose(1, 2)  # EMNIST stores its images on their side
    else:
        images = _class(dataset)(root, train=train, download=download).data
    return np.ascontiguousarray(images.numpy())


@cache
def _class(dataset: str) -> Any:
    """Return torchvision's class of a data set.

    Importing torchvision brings in its models and operators, and torch's compiler with these: most of a second and a
    half of CPU before each search. So where nothing has imported it yet, its module of MNIST and its relatives is
    loaded alone, in empty packages that are forgotten again: who imports torchvision later gets all of it.
    """
    if "torchvision" in sys.modules:
        module = import_module("torchvision.datasets.mnist")
    else:
        (place,) = find_spec("torchvision").submodule_search_locations  # type: ignore[union-attr,misc]
        for name, folder in (("torchvision", place), ("torchvision.datasets", os.path.join(place, "datasets"))):
            sys.modules[name] = ModuleType(name)
            sys.modules[name].__path__ = [folder]
        try:
            module = import_module("torchvision.datasets.mnist")
        finally:
            for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
                del sys.modules[name]
    return getattr(module, _folder(dataset))
