"""The token of a Ray is its owner's alone."""

from __future__ import annotations

import os

import pytest

from vae_tune.cluster.auth_token import ensure_private_token, make_token


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def test_a_token_has_256_random_bits_and_its_owner_alone_may_read_it(tmp_path):
    first, second = (make_token(tmp_path / "somewhere" / name) for name in ("a", "b"))
    assert first.stat().st_mode & 0o777 == 0o600
    assert first.parent.stat().st_mode & 0o077 == 0
    assert len(bytes.fromhex(first.read_text())) == 32
    assert first.read_text() != second.read_text()
    assert sorted(path.name for path in first.parent.iterdir()) == ["a", "b"]


def test_a_token_that_is_there_stays(tmp_path):
    (tmp_path / "token").write_text("mine")
    assert make_token(tmp_path / "token") is None
    assert (tmp_path / "token").read_text() == "mine"


def test_before_ray_starts_its_token_is_there_and_nobody_elses(home):
    ensure_private_token()
    path = home / ".ray" / "auth_token"
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o644)  # as Ray makes it
    token = path.read_text()
    ensure_private_token()
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.read_text() == token


@pytest.mark.parametrize(
    ("name", "value"),
    [("RAY_AUTH_MODE", "disabled"), ("RAY_AUTH_TOKEN", "mine"), ("RAY_AUTH_TOKEN_PATH", "/etc/token")],
)
def test_what_the_environment_says_of_tokens_holds(name, value, home, monkeypatch):
    monkeypatch.setenv(name, value)
    ensure_private_token()
    assert os.environ[name] == value
    assert list(home.iterdir()) == []


def test_without_a_home_the_token_stays_in_memory(home, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN", "")
    (home / ".ray").write_text("in the way")
    ensure_private_token()
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64
