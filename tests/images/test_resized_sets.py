"""Named sets in another size or color: resized once, in place, and refused where they would be too large."""

import numpy as np
import pytest

from tests.images.test_datasets import everything_in, refusal
from vae_tune.config.settings import DataConfig
from vae_tune.images.datasets import load_images
from vae_tune.images.decoding import Form, resize


@pytest.fixture
def few_digits(mnist, tmp_path, monkeypatch) -> dict[str, np.ndarray]:
    """The first images of each split of MNIST, as what the files hold, in an empty cache."""
    monkeypatch.setenv("VAE_TUNE_CACHE", str(tmp_path))
    splits = {"train": mnist.train[:40], "validation": mnist.validation[:20], "test": mnist.test[:20]}
    splits["train"] = np.concatenate([splits["train"], splits["train"][:1]])  # a duplicate stays
    monkeypatch.setattr("vae_tune.images.datasets.read_splits", lambda *_: tuple(splits.values()))
    return splits


def test_a_named_set_is_resized_once_with_progress_and_keeps_its_order(few_digits, monkeypatch):
    config, seen = DataConfig(image_size="20x32"), []
    first = load_images(config, progress=lambda *counts: seen.append(counts))
    assert seen[-1] == (81, 81)
    for name, images in few_digits.items():
        expected = np.stack([resize(image[0], Form((32, 20)))[None] for image in images])
        np.testing.assert_array_equal(getattr(first, name), expected)
    monkeypatch.setattr("vae_tune.images.prepare.resize", lambda *_: pytest.fail("It is in the cache."))
    assert load_images(config).sha256() == first.sha256()


@pytest.mark.parametrize("change", [{"colour": "rgb"}, {"fit": "pad", "background": "#ff0000"}])
def test_a_resized_named_set_may_be_in_color(few_digits, change):
    images = load_images(DataConfig(image_size="20x32", **change))
    assert images.shape == (3, 32, 20)
    assert (images.train[:, 0] == images.train[:, 1]).all() == ("fit" not in change)


@pytest.mark.parametrize(
    ("change", "size"),
    [({"image_size": "64"}, "64x64"), ({"colour": "rgb"}, "28x28"), ({"image_size": "30"}, "30x30")],
)
def test_a_named_set_that_grows_too_large_is_refused_before_it_is_resized(
    few_digits, tmp_path, monkeypatch, change, size
):
    for module in ("datasets", "prepared_cache"):
        monkeypatch.setattr(f"vae_tune.images.{module}.shared_memory_limit", lambda: 81 * 28 * 28)
    assert refusal(DataConfig(**change)).startswith(f"81 pictures of {size} need ")
    assert not everything_in(tmp_path)
    assert load_images(DataConfig()).shape == (1, 28, 28)
