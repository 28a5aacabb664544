"""Which Ray an address stands for; with several users on a machine, "auto" is none of another's."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from vae_tune.config.compat import ray as private_ray


def test_an_address_is_found_as_ray_finds_it(monkeypatch):
    assert bootstrap_address("10.0.0.1:6379") == "10.0.0.1:6379"
    assert bootstrap_address("ray://head:10001") == "head:10001"
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.2:6379")
    assert bootstrap_address("auto") == "10.0.0.2:6379"


def bootstrap_address(address):
    """The address, where 10.0.0.3 is that of a search."""
    return private_ray.bootstrap_address(address, lambda folder: folder == Path("/tmp/10.0.0.3:3"))


def raylet(address, uid):
    """A process as psutil describes a raylet."""
    options = {"node_id": "a", "temp_dir": f"/tmp/{address}", "gcs-address": address}
    command = ["/ray/core/src/ray/raylet/raylet", *(f"--{name}={value}" for name, value in options.items())]
    return SimpleNamespace(info={"cmdline": command, "uids": SimpleNamespace(real=uid)})


@pytest.mark.parametrize(
    ("own", "others", "last", "found"),
    [
        (["10.0.0.1:1"], ["10.0.0.9:9"], "10.0.0.9:9", "10.0.0.1:1"),  # another user has written the last address
        (["10.0.0.1:1", "10.0.0.2:2"], [], "10.0.0.2:2", "10.0.0.2:2"),
        (["10.0.0.1:1"], [], None, "10.0.0.1:1"),
        (["10.0.0.3:3", "10.0.0.4:4"], [], "10.0.0.3:3", "10.0.0.4:4"),
        (["10.0.0.3:3"], ["10.0.0.9:9"], None, r"^10\.0\.0\.3:3 belongs to a search, and ends with it\.$"),
        ([], ["10.0.0.9:9"], "10.0.0.9:9", r"^10\.0\.0\.9:9 belongs to another user"),
        ([], [], "10.0.0.9:9", "^no Ray runs on this machine"),
    ],
)
def test_auto_is_a_ray_of_this_user_and_of_no_search(own, others, last, found, tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    if last:
        (tmp_path / "ray").mkdir()
        (tmp_path / "ray/ray_current_cluster").write_text(last)
    other = SimpleNamespace(info={"cmdline": ["/bin/sh", "--gcs-address=10.0.0.7:7"], "uids": None})
    listed = [other, *(raylet(address, os.getuid()) for address in own), *(raylet(each, 12345) for each in others)]
    monkeypatch.setattr(private_ray.services.psutil, "process_iter", lambda _: listed)
    if not found.startswith("^"):
        assert bootstrap_address("auto") == found
    else:
        with pytest.raises(OSError, match=found):
            bootstrap_address("auto")
