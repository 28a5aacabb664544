"""The console command ``vae-tune`` and its subcommands."""

from __future__ import annotations

import atexit
import gc
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NoReturn

import tyro
from tyro import _errors as tyro_errors  # the only way to take over its boxes of ten lines

from vae_tune import hints
from vae_tune.check.options import CheckOptions
from vae_tune.config import SearchConfig, SearchError, UsageError, telling_line
from vae_tune.files import address
from vae_tune.options import (
    CompareOptions,
    DashboardOptions,
    EvaluateOptions,
    ExploreOptions,
    GenerateOptions,
    ReportOptions,
    TrainOptions,
    path_option,
    train_defaults,
)
from vae_tune.replay.options import ReplayOptions

_INTERRUPTED = 130
_BAD_INPUT = 2
_FAILED = 1
_NO_NUMBER = re.compile(r"(int\(\) with base 10: |string to float: |matching (INT|FLOAT) could.* from \[)('.*')")
"""What Python and tyro say of a text that should be a number."""
_GARBAGE = 100_000
"""Objects between two looks for garbage; at Python's 700 they are a fifth of what importing torch and Ray costs."""


@dataclass(frozen=True)
class _Command:
    """A subcommand: its options as a configuration, and what it does with them."""

    options: type[Any]
    summary: str
    run: Callable[[Any], int]
    defaults: Callable[[Sequence[str]], Any] | None = None
    """What holds where no option says otherwise, given the words; by default what the options say themselves."""


def _search(config: SearchConfig) -> int:
    from vae_tune.tuning import run_search

    return 0 if run_search(config).best is not None else 1


def _search_defaults(arguments: Sequence[str]) -> SearchConfig:
    """Return what holds where no option says otherwise: with --resume, the study's own settings."""
    folder = path_option("resume", arguments)
    if folder is None:
        return SearchConfig()
    from vae_tune.manifest import read_config

    return read_config(folder)


@dataclass(frozen=True)
class AuditOptions:
    """Check a study's record against itself, without training: states, numbers, rung decisions, winner."""

    folder: Annotated[Path, tyro.conf.Positional]
    """Folder of the study."""


def _audit(options: AuditOptions) -> int:
    from vae_tune.audit import audit

    contradictions = audit(options.folder)
    for line in contradictions:
        print(line)
    count = len(contradictions)
    print(f"{address(options.folder)}: {count or 'no'} contradiction{'s' if count > 1 else ''}.")
    return 1 if contradictions else 0


def _report(options: ReportOptions) -> int:
    from vae_tune.report import write_report

    path = write_report(options.folder, options.output)
    print(address(path))
    if options.open:
        import webbrowser

        webbrowser.open(path.absolute().as_uri())
    return 0


def _compare(options: CompareOptions) -> int:
    from vae_tune.compare import compare

    compare(options)
    return 0


def _train(options: TrainOptions) -> int:
    from vae_tune.single import train

    train(options)
    return 0


def _explore(options: ExploreOptions) -> int:
    from vae_tune.explore import explore

    explore(options)
    return 0


def _evaluate(options: EvaluateOptions) -> int:
    from vae_tune.evaluate import run_evaluation

    run_evaluation(options)
    return 0


def _generate(options: GenerateOptions) -> int:
    from vae_tune.gallery import draw_gallery

    for path in draw_gallery(options):
        print(path)
    return 0


def _dashboard(options: DashboardOptions) -> int:
    from vae_tune.dashboard import run_dashboard

    run_dashboard(options)
    return 0


def _check(options: CheckOptions) -> int:
    from vae_tune.check.command import check

    return check(options)


def _replay(options: ReplayOptions) -> int:
    from vae_tune.replay.command import replay

    replay(options)
    return 0


_COMMANDS = {
    "search": _Command(
        SearchConfig, "Search the best variational autoencoder for an image data set.", _search, _search_defaults
    ),
    "train": _Command(TrainOptions, "Train one configuration, without a search.", _train, train_defaults),
    "explore": _Command(ExploreOptions, "Compare latent sizes, each trained several times.", _explore),
    "evaluate": _Command(EvaluateOptions, "Evaluate a trained model: negative ELBO, likelihood.", _evaluate),
    "generate": _Command(GenerateOptions, "Draw samples, reconstructions, latent space of a model.", _generate),
    "dashboard": _Command(DashboardOptions, "Show a study in the browser, on this machine alone.", _dashboard),
    "report": _Command(ReportOptions, "Write report.html: what a search found, in one page.", _report),
    "compare": _Command(CompareOptions, "Print and draw studies side by side.", _compare),
    "replay": _Command(ReplayOptions, "Replay searches on recorded curves with other settings.", _replay),
    "check": _Command(CheckOptions, "Say what is wrong with a cluster before it costs money.", _check),
    "audit": _Command(AuditOptions, "Check a study's record against itself.", _audit),
}


def main(words: Sequence[str] = (), prog: str = "vae-tune") -> NoReturn:
    """Run the command line: ``words`` followed by the process's own arguments."""
    arguments = [*words, *map(_at_home, sys.argv[1:])]
    gc.set_threshold(_GARBAGE)
    atexit.register(_spare_the_last_look)
    try:
        with hints.started(words):
            code = _run(arguments, prog, shown=not words)
        sys.stdout.flush()
        sys.exit(code)
    except UsageError as error:
        print(f"{prog}: {error}", file=sys.stderr)
        sys.exit(_BAD_INPUT)
    except SearchError as error:
        print(f"{prog}: {error}", file=sys.stderr)
        sys.exit(_FAILED)
    except BrokenPipeError:  # who read the output has left, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python fails once more as it ends
        sys.exit(_FAILED)
    except KeyboardInterrupt as interruption:
        print(f"Interrupted; {interruption}" if interruption.args else "Interrupted.", file=sys.stderr)
        sys.exit(_INTERRUPTED)


def _at_home(argument: str) -> str:
    """Return ``--name=~/folder`` as it is meant; a shell does so for ``--name ~/folder`` alone."""
    name, _, value = argument.partition("=")
    return f"{name}={os.path.expanduser(value)}" if name.startswith("--") and value.startswith("~") else argument


def _run(arguments: Sequence[str], prog: str, *, shown: bool) -> int:
    name = arguments[0] if arguments else "--help"
    if name in ("-h", "--help"):
        print(_overview(prog))
        return 0
    if name not in _COMMANDS:
        raise UsageError(f"unknown command {name!r}. Commands: {', '.join(_COMMANDS)}.")
    command = _COMMANDS[name]
    if "" in arguments:  # a variable that is not set, most likely; as a path it would be the current folder
        raise UsageError(f"{arguments[arguments.index('') - 1]} needs a value, but got an empty one.")
    return command.run(_parse(command, arguments[1:], f"{prog} {name}" if shown else prog))


def _spare_the_last_look() -> None:
    """Let the process end without a last look for garbage through all of torch and Ray, a second of CPU."""
    if "triton" not in sys.modules:  # whose bindings print what they find left over
        gc.freeze()


def _overview(prog: str) -> str:
    lines = [
        f"usage: {prog} COMMAND [OPTIONS]",
        "",
        "Hyperparameter search for variational autoencoders.",
        "",
    ]
    lines += [f"  {name:10s} {command.summary}" for name, command in _COMMANDS.items()]
    return "\n".join([*lines, "", f"{prog} COMMAND --help tells the options of each."])


def _parse(command: _Command, arguments: Sequence[str], prog: str) -> Any:
    """Turn words into the command's configuration; what does not fit is a UsageError of one line."""

    def refuse(event: tyro_errors.ParseErrorEvent) -> None:
        raise UsageError(_explain(event))

    with tyro_errors.on_parse_error(refuse):
        return tyro.cli(
            command.options,
            prog=prog,
            default=command.defaults(arguments) if command.defaults else tyro.MISSING_NONPROP,
            args=arguments,
            config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff, tyro.conf.UseAppendAction),
        )


def _explain(event: Any) -> str:
    """Return one line for what tyro refused."""
    argument = getattr(event, "argument", None)
    flag = argument.lowered.name_or_flags[-1] if argument is not None else ""
    match type(event).__name__:
        case "MissingArgs":
            names = ", ".join(missing.arg.display_name() for missing in event.missing_arguments)
            return f"missing {names}; see {event.prog} --help."
        case "UnrecognizedArgs":
            return f"unknown option {event.tokens[0]}; see {event.prog} --help."
        case "InvalidChoice":
            return f"{flag} must be one of {', '.join(event.choices)}, but got {event.value!r}."
        case "BadValue":
            return f"{flag} needs a value; see {event.prog} --help."
        case "InstantiationFailure":
            return _explain_value(flag, telling_line(event.message).replace("{None}|", ""))
    return f"the options do not fit ({type(event).__name__}); see {event.prog} --help."


def _explain_value(flag: str, message: str) -> str:
    """Return what is wrong with an option's value, given tyro's words."""
    if number := _NO_NUMBER.search(message):
        kind = "a number" if "float" in number[1].lower() else "a whole number"
        return f"{flag} must be {kind}, but got {number[3]}."
    return f"{flag or 'the options'}: {message}".rstrip(".") + "."
