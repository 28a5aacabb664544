"""A study on an S3 of the tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.stores import BUCKET, s3
from vae_tune.config import storage
from vae_tune.record import claim, remote_sync


@pytest.fixture(scope="module")
def server():
    with s3() as store:
        yield store


@pytest.fixture
def place(server, monkeypatch, tmp_path):
    """A study that is not there yet, of a driver whose uploads and patience are short."""
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("VAE_TUNE_CACHE", str(tmp_path / "cache"))
    for name, seconds in (("_PERIOD_SECONDS", 0.05), ("QUICK", 0.2), ("PATIENCE", 0.5)):
        monkeypatch.setattr(remote_sync, name, seconds)
    monkeypatch.setattr(claim, "_BEAT_SECONDS", 0.02)
    for name, seconds in (("SILENCE", 1.5), ("QUICK", 2.0)):
        monkeypatch.setattr(storage, name, seconds)
    return Path(f"s3://{BUCKET}/{tmp_path.name}/study")
