"""The console command ``vae-tune`` and its subcommands."""

from __future__ import annotations

import atexit
import gc
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NoReturn

import tyro

from vae_tune.cli.check.options import CheckOptions
from vae_tune.cli.parsing import parse
from vae_tune.config import suggestions
from vae_tune.config.files import address
from vae_tune.config.settings import SearchConfig, SearchError, UsageError, check_types
from vae_tune.replay.options import ReplayOptions
from vae_tune.tasks.options import (
    CompareOptions,
    DashboardOptions,
    EvaluateOptions,
    ExploreOptions,
    GenerateOptions,
    ListOptions,
    ReportOptions,
    TrainOptions,
    path_option,
    train_defaults,
)

_INTERRUPTED = 130
_BAD_INPUT = 2
_FAILED = 1
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
    examples: tuple[str, ...] = ()
    """What may follow the command, for its help."""


def _search(config: SearchConfig) -> int:
    from vae_tune.tasks.search import run_search

    return 0 if run_search(config).best is not None else 1


def _search_defaults(arguments: Sequence[str]) -> SearchConfig:
    """Return what holds where no option says otherwise: with --resume, the study's own settings."""
    folder = path_option("resume", arguments)
    if folder is None:
        return SearchConfig()
    from vae_tune.record.metadata import read_config

    return read_config(folder)


@dataclass(frozen=True)
class AuditOptions:
    """Check a study's record against itself, without training: states, numbers, rung decisions, winner."""

    folder: Annotated[Path, tyro.conf.Positional]
    """Folder of the study."""

    def __post_init__(self) -> None:
        """Refuse what is of another type."""
        check_types(self)


def _audit(options: AuditOptions) -> int:
    from vae_tune.analysis.audit import audit

    contradictions = audit(options.folder)
    for line in contradictions:
        print(line)
    count = len(contradictions)
    print(f"{address(options.folder)}: {count or 'no'} contradiction{'s' if count > 1 else ''}.")
    return 1 if contradictions else 0


def _report(options: ReportOptions) -> int:
    from vae_tune.views.report.page import write_report

    path = write_report(options.folder, options.output)
    print(address(path))
    if options.open:
        import webbrowser

        webbrowser.open(path.absolute().as_uri())
    return 0


def _compare(options: CompareOptions) -> int:
    from vae_tune.tasks.compare import compare

    compare(options)
    return 0


def _train(options: TrainOptions) -> int:
    from vae_tune.tasks.train import train

    train(options)
    return 0


def _explore(options: ExploreOptions) -> int:
    from vae_tune.tasks.explore import explore

    explore(options)
    return 0


def _evaluate(options: EvaluateOptions) -> int:
    from vae_tune.tasks.evaluate import run_evaluation

    run_evaluation(options)
    return 0


def _generate(options: GenerateOptions) -> int:
    from vae_tune.tasks.generate import draw_gallery

    for path in draw_gallery(options):
        print(path)
    return 0


def _list(options: ListOptions) -> int:
    from vae_tune.cli.listing import print_studies

    print_studies(options.folder)
    return 0


def _dashboard(options: DashboardOptions) -> int:
    from vae_tune.cli.dashboard import run_dashboard

    run_dashboard(options)
    return 0


def _check(options: CheckOptions) -> int:
    from vae_tune.cli.check.command import check

    return check(options)


def _replay(options: ReplayOptions) -> int:
    from vae_tune.replay.command import replay

    replay(options)
    return 0


COMMANDS = {
    "search": _Command(
        SearchConfig,
        "Search for the best variational autoencoder for an image data set.",
        _search,
        _search_defaults,
        (
            "--num-samples 50",
            "--num-samples 6 --train-size 5000 --max-epochs 3",
            "--space wide --max-epochs 30 --time-budget 2h --confirm 3",
            "--resume results/NAME --num-samples 200",
        ),
    ),
    "train": _Command(
        TrainOptions,
        "Train one configuration, without a search.",
        _train,
        train_defaults,
        (
            "--latent-size 10 --epochs 20 --output models/ten",
            "--config results/NAME/best/config.json --epochs 50",
            "--resume models/ten --epochs 40",
        ),
    ),
    "explore": _Command(
        ExploreOptions,
        "Compare latent sizes, each trained several times.",
        _explore,
        examples=("--latent-size 2,5,10,20 --repeats 3 --epochs 5", "--resume results/NAME"),
    ),
    "evaluate": _Command(
        EvaluateOptions,
        "Evaluate a trained model: negative ELBO, likelihood.",
        _evaluate,
        examples=("results/NAME", "results/NAME/best --nll-samples 5000 --images 1000 --json"),
    ),
    "generate": _Command(
        GenerateOptions,
        "Draw samples, reconstructions, latent space of a model.",
        _generate,
        examples=("results/NAME", "results/NAME --what samples,traversals --format npz --output pictures"),
    ),
    "list": _Command(
        ListOptions,
        "List the studies in a folder: how each stands, its best.",
        _list,
        examples=("", "s3://BUCKET/vae"),
    ),
    "dashboard": _Command(
        DashboardOptions,
        "Show a study in the browser, on this machine alone.",
        _dashboard,
        examples=("results/NAME --open",),
    ),
    "report": _Command(
        ReportOptions,
        "Write report.html: what a search found, in one page.",
        _report,
        examples=("results/NAME --open", "results/NAME --output report.html"),
    ),
    "compare": _Command(
        CompareOptions,
        "Print and draw studies side by side.",
        _compare,
        examples=("results/A results/B --output comparison.png",),
    ),
    "replay": _Command(
        ReplayOptions,
        "Replay searches on recorded curves with other settings.",
        _replay,
        examples=("results/NAME --sampler tpe,random --reduction-factor 2,3,4 --workers 1,8",),
    ),
    "check": _Command(
        CheckOptions,
        "Say what is wrong with a cluster before it costs money.",
        _check,
        examples=("cluster.yaml --offline", "--address auto --results-dir s3://BUCKET/vae"),
    ),
    "audit": _Command(AuditOptions, "Check a study's record against itself.", _audit, examples=("results/NAME",)),
}


def main(words: Sequence[str] = (), prog: str = "vae-tune") -> NoReturn:
    """Run the command line: ``words`` followed by the process's own arguments."""
    arguments = [*words, *sys.argv[1:]]
    gc.set_threshold(_GARBAGE)
    atexit.register(_spare_the_last_look)
    try:
        with suggestions.started(words):
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


def _run(arguments: Sequence[str], prog: str, *, shown: bool) -> int:
    name = arguments[0] if arguments else "--help"
    if name in ("-h", "--help"):
        print(_overview(prog))
        return 0
    if "--version" in (name, *arguments[1:2]):
        from vae_tune import __version__

        print(f"vae_tune {__version__}")
        return 0
    if name not in COMMANDS:
        meant = suggestions.did_you_mean(name, COMMANDS)
        raise UsageError(f"unknown command {name!r}.{meant} Commands: {', '.join(COMMANDS)}.")
    command = COMMANDS[name]
    if "" in arguments:  # a variable that is not set, most likely; as a path it would be the current folder
        raise UsageError(f"{arguments[arguments.index('') - 1]} needs a value, but got an empty one.")
    words = arguments[1:]
    default = command.defaults(words) if command.defaults else None
    examples = [f"{suggestions.command(name)} {example}" for example in command.examples]
    return command.run(parse(command.options, words, f"{prog} {name}" if shown else prog, default, examples))


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
    lines += [f"  {name:10s} {command.summary}" for name, command in COMMANDS.items()]
    return "\n".join([*lines, "", f"{prog} COMMAND --help tells the options of each."])
