"""The commands that messages show fit the way in which the program was started, and do what they say."""

import os
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.studies import make_study
from vae_tune.config import message_hints

ROOT = Path(__file__).parents[2]
PLACE = Path("results/it's mine")


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Start the program, typed as said, in a place with a Python in ``own/`` and perhaps on the PATH."""
    for name in ("own/python3", f"own/{message_hints.NAME}", "search.py", "a/search.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "own" / "python3"))

    def started(orig_argv, argv, path, *words):
        monkeypatch.setenv("PATH", str(tmp_path / path))
        monkeypatch.setattr(sys, "orig_argv", shlex.split(orig_argv))
        monkeypatch.setattr(sys, "argv", shlex.split(argv))
        return message_hints.started(words)

    return started


RUN, OWN = "own/python3", "own/vae-tune"


@pytest.mark.parametrize(
    ("typed", "argv", "path", "words", "search", "report"),
    [
        ("python3 search.py", "search.py", "own", ["search"], "python3 search.py", "vae-tune report"),
        (f"{RUN} a/search.py", "a/search.py", ".", ["search"], f"{RUN} a/search.py", f"{RUN} -m vae_tune report"),
        (f"{RUN} {OWN}", OWN, "own", [], "vae-tune search", "vae-tune report"),
        (f"{RUN} {OWN}", OWN, ".", [], f"{OWN} search", f"{OWN} report"),
        (f"{RUN} -c code", "-c", "own", ["search"], "vae-tune search", "vae-tune report"),
        (f"{RUN} -m vae_tune", "/x/__main__.py", ".", [], f"{RUN} -m vae_tune search", f"{RUN} -m vae_tune report"),
    ],
)
def test_a_command_begins_as_it_was_typed(start, typed, argv, path, words, search, report):
    with start(typed, argv, path, *words):
        assert message_hints.resume(PLACE) == f"""{search} --resume 'results/it'"'"'s mine'"""
        assert (
            message_hints.command("report", Path("s3://bucket/a b"), "--open") == f"{report} 's3://bucket/a b' --open"
        )
        assert message_hints.python("print('x')") == f"{shlex.split(typed)[0]} -c 'print('\"'\"'x'\"'\"')'"
    # as in a program of somebody else, which calls our functions
    assert message_hints.command("search", "--open") == f"{report.removesuffix('report')}search --open"
    assert message_hints.python("print(1)") == f"{shlex.split(typed)[0]} -c 'print(1)'"


def test_options_follow_by_their_names():
    search = message_hints.command("search")
    assert message_hints.resume(Path("a"), num_samples=60) == f"{search} --resume a --num-samples 60"
    assert message_hints.resume(Path("a"), "train") == f"{message_hints.command('train')} --resume a"


def test_at_a_prompt_of_python_a_search_goes_on_by_a_call(monkeypatch):
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    shown = message_hints.resume(Path("s3://bucket/ä"), num_samples=60)
    assert shown == 'resume_search("s3://bucket/ä", num_samples=60)'
    assert message_hints.resume(Path("a"), "explore") == f"{message_hints.command('explore')} --resume a"
    assert message_hints.python("print(1)") == "print(1)"


@pytest.mark.parametrize("typed", ["vae-tune search", f"{sys.executable} search.py"])
def test_the_command_that_an_error_suggests_can_be_run(typed, tmp_path):
    """The console command is written as an installer would, since the installed one may be older than the code."""
    module, _, function = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"][
        message_hints.NAME
    ].partition(":")
    script = tmp_path / message_hints.NAME
    script.write_text(f"#!{sys.executable}\nimport sys\nfrom {module} import {function}\nsys.exit({function}())\n")
    script.chmod(0o755)
    study = make_study(tmp_path / "a study", trials=1)
    path = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    options = {"cwd": ROOT, "text": True, "capture_output": True, "env": os.environ | path}
    words = ["--results-dir", str(study.parent), "--study-name", study.name]
    refused = subprocess.run([*typed.replace("vae-tune", str(script)).split(), *words], check=False, **options)
    assert refused.returncode == 2, refused.stderr
    suggested = refused.stderr.partition("To go on with it: ")[2].strip()
    assert suggested.startswith(typed)
    repeated = subprocess.run(f"{suggested} --help", shell=True, check=False, **options)
    assert (repeated.returncode, repeated.stderr) == (0, "")


def test_one_of_a_kind_is_no_plural():
    assert [message_hints.quantity(count, "trial") for count in (0, 1, 2)] == ["0 trials", "1 trial", "2 trials"]
