"""Load images as uint8 arrays in three splits, binarize them, and convert them to tensors."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from vae_tune.config.errors import UsageError
from vae_tune.config.files import named_path
from vae_tune.config.message_hints import did_you_mean
from vae_tune.config.names import ARRAYS
from vae_tune.config.settings import Binarization, DataConfig
from vae_tune.images import own_images
from vae_tune.images.arrays import Arrays, find_arrays
from vae_tune.images.decoding import Form
from vae_tune.images.named_sets import DATASETS, read_labels, read_splits
from vae_tune.images.prepare import SPLITS, Options, Prepared, Progress, refuse_too_large, shared_memory_limit
from vae_tune.images.prepared_cache import resize_once
from vae_tune.images.torchvision_sets import TORCHVISION_SETS, is_torchvision, read_torchvision

if TYPE_CHECKING:
    import torch

_BINARIZATION_SEED = 150_900_519  # the same draws in every study
Say = Callable[[str], None]


def _silent(*_: object) -> None:
    """Say nothing."""


@dataclass(frozen=True)
class Images:
    """The three splits of a data set, each (images, channels, height, width), uint8 values 0..255."""

    train: npt.NDArray[np.uint8]
    validation: npt.NDArray[np.uint8]
    test: npt.NDArray[np.uint8]
    binarization: Binarization = "grey"
    """How pixels became black and white. With ``dynamic``, ``train`` is gray and is drawn again in each epoch."""

    def __post_init__(self) -> None:
        """Validate the layout."""
        for split in (self.train, self.validation, self.test):
            if split.ndim != 4:
                raise ValueError(f"images must be (n, channels, height, width), but got the shape {split.shape}.")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        _, channels, height, width = self.train.shape
        return channels, height, width

    @property
    def pixels(self) -> int:
        """Number of values of an image: channels x height x width."""
        return math.prod(self.shape)

    @property
    def recorded_shape(self) -> tuple[int, ...]:
        """The shape in a study's record and checksum: (height, width) of gray images, as version 0.1.0 wrote it."""
        return self.shape if self.shape[0] > 1 else self.shape[1:]

    def sha256(self) -> str:
        """Return the checksum of the images and their splits. Losses on the same checksum can be compared."""
        digest = hashlib.sha256()
        for split in (self.train, self.validation, self.test):
            digest.update(repr((len(split), *self.recorded_shape)).encode())
            digest.update(np.ascontiguousarray(split).data)
        return digest.hexdigest()


def load_images(
    config: DataConfig, say: Say = _silent, progress: Progress = _silent, arrays: Arrays | None = None
) -> Images:
    """Return the images that ``config`` names. Every command loads its images here.

    A 28 x 28 gray set keeps the splits of its files, and the last 10,000 images of the training file become the
    validation split. Other sets, and a user's own pictures, are split by the hash of their pixels if they have no
    splits.

    Args:
        config: the data set and how to prepare it.
        say: called with each note for the user: duplicates, files left out.
        progress: called with the number of decoded pictures and the total.
        arrays: the images themselves, given from Python.

    Raises:
        UsageError: the images do not exist, cannot be read or cannot be used, or ``train_size`` exceeds their number.
    """
    splits = (
        _named(config, progress) if config.dataset in DATASETS else _prepared(config, say, progress, arrays).splits
    )
    train, available = splits["train"], len(splits["train"])
    if config.train_size is not None and config.train_size > available:
        raise UsageError(f"train_size must be <= {available} for {config.dataset}, but got {config.train_size}.")
    if config.binarization != "grey" and train.shape[1] != 1:
        raise UsageError(f"binarization must be grey for images in color, but got {config.binarization!r}.")
    arrays = [train[: config.train_size], splits["validation"], splits["test"]]
    drawn = {"grey": (), "static": (0, 1, 2), "dynamic": (1, 2)}[config.binarization]  # the rest stays gray
    for number in drawn:
        arrays[number] = binarize(arrays[number], (_BINARIZATION_SEED, number))
    return Images(arrays[0], arrays[1], arrays[2], config.binarization)


def load_labels(config: DataConfig, split: str) -> tuple[npt.NDArray[np.int64], list[str]]:
    """Return the labels of the validation or test images of :func:`load_images`, and the names of the classes.

    Without classes, all labels are 0 and the list of names is empty.
    """
    if config.dataset in DATASETS:
        return read_labels(config.dataset, config.data_dir, split)
    prepared = _prepared(config, _silent, _silent)
    return prepared.labels.get(split, np.zeros(len(prepared.splits[split]), np.int64)), prepared.classes


def is_named(dataset: str) -> bool:
    """Whether ``dataset`` is the name of a data set, not a path."""
    return dataset in DATASETS or is_torchvision(dataset)


def refuse_unknown(dataset: str) -> None:
    """Refuse a value that is neither the name of a data set nor a path: ``mnist`` is a name, ``./mnist`` a folder.

    Raises:
        UsageError: it is neither. The message lists the names.
    """
    if dataset == ARRAYS:
        raise UsageError(
            "The images were given from Python, as arrays: use resume_search(FOLDER, images=...),\n"
            "or name a file of the same images with --dataset."
        )
    if "://" in dataset:
        raise UsageError(f"dataset must be on this machine, but got {dataset!r}: copy the pictures here first.")
    path = Path(dataset)
    if is_named(dataset) or os.path.lexists(path) or "/" in dataset or path.suffix:
        return
    names = (*DATASETS, *TORCHVISION_SETS)
    message = f"dataset must be a folder, a file or one of {', '.join(names)}, but got {dataset!r}."
    raise UsageError(message + did_you_mean(dataset, names))


def refuse_at_once(config: DataConfig, arrays: Arrays | None = None) -> None:
    """Refuse a user's own images if a short look shows that they cannot be used: before anything is started.

    Raises:
        UsageError: as :func:`load_images` would, which may refuse them later for what only a closer look shows.
    """
    if arrays is not None:
        if config.levels is None:  # then floats are refused, and of other arrays no pixel is read
            find_arrays(arrays, "images", None)
        return
    refuse_unknown(config.dataset)
    if not is_named(config.dataset):
        own_images.refuse_at_once(_place(config), _options(config), config.levels)


def _place(config: DataConfig) -> Path:
    """Return the path of a user's own images."""
    if config.data_dir is not None:
        raise UsageError(f"data_dir only applies to named data sets, but {config.dataset} is a path. Leave it out.")
    return named_path(config.dataset)


def _named(config: DataConfig, progress: Progress) -> dict[str, npt.NDArray[np.uint8]]:
    """Return the splits of a named set in the size and color of ``config``."""
    splits = dict(zip(SPLITS, read_splits(config.dataset, config.data_dir), strict=True))
    height, width = splits["train"].shape[2:]
    if config.size not in (None, (height, width)):
        return resize_once(splits, _options(config), progress)
    if config.colour == "rgb":
        refuse_too_large(sum(map(len, splits.values())), (3, height, width), shared_memory_limit())
        splits = {name: np.repeat(images, 3, axis=1) for name, images in splits.items()}
    return splits


def _prepared(config: DataConfig, say: Say, progress: Progress, arrays: Arrays | None = None) -> Prepared:
    """Return a torchvision set or a user's own images, from the cache if possible."""
    if arrays is None:
        refuse_unknown(config.dataset)
    if is_torchvision(config.dataset):
        prepared = read_torchvision(config.dataset, config.data_dir, _options(config), progress)
    elif arrays is not None:
        prepared = own_images.read_given_images(arrays, _options(config), config.levels, progress)
    else:
        prepared = own_images.read_own_images(_place(config), _options(config), config.levels, progress)
    for note in prepared.notes:
        say(note)
    return prepared


def _options(config: DataConfig) -> Options:
    red, green, blue = bytes.fromhex(config.background.removeprefix("#"))
    form = Form(config.size, config.fit, (red, green, blue))
    return Options(form, config.colour, config.validation_share, config.test_share)


def binarize(images: npt.NDArray[np.uint8], seed: Sequence[int]) -> npt.NDArray[np.uint8]:
    """Draw each pixel as 255, with probability gray value / 255, or as 0 (Salakhutdinov & Murray 2008).

    Under a Bernoulli decoder, binary images have a likelihood. The first images of a longer array get the same draws.
    """
    draws = np.random.default_rng(seed).integers(0, 255, images.shape, np.uint8)
    return np.where(draws < images, np.uint8(255), np.uint8(0))


_Place = tuple["torch.device", int, tuple[int, ...], tuple[int, ...]]
_ON_DEVICE: dict[_Place, tuple[npt.NDArray[np.uint8], torch.Tensor]] = {}
"""Images that this process has copied to a GPU, by address, shape and strides. A reference to each array keeps its
address from being reused."""


def to_tensor(images: npt.NDArray[np.uint8], device: torch.device) -> torch.Tensor:
    """Return images as a uint8 tensor of the same shape on ``device``. On the CPU it shares their memory.

    The arrays may be read-only, as in Ray's object store; nothing here writes to them. Read-only arrays cannot
    change, so each process copies them to a GPU only once, however many trials train on them.
    """
    import warnings

    import torch

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        tensor = torch.from_numpy(images)
    if device.type == "cpu" or not _is_constant(images):
        return tensor.to(device)
    place = device, images.ctypes.data, images.shape, images.strides
    if place not in _ON_DEVICE:
        _ON_DEVICE[place] = images, tensor.to(device)
    return _ON_DEVICE[place][1]


def _is_constant(array: npt.NDArray[np.uint8]) -> bool:
    """Whether ``array`` and all arrays that it is a view of are read-only."""
    base: Any = array
    while isinstance(base, np.ndarray):
        if base.flags.writeable:
            return False
        base = base.base
    return True
