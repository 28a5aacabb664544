"""Code lengths that need no model, against numpy, Pillow's own file sizes and what is known of them."""

import io

import numpy as np
import pytest
from PIL import Image

from vae_tune.images import code_length as module
from vae_tune.images.code_length import code_length, histogram_bits, png_container, webp_container


def noise(count, shape=(3, 32, 32), seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), np.uint8)


def saved(image, **options):
    file = io.BytesIO()
    Image.fromarray(image[0] if len(image) == 1 else np.ascontiguousarray(np.moveaxis(image, 0, 2))).save(
        file, **options
    )
    return file.getvalue()


@pytest.mark.parametrize("channels", [1, 3])
def test_the_histogram_is_the_cross_entropy_of_the_smoothed_frequencies(channels, monkeypatch):
    monkeypatch.setattr(module, "_CHUNK", 100)  # several chunks
    random = np.random.default_rng(0)
    train = random.binomial(200, 0.2 + 0.3 * np.arange(channels)[:, None, None], (50, channels, 4, 5)).astype(np.uint8)
    test = random.binomial(200, 0.3, (20, channels, 4, 5)).astype(np.uint8)
    bits = []
    for channel in range(channels):
        values = train[:, channel].ravel()
        frequency = [(np.sum(values == level) + 1) / (len(values) + 256) for level in range(256)]
        bits += [-np.log2(frequency[value]) for value in test[:, channel].ravel()]
    assert histogram_bits(train, test) == pytest.approx(np.mean(bits), rel=1e-12)


def test_a_histogram_of_equal_frequencies_is_the_uniform_code():
    every = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    assert histogram_bits(np.repeat(every, 3, 1), noise(5)) == pytest.approx(module.UNIFORM)


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28), (3, 7, 5)])
def test_files_have_the_sizes_that_pillow_writes(shape):
    images = np.concatenate([noise(20, shape), np.arange(20 * np.prod(shape)).reshape(20, *shape).astype(np.uint8)])
    found = code_length(images, images)
    png = np.array([len(saved(image, format="PNG", optimize=True)) for image in images])
    webp = np.array([len(saved(image, format="WEBP", lossless=True)) for image in images])
    per_image = np.prod(shape)
    assert found.png == pytest.approx(8 * png.mean() / per_image)
    assert found.webp == pytest.approx(8 * webp.mean() / per_image)
    assert found.smaller_file == pytest.approx(8 * np.minimum(png, webp).mean() / per_image)
    assert (found.pictures, found.of) == (40, 40)


def test_noise_cannot_be_compressed():
    found = code_length(noise(100), noise(100, seed=1))
    assert found.histogram == pytest.approx(8, abs=0.01)
    assert 8 < found.smaller_file < 8.3
    assert found.smaller_file - found.container == pytest.approx(8.11, abs=0.02)  # a filter's byte for each row


def test_one_color_costs_nearly_nothing_but_the_container():
    plain = np.full((30, 3, 32, 32), 77, np.uint8)
    found = code_length(plain, plain)
    assert found.histogram < 0.02
    assert found.smaller_file - found.container < 0.04
    assert found.container > found.smaller_file / 2


def test_the_container_of_a_small_picture_is_57_bytes_as_png_and_25_as_webp():
    for image in (noise(1)[0], noise(1, (1, 32, 32))[0], np.zeros((3, 32, 32), np.uint8)):
        assert png_container(saved(image, format="PNG")) == 57
        webp = saved(image, format="WEBP", lossless=True)
        assert webp_container(webp) == 25 + int.from_bytes(webp[16:20], "little") % 2


def test_a_png_in_several_chunks_has_more_container():
    data = saved(noise(1, (3, 300, 300))[0], format="PNG")
    chunks = data.count(b"IDAT")
    assert chunks > 1
    assert png_container(data) == 45 + 12 * chunks


def test_the_container_of_a_set_is_that_of_the_smaller_files():
    found = code_length(noise(10), noise(10))
    assert found.container * 3 * 32 * 32 / 8 == 57  # PNG is the smaller one for noise
    flat = np.zeros((10, 3, 32, 32), np.uint8)
    assert code_length(flat, flat).container * 3 * 32 * 32 / 8 in (25, 26)


@pytest.mark.parametrize(
    ("values", "pictures"), [(30 * 16 - 1, 20), (20 * 16, 20), (5 * 16, 5), (3, 1), (99 * 16, 20)]
)
def test_a_sample_of_many_pictures_is_compressed_spread_over_all(monkeypatch, values, pictures):
    monkeypatch.setattr(module, "_VALUES", values)
    monkeypatch.setattr(module, "SAMPLE", 20)
    images = noise(30, (1, 4, 4))
    found = code_length(images, images)
    assert (found.pictures, found.of) == (pictures, 30)
    chosen = images[np.linspace(0, 29, pictures).round().astype(int)]
    assert found.png == 8 * np.mean([len(saved(image, format="PNG", optimize=True)) for image in chosen]) / 16


@pytest.mark.parametrize("axis", [2, 3])
def test_images_that_are_too_long_for_webp_are_compressed_as_png_alone(axis):
    images = np.moveaxis(noise(2, (1, 1, 16_384)), 3, axis)
    found = code_length(images, images)
    assert (found.webp, found.smaller_file) == (None, found.png)
    assert found.container * 16_384 / 8 in (57, 69)  # in one chunk or in two
    shorter = images.take(range(16_383), axis)
    assert code_length(shorter, shorter).webp


def test_images_may_be_read_only():
    images = noise(5)
    images.setflags(write=False)
    assert code_length(images, images).pictures == 5


def test_a_histogram_of_many_images_counts_a_sample_spread_over_all(monkeypatch):
    monkeypatch.setattr(module, "_COUNTED", 3 * 16)
    images = noise(9, (1, 4, 4))
    assert histogram_bits(images, images) == histogram_bits(images[[0, 4, 8]], images[[0, 4, 8]])
