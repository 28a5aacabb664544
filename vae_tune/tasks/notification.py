"""The command of ``--notify``: it runs once when a search ends or pauses, with a message on its standard input."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vae_tune.analysis.study import Study, load_study
from vae_tune.config.errors import SearchPaused, UsageError, telling_line
from vae_tune.config.fields import plain_number
from vae_tune.config.files import absolute, address
from vae_tune.config.local_copies import original_path
from vae_tune.config.names import (
    EPOCHS,
    FAILED,
    INTERRUPTED,
    METRICS,
    PAUSED,
    REPORT_FILE,
    RUNNING,
    STATE,
    STATE_WORDS,
    STATUS,
    STUDY,
    STUDY_FILE,
    TRIAL,
    TRIALS,
    VALUES,
)
from vae_tune.record.metadata import resume_command

_KILLED = "killed"
_PATIENCE_SECONDS = 30.0
_NOTIFY_KILLED = "import sys; from vae_tune.tasks.notification import notify_killed; notify_killed(*sys.argv[1:])"


@contextmanager
def notifying(command: str | None, folder: Path, warn: Callable[[str], None]) -> Iterator[None]:
    """Run ``command`` once when the block ends, whatever ends it, with a message about the study in ``folder``.

    ``warn`` gets a line if it fails, or takes longer than half a minute.
    """
    status, reason = "", ""
    try:
        yield
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt | SystemExit):
            status = PAUSED if isinstance(error, SearchPaused) else INTERRUPTED
        else:
            status, reason = FAILED, telling_line(error)
        raise
    finally:
        if command is not None:
            notify(command, make_message(folder, status, reason), warn)


def killed_command(command: str | None, folder: Path) -> list[str]:
    """Return a command that notifies of the search in ``folder`` if it is killed; empty if ``command`` is None."""
    return [] if command is None else [sys.executable, "-c", _NOTIFY_KILLED, command, str(folder)]


def notify_killed(command: str, folder: str) -> None:
    """Run ``command`` with the message that the search in ``folder`` was killed."""
    notify(command, make_message(Path(folder), _KILLED), lambda _: None)


def make_message(folder: Path, status: str = "", error: str = "") -> dict[str, Any]:
    """Return the message about the study in ``folder`` as JSON values; without a study, most entries are None.

    ``status`` replaces the recorded one, which a process that was killed could not update. ``error`` is what ended the
    search.
    """
    place = absolute(original_path(folder))
    message: dict[str, Any] = {STUDY: place.name, "place": address(place), STATUS: status, "error": error}
    message |= dict.fromkeys((TRIALS, "best", METRICS, "report", "resume"))
    if (folder / STUDY_FILE).exists():
        try:
            message |= _describe(load_study(folder), status)
        except UsageError as unreadable:
            message["error"] = error or str(unreadable)
    return {**message, "text": _in_words(message)}


def _describe(study: Study, status: str) -> dict[str, Any]:
    """Return the entries of a message that come from the record."""
    counts, asked = Counter(study.trials[STATE]), study.config.num_samples
    unfinished = asked > counts.total() - counts[RUNNING]
    has_report = (study.folder / REPORT_FILE).exists()
    return {
        STATUS: status or study.metadata[STATUS],
        TRIALS: {"asked": asked, **{words: counts[state] for state, words in STATE_WORDS.items() if counts[state]}},
        "best": _best(study),
        METRICS: study.metrics,
        "report": address(absolute(study.place) / REPORT_FILE) if has_report else None,
        "resume": resume_command(study.metadata, study.place) if unfinished else None,
    }


def _best(study: Study) -> dict[str, Any] | None:
    """Return the best trial, with its loss as recorded and in words."""
    if (row := study.best) is None:
        return None
    name = study.ranking.name
    values = row[list(study.space.distributions)].dropna().to_dict()
    loss = {name: float(row[name]), "loss": study.loss_unit.with_name(row[name])}
    return {TRIAL: study.best_trial, EPOCHS: int(row[EPOCHS]), **loss, VALUES: values}


def _in_words(message: dict[str, Any]) -> str:
    """Return the message as some lines for people."""
    lines = [f"Search {message[STUDY]}: {message[STATUS]}"]
    if message["error"]:
        lines[0] += f" ({message['error']})"
    if trials := message[TRIALS]:
        counts = [f"{count} {words}" for words, count in trials.items() if words != "asked"]
        lines.append(f"{', '.join(counts) or 'none started'}, of {trials['asked']} trials")
    if best := message["best"]:
        lines.append(f"best: trial {best[TRIAL]}, {best['loss']} after epoch {best[EPOCHS]}")
    lines += [f"{name}: {message[name]}" for name in ("report", "resume") if message[name]]
    return "\n".join(lines)


def notify(command: str, message: dict[str, Any], warn: Callable[[str], None]) -> None:
    """Run ``command`` in a shell, with ``message`` on its standard input; ``warn`` of a failure, in one line."""
    content = json.dumps(message, indent=2, default=plain_number).encode()
    with tempfile.TemporaryFile() as errors:  # a pipe would stay open as long as anything that the command leaves
        how: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL, "stderr": errors}
        process = subprocess.Popen(command, shell=True, start_new_session=True, **how)
        try:
            process.communicate(content, timeout=_PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            warn(f"--notify: the command did not end within {_PATIENCE_SECONDS:.0f} s.")
            return
        errors.seek(0)
        last = errors.read().decode(errors="replace").strip().rpartition("\n")[2]
    if process.returncode:
        warn(f"--notify: the command failed with exit code {process.returncode}{f': {last}' if last else ''}.")
