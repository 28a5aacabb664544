"""Which Ray an address stands for; with several users on a machine, "auto" is none of another's."""

import inspect
import os
from types import SimpleNamespace

import pytest

from vae_tune.config.compat import ray as private_ray


def test_an_address_is_found_as_ray_finds_it(monkeypatch):
    assert private_ray.bootstrap_address("10.0.0.1:6379") == "10.0.0.1:6379"
    assert private_ray.bootstrap_address("ray://head:10001") == "head:10001"
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.2:6379")
    assert private_ray.bootstrap_address("auto") == "10.0.0.2:6379"


def raylet(address, uid):
    """A process as psutil describes a raylet."""
    command = ["/site-packages/ray/core/src/ray/raylet/raylet", "--node_id=a", f"--gcs-address={address}"]
    return SimpleNamespace(info={"cmdline": command, "uids": SimpleNamespace(real=uid)})


@pytest.mark.parametrize(
    ("own", "others", "last", "found"),
    [
        (["10.0.0.1:1"], ["10.0.0.9:9"], "10.0.0.9:9", "10.0.0.1:1"),  # another user has written the last address
        (["10.0.0.1:1", "10.0.0.2:2"], [], "10.0.0.2:2", "10.0.0.2:2"),
        (["10.0.0.1:1"], [], None, "10.0.0.1:1"),
        ([], ["10.0.0.9:9"], "10.0.0.9:9", r"^10\.0\.0\.9:9 belongs to another user"),
        ([], [], "10.0.0.9:9", "^no Ray runs on this machine"),
    ],
)
def test_auto_is_a_ray_of_this_user(own, others, last, found, tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    if last:
        (tmp_path / "ray").mkdir()
        (tmp_path / "ray/ray_current_cluster").write_text(last)
    other = SimpleNamespace(info={"cmdline": ["/bin/sh", "--gcs-address=10.0.0.7:7"], "uids": None})
    listed = [other, *(raylet(address, os.getuid()) for address in own), *(raylet(each, 12345) for each in others)]
    monkeypatch.setattr(private_ray.services.psutil, "process_iter", lambda _: listed)
    if own:
        assert private_ray.bootstrap_address("auto") == found
    else:
        with pytest.raises(OSError, match=found):
            private_ray.bootstrap_address("auto")


def test_a_raylet_of_ray_names_its_address_by_this_option():
    source = inspect.getsource(private_ray.services._cached_find_gcs_addresses)
    assert f'"{private_ray._GCS_ADDRESS.rstrip("=")}"' in source
