"""Arrays in files: which layouts and types are images, and what is said of the others."""

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from tests.images.test_prepare import noise, png, run
from vae_tune.config.errors import UsageError
from vae_tune.images.arrays import as_images, parquet_sources, read_arrays


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((7, 5, 6), (7, 5, 6)),
        ((7, 5, 6, 1), (7, 5, 6)),
        ((7, 1, 5, 6), (7, 5, 6)),
        ((7, 5, 6, 3), (7, 5, 6, 3)),
        ((7, 3, 5, 6), (7, 5, 6, 3)),
    ],
)
def test_three_layouts_are_images(shape, expected):
    array = np.arange(np.prod(shape)).reshape(shape).astype(np.uint8)
    images = as_images(array, "x", None)
    assert images.shape == expected
    first = array[0, :, 1, 2] if shape[1] == 3 else array.reshape(7, 5, 6, -1)[0, 1, 2]
    assert np.array_equal(np.atleast_1d(images[0, 1, 2]), first)


def refusal(array, levels=None):
    with pytest.raises(UsageError) as raised:
        as_images(np.asarray(array), "x", levels)
    return str(raised.value)


def test_another_type_is_refused_with_the_line_that_converts_and_that_line_does():
    for array, line in (
        (np.full((2, 4, 4), 200, np.int64), "images.clip(0, 255).astype('uint8')"),
        (np.full((2, 4, 4), 199.6), "images.round().clip(0, 255).astype('uint8')"),
        (np.full((2, 4, 4), 0.5), "(images * 255).round().astype('uint8')"),
        (np.full((2, 4, 4), True), "images.astype('uint8') * 255"),
    ):
        assert refusal(array).endswith(line)
        assert as_images(eval(line, {"images": array}), "x", None).shape == (2, 4, 4)


def test_floats_become_256_levels_only_where_these_are_asked_for():
    assert "--levels 256" in refusal(np.full((2, 4, 4), 0.5))
    assert as_images(np.array([[[0, 0.5, 1]]]), "x", 256).tolist() == [[[0, 128, 255]]]
    assert "NaN" in refusal(np.full((2, 4, 4), np.nan), 256)


def test_other_shapes_are_refused():
    assert "(2, 5, 4, 5)" in refusal(np.zeros((2, 5, 4, 5), np.uint8))  # five channels
    assert "could be (n, h, w, c) or (n, c, h, w)" in refusal(np.zeros((2, 3, 8, 3), np.uint8))
    assert "(4, 4)" in refusal(np.zeros((4, 4), np.uint8))
    assert "holds no images" in refusal(np.zeros((0, 4, 4), np.uint8))
    assert "holds no images" in refusal(np.zeros((9, 0, 4), np.uint8))


def test_a_file_of_one_array_has_no_splits(tmp_path):
    images = noise(5)
    np.save(tmp_path / "a.npy", images)
    np.savez(tmp_path / "b.npz", images)
    np.savez_compressed(tmp_path / "c.npz", data=images, about=np.zeros(3))
    for name in ("a.npy", "b.npz", "c.npz"):
        found, labels = read_arrays(tmp_path / name, None)
        assert labels == {}
        assert list(found) == [None]
        assert np.array_equal(found[None], images)


def test_named_arrays_are_the_splits_with_their_labels(tmp_path):
    train, test = noise(5), noise(3, seed=1)
    np.savez(tmp_path / "own.npz", train=train, test=test)
    found, labels = read_arrays(tmp_path / "own.npz", None)
    assert (list(found), labels) == (["train", "test"], {})
    np.savez(
        tmp_path / "medmnist.npz",
        train_images=train,
        val_images=test,
        test_images=test,
        train_labels=np.arange(5)[:, None],
        val_labels=np.arange(3)[:, None],
        test_labels=np.arange(3)[:, None],
    )
    found, labels = read_arrays(tmp_path / "medmnist.npz", None)
    assert list(found) == list(labels) == ["train", "validation", "test"]
    assert labels["train"].tolist() == [0, 1, 2, 3, 4]


def test_a_synonym_of_a_split_names_it_and_its_labels(tmp_path):
    images, numbers = noise(9), np.arange(9)
    np.savez(tmp_path / "a.npz", Train=images[:4], val=images[4:7], Eval=images[7:], about=np.zeros((2, 2)))
    found, labels = read_arrays(tmp_path / "a.npz", None)
    assert {split: len(each) for split, each in found.items()} == {"train": 4, "validation": 3, "test": 2}
    assert labels == {}
    np.savez(tmp_path / "b.npz", dev=images[4:], dev_labels=numbers[4:], train=images[:4], train_labels=numbers[:4])
    found, labels = read_arrays(tmp_path / "b.npz", None)
    assert [labels[split].tolist() for split in found] == [[0, 1, 2, 3], [4, 5, 6, 7, 8]]


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (("train", "holdout", "test"), "also holds holdout, which may be images"),
        (("train", "test", "data"), "also holds data,"),
        (("images", "masks"), "also holds masks,"),
        (("train", "val", "valid"), "holds 2 arrays for validation: val, valid. Keep one."),
        (("train", "train_images"), "holds 2 arrays for train: train, train_images."),
    ],
)
def test_no_array_of_images_is_dropped_silently(keys, words, tmp_path):
    np.savez(tmp_path / "a.npz", **dict.fromkeys(keys, noise(3)))
    with pytest.raises(UsageError, match=words):
        read_arrays(tmp_path / "a.npz", None)


def test_python_objects_are_never_loaded(tmp_path):
    np.save(tmp_path / "a.npy", np.array([object()]), allow_pickle=True)
    np.savez(tmp_path / "b.npz", train=np.array([{}]))
    for name in ("a.npy", "b.npz"):
        with pytest.raises(UsageError, match="holds Python objects, which vae_tune does not load"):
            read_arrays(tmp_path / name, None)


def test_a_damaged_file_and_unknown_names_are_refused(tmp_path):
    (tmp_path / "a.npy").write_bytes(b"text")
    (tmp_path / "b.npz").write_bytes(b"PK\x03\x04")
    for name in ("a.npy", "b.npz"):
        with pytest.raises(UsageError, match="cannot be read"):
            read_arrays(tmp_path / name, None)
    np.savez(tmp_path / "c.npz", left=np.zeros(1), right=np.zeros(1))
    with pytest.raises(UsageError, match="holds left, right"):
        read_arrays(tmp_path / "c.npz", None)


def write_parquet(path, images, labels=None, kept=True):
    cells = [{"bytes": png(image) if kept else None, "path": "x.png"} for image in images]
    columns = {"image": pa.array(cells, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))}
    if labels is not None:
        columns["label"] = pa.array(labels, pa.int64())
    parquet.write_table(pa.table(columns), path)
    return path


def test_parquet_as_hugging_face_writes_it_holds_pictures_and_labels(tmp_path):
    images = noise(20)
    sources, classes = parquet_sources(write_parquet(tmp_path / "a.parquet", images, [4, 7] * 10))
    assert classes == ["4", "7"]
    prepared = run(sources, classes=classes)
    together = np.concatenate(list(prepared.splits.values()))
    assert {image.tobytes() for image in together} == {image.transpose(2, 0, 1).tobytes() for image in images}
    assert sum(labels.sum() for labels in prepared.labels.values()) == 10


def test_parquet_without_bytes_or_without_images_is_refused(tmp_path):
    with pytest.raises(UsageError, match="no bytes for 2 of 2"):
        parquet_sources(write_parquet(tmp_path / "a.parquet", noise(2), kept=False))
    parquet.write_table(pa.table({"x": [1]}), tmp_path / "b.parquet")
    with pytest.raises(UsageError, match="no column of images"):
        parquet_sources(tmp_path / "b.parquet")
    (tmp_path / "c.parquet").write_bytes(b"text")
    with pytest.raises(UsageError, match="cannot be read"):
        parquet_sources(tmp_path / "c.parquet")
