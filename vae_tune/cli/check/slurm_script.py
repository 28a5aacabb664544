"""A script for Slurm's ``sbatch``, and the options that its job has: those in the script, and those typed after it."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vae_tune.cli.check.document import Level, Problem, read_text
from vae_tune.config.errors import UsageError

_SHORT = {
    "A": "account",
    "C": "constraint",
    "M": "clusters",
    "G": "gpus",
    "N": "nodes",
    "c": "cpus-per-task",
    "p": "partition",
    "q": "qos",
    "t": "time",
    "w": "nodelist",
    "x": "exclude",
}
"""Options with one letter that matter here."""
_VARIABLES = {
    f"SBATCH_{name}": option
    for name, option in (("ACCOUNT", "account"), ("PARTITION", "partition"), ("QOS", "qos"), ("TIMELIMIT", "time"))
}
"""Variables that set an option; they come after the script and before what is typed."""
_MARK = "#SBATCH"
_UNITS = (1, 60, 3600)
_UNLIMITED = ("unlimited", "infinite", "-1")


@dataclass(frozen=True)
class Script:
    """A script for sbatch with its options."""

    path: Path
    text: str
    typed: Sequence[str]
    """The words typed after the script, for sbatch."""
    options: Mapping[str, str]
    """The values by the long names of the options, "" for a flag; what is typed replaces what the script says."""
    lines: Mapping[str, int]
    """The line of each option in the script, counted from 1, if it was not typed."""

    def problem(self, level: Level, option: str | None, what: str, advice: str) -> Problem:
        """Return a problem of an option, at its line in the script, or named as it was typed; of none, at line 1."""
        typed = option in self.options and option not in self.lines
        where = f"--{option}" if typed else f"{self.path}:{self.lines.get(option or '', 1)}"
        return Problem(level, where, what, advice)


def read_script(path: Path, typed: Sequence[str]) -> Script:
    """Read a script and its options.

    Raises:
        UsageError: it cannot be read, or a line of options has an open quotation mark.
    """
    text = read_text(path)
    options: dict[str, str] = {}
    lines: dict[str, int] = {}
    for number, words in _option_lines(path, text):
        for name, value in named_options(words):
            options[name], lines[name] = value, number
    variables = [(option, os.environ[name]) for name, option in _VARIABLES.items() if os.environ.get(name)]
    for name, value in (*variables, *named_options(typed)):
        options[name] = value
        lines.pop(name, None)
    return Script(path, text, typed, options, lines)


def _option_lines(path: Path, text: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the lines that sbatch reads: those before the first command."""
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith(f"{_MARK} ") or line.startswith(f"{_MARK}\t"):
            try:
                yield number, shlex.split(line.removeprefix(_MARK), comments=True)
            except ValueError as error:
                raise UsageError(f"{path}:{number}: {error}.") from error
        elif line.strip() and not line.startswith("#"):
            return


def named_options(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield the long name and the value of each option; a word without a dash is the value of the one before."""
    for index, word in enumerate(words):
        following = words[index + 1] if index + 1 < len(words) else ""
        value = "" if following.startswith("-") else following
        if word.startswith("--"):
            name, equals, given = word[2:].partition("=")
            yield name, given if equals else value
        elif re.match("-[A-Za-z]", word):
            yield _SHORT.get(word[1], word[1]), word[2:].removeprefix("=") or value


def seconds(time: str) -> float | None:
    """Return the seconds of a time as Slurm writes it, infinity for no limit, None if it is malformed.

    The forms are M, M:S, H:M:S, D-H, D-H:M and D-H:M:S (sbatch(1), ``--time``).
    """
    if time.lower() in _UNLIMITED:
        return float("inf")
    if not re.fullmatch(r"(\d+-\d+(:\d+){0,2}|\d+(:\d+){0,2})", time):
        return None
    days, dash, rest = time.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    if dash:
        parts += [0] * (3 - len(parts))
    elif len(parts) == 1:
        parts += [0]
    return int(days or 0) * 86_400 + sum(part * unit for part, unit in zip(reversed(parts), _UNITS, strict=False))
