"""The commands that messages suggest, written so that the user can type them as the program was started."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from vae_tune.config.files import address, argument

NAME = "vae-tune"
"""The console command."""
_SLURM_SCRIPT = "cluster/slurm.sh"


@dataclass(frozen=True)
class _Start:
    """How this process was started: ``program`` runs any command, ``script``, if there is one, only ``only``."""

    program: str
    script: str
    only: str
    python: str


_start: _Start | None = None
"""Set by a command line; None in a program that imports this package."""


@contextmanager
def started(words: Sequence[str] = ()) -> Iterator[None]:
    """Make the suggestions fit this command line, whose script runs only the command ``words[0]``, if given."""
    global _start  # noqa: PLW0603  # the same for all threads
    before, _start = _start, _this_start(words)
    try:
        yield
    finally:
        _start = before


def _this_start(words: Sequence[str] = ()) -> _Start:
    """Return how this process was started."""
    typed = Path("".join(sys.argv[:1]))
    python = quote([*sys.orig_argv, sys.executable][0])  # an embedded interpreter has neither
    beside = Path(sys.executable).parent / NAME
    if typed.name == NAME:
        program = NAME if _is_found(typed) else quote(str(typed))
    else:
        program = NAME if _is_found(beside) else f"{python} -m vae_tune"
    script = words and typed.is_file()  # not the -c of a program on the command line
    only = (f"{python} {quote(str(typed))}", words[0]) if script else ("", "")
    return _Start(program, *only, python)


def _is_found(program: Path) -> bool:
    """Return whether ``vae-tune``, typed in a shell, runs this program."""
    found = shutil.which(NAME)
    return found is not None and program.exists() and program.samefile(found)


def did_you_mean(word: object, known: Iterable[object]) -> str:
    """Return " Did you mean X?" with the nearest of the words in ``known``, or "" if none is near."""
    from difflib import get_close_matches

    plain = {str(name).lstrip("-").lower(): name for name in known}  # the dashes would make any two options alike
    near = get_close_matches(str(word).lstrip("-").lower(), plain, n=1)
    return f" Did you mean {plain[near[0]]}?" if near else ""


def quantity(count: float, noun: str) -> str:
    """Return a number with its noun, such as "1 trial"."""
    return f"{count:g} {noun}{'s' if count != 1 else ''}"


def command(name: str, *arguments: Path | str) -> str:
    """Return the command line that runs ``name`` with ``arguments``, such as ``vae-tune report results/a``."""
    start = _start or _this_start()
    begin = start.script if name == start.only else f"{start.program} {name}"
    return " ".join([begin, *(argument(word) if isinstance(word, Path) else quote(word) for word in arguments)])


def python(code: str) -> str:
    """Return the command line that runs a line of Python; in a notebook or at Python's prompt, the line itself."""
    return code if hasattr(sys, "ps1") else f"{(_start or _this_start()).python} -c {quote(code)}"


def option(name: str) -> str:
    """Return the option that sets the field ``name``, such as ``--batch-size``."""
    return f"--{name.replace('_', '-')}"


def resume(folder: Path, name: str = "search", *, model: str = "", **changes: object) -> str:
    """Return the command line that resumes what is in ``folder``; in a notebook or at Python's prompt, a call.

    ``name`` is the command that made it; ``changes`` are options to set, by the names of their fields. ``model`` is
    named if it is a user's class, whose code runs only where the user names it.
    """
    named = _with_model(model, changes)
    if hasattr(sys, "ps1") and name == "search":
        settings = [f"{key}={value!r}" for key, value in named.items()]
        return f"resume_search({', '.join([json.dumps(address(folder), ensure_ascii=False), *settings])})"
    return command(name, "--resume", folder, *_words(named))


def resume_in_slurm(folder: Path, given: Sequence[str] = (), *, model: str = "", **changes: object) -> str:
    """Return the command line that submits a job of Slurm which resumes the search in ``folder``, as ``resume``.

    ``given`` are options of ``sbatch``.
    """
    words = map(quote, _words(_with_model(model, changes)))
    return " ".join(["sbatch", *map(quote, given), _SLURM_SCRIPT, "--resume", argument(folder), *words])


def _with_model(model: str, changes: Mapping[str, object]) -> Mapping[str, object]:
    return {"model": model, **changes} if ":" in model else changes


def _words(changes: Mapping[str, object]) -> list[str]:
    return [word for key, value in changes.items() for word in (option(key), str(value))]
