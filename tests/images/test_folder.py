"""Which files of a folder are pictures, and which split and class each belongs to."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from vae_tune.config.errors import UsageError
from vae_tune.images.folder import list_folder


def draw(path, value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 4), value, np.uint8)).save(path)
    return path


def test_every_picture_below_it_is_listed_by_relative_path_and_the_rest_is_counted_once(tmp_path):
    for name in ("b/2.PNG", "b/1.jpeg", "a.gif", "c/deep/er/x.webp", "y.bmp", "z.tiff"):
        draw(tmp_path / name)
    for name in ("notes.txt", "b/Thumbs.db", ".hidden.png", ".cache/x.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    found = list_folder(tmp_path)
    assert [source.name for source in found.sources] == [
        "a.gif",
        "b/1.jpeg",
        "b/2.PNG",
        "c/deep/er/x.webp",
        "y.bmp",
        "z.tiff",
    ]
    assert found.notes == [f"Left out 2 other files and 2 hidden files in {tmp_path}."]
    assert found.classes == []  # some pictures lie in no folder


@pytest.mark.parametrize(
    ("train", "validation", "test"),
    [("train", "val", "test"), ("Training", "dev", "eval"), ("train", "valid", "testing")],
)
def test_top_folders_named_as_splits_are_the_splits_and_the_folders_below_them_classes(
    tmp_path, train, validation, test
):
    for split in (train, validation, test):
        for name in ("cat", "dog"):
            draw(tmp_path / split / name / "1.png")
    found = list_folder(tmp_path)
    assert found.classes == ["cat", "dog"]
    assert {(source.name, source.split, source.label) for source in found.sources} == {
        (f"{folder}/{name}/1.png", split, label)
        for folder, split in ((train, "train"), (validation, "validation"), (test, "test"))
        for label, name in enumerate(("cat", "dog"))
    }


def test_split_words_in_file_names_and_deeper_folders_mean_nothing(tmp_path):
    draw(tmp_path / "camera" / "test.png")
    draw(tmp_path / "camera" / "train" / "1.png")
    draw(tmp_path / "lens" / "my train set.png")
    found = list_folder(tmp_path)
    assert {source.split for source in found.sources} == {None}
    assert found.classes == ["camera", "lens"]


def test_one_folder_is_no_class(tmp_path):
    draw(tmp_path / "all" / "1.png")
    assert list_folder(tmp_path).classes == []


def test_a_link_to_a_folder_is_followed_and_a_circle_of_links_is_not(tmp_path):
    draw(tmp_path / "elsewhere" / "1.png")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "photos" / "circle").symlink_to(tmp_path / "photos")
    assert [source.name for source in list_folder(tmp_path / "photos").sources] == ["linked/1.png"]


def refusal(folder):
    with pytest.raises(UsageError) as raised:
        list_folder(folder)
    return str(raised.value)


def test_a_folder_without_pictures_is_refused_with_what_it_holds(tmp_path):
    assert refusal(tmp_path).startswith(f"{tmp_path} holds no pictures.\nA picture ends in .bmp, .gif,")
    (tmp_path / "a.txt").write_text("")
    assert refusal(tmp_path).startswith(f"{tmp_path} holds no pictures, but 1 other file.\n")


def test_pictures_beside_split_folders_are_refused(tmp_path):
    draw(tmp_path / "train" / "1.png")
    draw(tmp_path / "extra" / "2.png")
    assert refusal(tmp_path) == (
        f"{tmp_path} has split folders, but 1 pictures lie outside of them (extra/2.png).\n"
        "Move these into train, validation or test."
    )


def test_splits_without_train_and_two_folders_for_one_split_are_refused(tmp_path):
    draw(tmp_path / "test" / "1.png")
    assert refusal(tmp_path) == f"{tmp_path} has a folder for test, but no folder train or training."
    draw(tmp_path / "train" / "1.png")
    draw(tmp_path / "eval" / "1.png")
    assert refusal(tmp_path) == f"{tmp_path} has 2 folders for test: eval, test. Keep one."


def test_a_folder_without_permission_is_refused(tmp_path):
    draw(tmp_path / "closed" / "1.png")
    (tmp_path / "closed").chmod(0)
    code = (
        "import os, sys; from pathlib import Path; from vae_tune.images.folder import list_folder\n"
        "os.geteuid() or os.setegid(65534) or os.seteuid(65534)\n"  # root may read everything, nobody may not
        "list_folder(Path(sys.argv[1]))"
    )
    for folder in (tmp_path, *tmp_path.parents[:3]):
        folder.chmod(0o755)
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert f"{tmp_path}/closed cannot be read: Permission denied." in done.stderr
