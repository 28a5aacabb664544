"""What a model draws, as files, and what cannot be drawn."""

import sys

import numpy as np
import pytest
from PIL import Image

from vae_tune.cli import main as cli
from vae_tune.config.errors import UsageError
from vae_tune.config.settings import DataConfig, TrialConfig
from vae_tune.tasks.generate import (
    LatentMap,
    Sheet,
    interpolation_sheet,
    latent_map,
    reconstruction_sheet,
    sample_sheet,
    traversal_sheet,
)
from vae_tune.vae.checkpoint import write_model
from vae_tune.vae.model import build_model
from vae_tune.vae.pictures import by_information, grid, manifold, reconstructions, samples


@pytest.fixture
def model(tmp_path):
    """Return a function that writes a model of so many latents and returns its folder."""

    def write(latents):
        config = TrialConfig(latent_size=latents, hidden_width=8)
        write_model(tmp_path / "model", build_model(config, (1, 28, 28)), config)
        return tmp_path / "model"

    return write


def run(monkeypatch, capsys, *words):
    monkeypatch.setattr(sys, "argv", ["vae-tune", *map(str, words)])
    with pytest.raises(SystemExit) as stop:
        cli.main(["generate"])
    captured = capsys.readouterr()
    return stop.value.code, captured.out, captured.err


ALL = {"samples", "reconstructions", "interpolations", "traversals", "manifold", "map"}


@pytest.mark.parametrize(("latents", "missing"), [(1, {"manifold", "map"}), (2, set()), (3, {"manifold"})])
def test_by_default_all_is_drawn_that_applies(model, monkeypatch, capsys, latents, missing):
    folder = model(latents)
    code, out, errors = run(monkeypatch, capsys, folder)
    assert code == 0, errors
    files = {f"{name}.png" for name in ALL - missing}
    assert {path.name for path in (folder / "pictures").iterdir()} == files
    assert {line.rpartition("/")[2] for line in out.splitlines()} == files
    for name in files:
        with Image.open(folder / "pictures" / name) as image:
            assert image.format == "PNG"


def test_the_arrays_are_what_the_pictures_show(model, monkeypatch, capsys, tmp_path):
    folder, output = model(2), tmp_path / "out" / "deeper"
    options = ("--what", "samples,map", "--seed", 3, "--output", output)
    assert run(monkeypatch, capsys, folder, *options, "--format", "npz")[0] == 0
    assert run(monkeypatch, capsys, folder, *options)[0] == 0
    assert sorted(path.name for path in output.iterdir()) == ["map.npz", "map.png", "samples.npz", "samples.png"]
    arrays = np.load(output / "samples.npz")
    pictures = arrays["pictures"]
    vae = build_model(TrialConfig(latent_size=2, hidden_width=8), (1, 28, 28))
    np.testing.assert_array_equal(pictures, samples(vae, 64, seed=3).squeeze(1))
    with Image.open(output / "samples.png") as image:
        np.testing.assert_array_equal(np.asarray(image)[::2, ::2], grid(pictures[:, None], int(arrays["columns"])))
    drawn = np.load(output / "map.npz")
    assert drawn["points"].shape == (10_000, 2)
    assert np.bincount(drawn["labels"]).tolist()[:2] == [980, 1135]  # zeros and ones among MNIST's test images


def test_an_interpolation_stands_between_its_two_images(tiny):
    model = build_model(TrialConfig(latent_size=2, hidden_width=8), tiny.shape)
    sheet = interpolation_sheet(model, tiny.test)
    rows = sheet.pictures.reshape(8, sheet.columns, 1, 5, 7)
    np.testing.assert_array_equal(rows[:, 0], tiny.test[:8])
    np.testing.assert_array_equal(rows[:, -1], tiny.test[8:16])
    np.testing.assert_array_equal(rows[:, 1], reconstructions(model, tiny.test[:8]))
    np.testing.assert_array_equal(rows[:, -2], reconstructions(model, tiny.test[8:16]))


@pytest.mark.parametrize("count", [1, 2, 3, 15])
def test_few_images_make_fewer_interpolations(tiny, count):
    model = build_model(TrialConfig(latent_size=2, hidden_width=8), tiny.shape)
    sheet = interpolation_sheet(model, tiny.test[:count])
    rows = sheet.pictures.reshape(-1, sheet.columns, 1, 5, 7)
    assert len(rows) == (count + 1) // 2
    np.testing.assert_array_equal(rows[-1, -1], tiny.test[count - 1])


def test_a_traversal_is_labeled_with_its_latents_and_their_values(tiny, tmp_path):
    model = build_model(TrialConfig(latent_size=3, hidden_width=8), tiny.shape)
    sheet = traversal_sheet(model, tiny.test)
    order = by_information(model, tiny.test)
    assert sheet.row_labels == [f"latent {number}" for number in order]
    assert (sheet.column_labels[0], sheet.column_labels[4], sheet.column_labels[-1]) == ("-3", "0", "+3")
    assert sheet.arrays()["row_labels"].tolist() == sheet.row_labels
    sheet.write_png(tmp_path / "labeled.png")
    Sheet(sheet.pictures, sheet.columns).write_png(tmp_path / "plain.png")
    with Image.open(tmp_path / "labeled.png") as image, Image.open(tmp_path / "plain.png") as plain:
        left, top = image.width - plain.width, image.height - plain.height
        assert left > 40
        assert top > 10
        np.testing.assert_array_equal(np.asarray(image)[top:, left:], np.asarray(plain))
        assert np.asarray(image)[top:, :left].min() < 100  # there is ink


@pytest.mark.parametrize(
    "likelihood", ["bernoulli", "logistic", "logistic-mixture", "categorical", "continuous-bernoulli", "gaussian"]
)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_likelihood_draws_color_and_any_size(tmp_path, likelihood, channels):
    config = TrialConfig(latent_size=2, hidden_width=8, likelihood=likelihood, mixture_components=3)
    model = build_model(config, (channels, 6, 9))
    images = np.random.default_rng(0).integers(0, 256, (20, channels, 6, 9), np.uint8)
    sheets = {
        "samples": (sample_sheet(model), 8, 8),
        "reconstructions": (reconstruction_sheet(model, images), 6, 8),
        "interpolations": (interpolation_sheet(model, images), 8, 11),
        "manifold": (Sheet(manifold(model, 20), 20), 20, 20),
    }
    for name, (sheet, rows, columns) in sheets.items():
        assert sheet.pictures.shape == (rows * columns, channels, 6, 9)
        sheet.write_png(tmp_path / f"{name}.png")
        with Image.open(tmp_path / f"{name}.png") as image:
            assert image.mode == ("L" if channels == 1 else "RGB")
            zoom = image.width // (columns * 11 + 2)
            assert image.size == (zoom * (columns * 11 + 2), zoom * (rows * 8 + 2))


def test_a_map_without_classes_has_points_of_one_color_and_no_legend(tmp_path, tiny):
    model = build_model(TrialConfig(latent_size=2, hidden_width=8), tiny.shape)
    drawn = latent_map(model, tiny.test, np.zeros(30, np.int64), [])
    drawn.write_png(tmp_path / "map.png")
    with Image.open(tmp_path / "map.png") as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    colored = pixels[np.ptp(pixels, axis=2) > 60]
    assert len(colored) > 30
    assert (colored.argmax(axis=1) == 2).all()  # blue
    assert drawn.arrays()["classes"].tolist() == []


def test_pictures_of_a_users_own_folder_are_drawn(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("VAE_TUNE_CACHE", str(tmp_path / "cache"))
    random = np.random.default_rng(0)
    np.save(tmp_path / "own.npy", random.integers(0, 256, (600, 10, 12, 3), np.uint8))
    config, data = TrialConfig(latent_size=3, hidden_width=8), DataConfig(dataset=str(tmp_path / "own.npy"))
    write_model(tmp_path / "model", build_model(config, (3, 10, 12)), config, data)
    code, _, errors = run(monkeypatch, capsys, tmp_path / "model")
    assert code == 0, errors
    found = {path.name for path in (tmp_path / "model" / "pictures").iterdir()}
    assert found == {f"{name}.png" for name in ALL - {"manifold"}}
    with Image.open(tmp_path / "model" / "pictures" / "samples.png") as image:
        assert image.mode == "RGB"


@pytest.mark.parametrize(("latents", "axis"), [(2, "first latent"), (3, "principal component 1")])
def test_two_latents_are_mapped_as_they_are_and_more_by_their_principal_plane(tiny, latents, axis):
    model = build_model(TrialConfig(latent_size=latents, hidden_width=8), tiny.shape)
    drawn = latent_map(model, tiny.test, np.zeros(30, np.int64), ["0"])
    assert drawn.axes[0].startswith(axis)
    assert drawn.points.shape == (30, 2)


@pytest.mark.parametrize("classes", [2, 47])
def test_a_map_of_any_number_of_classes_can_be_drawn(tmp_path, classes):
    points = np.random.default_rng(0).normal(size=(100, 2)).astype(np.float32)
    names = [f"class {number}" for number in range(classes)]
    LatentMap(points, np.arange(100) % classes, names, ("a", "b")).write_png(tmp_path / "map.png")
    with Image.open(tmp_path / "map.png") as image:
        colors = {color for _, color in image.convert("RGB").getcolors(2**24)}
    assert len(colors) > classes


def test_one_latent_has_no_map(tiny):
    model = build_model(TrialConfig(latent_size=1, hidden_width=8), tiny.shape)
    with pytest.raises(UsageError, match="latent_size >= 2"):
        latent_map(model, tiny.test, np.zeros(30, np.int64), ["0"])


BAD = [
    (3, "--what manifold", "The manifold needs latent_size=2, but this model has 3"),
    (1, "--what map", "A map needs latent_size >= 2, but this model has 1"),
    (2, "--what samples,sketches", "--what must name some of samples, reconstructions"),
    (2, "--what sample", "but got 'sample'. Did you mean samples?"),
    (2, "--what", "--what needs a value"),
    (2, "--format jpeg", "--format must be one of png, npz, but got 'jpeg'"),
    (2, "--seed -1", "--seed must be in 0..4294967295, but got -1"),
    (2, "--output model/config.json", "model/config.json cannot be written"),
]


@pytest.mark.parametrize(("latents", "words", "message"), BAD, ids=[words for _, words, _ in BAD])
def test_what_cannot_be_drawn_is_refused_in_a_line_and_nothing_is_written(
    model, monkeypatch, capsys, latents, words, message
):
    folder = model(latents)
    monkeypatch.chdir(folder.parent)
    before = sorted(folder.rglob("*"))
    code, out, errors = run(monkeypatch, capsys, folder, *words.split())
    assert (code, out) == (2, "")
    assert message in errors
    assert len(errors.strip().splitlines()) == 1
    assert sorted(folder.rglob("*")) == before
