"""Files are whole or not there."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest

from vae_tune.config.files import argument, atomic, read_json, write_json


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def _break_off(path: Path, error: type[BaseException]) -> None:
    with atomic(path) as file:
        file.write(b"half of the n")
        raise error


def test_a_file_appears_when_the_block_ends(tmp_path):
    with atomic(tmp_path / "file") as file:
        file.write(b"content")
        assert not (tmp_path / "file").exists()
    assert (tmp_path / "file").read_bytes() == b"content"
    assert _names(tmp_path) == ["file"]


def test_the_old_file_stays_until_the_block_ends(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with atomic(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_the_old_file_stays_when_the_block_raises(tmp_path, error):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(error):
        _break_off(path, error)
    assert path.read_bytes() == b"old"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_no_temporary_file_is_left_when_the_block_raises(tmp_path, error):
    with pytest.raises(error):
        _break_off(tmp_path / "file", error)
    assert _names(tmp_path) == []


def test_no_temporary_file_is_left_when_the_target_cannot_be_replaced(tmp_path):
    (tmp_path / "file").mkdir()
    with pytest.raises(OSError, match="file"), atomic(tmp_path / "file") as file:
        file.write(b"content")
    assert _names(tmp_path) == ["file"]


def test_an_interruption_right_after_the_target_was_replaced_stays_one(tmp_path, monkeypatch):
    def replace(*paths):
        replace_file(*paths)
        raise KeyboardInterrupt

    replace_file = os.replace
    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(KeyboardInterrupt), atomic(tmp_path / "file") as file:
        file.write(b"content")
    assert (tmp_path / "file").read_bytes() == b"content"
    assert _names(tmp_path) == ["file"]


def test_a_file_can_be_read_by_others(tmp_path):
    with atomic(tmp_path / "file") as file:
        file.write(b"content")
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o644


@pytest.mark.parametrize(
    "value", [{"a": [1, 2.5, None, True], "b": {"c": "text"}}, [], "Zürich", 0.1, {"loss": 1e-300}], ids=str
)
def test_json_comes_back_as_it_was(tmp_path, value):
    write_json(tmp_path / "file.json", value)
    assert read_json(tmp_path / "file.json") == value


def test_json_is_indented_and_ends_with_a_line_break(tmp_path):
    write_json(tmp_path / "file.json", {"a": 1})
    assert (tmp_path / "file.json").read_text() == '{\n  "a": 1\n}\n'


def test_what_is_no_json_leaves_the_old_file(tmp_path):
    path = tmp_path / "file.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert read_json(path) == {"a": 1}
    assert _names(tmp_path) == ["file.json"]


@pytest.mark.parametrize("name", ["results/mnist", "s3://bucket/my study", "my results/it's", "-x/$HOME"])
def test_a_shell_takes_a_path_that_is_shown_for_what_it_is(name):
    command = f"printf %s {argument(Path(name))}"
    assert subprocess.run(["sh", "-c", command], check=True, capture_output=True, text=True).stdout == name
