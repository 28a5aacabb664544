"""The command line ``vae-tune COMMAND``: each command is a module of this package."""

from __future__ import annotations

import atexit
import gc
import inspect
import os
import shlex
import signal
import sys
import threading
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from typing import NoReturn

from vae_tune.cli.command import Command
from vae_tune.cli.parsing import as_typed, parse
from vae_tune.config import message_hints
from vae_tune.config.errors import SearchError, SearchPaused, UsageError
from vae_tune.config.version import __version__

COMMANDS = (
    "search",
    "train",
    "explore",
    "evaluate",
    "generate",
    "model",
    "list",
    "dashboard",
    "report",
    "compare",
    "replay",
    "check",
    "audit",
)
"""Each names a module beside this one, which defines ``COMMAND``."""
_INTERRUPTED = 128 + signal.SIGINT
_PAUSED = 128 + signal.SIGUSR1
_TERMINATED = 128 + signal.SIGTERM
_BAD_INPUT = 2
_FAILED = 1
_SOON_SECONDS = 0.02
_GARBAGE = 100_000
"""Objects between garbage collections. Python's 700 would take a fifth of the time to import torch and Ray."""


def load_command(name: str) -> Command:
    """Import the module of a command and return the command."""
    command: Command = import_module(f"vae_tune.cli.{name}").COMMAND
    return command


def main(words: Sequence[str] = (), prog: str = "vae-tune") -> NoReturn:
    """Run the command line: ``words`` followed by the arguments of the process."""
    arguments = [*words, *sys.argv[1:]]
    gc.set_threshold(_GARBAGE)
    sys.unraisablehook = _repeat_interruption
    atexit.register(_skip_last_collection)
    try:
        with message_hints.started(words):
            code = _run(arguments, prog, shown=not words)
        sys.stdout.flush()
    except (UsageError, SearchError) as error:
        print(f"{prog}: {error}", file=sys.stderr)
        sys.exit(_BAD_INPUT if isinstance(error, UsageError) else _FAILED)
    except BrokenPipeError:  # the reader of the output has left, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python fails again as it exits
        sys.exit(_FAILED)
    except SearchPaused as pause:
        print(f"Paused; {pause}", file=sys.stderr)
        _end_now(_PAUSED)
    except KeyboardInterrupt as interruption:
        print(f"Interrupted; {interruption}" if interruption.args else "Interrupted.", file=sys.stderr)
        _end_now(_INTERRUPTED)
    except SystemExit as ended:  # of a second SIGTERM, or of the parser of arguments
        if ended.code == _TERMINATED:
            _end_now(_TERMINATED)
        raise
    sys.exit(code)


def _repeat_interruption(unraisable: sys.UnraisableHookArgs) -> None:
    """Repeat a Ctrl-C, or a second SIGTERM, that came where Python drops exceptions: in a destructor, for instance."""
    if isinstance(unraisable.exc_value, KeyboardInterrupt):
        number = signal.SIGINT
    elif isinstance(unraisable.exc_value, SystemExit):
        number = signal.SIGTERM
    else:
        sys.__unraisablehook__(unraisable)
        return
    main_thread = threading.main_thread().ident
    again = threading.Timer(_SOON_SECONDS, signal.pthread_kill, [main_thread, number])  # once Python is out of there
    again.daemon = True
    again.start()


def _end_now(code: int) -> NoReturn:
    """End the process without waiting for its threads and without what ``atexit`` holds, Ray's shutdown for instance.

    An interruption can leave a lock behind, inside an import or in Ray, for which a thread would wait forever.
    """
    if copies := sys.modules.get("vae_tune.config.local_copies"):
        copies.delete_copies()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _run(arguments: Sequence[str], prog: str, *, shown: bool) -> int:
    name = arguments[0] if arguments else "--help"
    if name in ("-h", "--help"):
        print(_overview(prog))
        return 0
    if "--version" in (name, *arguments[1:2]):
        print(f"vae_tune {__version__}")
        return 0
    if name not in COMMANDS:
        meant = message_hints.did_you_mean(name, COMMANDS)
        raise UsageError(f"unknown command {name!r}.{meant} Commands: {', '.join(COMMANDS)}.")
    if "" in arguments:  # an unset variable, most likely; as a path it would be the current folder
        raise UsageError(f"{arguments[arguments.index('') - 1]} needs a value, but got an empty one.")
    command = load_command(name)
    words, others = command.split(arguments[1:]) if command.split else (arguments[1:], ())
    examples = [f"{message_hints.command(name)} {example}" for example in command.examples]
    try:
        default = command.defaults(words) if command.defaults else None
        options = parse(command.options, words, f"{prog} {name}" if shown else prog, default, examples)
        return command.run(replace(options, others=shlex.join(others)) if others else options) or 0
    except UsageError as error:
        raise UsageError(as_typed(str(error), command.options)) from error


def _skip_last_collection() -> None:
    """Spare the process a last garbage collection through all of torch and Ray, which takes a second of CPU."""
    if "triton" not in sys.modules:  # its bindings print a warning about objects that are left
        gc.freeze()


def _overview(prog: str) -> str:
    lines = [f"usage: {prog} COMMAND [OPTIONS]", "", "Hyperparameter search for variational autoencoders.", ""]
    for name in COMMANDS:
        summary = str(inspect.getdoc(load_command(name).options)).splitlines()[0]
        lines.append(f"  {name:10s} {summary}")
    return "\n".join([*lines, "", f"{prog} COMMAND --help shows the options of a command."])
