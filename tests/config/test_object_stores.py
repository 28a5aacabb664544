"""Amazon's store and Google's heed the conditions of a write alike; the stores are real servers on loopback."""

from __future__ import annotations

import sys

import pytest

from tests.stores import BUCKET, google, s3
from vae_tune.config.object_stores import Changed, Refused, open_store


@pytest.fixture(scope="module")
def servers():
    with s3() as amazon, google() as other:
        yield {"s3:": amazon, "gs:": other}


@pytest.fixture(params=["s3:", "gs:"])
def store(request, servers, monkeypatch):
    server = servers[request.param]
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    bucket = open_store(request.param, BUCKET)
    for name in bucket.list("", deep=True).versions:
        bucket.delete(name)
    return bucket


def test_a_write_replaces_only_the_version_that_it_expects(store):
    first = store.write("a/file", b"1", None)
    assert first == store.stat("a/file").version
    with pytest.raises(Changed):
        store.write("a/file", b"2", None)
    second = store.write("a/file", b"2", first)
    assert second != first
    with pytest.raises(Changed):
        store.write("a/file", b"3", first)
    assert store.read("a/file") == b"2"
    store.write("a/file", b"4")  # whatever is there


def test_a_write_that_expects_an_object_makes_no_other(store):
    version = store.write("file", b"1")
    store.delete("file")
    with pytest.raises(Changed):
        store.write("file", b"2", version)
    assert store.stat("file") is None


def test_only_the_version_that_is_expected_is_deleted(store):
    first = store.write("file", b"1")
    second = store.write("file", b"2")
    with pytest.raises(Changed):
        store.delete("file", first)
    assert store.read("file") == b"2"
    store.delete("file", second)
    store.delete("file", second)
    store.delete("file")
    with pytest.raises(FileNotFoundError):
        store.read("file")


def test_the_store_tells_how_long_ago_an_object_was_written(store):
    assert store.stat("file") is None
    store.write("file", b"1")
    assert -2 < store.stat("file").age < 30  # of stores' clocks some tell whole seconds alone


def test_a_folder_is_listed_alone_or_with_all_below_it(store):
    versions = {name: store.write(name, b"1") for name in ("a", "f/b", "f/c d?", "f/g/e", "fish")}
    assert store.list("f", deep=True).versions == {name: versions[name] for name in ("f/b", "f/c d?", "f/g/e")}
    assert store.list("f", deep=False) == ({name: versions[name] for name in ("f/b", "f/c d?")}, {"f/g"})
    assert store.list("", deep=False).folders == {"f"}


@pytest.mark.parametrize(("scheme", "package"), [("s3:", "boto3"), ("gs:", "google.auth")])
def test_a_missing_package_is_named_with_its_remedy(scheme, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(Refused) as raised:
        open_store(scheme, "no-bucket-yet")
    name = package.replace(".", "-")
    assert str(raised.value) == f"{scheme}// needs the package {name}: pip install 'vae-tune[cluster]'"


@pytest.mark.parametrize(("status", "passes"), [(503, True), (429, True), (403, False), (501, False)])
def test_what_waiting_mends_is_told_from_what_it_does_not(servers, monkeypatch, status, passes):
    server = servers["gs:"]
    monkeypatch.setattr(server, "fail", lambda method, name: status)
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(OSError, match="A bad day") as raised:
        open_store("gs:", BUCKET).write("file", b"1")
    assert isinstance(raised.value, Refused) != passes
