"""Each error that names a way out: take that way, read from its own words, and it leads out."""

import math
import re
import shlex
import socket
from pathlib import Path

import numpy as np
import pytest
from optuna.distributions import FloatDistribution

from tests.cli.test_main import run
from tests.studies import hand_made, make_study
from vae_tune.cli import main as cli
from vae_tune.cli.dashboard import make_dashboard
from vae_tune.cli.parsing import parse
from vae_tune.cli.replay import ReplayOptions
from vae_tune.cli.report import ReportOptions
from vae_tune.config.errors import UsageError
from vae_tune.config.names import CONFIRMATION, EXPLORATION, KINDS, PRUNED, SEARCH
from vae_tune.config.settings import DataConfig, SearchConfig
from vae_tune.config.space import DEFAULT_SPACE, Space
from vae_tune.images.datasets import load_images
from vae_tune.record.metadata import read_metadata, read_search_config, refuse_other_data
from vae_tune.record.study_record import StudyRecord
from vae_tune.replay.curves import load_curves, places
from vae_tune.replay.forecast import Recorded
from vae_tune.replay.surrogate import Surrogate
from vae_tune.tasks.replay import replay
from vae_tune.tasks.search_plan import make_plan
from vae_tune.tasks.study_folder import study_place
from vae_tune.views.console import make_console

SETTINGS = ReplayOptions(source=Path()).settings
WIDE = make_console(width=100)
WITH_DECAY = (
    "latent_size: {type: int, low: 2, high: 64, log: true}\n"
    "weight_decay: {type: float, low: 1.0e-6, high: 1.0e-2, log: true}\n"
)


def planned(*words):
    """Check a search as its command does, up to where Ray would start."""
    words = [str(word) for word in words]
    command = cli.load_command("search")
    config = parse(command.options, words, "search.py", command.defaults(words))
    return make_plan(config, None, study_place(config))


def refused(call, *words, **options):
    """Return what a refusal advises: all from its second line on, or what follows the first colon."""
    with pytest.raises(UsageError) as error:
        call(*words, **options)
    text = str(error.value)
    return text.partition("\n")[2] or text.partition(": ")[2]


def options_in(advice):
    """Return the options that an advice names, each with its value if it has one."""
    return [shlex.split(words) for words in re.findall(r"--[a-z-]+(?: [a-z0-9]+(?=[.]|$))?", advice)]


def without(words, option):
    """Return a command line without an option and its value."""
    place = words.index(option)
    return words[:place] + words[place + 2 :]


def test_a_sampler_that_needs_the_reference_inside(tmp_path):
    (tmp_path / "space.yaml").write_text(WITH_DECAY)
    words = ["--space", tmp_path / "space.yaml", "--results-dir", tmp_path, "--sampler", "qmc"]
    (name,), tpe = options_in(refused(planned, *words))
    assert name == "--weight-decay"  # the latent size lies inside
    planned(*words, name, "1e-4")
    planned(*words, *tpe)


def test_a_search_by_cmaes_that_is_resumed(tmp_path):
    folder = make_study(tmp_path / "s", trials=4, sampler="cmaes")
    ((*tpe,),) = options_in(refused(planned, "--resume", folder))
    planned("--resume", folder, *tpe)


@pytest.mark.parametrize("changed", [["--study-name", "other"], ["--results-dir", "elsewhere"]])
def test_a_resume_that_names_the_study_twice(tmp_path, changed):
    folder = make_study(tmp_path / "s", trials=4)
    words = ["--resume", folder, *changed]
    with pytest.raises(UsageError, match="leave out") as error:
        planned(*words)
    planned(*without(words, re.search(r"leave out (--\S+)[.]", str(error.value))[1]))


@pytest.mark.parametrize(
    "changed",
    [
        ["--batch-size", "64"],
        ["--dataset", "fashion-mnist"],
        ["--reduction-factor", "4"],
        ["--space", "space.yaml"],
        ["--train-size", "77"],
        ["--seed", "3"],
    ],
)
def test_a_resume_that_changes_what_is_compared(tmp_path, monkeypatch, changed):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "space.yaml").write_text(WITH_DECAY)
    words = ["--resume", make_study(tmp_path / "s", trials=4), *changed]
    (option,) = options_in(refused(planned, *words))
    planned(*without(words, *option))


def test_a_resume_on_other_images(tmp_path, tiny):
    metadata = read_metadata(make_study(tmp_path / "s", trials=4))
    assert options_in(refused(refuse_other_data, metadata, SearchConfig(), tiny)) == [["--data-dir"]]
    assert planned("--resume", tmp_path / "s", "--data-dir", tmp_path).config.data.data_dir == tmp_path


def test_fewer_trials_than_were_begun(tmp_path):
    folder = make_study(tmp_path / "s", trials=4)
    with pytest.raises(UsageError) as error:
        planned("--resume", folder, "--num-samples", 2)
    planned("--resume", folder, "--num-samples", re.search(r">= (\d+)", str(error.value))[1])


def test_a_name_that_is_taken(tmp_path):
    make_study(tmp_path / "s", trials=4)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "one.png").touch()
    words = ["--results-dir", tmp_path, "--study-name"]
    resumed = shlex.split(refused(planned, *words, "s").rpartition("search ")[2])
    assert planned(*resumed).folder == tmp_path / "s"
    ((option,),) = options_in(refused(planned, *words, "photos"))
    planned("--results-dir", tmp_path, option, "new")


def test_an_exploration_whose_name_is_taken(tmp_path):
    folder = make_study(tmp_path / "s", trials=4, kind=EXPLORATION)
    words = shlex.split(refused(planned, "--results-dir", tmp_path, "--study-name", "s"))
    place = words.index("explore")
    assert words[place + 1 :] == ["--resume", str(folder)]
    assert read_search_config(folder, EXPLORATION).resume == folder


@pytest.mark.parametrize("kind", KINDS)
def test_a_search_that_broke(tmp_path, kind):
    search = make_study(tmp_path / "s", trials=4)
    folder = make_study(search / "confirmation", trials=4, kind=kind) if kind == CONFIRMATION else search
    if kind == EXPLORATION:
        folder = make_study(tmp_path / "sizes", trials=4, kind=kind)
    record = StudyRecord.resume(folder, read_metadata(folder))
    words = shlex.split(record.resume_command)  # what it says where it ends before its time
    record.close()
    read_search_config(Path(words[words.index("--resume") + 1]), EXPLORATION if "explore" in words else SEARCH)


def test_a_study_of_another_kind(tmp_path):
    folder = make_study(tmp_path / "s", trials=4)
    words = shlex.split(refused(read_search_config, folder, EXPLORATION))
    assert planned(*words[words.index("--resume") :]).folder == folder


def test_the_last_epoch_as_a_hyperparameter(tmp_path):
    (tmp_path / "space.yaml").write_text("max_epochs: {type: int, low: 2, high: 64}\n")
    words = ["--results-dir", tmp_path, "--space", tmp_path / "space.yaml"]
    with pytest.raises(UsageError) as error:
        planned(*words)
    (tmp_path / "space.yaml").write_text("latent_size: {type: int, low: 2, high: 64}\n")
    planned(*words, *options_in(str(error.value))[-1], 30)


def test_a_study_that_is_to_teach_twice(tmp_path):
    folder = make_study(tmp_path / "s", trials=4)
    words = ["--results-dir", tmp_path, "--warm-start", folder]
    assert refused(planned, *words, "--warm-start", folder) == "Leave one out."
    planned(*words)


def test_a_journal_that_lost_reports(tmp_path):
    folder = make_study(tmp_path / "s", trials=4)
    lines = (folder / "optuna.journal").read_bytes().splitlines(keepends=True)
    (folder / "optuna.journal").write_bytes(b"".join(lines[:-1]))
    metadata = read_metadata(folder)
    moved = re.search(r"move (\S+) away", refused(StudyRecord.resume, folder, metadata))[1]
    (folder / moved).rename(tmp_path / "away.csv")
    StudyRecord.resume(folder, metadata).close()


def test_a_training_whose_folder_is_taken_or_that_is_changed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    begin = ["--epochs", 1, "--train-size", 300, "--hidden-width", 8, "--output", "models"]
    again = ["--resume", "models", "--latent-size", 3]
    assert run(monkeypatch, capsys, *begin, command="train")[0] == 0
    code, _, errors = run(monkeypatch, capsys, *begin, command="train")
    assert code == 2
    words = shlex.split(errors.rpartition("go on with it: ")[2])
    assert run(monkeypatch, capsys, *words[words.index("--resume") :], command="train")[0] == 0
    code, _, errors = run(monkeypatch, capsys, *again, command="train")
    assert code == 2
    option, output = (words[0] for words in options_in(errors.splitlines()[1]))
    assert run(monkeypatch, capsys, *without(again, option), command="train")[0] == 0
    assert run(monkeypatch, capsys, *begin[:-2], output, "anew", command="train")[0] == 0


def test_a_port_that_is_taken(tmp_path):
    folder = make_study(tmp_path / "s", trials=4)
    with socket.create_server(("127.0.0.1", 0)) as other:
        with pytest.raises(UsageError, match="choose another with --port"):
            make_dashboard(folder, other.getsockname()[1])
        make_dashboard(folder, 0).server_close()


def test_a_corrupt_file_of_mnist(tmp_path):
    config = DataConfig(data_dir=tmp_path, train_size=300)
    load_images(config)
    file = next(tmp_path.rglob("t10k-labels*"))
    file.write_bytes(b"")
    assert refused(load_images, config) == "Delete that file: vae_tune unpacks it again."
    file.unlink()
    load_images(config)


def test_a_report_of_a_remote_study_to_be_opened():
    options = {"folder": "s3://bucket/results/s", "open": True}
    with pytest.raises(UsageError, match="--output FILE"):
        make(ReportOptions, **options)
    make(ReportOptions, **options, output="report.html")


def make(kind, **options):
    words = [options.pop("folder")]
    words += ["--open"] if options.pop("open") else []
    return parse(kind, [*words, *(word for name, value in options.items() for word in (f"--{name}", value))], "report")


def test_a_bridge_that_makes_no_difference(tmp_path):
    options = {"source": tmp_path, "bridge": "stock"}
    with pytest.raises(UsageError, match="--bridge stock needs tpe among --sampler, and asha or none"):
        ReplayOptions(**options, sampler="random", scheduler="asha-promotion")
    for scheduler in ("asha", "none"):
        assert ReplayOptions(**options, sampler="random,tpe", scheduler=scheduler).settings


def follow(source, output, curves):
    """Replay ``source`` first with ``curves``, then with the options that each refusal advises; return all advice."""
    options, advice = {"curves": curves}, []
    while len(advice) < 4:
        try:
            replay(source, SETTINGS, num_samples=15, seeds=[0], output=output, console=WIDE, **options)
        except UsageError as error:
            advice.append(str(error).splitlines()[-1])
            ways = re.findall(r"--curves \w+|--force", advice[-1])
            if not ways:
                return advice
            name, _, value = ways[0].removeprefix("--").partition(" ")
            options[name] = value or True
        else:
            return [*advice, "done"]
    return advice


def study_with(folder, whole, stopped):
    """A study with so many trials to the end after so many, the reference among them, that were stopped."""
    random = np.random.default_rng(0)
    trials = []
    for number in range(whole + stopped):
        values = {"learning_rate": float(10 ** random.uniform(-4, -2)), "latent_size": int(random.integers(2, 65))}
        height = 100 + 5 * (number < stopped) + abs(math.log10(values["learning_rate"] / 2e-3))
        losses = [height + 9, height + 5, height]
        trials.append({"losses": losses, "values": values if number else {}})
        if number < stopped:
            trials[-1] |= {"losses": losses[:1], "state": PRUNED}
    return hand_made(folder, *trials).folder


@pytest.mark.parametrize("curves", ["tabular", "surrogate"])
@pytest.mark.parametrize(("whole", "stopped"), [(3, 0), (3, 9), (8, 0), (8, 12)])
def test_a_replay_that_its_curves_do_not_allow(tmp_path, curves, whole, stopped):
    advice = follow(study_with(tmp_path / "s", whole, stopped), tmp_path / "out", curves)
    if whole < 6 and stopped:  # no other option helps, but another study does
        assert len(advice) == 1
        assert "--scheduler none" in advice[0]
        recorded = make_study(tmp_path / "t", trials=30, scheduler="none", failed=0.0)
        assert follow(recorded, tmp_path / "out", curves)[-1] == "done"
    else:
        assert advice[-1] == "done"


@pytest.mark.parametrize("curves", ["tabular", "surrogate"])
def test_a_reference_off_a_log_axis_is_replayed(tmp_path, curves):
    space = Space({**DEFAULT_SPACE.distributions, "weight_decay": FloatDistribution(1e-6, 1e-2, log=True)})
    folder = make_study(tmp_path / "s", trials=30, space=space, scheduler="none", failed=0.0)
    recorded = load_curves(folder)
    reference = recorded.values[0]
    assert reference["weight_decay"] == 0
    assert (places(space, [reference]) == places(space, [reference | {"weight_decay": 1e-6}])).all()
    one = {"num_samples": 8, "seeds": [0], "force": True, "console": WIDE}
    settings = ReplayOptions(source=folder, sampler="random", scheduler="none").settings
    assert len(replay(folder, settings, output=tmp_path / "out", curves=curves, **one)) == 1
    assert np.isfinite(Recorded(recorded, Surrogate(recorded)).curve(reference).losses).all()  # of the forecast
