"""Pictures are decoded once, used once, and split by their pixels alone."""

import io
import random
from itertools import chain

import numpy as np
import pytest
from PIL import Image

from vae_tune.config.errors import UsageError
from vae_tune.images.decoding import Form
from vae_tune.images.prepare import SPLITS, Options, Source, check_sizes, prepare, refuse_too_large


def png(array):
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(array, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def noise(count, shape=(4, 5, 3), seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), np.uint8)


def source(array, name="x", split=None, label=None):
    data = png(array)
    return Source(name, lambda: data, split, label)


def run(sources, options=None, classes=(), workers=2, progress=lambda done, total: None):
    return prepare(sources, options or Options(), classes, workers, progress)


def rows(images):
    return {image.tobytes() for image in images}


def test_pixels_alone_decide_the_splits():
    images = list(noise(100))
    first = run([source(image, f"a{number}") for number, image in enumerate(images)])
    random.Random(1).shuffle(images)
    second = run([source(image, f"b{number}") for number, image in enumerate(images)], workers=1)
    assert [len(first.splits[name]) for name in SPLITS] == [80, 10, 10]
    assert first.splits["train"].shape == (80, 3, 4, 5)
    for name in SPLITS:
        assert np.array_equal(first.splits[name], second.splits[name])


def test_each_distinct_picture_is_used_once_and_the_duplicates_are_counted():
    images = [*noise(50), *noise(50)[:20]]
    prepared = run([source(image) for image in images])
    assert prepared.notes == ["Left out 20 of 70 pictures as duplicates."]
    assert rows(chain(*prepared.splits.values())) == rows(np.moveaxis(noise(50), 3, 1))
    assert sum(map(len, prepared.splits.values())) == 50


def test_a_picture_in_two_given_splits_stays_in_the_later_one():
    images = noise(12)
    splits = ["train"] * 4 + ["validation"] * 4 + ["test"] * 4
    prepared = run(
        [
            *(source(image, split=name) for image, name in zip(images, splits, strict=True)),
            source(images[4], split="train"),
            source(images[8], split="train"),
            source(images[9], split="validation"),
        ]
    )
    assert [len(prepared.splits[name]) for name in SPLITS] == [4, 4, 4]
    assert rows(prepared.splits["test"]) == rows(np.moveaxis(images[8:], 3, 1))


def test_what_is_missing_of_given_splits_is_cut_from_train():
    images = noise(40)
    names = ["train"] * 30 + ["test"] * 10
    prepared = run(
        [source(image, split=name) for image, name in zip(images, names, strict=True)], Options(validation_share=0.2)
    )
    assert [len(prepared.splits[name]) for name in SPLITS] == [24, 6, 10]


def test_auto_is_grey_only_if_every_picture_is():
    grey = [np.repeat(image, 3, 2) for image in noise(20, (4, 5, 1))]
    assert run([source(image) for image in grey]).splits["train"].shape[1] == 1
    mixed = run([source(image) for image in [*grey, *noise(1)]])
    assert mixed.splits["train"].shape[1] == 3
    assert run([source(image) for image in noise(20)], Options(colour="grey")).splits["train"].shape[1] == 1
    assert run([source(image) for image in grey], Options(colour="rgb")).splits["train"].shape[1] == 3


def test_labels_follow_their_pictures():
    images = noise(30)
    prepared = run([source(image, label=int(image[0, 0, 0])) for image in images], classes=["a", "b"])
    for name in SPLITS:
        assert np.array_equal(prepared.labels[name], prepared.splits[name][:, 0, 0, 0])


def test_mixed_sizes_are_refused_with_a_count_and_taken_with_a_size():
    sources = [source(image) for image in [*noise(3, (90, 100, 3)), *noise(5, (80, 70, 3)), *noise(1, (9, 9, 3))]]
    with pytest.raises(UsageError) as raised:
        run(sources)
    assert str(raised.value) == (
        "The pictures have 3 sizes, most often 70x80 (5 pictures).\nChoose one: --image-size 64"
    )
    assert run(sources, Options(Form((8, 6)))).splits["train"].shape[1:] == (3, 8, 6)


def test_few_unreadable_pictures_are_named_and_many_are_refused():
    sources = [source(image) for image in noise(299)]
    broken = Source("half.png", lambda: png(noise(1)[0])[:60])
    assert run([*sources, broken]).notes == [
        "Left out 1 of 300 pictures that cannot be read (half.png: image file is truncated)."
    ]
    with pytest.raises(UsageError) as raised:
        run([*sources[:50], broken])
    assert str(raised.value).splitlines()[0].startswith("1 of 51 pictures cannot be read (half.png: ")


def test_progress_is_told_of_each_picture():
    calls = []
    run([source(image) for image in noise(7)], progress=lambda *call: calls.append(call))
    assert calls == [(number, 7) for number in range(1, 8)]


def test_too_few_pictures_are_refused_and_few_warned_of():
    def splits(train, validation, test):
        return dict(zip(SPLITS, (np.empty((n, 1, 2, 2), np.uint8) for n in (train, validation, test)), strict=True))

    for sizes, words in (((199, 50, 1), "199 train pictures"), ((200, 49, 1), "49 validation pictures")):
        with pytest.raises(UsageError, match=words):
            check_sizes(splits(*sizes), "photos")
    with pytest.raises(UsageError, match="has no test pictures"):
        check_sizes(splits(200, 50, 0), "photos")
    assert check_sizes(splits(999, 50, 1), "photos").startswith("Only 999 training pictures")
    assert check_sizes(splits(1000, 50, 1), "photos") is None


def test_more_than_shared_memory_holds_is_refused_with_a_size_that_fits():
    refuse_too_large(100, (3, 10, 20), 60_000)
    with pytest.raises(UsageError, match=r"image-size 14x7$"):
        refuse_too_large(100, (3, 10, 20), 30_000)
    refuse_too_large(100, (3, 7, 14), 30_000)
