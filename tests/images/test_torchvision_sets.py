"""torchvision's sets in color and of any size: read from its own file formats, split, prepared once."""

import hashlib
import io
import os
import pickle

import numpy as np
import pytest
import scipy.io
from PIL import Image
from torchvision import datasets

from tests.images.test_datasets import everything_in, refusal
from tests.images.test_prepare import noise, png, rows
from vae_tune.config.settings import DataConfig
from vae_tune.images import prepare, torchvision_sets
from vae_tune.images.datasets import load_images, load_labels

TRAIN, VALIDATION, TEST = 300, 50, 70
NOWHERE = "http://127.0.0.1:9/"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VAE_TUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    for kind in (datasets.CIFAR10, datasets.CIFAR100, datasets.STL10):
        monkeypatch.setattr(kind, "url", f"{NOWHERE}{kind.filename}")
    monkeypatch.setattr(datasets.Omniglot, "download_url_prefix", NOWHERE)
    svhn = {name: [NOWHERE + file, file, md5] for name, (_, file, md5) in datasets.SVHN.split_list.items()}
    monkeypatch.setattr(datasets.SVHN, "split_list", svhn)
    monkeypatch.setattr(datasets.DTD, "_URL", f"{NOWHERE}dtd.tar.gz")
    monkeypatch.setattr(datasets.USPS, "split_list", {"train": [f"{NOWHERE}a.bz2", "a.bz2", ""]})


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    return folder


def config_of(dataset, root, **options):
    return DataConfig(dataset=dataset, data_dir=root, validation_share=0.2, **options)


def images_of(dataset, root, **options):
    return load_images(config_of(dataset, root, **options))


def md5(content):
    return hashlib.md5(content).hexdigest()


def pictures(size=32):
    """Return distinct noise for training, validation and test, as (n, height, width, 3)."""
    every = noise(TRAIN + VALIDATION + TEST, (size, size, 3))
    return every[:TRAIN], every[TRAIN : TRAIN + VALIDATION], every[TRAIN + VALIDATION :]


def shuffled_labels(count):
    return [int(label) for label in np.random.default_rng(count).integers(0, 3, count)]


def as_rows(pictures):
    return rows(np.moveaxis(pictures, 3, 1))


def write_cifar(root, monkeypatch, kind=datasets.CIFAR10):
    """Write a tiny CIFAR as its authors do, and tell torchvision its checksums."""
    train, _, test = pictures()
    folder = root / kind.base_folder
    folder.mkdir()

    def write(name, content):
        data = pickle.dumps(content)
        (folder / name).write_bytes(data)
        return md5(data)

    def batch(images):
        labels = shuffled_labels(len(images))
        flat = np.ascontiguousarray(np.moveaxis(images, 3, 1)).reshape(len(images), -1)
        return {"data": flat, "labels" if kind is datasets.CIFAR10 else "fine_labels": labels}

    for name, images in (("train_list", train), ("test_list", test)):
        files = [file for file, _ in getattr(kind, name)]
        parts = np.array_split(images, len(files))
        sums = [[file, write(file, batch(part))] for file, part in zip(files, parts, strict=True)]
        monkeypatch.setattr(kind, name, sums)
    names = {kind.meta["key"]: ["cat", "dog", "ship"]}
    monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": write(kind.meta["filename"], names)})
    return folder


@pytest.mark.parametrize(("dataset", "kind"), [("cifar10", datasets.CIFAR10), ("cifar100", datasets.CIFAR100)])
def test_cifar_is_read_from_its_batches(root, monkeypatch, dataset, kind):
    write_cifar(root, monkeypatch, kind)
    images = images_of(dataset, root)
    train, _, test = pictures()
    assert images.train.shape == (240, 3, 32, 32)
    assert images.validation.shape == (60, 3, 32, 32)
    assert rows(images.train) | rows(images.validation) == as_rows(train)
    assert rows(images.test) == as_rows(test)
    monkeypatch.setattr(prepare, "prepare", None)
    assert images_of(dataset, root).sha256() == images.sha256()  # the second reading decodes nothing
    assert images_of(f"torchvision:{kind.__name__}", root).sha256() == images.sha256()


def test_labels_follow_the_pictures_of_cifar(root, monkeypatch):
    write_cifar(root, monkeypatch)
    config = config_of("cifar10", root)
    labels, classes = load_labels(config, "test")
    expected = dict(zip(map(bytes, np.moveaxis(pictures()[2], 3, 1)), shuffled_labels(TEST), strict=True))
    assert set(classes) == {"cat", "dog", "ship"}
    for image, label in zip(load_images(config).test, labels, strict=True):
        assert classes[label] == ["cat", "dog", "ship"][expected[bytes(image)]]


def test_validation_is_cut_by_the_sha256_of_the_pixels(root, monkeypatch):
    write_cifar(root, monkeypatch)
    ordered = sorted(np.moveaxis(pictures()[0], 3, 1), key=lambda image: hashlib.sha256(image.tobytes()).digest())
    images = images_of("cifar10", root)
    np.testing.assert_array_equal(images.validation, ordered[:60])
    np.testing.assert_array_equal(images.train, ordered[60:])


def test_a_file_that_fails_the_md5_check_is_not_unpickled(root, monkeypatch):
    folder = write_cifar(root, monkeypatch)
    (folder / "test_batch").write_bytes(pickle.dumps({"data": np.zeros((70, 3072), np.uint8), "labels": [0] * 70}))
    before = everything_in(root)
    message = refusal(config_of("cifar10", root))
    assert message == (
        f"cifar10 in {root} cannot be read: Dataset not found or corrupted. You can use download=True to download it\n"
        "Delete cifar-10-batches-py there, and torchvision will download the set again."
    )
    assert everything_in(root) == before


def test_svhn_is_read_from_its_mat_files(root, monkeypatch):
    sums = dict(datasets.SVHN.split_list)
    for name, images in (("train", pictures()[0]), ("test", pictures()[2])):
        path = root / sums[name][1]
        labels = np.array(shuffled_labels(len(images)))[:, None]
        scipy.io.savemat(path, {"X": images.transpose(1, 2, 3, 0), "y": np.where(labels == 0, 10, labels)})
        sums[name] = [*sums[name][:2], md5(path.read_bytes())]
    monkeypatch.setattr(datasets.SVHN, "split_list", sums)
    images = images_of("svhn", root)
    assert rows(images.train) | rows(images.validation) == as_rows(pictures()[0])
    assert rows(images.test) == as_rows(pictures()[2])
    assert set(load_labels(config_of("svhn", root), "test")[1]) == {"0", "1", "2"}


def test_stl10_is_read_from_its_binary_files_upright(root, monkeypatch):
    train, _, test = pictures(96)
    folder = root / "stl10_binary"
    folder.mkdir()
    contents = {
        "train_X.bin": train.transpose(0, 3, 2, 1).tobytes(),  # column by column, as its authors write it
        "train_y.bin": (np.array(shuffled_labels(TRAIN), np.uint8) + 1).tobytes(),
        "unlabeled_X.bin": b"",
        "test_X.bin": test.transpose(0, 3, 2, 1).tobytes(),
        "test_y.bin": (np.array(shuffled_labels(TEST), np.uint8) + 1).tobytes(),
        "class_names.txt": b"airplane\nbird\ncar\n",
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    for part in ("train_list", "test_list"):
        monkeypatch.setattr(
            datasets.STL10, part, [[name, md5(contents[name])] for name, _ in getattr(datasets.STL10, part)]
        )
    images = images_of("stl10", root)
    assert images.train.shape == (240, 3, 96, 96)
    assert rows(images.train) | rows(images.validation) == as_rows(train)
    assert rows(images.test) == as_rows(test)
    assert set(load_labels(config_of("stl10", root), "test")[1]) == {"airplane", "bird", "car"}
    assert images_of("stl10", root, image_size="24x16").train.shape == (240, 3, 16, 24)


def test_omniglot_trains_on_its_background_alphabets_and_tests_on_the_others(root, monkeypatch):
    folder = root / "omniglot-py"
    folder.mkdir()
    every = np.unique(np.random.default_rng(0).integers(0, 2, (400, 7, 9), np.uint8) * 255, axis=0)
    sets = {"images_background": ("Greek", every[:TRAIN]), "images_evaluation": ("Runes", every[TRAIN : TRAIN + TEST])}
    for name, (alphabet, images) in sets.items():
        (folder / f"{name}.zip").write_bytes(name.encode())
        for number, image in enumerate(images):
            place = folder / name / alphabet / f"character{number % 3:02}"
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).convert("1").save(place / f"{number:04}.png")
    monkeypatch.setattr(datasets.Omniglot, "zips_md5", {name: md5(name.encode()) for name in sets})
    images = images_of("omniglot", root)
    assert images.train.shape == (240, 1, 7, 9)
    assert rows(images.train) | rows(images.validation) == rows(sets["images_background"][1])
    assert rows(images.test) == rows(sets["images_evaluation"][1])
    config = config_of("omniglot", root)
    for split, alphabet in (("validation", "Greek"), ("test", "Runes")):
        labels, classes = load_labels(config, split)
        assert {classes[label].split("/")[0] for label in labels} == {alphabet}


def test_celeba_keeps_its_own_validation_split(root, monkeypatch):
    folder = root / "celeba"
    (folder / "img_align_celeba").mkdir(parents=True)
    parts, count = pictures(8), 0
    partition, ones = [], []
    for number, part in enumerate(parts):
        for image in part:
            count += 1
            (folder / "img_align_celeba" / f"{count:06}.jpg").write_bytes(png(image))  # no loss, unlike a real JPEG
            partition.append(f"{count:06}.jpg {number}")
            ones.append(f"{count:06}.jpg 1 1")
    header = [str(count), "a b"]
    tables = {
        "list_eval_partition.txt": partition,
        "identity_CelebA.txt": [line.rpartition(" ")[0] for line in ones],
        "list_bbox_celeba.txt": header + ones,
        "list_landmarks_align_celeba.txt": header + ones,
        "list_attr_celeba.txt": header + ones,
    }
    for name, lines in tables.items():
        (folder / name).write_text("\n".join(lines) + "\n")
    sums = [
        (link, md5((folder / name).read_bytes()) if name in tables else old, name)
        for link, old, name in datasets.CelebA.file_list
    ]
    monkeypatch.setattr(datasets.CelebA, "file_list", sums)
    images = images_of("celeba", root)
    for found, expected in zip((images.train, images.validation, images.test), parts, strict=True):
        assert rows(found) == as_rows(expected)
    assert load_labels(config_of("celeba", root), "test")[1] == []


def write_dtd(root):
    """Write a tiny DTD; one picture is half transparent."""
    labels = root / "dtd" / "dtd" / "labels"
    labels.mkdir(parents=True)
    parts = pictures(8)
    for part, images in zip(("train", "val", "test"), parts, strict=True):
        lines = []
        for number, image in enumerate(images):
            name = f"{'dotty' if number % 2 else 'woven'}/{part}{number}.png"
            path = root / "dtd" / "dtd" / "images" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(png(image))
            lines.append(name)
        (labels / f"{part}1.txt").write_text("\n".join(lines))
    clear = np.zeros((8, 8, 4), np.uint8)
    clear[0, 0] = (255, 0, 0, 255)
    Image.fromarray(clear).save(path)
    return parts


def test_any_other_class_of_pictures_in_splits_is_read_its_files_decoded_in_our_way(root):
    parts = write_dtd(root)
    images = images_of("torchvision:DTD", root)
    assert rows(images.train) == as_rows(parts[0])
    assert rows(images.validation) == as_rows(parts[1])
    white = np.full((1, 3, 8, 8), 255, np.uint8)
    white[0, :, 0, 0] = (255, 0, 0)
    assert rows(images.test) == as_rows(parts[2][:-1]) | rows(white)
    labels, classes = load_labels(config_of("torchvision:DTD", root), "validation")
    assert [np.sum(labels == classes.index(name)) for name in ("woven", "dotty")] == [25, 25]


@pytest.mark.parametrize("hashed", [0, torchvision_sets._HASHED])
def test_a_changed_file_is_prepared_anew(root, monkeypatch, hashed):
    monkeypatch.setattr(torchvision_sets, "_HASHED", hashed)
    write_dtd(root)
    path = root / "dtd" / "dtd" / "images" / "woven" / "train0.png"
    before = images_of("torchvision:DTD", root)
    os.utime(path, (1, 1))
    with monkeypatch.context() as patched:
        if hashed:  # the bytes are the same
            patched.setattr(prepare, "prepare", None)
        assert images_of("torchvision:DTD", root).sha256() == before.sha256()
    path.write_bytes(png(noise(1, (8, 8, 3), seed=5)[0]))
    if hashed:
        os.utime(path, (1, 1))
    assert images_of("torchvision:DTD", root).sha256() != before.sha256()


@pytest.mark.parametrize("dataset", ["cifar10", "cifar100", "svhn", "stl10", "omniglot", "torchvision:DTD"])
@pytest.mark.parametrize("place", [None, "data", "data/not/there/yet"])
def test_a_failed_download_is_told_in_two_lines_and_creates_nothing(tmp_path, root, dataset, place):
    config = DataConfig(dataset=dataset, data_dir=tmp_path / place if place else None)
    first, second = refusal(config).splitlines()
    where = config.data_dir or tmp_path / "cache" / "torchvision"
    assert first.startswith(f"{dataset} is not in {where}")
    assert "could not be downloaded: " in first
    assert "refused" in first
    assert "--data-dir" in second
    assert everything_in(tmp_path) == [root]


def test_nothing_is_downloaded_into_a_folder_that_holds_other_things(root):
    (root / "letters").mkdir()
    assert refusal(config_of("cifar10", root)).startswith(
        f"data_dir {root} does not hold CIFAR10, but 'letters': nothing is written into such a folder.\n"
    )


def test_a_cache_that_holds_prepared_pictures_still_takes_mnist(tmp_path, root):
    write_dtd(root)
    images_of("torchvision:DTD", root)
    (tmp_path / "cache" / "torchvision").mkdir()
    assert {path.name for path in (tmp_path / "cache").iterdir()} == {"prepared", "torchvision"}
    assert load_images(DataConfig(train_size=10)).shape == (1, 28, 28)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("CIFAR11", "has no data set 'CIFAR11'. Did you mean"),
        ("ImageFolder", "it does not take train= or split="),
        ("Kinetics", "it also needs frames_per_clip"),
        ("PhotoTour", "it also needs name"),
        ("FER2013", "torchvision does not download it"),
        ("MovingMNIST", "its items are videos"),
        ("FashionMNIST", "has a short name in vae_tune. Use fashion-mnist."),
        ("VOCDetection", "it does not take train= or split="),
    ],
)
def test_other_classes_are_refused_by_name_with_the_reason(root, name, words):
    message = refusal(DataConfig(dataset=f"torchvision:{name}", data_dir=root))
    assert words in message
    assert name in message
    assert message.count("\n") <= 1
    assert everything_in(root) == []


def test_a_class_whose_items_are_no_pictures_is_refused(root, monkeypatch):
    write_dtd(root)
    monkeypatch.setattr(datasets.DTD, "__getitem__", lambda self, index: (index, "label"))
    assert refusal(config_of("torchvision:DTD", root)) == (
        "torchvision:DTD cannot be used: its items are (int, str), not one picture each."
    )


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "1"])
def test_pictures_that_torchvision_opened_itself_are_converted_rightly(root, monkeypatch, mode):
    write_dtd(root)

    def item(self, index):
        with Image.open(io.BytesIO(self.loader(self._image_files[index]))) as picture:
            return picture.convert("RGB").quantize(16) if mode == "P" else picture.convert(mode), 0

    monkeypatch.setattr(datasets.DTD, "__getitem__", item)
    images = images_of("torchvision:DTD", root)
    expected = []
    for path in (root / "dtd").rglob("train*.png"):
        picture = Image.open(path)
        picture = picture.quantize(16) if mode == "P" else picture.convert(mode)
        expected.append(np.asarray(picture.convert("RGB")))
    found = images.train if images.shape[0] == 3 else np.repeat(images.train, 3, axis=1)
    assert rows(found) == as_rows(np.stack(expected))
