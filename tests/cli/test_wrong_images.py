"""Images that cannot be searched: each is refused in one or two lines with exit code 2, and nothing is created."""

import os

import numpy as np
import pytest
from PIL import Image

from tests.cli.test_main import everything_below, run, without_rights
from tests.images.test_prepare import noise
from tests.no_ray import without_ray
from vae_tune.config.settings import DataConfig
from vae_tune.images.datasets import load_images
from vae_tune.tasks import search_start


def write(folder, images, first=0):
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(images, start=first):
        Image.fromarray(image).save(folder / f"{number}.png")
    return folder


def make_text(place):
    (place / "pictures").mkdir()
    (place / "pictures" / "notes.txt").write_text("no picture")


def make_mixed(place):
    write(place / "pictures", noise(300))
    write(place / "pictures", noise(3, (9, 7, 3)), first=300)


def make_alternating(place):
    for number, images in enumerate(zip(noise(300), noise(300, (9, 7, 3)), strict=True)):
        write(place / "pictures", images, first=2 * number)


def make_truncated(place):
    write(place / "pictures", noise(60))
    path = place / "pictures" / "7.png"
    path.write_bytes(path.read_bytes()[:-50])


def make_link(place):
    write(place / "pictures", noise(60))
    (place / "pictures" / "gone.png").symlink_to("nowhere")


def make_loop(place):
    (place / "pictures").symlink_to("pictures")


def make_twice(place):
    for name in ("cats", "dogs"):
        write(place / "pictures" / name, noise(300))
    write(place / "pictures" / "cats", noise(3, seed=1), first=300)


def make_classes(place):
    for number, image in enumerate(noise(60)):
        write(place / "pictures" / f"class {number}", [image])


def array(images, name="images.npy"):
    def make(place):
        np.save(place / name, images, allow_pickle=True)
        if not name.endswith(".npy"):
            (place / f"{name}.npy").rename(place / name)

    return make


def arrays(**images):
    return lambda place: np.savez(place / "images.npz", **images)


def nothing(_):
    pass


PICTURES, NPY = "--dataset pictures", "--dataset images.npy"
WRONG = [
    ("no picture", lambda place: (place / "pictures").mkdir(), PICTURES, "pictures holds no pictures."),
    ("text files", make_text, PICTURES, "pictures holds no pictures, but 1 other file."),
    ("mixed sizes", make_mixed, PICTURES, "The pictures have 2 sizes, most often 5x4 (300 pictures).\nChoose one: "),
    ("many sizes", make_alternating, PICTURES, "The pictures have 2 sizes, most often "),
    ("a truncated PNG", make_truncated, PICTURES, "1 of 60 pictures cannot be read (7.png: "),
    ("an object array", array(np.array([[1], [2, 3]], object)), NPY, "images.npy holds Python objects"),
    ("NaN", array(np.full((300, 4, 4), np.nan)), NPY, "images.npy holds NaN or infinity."),
    ("five channels", array(noise(300, (8, 8, 5))), NPY, "images.npy has the shape (300, 8, 8, 5).\nImages must be "),
    ("zero images", array(noise(0)), NPY, "images.npy holds no images: its shape is (0, 4, 5, 3)."),
    ("a size of 0", array(noise(300, (0, 8, 3))), NPY, "images.npy holds no images: its shape is (300, 0, 8, 3)."),
    ("a missing folder", nothing, "--dataset pictures/", "pictures does not exist. Name a folder"),
    ("an address", nothing, "--dataset s3://bucket/pictures", "--dataset must be on this machine, but got 's3://"),
    ("a broken link", make_link, PICTURES, "1 of 61 pictures cannot be read (gone.png: "),
    ("a loop of links", make_loop, PICTURES, "pictures does not exist. Name a folder"),
    (
        "duplicates",
        make_twice,
        PICTURES,
        "pictures has 30 validation pictures; it needs at least 50.\nLeft out 300 of 603",
    ),
    ("classes of one", make_classes, PICTURES, "pictures has 48 train pictures; it needs at least 200."),
    (
        "a few pixels",
        array(noise(2000, (1, 1))),
        NPY,
        "images.npy has 26 validation pictures; it needs at least 50.\nLeft out 1,74",
    ),
    ("test alone", lambda place: write(place / "pictures" / "test", noise(60)), PICTURES, "but no folder train"),
    ("train alone", arrays(train=noise(300)), "--dataset images.npz", "images.npz has 30 validation pictures"),
    ("no Parquet", array(noise(9), "a.parquet"), "--dataset a.parquet", "a.parquet cannot be read: Parquet magic"),
    (
        "a picture",
        lambda place: write(place, noise(1)),
        "--dataset 0.png",
        "0.png is a single picture: name the folder",
    ),
    ("floats", array(noise(300) / 255), NPY, "Round them to 256 levels with --levels 256,\nor convert: "),
    ("floats about 0", array(noise(300) / 127.5 - 1), NPY, "Convert, if -1 is black: ((images + 1) * 127.5).round()"),
    ("half a size", nothing, "--image-size 64x", "--image-size must be a number of pixels or WIDTHxHEIGHT"),
    ("all shares", nothing, "--test-share 0.95", "--test-share must be < 0.9 beside --validation-share 0.1, but got"),
    (
        "no likelihood",
        nothing,
        "--likelihood logistics",
        "one of bernoulli, categorical, continuous-bernoulli, gaussian",
    ),
]


AT_ONCE = {
    "no picture",
    "text files",
    "many sizes",
    "an object array",
    "NaN",
    "five channels",
    "zero images",
    "a size of 0",
    "a missing folder",
    "a loop of links",
    "a picture",
    "floats",
    "floats about 0",
}
"""Cases that a short look shows."""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working folder with a cache in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VAE_TUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.mark.parametrize(("make", "words", "message"), [case[1:] for case in WRONG], ids=[case[0] for case in WRONG])
def test_wrong_images_are_refused_in_two_lines_and_nothing_is_created(
    place, monkeypatch, capsys, make, words, message
):
    without_ray(monkeypatch)
    make(place)
    before = everything_below(place)
    code, _, errors = run(monkeypatch, capsys, *words.split())
    assert code == 2
    assert message in errors
    assert 1 <= len(errors.strip().splitlines()) <= 2
    assert everything_below(place) == before


@pytest.mark.parametrize("case", [case for case in WRONG if case[0] in AT_ONCE], ids=lambda case: case[0])
def test_what_a_short_look_shows_is_refused_before_ray_starts(place, monkeypatch, capsys, case):
    _, make, words, message = case
    make(place)
    monkeypatch.setattr(search_start, "running_ray", lambda *_: pytest.fail("Ray is started."))
    code, _, errors = run(monkeypatch, capsys, *words.split())
    assert code == 2
    assert message in errors


def test_a_resume_whose_pictures_are_gone_is_refused_before_ray_starts(place, monkeypatch, capsys):
    without_ray(monkeypatch)
    write(place / "pictures", noise(600))
    run(monkeypatch, capsys, *PICTURES.split(), "--study-name", "s")
    for picture in (place / "pictures").iterdir():
        picture.unlink()
    monkeypatch.setattr(search_start, "running_ray", lambda *_: pytest.fail("Ray is started."))
    code, _, errors = run(monkeypatch, capsys, "--resume", "results/s")
    assert code == 2
    assert errors.startswith("search.py: pictures holds no pictures.")


def test_a_folder_without_permission_is_refused_by_the_command_itself(place):
    write(place / "pictures" / "closed", noise(60))
    (place / "pictures" / "closed").chmod(0)
    try:
        ran = without_rights(place, "--dataset", "pictures")
    finally:
        (place / "pictures" / "closed").chmod(0o755)
    assert ran.returncode == 2, ran.stderr
    assert ran.stderr == "search.py: pictures/closed cannot be read: Permission denied.\n"
    assert sorted(os.listdir(place)) == ["pictures"]


def test_pictures_in_color_are_refused_by_their_three_channels_before_all_are_decoded(place, monkeypatch, capsys):
    without_ray(monkeypatch)
    monkeypatch.setattr("vae_tune.images.prepare.shared_memory_limit", lambda: 400 * 20 * 2)
    write(place / "pictures", noise(400))
    said = []
    monkeypatch.setattr("vae_tune.views.terminal.View.prepare", lambda _, done, total: said.append(done))
    code, _, errors = run(monkeypatch, capsys, *PICTURES.split())
    assert code == 2
    assert "This size fits: --image-size" in errors
    assert len(said) == 0


def test_what_may_be_used_is_used(place):
    """An animation gives its first frame, a link back to the folder nothing new, equal names in classes no clash."""
    for name, seed in (("cats", 1), ("dogs", 2)):
        write(place / "pictures" / name, noise(300, seed=seed))
    frames = [Image.fromarray(image) for image in noise(3, seed=3)]
    frames[0].save(place / "pictures" / "cats" / "moving.gif", save_all=True, append_images=frames[1:])
    (place / "pictures" / "again").symlink_to(place / "pictures")
    images = load_images(DataConfig(dataset="pictures"))
    assert len(images.train) + len(images.validation) + len(images.test) == 601
