"""Files on this machine and on object storage are used alike; the stores are real servers on loopback."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.stores import BUCKET, gcs, s3
from vae_tune.config import local_copies, storage
from vae_tune.config.errors import UsageError
from vae_tune.config.fields import from_dict, to_dict
from vae_tune.config.files import absolute, address, is_remote
from vae_tune.config.settings import SearchConfig


@pytest.fixture(scope="module")
def server():
    with s3() as store:
        yield store


@pytest.fixture
def amazon(server, monkeypatch):
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    server.every = 0
    return server


@pytest.fixture(scope="module")
def google():
    with gcs() as environment:
        yield environment


@pytest.fixture(params=["disk", "s3", "gs"])
def place(request, tmp_path, monkeypatch):
    """A folder that is not there yet: on disk, in a bucket of Amazon's, in one of Google's."""
    if request.param == "disk":
        return tmp_path / "place"
    if request.param == "s3":
        request.getfixturevalue("amazon")
    else:
        for name, value in request.getfixturevalue("google").items():
            monkeypatch.setenv(name, value)
    return Path(f"{request.param}://{BUCKET}/{tmp_path.name}")


def test_what_is_written_is_read(place):
    for size in (0, 5, 12_000_000):  # nothing; one request; a multipart upload
        storage.write_bytes(place / "deep" / "file", b"x" * size)
        assert storage.read_bytes(place / "deep" / "file") == b"x" * size


def test_what_is_missing_is_told_from_what_fails(place):
    with pytest.raises(FileNotFoundError):
        storage.read_bytes(place / "file")
    assert not storage.exists(place / "file")
    assert storage.list_folder(place) == (set(), set())
    storage.delete(place / "file")
    storage.delete_folder(place)


def test_files_and_folders_are_listed_level_by_level(place):
    for name in ("a", "b", "c/d", "c/e/f"):
        storage.write_bytes(place / name, b"1")
    assert storage.list_folder(place) == ({"a", "b"}, {"c"})
    assert storage.exists(place / "c" / "e" / "f")


def test_a_file_is_deleted_alone_and_a_folder_with_all_below_it(place):
    for name in ("a", "b", "c/d", "c/e/f"):
        storage.write_bytes(place / name, b"1")
    storage.delete(place / "a")
    storage.delete_folder(place / "c")
    assert storage.list_folder(place) == ({"b"}, set())


def test_a_file_here_that_was_opened_is_read_even_after_it_was_deleted(place):
    storage.write_bytes(place / "file", b"1")
    read = storage.open_bytes(place / "file")
    storage.delete(place / "file")
    if is_remote(place):
        with pytest.raises(FileNotFoundError):
            read()
    else:
        assert read() == b"1"


def test_object_storage_needs_no_folder(place):
    assert storage.folder_exists(place) == is_remote(place)
    storage.write_bytes(place / "file", b"1")
    assert storage.folder_exists(place)


def test_an_absolute_path_leaves_object_storage_as_it_is(place):
    assert absolute(place) == place
    assert absolute(Path("results")) == Path.cwd() / "results"


def test_a_store_that_fails_now_and_then_is_asked_again(amazon, tmp_path):
    amazon.every = 3
    place = Path(f"s3://{BUCKET}/{tmp_path.name}")
    for number in range(9):
        storage.write_bytes(place / str(number), str(number).encode())
    assert [storage.read_bytes(place / str(number)) for number in range(9)] == [b"%d" % n for n in range(9)]
    assert amazon.failures > 3


def test_a_store_that_stays_away_is_named_in_one_line(monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret-of-the-tests")
    with pytest.raises(OSError, match=r"^s3://bucket/file: Could not connect to .*http://127.0.0.1:9/") as raised:
        storage.write_bytes(Path("s3://bucket/file"), b"1", 0.1)
    assert "\n" not in str(raised.value)
    assert os.environ["AWS_SECRET_ACCESS_KEY"] not in str(raised.value)


def test_where_there_is_no_such_bucket_nobody_waits_for_it(amazon):
    asked = amazon.requests
    with pytest.raises(OSError, match=r"^s3://nobucket/file: .*NoSuchBucket.*PutObject"):
        storage.write_bytes(Path("s3://nobucket/file"), b"1", 600)
    assert amazon.requests < asked + 10


def test_a_path_on_object_storage_is_written_as_its_users_write_it():
    place = Path("s3://bucket/vae") / "study"
    assert is_remote(place)
    assert address(place) == "s3://bucket/vae/study"
    assert place == Path("s3:/bucket/vae/study")  # as pathlib prints it: pasted again it still names the same
    assert address(Path("results/study")) == "results/study"


def test_the_record_holds_the_address(tmp_path):
    values = to_dict(SearchConfig(results_dir=Path("gs://bucket/vae")))
    assert values["results_dir"] == "gs://bucket/vae"
    assert from_dict(SearchConfig, values).results_dir == Path("gs://bucket/vae")


@pytest.mark.parametrize("text", ["ftp://host/vae", "http://host/x", "s3:", "gs://"])
def test_what_is_no_object_storage_is_refused(text):
    with pytest.raises(UsageError, match="is neither a folder nor one of s3://BUCKET/"):
        SearchConfig(results_dir=Path(text))


@pytest.mark.parametrize("option", ["results_dir", "resume"])
def test_a_login_in_an_address_is_refused_unheard(option):
    with pytest.raises(UsageError, match="without a login") as raised:
        SearchConfig(**{option: Path("s3://KEY:hush@bucket/vae")})
    assert "hush" not in str(raised.value)


def test_a_study_is_copied_without_what_is_large(amazon, tmp_path):
    place = Path(f"s3://{BUCKET}/{tmp_path.name}")
    for name in ("study.json", "best/config.json", "checkpoints/trial_00000/epoch_0001.safetensors", "study.lock"):
        storage.write_bytes(place / name, name.encode())
    folder = local_copies.local_copy(place)
    assert folder.name == place.name
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    assert names == ["best/config.json", "copy.json", "study.json"]


def test_where_there_is_no_study_nothing_is_copied(amazon):
    with pytest.raises(UsageError, match=r"^s3://bucket/nowhere is no study: study\.json is missing\.$"):
        local_copies.local_copy(Path(f"s3://{BUCKET}/nowhere"))


def test_only_the_record_belongs_on_object_storage(tmp_path):
    names = ["study.json", "best/a.png", "confirmation/trials.csv", "ray/driver.log"]
    others = [
        "study.lock",
        "copy.json",
        "ray/tuner.pkl",
        ".a.tmp",
        "checkpoints/trial_00000/x",
        "confirmation/checkpoints/t/x",
    ]
    for name in names + others:
        storage.write_bytes(tmp_path / name, b"1")
    found = sorted(str(path.relative_to(tmp_path)) for path in local_copies.record_files(tmp_path))
    assert found == sorted(names)
