"""Images as uint8 arrays in three splits: where they come from, and how they become black and white or tensors."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from vae_tune.config.errors import UsageError
from vae_tune.config.settings import Binarization, DataConfig
from vae_tune.images.named_sets import read_labels, read_splits

if TYPE_CHECKING:
    import torch

_BINARIZATION_SEED = 150_900_519  # the same draws in every study


@dataclass(frozen=True)
class Images:
    """The three splits of a data set, each (images, channels, height, width), uint8 values 0..255."""

    train: npt.NDArray[np.uint8]
    validation: npt.NDArray[np.uint8]
    test: npt.NDArray[np.uint8]
    binarization: Binarization = "grey"
    """How they were made black and white; ``dynamic``: ``train`` is grey, and drawn anew each epoch."""

    def __post_init__(self) -> None:
        """Refuse arrays of another layout."""
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
        """Values of one image, all channels together."""
        return math.prod(self.shape)

    @property
    def recorded_shape(self) -> tuple[int, ...]:
        """The shape in a study's record and checksum: (height, width) of grey images, as version 0.1.0 wrote it."""
        return self.shape if self.shape[0] > 1 else self.shape[1:]

    def sha256(self) -> str:
        """Return the checksum of the images as they are used, splits included; studies of one checksum compare."""
        digest = hashlib.sha256()
        for split in (self.train, self.validation, self.test):
            digest.update(repr((len(split), *self.recorded_shape)).encode())
            digest.update(np.ascontiguousarray(split).data)
        return digest.hexdigest()


def load_images(config: DataConfig) -> Images:
    """Return the images that ``config`` names: the one way to images, for all that trains, evaluates or draws.

    The last 10,000 of a set's training file validate, its test file tests.

    Raises:
        UsageError: a file is corrupt, the set is neither there nor downloadable, ``data_dir`` holds something else, or
            ``train_size`` exceeds the set.
    """
    train, validation, test = read_splits(config.dataset, config.data_dir)
    available = len(train)
    if config.train_size is not None and config.train_size > available:
        raise UsageError(f"train_size must be <= {available} for {config.dataset}, but got {config.train_size}.")
    splits = [train[: config.train_size], validation, test]
    drawn = {"grey": (), "static": (0, 1, 2), "dynamic": (1, 2)}[config.binarization]  # the rest stays grey
    for number in drawn:
        splits[number] = binarize(splits[number], (_BINARIZATION_SEED, number))
    return Images(splits[0], splits[1], splits[2], config.binarization)


def load_labels(config: DataConfig, split: str) -> tuple[npt.NDArray[np.int64], list[str]]:
    """Return the labels of the validation or test images that :func:`load_images` read, and the classes' names."""
    return read_labels(config.dataset, config.data_dir, split)


def binarize(images: npt.NDArray[np.uint8], seed: Sequence[int]) -> npt.NDArray[np.uint8]:
    """Draw each pixel as 255, with probability grey value / 255, or as 0 (Salakhutdinov & Murray 2008).

    Under a Bernoulli decoder the images then have a likelihood. The first images of a longer array are drawn alike.
    """
    draws = np.random.default_rng(seed).integers(0, 255, images.shape, np.uint8)
    return np.where(draws < images, np.uint8(255), np.uint8(0))


_Place = tuple["torch.device", int, tuple[int, ...], tuple[int, ...]]
_ON_DEVICE: dict[_Place, tuple[npt.NDArray[np.uint8], torch.Tensor]] = {}
"""The images that this process has brought to a GPU, by address, shape and strides. Holding them keeps the address
theirs."""


def to_tensor(images: npt.NDArray[np.uint8], device: torch.device) -> torch.Tensor:
    """Return images as a uint8 tensor of the same shape on ``device``; on the CPU it shares their memory.

    The arrays may be read-only (Ray's object store); nothing here writes to them. Read-only ones, which cannot change,
    are brought to a GPU once per process, however many trials train on them there.
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
    """Whether neither ``array`` nor one that it is a view of can be written to."""
    base: Any = array
    while isinstance(base, np.ndarray):
        if base.flags.writeable:
            return False
        base = base.base
    return True
