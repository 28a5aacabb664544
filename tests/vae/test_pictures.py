"""Pictures have the right size, order and grey values."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image

from vae_tune.config.errors import UsageError
from vae_tune.config.settings import TrialConfig
from vae_tune.vae import pictures
from vae_tune.vae.model import VAE, build_model
from vae_tune.vae.pictures import (
    by_information,
    fit_page,
    grid,
    interpolations,
    manifold,
    principal_plane,
    reconstructions,
    samples,
    side_by_side,
    traversals,
    write_png,
)


@pytest.fixture
def model() -> VAE:
    return build_model(TrialConfig(latent_size=2, hidden_width=8), (1, 5, 7))


def _plain(count: int, height: int = 2, width: int = 3, first: int = 1, channels: int = 1) -> np.ndarray:
    """Return pictures of one grey value each: first, first + 1, ..."""
    values = np.arange(first, first + count, dtype=np.uint8)[:, None, None, None]
    return np.full((count, channels, height, width), values)


def _cells(sheet: np.ndarray, height: int, width: int, gap: int) -> list[list[int]]:
    """Return the grey value in the middle of every cell of a grid."""
    rows = range(gap + height // 2, sheet.shape[0], height + gap)
    columns = range(gap + width // 2, sheet.shape[1], width + gap)
    return [[int(sheet[row, column]) for column in columns] for row in rows]


def test_samples_are_grey_pictures_of_the_shape_asked_for(model):
    pictures = samples(model, count=3)
    assert pictures.shape == (3, 1, 5, 7)
    assert pictures.dtype == np.uint8


def test_samples_are_the_same_for_the_same_seed(model):
    np.testing.assert_array_equal(samples(model, 3, seed=4), samples(model, 3, seed=4))


def test_samples_differ_by_seed(model):
    assert not np.array_equal(samples(model, 3, seed=4), samples(model, 3, seed=5))


def test_samples_differ_from_each_other(model):
    first, second = samples(model, 2)
    assert not np.array_equal(first, second)


def test_samples_leave_the_global_random_state_alone(model):
    torch.manual_seed(123)
    before = torch.get_rng_state()
    samples(model, 3)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("probability", "grey"), [(0.0, 0), (1.0, 255), (0.2, 51), (0.4999 / 255, 0), (0.5001 / 255, 1)]
)
def test_the_grey_values_of_samples_are_the_probabilities(model, probability, grey):
    torch.nn.init.zeros_(model.network.decoder.logits.weight)
    logit = {0.0: -1000.0, 1.0: 1000.0}.get(probability)
    torch.nn.init.constant_(
        model.network.decoder.logits.bias, math.log(probability / (1 - probability)) if logit is None else logit
    )
    assert set(samples(model, 2).flatten().tolist()) == {grey}


def test_reconstructions_have_the_shape_of_the_images(model, tiny):
    pictures = reconstructions(model, tiny.test)
    assert pictures.shape == tiny.test.shape
    assert pictures.dtype == np.uint8


def test_reconstructions_decode_the_latent_mean(model, tiny):
    x = torch.from_numpy(tiny.test.astype(np.float32)) / 255
    expected = torch.sigmoid(model.network.decode(model.network.encode(x)[0])) * 255
    found = torch.from_numpy(reconstructions(model, tiny.test).astype(np.float32))
    assert (found - expected).abs().max() <= 0.501


def test_reconstructions_leave_the_images_as_they_were(model, tiny):
    before = tiny.test.copy()
    reconstructions(model, tiny.test)
    np.testing.assert_array_equal(tiny.test, before)


@pytest.mark.parametrize(
    ("count", "columns", "gap", "shape"),
    [(6, 3, 2, (10, 17)), (5, 3, 2, (10, 17)), (1, 1, 2, (6, 7)), (4, 1, 1, (13, 5)), (2, 4, 0, (2, 12))],
)
def test_a_grid_has_a_row_for_every_full_or_begun_row_of_pictures(count, columns, gap, shape):
    assert grid(_plain(count), columns, gap).shape == shape


def test_a_grid_is_filled_row_by_row_and_the_rest_is_white():
    assert _cells(grid(_plain(5), columns=3), 2, 3, gap=2) == [[1, 2, 3], [4, 5, 255]]


def test_the_pictures_of_a_grid_are_whole_and_apart_by_white(tiny):
    sheet = grid(tiny.test[:4], columns=2, gap=3)
    np.testing.assert_array_equal(sheet[3:8, 3:10], tiny.test[0, 0])
    np.testing.assert_array_equal(sheet[3:8, 13:20], tiny.test[1, 0])
    np.testing.assert_array_equal(sheet[11:16, 3:10], tiny.test[2, 0])
    gaps = sheet.copy()
    for top in (3, 11):
        for left in (3, 13):
            gaps[top : top + 5, left : left + 7] = 255
    assert (gaps == 255).all()


def test_side_by_side_puts_each_row_of_originals_above_its_copies():
    pictures = side_by_side(_plain(4), _plain(4, first=101), columns=2)
    assert pictures[:, 0, 0, 0].tolist() == [1, 2, 101, 102, 3, 4, 103, 104]


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_in_the_grid_each_copy_is_below_its_original_where_a_row_is_not_full_too(count):
    sheet = grid(side_by_side(_plain(count), _plain(count, first=101), columns=2), columns=2)
    cells = np.array(_cells(sheet, 2, 3, gap=2))
    for value in range(1, count + 1):
        ((row, column),) = np.argwhere(cells == value)
        assert row % 2 == 0
        assert cells[row + 1, column] == value + 100


def test_a_grid_of_color_pictures_has_their_channels_last_as_pillow_takes_them(tmp_path):
    colors = np.arange(3, dtype=np.uint8)[None, :, None, None] + _plain(2, channels=3)
    sheet = grid(colors, columns=2, gap=1)
    assert sheet.shape == (4, 9, 3)
    assert sheet[1, 1].tolist() == [1, 2, 3]
    assert sheet[2, 7].tolist() == [2, 3, 4]
    write_png(tmp_path / "sheet.png", sheet, zoom=1)
    with Image.open(tmp_path / "sheet.png") as image:
        assert (image.mode, image.getpixel((7, 2))) == ("RGB", (2, 3, 4))


@pytest.mark.parametrize("zoom", [1, 2, 3])
def test_a_png_has_every_pixel_as_wide_as_zoom(tmp_path, zoom, tiny):
    write_png(tmp_path / "sheet.png", tiny.test[0, 0], zoom)
    with Image.open(tmp_path / "sheet.png") as image:
        assert (image.format, image.mode, image.size) == ("PNG", "L", (7 * zoom, 5 * zoom))
        np.testing.assert_array_equal(np.asarray(image), tiny.test[0, 0].repeat(zoom, axis=0).repeat(zoom, axis=1))


@pytest.mark.parametrize(
    ("size", "written"),
    [
        ((242, 242), (484, 484)),  # 8 x 8 of 28 x 28
        ((602, 602), (1204, 1204)),
        ((82, 82), (410, 410)),  # of 8 x 8: enlarged
        ((12, 30), (192, 480)),
        ((530, 530), (1060, 1060)),
        ((700, 900), (700, 900)),
        ((2066, 1034), (1300, 651)),  # of 256 x 128: reduced
    ],
)
def test_a_sheet_is_as_large_as_a_page_can_show_it_and_keeps_its_proportions(tmp_path, size, written):
    for sheet in (np.zeros(size, np.uint8), np.zeros((*size, 3), np.uint8)):
        write_png(tmp_path / "sheet.png", sheet)
        with Image.open(tmp_path / "sheet.png") as image:
            assert image.size == written[::-1]
        assert max(fit_page(sheet).shape[:2]) <= 1300


def test_many_parameters_are_decoded_a_part_at_a_time(model, monkeypatch):
    whole = samples(model, 7)
    rows = []
    plain = model.network.decode
    monkeypatch.setattr(model.network, "decode", lambda z: rows.append(len(z)) or plain(z))
    monkeypatch.setattr(pictures, "_DECODED_AT_ONCE", 100)
    np.testing.assert_array_equal(samples(model, 7), whole)
    assert rows == [2, 2, 2, 1]


def test_writing_a_png_leaves_nothing_else(tmp_path, tiny):
    write_png(tmp_path / "sheet.png", tiny.test[0, 0])
    assert [path.name for path in tmp_path.iterdir()] == ["sheet.png"]


@pytest.fixture
def plain(model) -> VAE:
    """A model whose pictures tell the code: pixel 0 is sigmoid(first), pixel 1 sigmoid(second)."""
    model.network.decoder.hidden[0].weight.data = torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1], *[[0, 0]] * 4])
    model.network.decoder.hidden[0].bias.data.zero_()
    model.network.decoder.logits.weight.data.zero_()
    model.network.decoder.logits.bias.data.zero_()
    model.network.decoder.logits.weight.data[0, :2] = torch.tensor([1.0, -1])
    model.network.decoder.logits.weight.data[1, 2:4] = torch.tensor([1.0, -1])
    return model


def _codes(pictures: np.ndarray) -> np.ndarray:
    """Return the codes that the pictures of the plain model tell: (count, 2)."""
    share = pictures.reshape(len(pictures), -1)[:, :2] / 255
    return np.log(share / (1 - share))


def test_an_interpolation_leads_from_one_latent_mean_to_the_other_in_equal_steps(plain, tiny):
    starts, ends = tiny.test[:3], tiny.test[3:6]
    codes = _codes(interpolations(plain, starts, ends, steps=5)).reshape(3, 5, 2)
    first, last = (_codes(reconstructions(plain, images)) for images in (starts, ends))
    for step in range(5):
        np.testing.assert_allclose(codes[:, step], first + step / 4 * (last - first), atol=0.02)


def test_the_manifold_grows_to_the_right_and_upwards_in_steps_of_equal_prior_mass(plain):
    codes = _codes(manifold(plain, 5)).reshape(5, 5, 2)
    values = torch.distributions.Normal(0, 1).icdf(torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9])).numpy()
    np.testing.assert_allclose(codes[:, :, 0], np.tile(values, (5, 1)), atol=0.02)
    np.testing.assert_allclose(codes[:, :, 1], np.tile(values[::-1, None], (1, 5)), atol=0.02)


@pytest.mark.parametrize("latents", [1, 3])
def test_there_is_no_manifold_of_other_than_two_latents(latents):
    model = build_model(TrialConfig(latent_size=latents, hidden_width=8), (1, 5, 7))
    with pytest.raises(UsageError, match=f"needs latent_size=2, but this model has {latents}"):
        manifold(model, 5)


def test_a_traversal_moves_one_latent_and_leaves_the_others(plain, tiny):
    codes = _codes(traversals(plain, tiny.test[:1], [1, 0], steps=3)).reshape(2, 3, 2)
    kept = _codes(reconstructions(plain, tiny.test[:1]))[0]
    np.testing.assert_allclose(codes[0, :, 1], [-3, 0, 3], atol=0.05)
    np.testing.assert_allclose(codes[0, :, 0], kept[0], atol=0.02)
    np.testing.assert_allclose(codes[1, :, 0], [-3, 0, 3], atol=0.05)
    np.testing.assert_allclose(codes[1, :, 1], kept[1], atol=0.02)


def test_the_latents_are_ordered_by_the_kl_that_they_cost(tiny):
    model = build_model(TrialConfig(latent_size=3, hidden_width=8), (1, 5, 7))
    for head in (model.network.encoder.mean, model.network.encoder.log_variance):
        head.weight.data.zero_()
        head.bias.data.zero_()
    model.network.encoder.mean.bias.data = torch.tensor([0.5, 0.0, 0.0])
    model.network.encoder.log_variance.bias.data = torch.tensor([0.0, 0.0, -4.0])
    assert by_information(model, tiny.test) == [2, 0, 1]


def test_the_principal_plane_is_that_of_the_covariance():
    random = np.random.default_rng(0)
    codes = random.normal(size=(200, 4)) @ random.normal(size=(4, 4)) + 7
    points, shares = principal_plane(torch.from_numpy(codes))
    variances = np.linalg.eigvalsh(np.cov(codes.T))[::-1]
    np.testing.assert_allclose(np.cov(points.T), np.diag(variances[:2]), atol=1e-9)
    np.testing.assert_allclose(shares, variances[:2] / variances.sum())
