"""Prepared pictures are kept in the cache whole, under a key that is theirs alone, and come back without a copy."""

import os
import pickle

import numpy as np

from tests.images.test_prepare import noise, run, source
from vae_tune.images.decoding import Form
from vae_tune.images.prepare import SPLITS, Options
from vae_tune.images.prepared_cache import key_of, read_prepared, write_prepared


def test_what_was_prepared_comes_back_from_the_cache(tmp_path):
    prepared = run(
        [source(image, label=number % 2) for number, image in enumerate([*noise(30), noise(1)[0]])], classes=["a", "b"]
    )
    write_prepared(tmp_path / "cache" / "key", prepared)
    write_prepared(tmp_path / "cache" / "key", prepared)  # another process was faster
    again = read_prepared(tmp_path / "cache" / "key")
    for name in SPLITS:
        assert np.array_equal(again.splits[name], prepared.splits[name])
        assert np.array_equal(again.labels[name], prepared.labels[name])
    assert (again.classes, again.notes) == (["a", "b"], ["Left out 1 of 31 pictures as duplicates."])
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["key"]


def test_who_shares_the_cache_may_read_what_another_user_has_prepared(tmp_path):
    before = os.umask(0o022)
    try:
        write_prepared(tmp_path / "key", run([source(image) for image in noise(30)]))
    finally:
        os.umask(before)
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o755
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "key").iterdir()} == {0o644}


def test_prepared_images_are_pickled_without_their_pixels_so_that_workers_share_them(tmp_path):
    prepared = run([source(image) for image in noise(30)])
    write_prepared(tmp_path / "key", prepared)
    for splits in (prepared.splits, read_prepared(tmp_path / "key").splits):
        beside: list[pickle.PickleBuffer] = []
        pickled = pickle.dumps(splits, protocol=5, buffer_callback=beside.append)
        assert len(pickled) < 1000
        assert [buffer.raw().nbytes for buffer in beside] == [images.nbytes for images in splits.values()]
        assert all(images.flags.c_contiguous for images in splits.values())


def test_the_key_is_that_of_the_bytes_names_options_and_code():
    files = [("a.png", b"12"), ("b.png", b"3")]
    keys = {
        key_of(files, Options(), "1"),
        key_of([("a.png", b"1"), ("b.png", b"23")], Options(), "1"),
        key_of([("a.png", b"12"), ("c.png", b"3")], Options(), "1"),
        key_of(files, Options(Form((8, 8))), "1"),
        key_of(files, Options(), "2"),
    }
    assert len(keys) == 5
