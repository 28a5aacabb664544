"""Searches whose results are on object storage: a real S3 server on loopback that fails, goes away and comes back."""

import json
import signal
from pathlib import Path

import pytest

from tests.stores import BUCKET, s3
from tests.system.conftest import is_whole, wait_for
from vae_tune import load_study
from vae_tune.analysis.audit import audit
from vae_tune.config.files import address
from vae_tune.config.local_copies import local_copy
from vae_tune.views.report.page import write_report

pytestmark = pytest.mark.system

SMALL = ("--train-size", 3000, "--max-epochs", 4, "--reduction-factor", 2)
LONGER = ("--train-size", 10_000, "--max-epochs", 12, "--grace-period", 6)  # much is left to do after the first report


@pytest.fixture
def server(monkeypatch):
    with s3() as store:
        for name, value in store.environment.items():
            monkeypatch.setenv(name, value)
        yield store


def reports(server, place):
    """The rows of ``epochs.csv`` that lie in the storage."""
    name = f"{'/'.join(place.parts[2:])}/epochs.csv"
    lines = server.objects().get(name, b"").splitlines()[1:]
    return [tuple(line.split(b",")[:2]) for line in lines]


def test_another_head_goes_on_after_a_kill_from_a_storage_that_fails_every_tenth_request(server, search, tmp_path):
    place = Path(f"s3://{BUCKET}/vae/killed")
    heads = [{"VAE_TUNE_CACHE": str(tmp_path / name)} for name in ("head", "other")]
    server.every = 10
    where = ("--results-dir", f"s3://{BUCKET}/vae", "--study-name", "killed")
    running = search("--num-samples", 5, *SMALL, *where, environment=heads[0])
    wait_for(lambda: len(reports(server, place)) >= 3, running)
    running.kill(signal.SIGKILL)
    _, output = running.wait()
    assert f"--resume {address(place)}" in output
    before = reports(server, place)

    code, output = search("--resume", address(place), environment=heads[1]).wait()
    assert code == 0, output
    assert f"Record: {address(place)}" in output
    assert server.failures > 5, server.requests
    server.every = 0
    after = reports(server, place)
    assert after[: len(before)] == before
    assert len(after) == len(set(after))
    assert audit(place) == []
    is_whole(local_copy(place), trials=5)
    stored = server.objects()
    prefix = "vae/killed/"  # moto keeps what other tests of this process stored
    names = {name.removeprefix(prefix) for name in stored if name.startswith(prefix)}
    assert {"best/model.safetensors", "report.html", "study.json", "optuna.journal"} <= names
    kept = [name for name in names if name.startswith("checkpoints/")]
    assert len(kept) == 1  # the winner's last one
    assert not [name for name in names if name.endswith((".pkl", ".tmp", ".lock"))]
    secret = server.environment["AWS_SECRET_ACCESS_KEY"].encode()
    assert not [name for name, content in stored.items() if secret in content]

    study = load_study(address(place))
    assert len(study.trials) == 5
    assert study.metrics["winner"]["trial"] == study.best_trial
    write_report(address(place), tmp_path / "report.html")
    assert "Winner and reference" in (tmp_path / "report.html").read_text()


def test_a_driver_that_slept_overwrites_nothing_of_its_successor_whose_storage_is_away_for_twenty_seconds(
    server, search, tmp_path
):
    place = Path(f"s3://{BUCKET}/vae/away")
    heads = [{"VAE_TUNE_CACHE": str(tmp_path / name)} for name in ("head", "other")]
    where = ("--results-dir", f"s3://{BUCKET}/vae", "--study-name", "away")
    sleeper = search("--num-samples", 4, *LONGER, *where, environment=heads[0])
    wait_for(lambda: reports(server, place), sleeper)
    sleeper.kill(signal.SIGSTOP)
    before = reports(server, place)
    successor = search("--resume", address(place), environment=heads[1])
    wait_for(lambda: len(reports(server, place)) > len(before), successor)
    server.go_away()
    with pytest.raises(AssertionError, match="not within"):  # the search waits, and does not end
        wait_for(lambda: successor.process.poll() is not None, timeout=20)
    server.come_back()
    code, output = successor.wait()
    assert code == 0, output
    assert f"Checking whether process {sleeper.process.pid} on host" in output
    assert "FAIL" not in output
    assert str(tmp_path) not in output  # neither a temporary folder nor the working copy
    stored = server.objects()

    sleeper.kill(signal.SIGCONT)
    code, output = sleeper.wait()
    assert code == 1
    assert f"The study {address(place)} was taken over by another driver, which has ended" in output
    assert server.objects() == stored
    assert audit(place) == []
    is_whole(local_copy(place), trials=4)
    assert json.loads(stored["vae/away/study.json"])["status"] == "complete"
