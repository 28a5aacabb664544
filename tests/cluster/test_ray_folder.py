"""Where a Ray of this machine keeps its files: private, one folder each, and never too deep for its sockets."""

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vae_tune.cluster import ray_folder as module
from vae_tune.cluster.ray_folder import create_ray_folder, is_ray_folder
from vae_tune.config.errors import UsageError


def deep(folder, parts):
    """A new folder in ``folder``, each of whose parts has 120 bytes."""
    path = folder.joinpath(*["é" * 60] * parts)
    path.mkdir(parents=True)
    return path


def is_private(folder):
    return folder.stat().st_mode & 0o077 == 0


def test_each_ray_has_a_folder_of_its_own_that_nobody_else_can_enter(tmp_path):
    first, second = (create_ray_folder({"TMPDIR": str(tmp_path)}) for _ in range(2))
    try:
        assert first.path != second.path
        for folder in (first, second):
            assert is_ray_folder(folder.path)
            assert is_private(folder.created[0])
            assert folder.created[0].parent == tmp_path
    finally:
        first.delete()
        second.delete()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("parts", [1, 8])
def test_a_folder_too_deep_for_sockets_gets_a_short_link_and_a_socket_fits(parts, tmp_path):
    place = deep(tmp_path, parts)
    folder = create_ray_folder({"TMPDIR": str(place)})
    real, short = folder.created
    assert real.parent == place
    assert is_private(real)
    assert is_private(short)
    assert is_ray_folder(folder.path)
    path = folder.path / module._SOCKET
    path.parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        assert (real / "ray" / module._SOCKET).is_socket()
    folder.delete()
    assert not real.exists()
    assert not short.exists()


def test_a_short_link_whose_folder_is_gone_is_deleted_with_the_next_one(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_SHORT", (str(tmp_path / "short"),))
    (tmp_path / "short").mkdir()
    place = deep(tmp_path, 1)
    gone, used = (create_ray_folder({"TMPDIR": str(place)}) for _ in range(2))
    shutil.rmtree(gone.created[0])
    create_ray_folder({"TMPDIR": str(place)}).delete()
    assert list((tmp_path / "short").iterdir()) == [used.created[1]]
    for folder in (gone, used):
        folder.delete()


def test_a_path_of_just_the_right_length_needs_no_link(monkeypatch):
    parent = Path("/tmp/vae_tune-test")
    most = module._SOCKET_BYTES - len(f"{parent}/ray-12345678/ray/")
    parent.mkdir()
    try:
        for length, links in ((most, 0), (most + 1, 1)):
            monkeypatch.setattr(module, "_SOCKET", "s" * length)
            folder = create_ray_folder({"RAY_TMPDIR": str(parent)})
            assert len(folder.created) == 1 + links
            folder.delete()
    finally:
        parent.rmdir()


def test_the_jobs_own_folder_comes_before_the_users_and_both_before_tmp(tmp_path):
    names = ("RAY_TMPDIR", "SLURM_TMPDIR", "TMPDIR")
    environment = {name: str(tmp_path / name) for name in names}
    for name in names[1:]:
        (tmp_path / name).mkdir()
    for name in names:  # the first is created
        folder = create_ray_folder(environment)
        assert folder.created[0].parent == tmp_path / name
        folder.delete()
        del environment[name]
    folder = create_ray_folder(environment)
    assert folder.created[0].parent == Path("/tmp")
    folder.delete()


def test_what_a_killed_process_left_is_deleted_after_a_day_and_nothing_that_is_in_use(tmp_path):
    create = (
        "import os, sys; from vae_tune.cluster.ray_folder import create_ray_folder;"
        "print(create_ray_folder().created[0], flush=True); os.kill(os.getpid(), 9)"
    )
    environment = {**os.environ, "RAY_TMPDIR": str(tmp_path)}
    killed = subprocess.run(
        [sys.executable, "-c", create], env=environment, capture_output=True, text=True, check=False
    )
    left = Path(killed.stdout.strip())
    used = create_ray_folder(environment)
    foreign = tmp_path / "ray-of-another-machine"
    foreign.mkdir()
    (foreign / "lock").write_text("elsewhere")
    plain = tmp_path / "ray-tracing"
    plain.mkdir()
    for age, folders in ((3600, {left, used.created[0], foreign, plain}), (90_000, {used.created[0], foreign, plain})):
        for folder in (left, used.created[0], foreign):
            os.utime(folder / "lock", (time.time() - age,) * 2)
        create_ray_folder(environment).delete()
        assert set(tmp_path.iterdir()) == folders
    used.delete()


@pytest.mark.parametrize("path", ["ray", "ray-tracing/ray", "mine/ray"])
def test_a_folder_that_a_user_names_for_a_ray_is_none_of_a_search(path, tmp_path):
    (tmp_path / path).mkdir(parents=True)
    (tmp_path / "mine/lock").parent.mkdir(exist_ok=True)
    (tmp_path / "mine/lock").touch()
    assert not is_ray_folder(tmp_path / path)


def test_a_folder_of_the_login_node_that_is_missing_here_is_passed_over(tmp_path):
    folder = create_ray_folder({"TMPDIR": str(tmp_path / "missing")})
    assert folder.created[0].parent == Path("/tmp")
    folder.delete()


def test_a_folder_named_for_ray_that_cannot_be_used_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=rf"none can be created in {tmp_path}/file/x \(Not a directory\)\.$"):
        create_ray_folder({"RAY_TMPDIR": str(tmp_path / "file" / "x"), "TMPDIR": str(tmp_path)})


def test_without_any_short_folder_two_lines_say_what_to_set_and_nothing_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_SHORT", (str(tmp_path / "missing"), str(tmp_path / "gone")))
    place = deep(tmp_path, 1)
    with pytest.raises(UsageError, match=r"/missing \(No such .*/gone .*\.\nSet RAY_TMPDIR .* at most \d+ bytes\.$"):
        create_ray_folder({"TMPDIR": str(place)})
    assert list(place.iterdir()) == []
