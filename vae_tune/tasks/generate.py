"""Drawing pictures with a trained model, as PNG files or arrays: samples, reconstructions, its latent space."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vae_tune.config.errors import UsageError
from vae_tune.config.files import atomic, is_remote
from vae_tune.config.names import PICTURES, RECONSTRUCTIONS_FILE, SAMPLES_FILE
from vae_tune.images.datasets import load_labels
from vae_tune.tasks.evaluate import TrainedModel, load_trained_model
from vae_tune.vae import pictures
from vae_tune.vae.model import VAE
from vae_tune.vae.pictures import Pictures

_COLUMNS = 8
_STEPS = 9
_LATENTS = 12
_MANIFOLD = 20


@dataclass(frozen=True)
class Sheet:
    """Images (count, channels, height, width), laid out in rows of ``columns``."""

    pictures: Pictures
    columns: int
    row_labels: Sequence[str] = ()
    column_labels: Sequence[str] = ()

    def write_png(self, path: Path) -> None:
        """Write the sheet, as large as a page can show it."""
        sheet = pictures.grid(self.pictures, self.columns)
        pictures.write_png(path, sheet, rows=self.row_labels, columns=self.column_labels)

    def arrays(self) -> dict[str, Any]:
        """Return the arrays for an npz file. Gray pictures have the shape (count, height, width) there."""
        gray = self.pictures.shape[1] == 1
        arrays = {"pictures": self.pictures[:, 0] if gray else self.pictures, "columns": np.array(self.columns)}
        labels = {"row_labels": self.row_labels, "column_labels": self.column_labels}
        return arrays | {name: np.array(texts) for name, texts in labels.items() if texts}


@dataclass(frozen=True)
class LatentMap:
    """Latent means of images in a plane, with the labels of the images; without classes all labels are 0."""

    points: npt.NDArray[np.float32]
    """(images, 2)"""
    labels: npt.NDArray[np.int64]
    """(images,)"""
    classes: Sequence[str]
    axes: Sequence[str]

    def write_png(self, path: Path) -> None:
        """Draw the map, one color per class; without classes all points have the same."""
        from vae_tune.views.figures import latent_map as latent_map_figure

        figure = latent_map_figure.draw(self.points, self.labels, self.classes, self.axes)
        with atomic(path) as file:
            figure.savefig(file, format="png", dpi=110)

    def arrays(self) -> dict[str, Any]:
        """Return the arrays for an npz file."""
        return {"points": self.points, "labels": self.labels, "classes": np.array(self.classes, np.str_)}


def sample_sheet(model: VAE, seed: int = 0) -> Sheet:
    """Return 64 decoded draws from the prior."""
    return Sheet(pictures.samples(model, _COLUMNS * _COLUMNS, seed), _COLUMNS)


def reconstruction_sheet(model: VAE, images: Pictures) -> Sheet:
    """Return the first 32 images in rows, each row above its reconstructions."""
    originals = images[: 4 * _COLUMNS]
    return Sheet(pictures.side_by_side(originals, pictures.reconstructions(model, originals), _COLUMNS), _COLUMNS)


def write_sheets(folder: Path, model: VAE, images: Pictures) -> None:
    """Write samples and reconstructions of a model to ``folder``."""
    sample_sheet(model).write_png(folder / SAMPLES_FILE)
    reconstruction_sheet(model, images).write_png(folder / RECONSTRUCTIONS_FILE)


def interpolation_sheet(model: VAE, images: Pictures) -> Sheet:
    """Return up to 8 rows: an image, decoded codes between it and another image, the other image."""
    count = min(_COLUMNS, (len(images) + 1) // 2)
    starts, ends = images[:count], images[-count:] if len(images) < 2 * count else images[count : 2 * count]
    between = pictures.interpolations(model, starts, ends, _STEPS).reshape(len(starts), _STEPS, *images.shape[1:])
    rows = np.concatenate([starts[:, None], between, ends[:, None]], axis=1)
    return Sheet(rows.reshape(-1, *images.shape[1:]), _STEPS + 2)


def traversal_sheet(model: VAE, images: Pictures) -> Sheet:
    """Return one row per latent, of the 12 with most information: the first image with that latent at -3 to 3."""
    latents = pictures.by_information(model, images)[:_LATENTS]
    values = [f"{value:+.2g}" if value else "0" for value in np.linspace(-pictures.REACH, pictures.REACH, _STEPS)]
    drawn = pictures.traversals(model, images[:1], latents, _STEPS)
    return Sheet(drawn, _STEPS, [f"latent {latent}" for latent in latents], values)


def latent_map(model: VAE, images: Pictures, labels: npt.NDArray[np.int64], classes: Sequence[str]) -> LatentMap:
    """Return the latent means of images: as they are if there are two latents, else in their principal plane.

    Raises:
        UsageError: the model has one latent.
    """
    mean, _ = pictures.posterior(model, images)
    if model.latent_size < 2:
        raise UsageError("A map needs latent_size >= 2, but this model has 1.")
    if model.latent_size == 2:
        return LatentMap(mean.numpy(), labels, classes, ("first latent", "second latent"))
    points, shares = pictures.principal_plane(mean)
    axes = [f"principal component {n} ({share:.0%} of the variance)" for n, share in enumerate(shares, start=1)]
    return LatentMap(points, labels, classes, axes)


def generate(
    model: Path,
    names: Sequence[str] | None = None,
    split: str = "test",
    other_data: Mapping[str, Any] | None = None,
    *,
    output: Path | None = None,
    format: str = "png",  # noqa: A002
    seed: int = 0,
    network: str | None = None,
) -> list[Path]:
    """Draw pictures with a model and return their files.

    ``model`` is a folder of a model, or a study, which stands for its best model. ``names`` are some of
    :data:`vae_tune.config.names.PICTURES`, by default all that the model allows; ``split`` is ``test`` or
    ``validation``; ``other_data`` and ``network`` are as in :func:`load_trained_model`; ``output`` is by default
    ``pictures/`` in the model's folder, or here if that is remote; ``format`` is ``png``, or ``npz`` for the arrays.

    Raises:
        UsageError: the model or the images cannot be used, the model does not allow a picture, or the folder cannot
            be written.
    """
    trained = load_trained_model(model, other_data or {}, network)
    makers = _makers(trained, split, seed)
    output = output or (Path() if is_remote(model) else trained.folder) / "pictures"
    if names is None:
        latents = trained.model.latent_size
        allowed = {"manifold": latents == 2, "map": latents >= 2}
        names = [name for name in PICTURES if allowed.get(name, True)]
    drawn = {name: makers[name]() for name in names}
    try:
        output.mkdir(parents=True, exist_ok=True)
        return [_write(output / f"{name}.{format}", picture) for name, picture in drawn.items()]
    except OSError as error:
        raise UsageError(f"{output} cannot be written: {error.strerror or error}.") from error


def _makers(trained: TrainedModel, split: str, seed: int) -> dict[str, Callable[[], Sheet | LatentMap]]:
    model, images = trained.model, getattr(trained.images, split)
    return {
        "samples": lambda: sample_sheet(model, seed),
        "reconstructions": lambda: reconstruction_sheet(model, images),
        "interpolations": lambda: interpolation_sheet(model, images),
        "traversals": lambda: traversal_sheet(model, images),
        "manifold": lambda: Sheet(pictures.manifold(model, _MANIFOLD), _MANIFOLD),
        "map": lambda: latent_map(model, images, *load_labels(trained.data, split)),
    }


def _write(path: Path, picture: Sheet | LatentMap) -> Path:
    if path.suffix == ".png":
        picture.write_png(path)
    else:
        with atomic(path) as file:
            np.savez_compressed(file, **picture.arrays())
    return path
