"""What a person types: the help, and every wrong input."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from tests.studies import make_study
from vae_tune import SearchConfig, __version__, load_study
from vae_tune.cli import main as cli
from vae_tune.config.files import write_json
from vae_tune.config.space import DEFAULT_SPACE
from vae_tune.images.datasets import Images
from vae_tune.record.metadata import new_metadata, read_search_config
from vae_tune.record.study_record import StudyRecord
from vae_tune.tasks.search_plan import make_plan

ROOT = Path(__file__).parents[2]
NOTHING = np.zeros((1, 1, 1, 1), np.uint8)
IMAGES = Images(NOTHING, NOTHING, NOTHING)


def run(monkeypatch, capsys, *words, command="search"):
    """Run the command in this process; return exit code, output and errors."""
    monkeypatch.setattr(sys, "argv", ["search.py", *map(str, words)])
    with pytest.raises(SystemExit) as stop:
        cli.main([command] if command else [], prog="search.py")
    captured = capsys.readouterr()
    return stop.value.code, captured.out, captured.err


def everything_below(folder):
    return {path: path.is_file() and path.read_bytes() for path in sorted(folder.rglob("*"))}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A study of two trials, the second still running."""
    config = SearchConfig(results_dir=Path("."), study_name="study")
    folder = tmp_path_factory.mktemp("studies") / "study"
    record = StudyRecord.create(folder, new_metadata("study", config, config.trial, DEFAULT_SPACE, IMAGES))
    for _ in range(2):
        trial = record.study.ask(dict(DEFAULT_SPACE.distributions))
        record.start(trial, trial.params)
    record.close()
    return folder


@pytest.fixture
def place(tmp_path, monkeypatch, study):
    """A working folder with what the wrong inputs name."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results" / "foreign").mkdir(parents=True)
    (tmp_path / "results" / "foreign" / "thesis.tex").write_text("")
    (tmp_path / "file").write_text("no folder")
    for name in ("study", "torn", "lost", "mangled", "results/taken"):
        shutil.copytree(study, tmp_path / name)
    (tmp_path / "torn" / "optuna.journal").write_text("{}\nno json\n{}\n")
    (tmp_path / "lost" / "optuna.journal").unlink()
    (tmp_path / "mangled" / "study.json").write_text("{}")
    config = SearchConfig(sampler="cmaes")
    (tmp_path / "cma").mkdir()
    write_json(tmp_path / "cma" / "study.json", new_metadata("cma", config, config.trial, DEFAULT_SPACE, IMAGES))
    (tmp_path / "empty").mkdir()
    for name, text in {
        "list": "- 1\n- 2\n",
        "no_yaml": "a: [1, 2\n",
        "nearly": "learning_rates: {type: float, low: 0.1, high: 0.2}\n",
        "unknown": "latent_size: {type: int, low: 2, high: 8}\ndropout: 0.5\n",
        "order": "latent_size: {type: int, low: 9, high: 8}\n",
        "narrow": "latent_size: {type: int, low: 2, high: 9}\n",
        "log": "batch_size: 64\nlearning_rate: {type: float, low: 0, high: 1.0, log: true}\n",
        "negative": "learning_rate: {type: float, low: -0.1, high: 1.0}\n",
        "nan": "learning_rate: {type: float, low: .nan, high: 1.0}\n",
    }.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    corrupt = tmp_path / "corrupt" / "MNIST" / "raw"
    corrupt.mkdir(parents=True)
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (corrupt / f"{name}-ubyte").write_bytes(b"no images")
    return tmp_path


BAD = [
    ("--dataset cifar", "--dataset must be a folder, a file or one of mnist"),
    ("--sampler grid", "--sampler must be one of tpe"),
    ("--num-samples 0", "--num-samples must be >= 1, but got 0"),
    ("--num-samples -1", "--num-samples must be >= 1, but got -1"),
    ("--num-samples many", "--num-samples"),
    ("--num-samples", "--num-samples needs a value"),
    ("--samples 3", "unknown option --samples. Did you mean --sampler?"),
    ("--num-sampels=3", "unknown option --num-sampels=3. Did you mean --num-samples?"),
    ("--learning_rte 3", "unknown option --learning_rte. Did you mean --learning-rate?"),
    ("--lr 3", "unknown option --lr. See"),
    ("--sampler tbe", "but got 'tbe'. Did you mean tpe?"),
    ("--sampler TPE", "but got 'TPE'. Did you mean tpe?"),
    ("--space wyde", "The space file wyde cannot be read: No such file or directory. Did you mean wide?"),
    ("--grace-period 11", "--grace-period <= --max-epochs must hold, but got 11 > 10"),
    ("--reduction-factor 1", "--reduction-factor must be >= 2, but got 1"),
    ("--learning-rate nan", "--learning-rate must be > 0 and finite, but got nan"),
    ("--learning-rate -1", "--learning-rate must be > 0 and finite, but got -1.0"),
    ("--batch-size 0", "--batch-size must be >= 1"),
    ("--seed -1", "--seed must be in 0..4294967295, but got -1"),
    ("--space missing.yaml", "missing.yaml cannot be read"),
    ("--space list.yaml", "list.yaml:1: a space is a mapping"),
    ("--space no_yaml.yaml", "no_yaml.yaml:2: not valid YAML"),
    ("--space unknown.yaml", "unknown.yaml:2: dropout is no field of a trial"),
    ("--space nearly.yaml", "Did you mean learning_rate?"),
    ("--space order.yaml", "order.yaml:1: latent_size low < high must hold, but got 9 >= 8"),
    ("--space log.yaml", "log.yaml:2: learning_rate"),
    ("--space negative.yaml", "negative.yaml:1: learning_rate must be > 0 and finite, but got -0.1"),
    ("--space nan.yaml", "nan.yaml:1: learning_rate must be > 0 and finite, but got nan"),
    ("--cpus-per-trial 0", "--cpus-per-trial must be >= 1"),
    ("--cpus-per-trial 4096", "--cpus-per-trial 4096 and --gpus-per-trial "),
    ("--gpus-per-trial 64", " and --gpus-per-trial 64 do not fit"),
    ("--gpus-per-trial 1.5", "--gpus-per-trial must be a fraction below 1 or whole, but got 1.5"),
    ("--max-concurrent 0", "--max-concurrent must be >= 1"),
    ("--results-dir file", "--results-dir file cannot be written"),
    ("--results-dir file/deeper", "--results-dir file/deeper cannot be written"),
    ("--study-name taken", "--resume results/taken"),
    ("--study-name foreign", "results/foreign exists already and is no study"),
    ("--study-name a/b", "--study-name must be a plain folder name, but got 'a/b'"),
    ("--study-name " + 300 * "x", "--study-name must be a plain folder name"),
    ("--results-dir " + 300 * "x", "--results-dir must be a path of printable names, each at most 255 bytes long"),
    ("--results-dir \udcff", "--results-dir must be a path of printable names"),
    ("--results-dir ''", "--results-dir needs a value, but got an empty one"),
    ("--train-size 1e3", "--train-size must be a whole number, but got '1e3'."),
    ("--num-samples many", "--num-samples must be a whole number, but got 'many'."),
    ("--target-loss low", "--target-loss must be a number, but got 'low'."),
    ("--audit-fraction 5%", "--audit-fraction must be a number, but got '5%'."),
    ("--train-size 0", "--train-size must be >= 1, but got 0"),
    ("--train-size 50001", "--train-size must be <= 50000 for mnist, but got 50001"),
    ("--data-dir corrupt", "train-images-idx3-ubyte is corrupt"),
    ("--time-budget soon", "--time-budget must be a time such as 90s, 45m or 1h30m, but got 'soon'"),
    ("--target-loss nan", "--target-loss must be finite"),
    (
        "--mlflow localhost:5000",
        "--mlflow must be a URL such as http://127.0.0.1:5000 or sqlite:///mlflow.db",
    ),
    ("--mlflow http://me:pw@host", "Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"),
    ("--visdom localhost:8097", "--visdom must be a URL such as http://127.0.0.1:8097, but got 'localhost:8097'"),
    ("--visdom", "--visdom needs a value"),
    ("--tensorboard yes", "unknown option yes"),
    ("--results-dir S3://bucket/vae", "is neither a folder nor one of s3://BUCKET/... and gs://BUCKET/..."),
    ("--results-dir ftp://host/vae", "is neither a folder nor one of s3://BUCKET/... and gs://BUCKET/..."),
    ("--resume nowhere", "nowhere is no study: the folder is missing"),
    ("--resume", "--resume needs a value"),
    ("--resume study --max-epochs 9", "--max-epochs is 10 in this study, but got 9"),
    ("--resume study --space order.yaml", "latent_size"),
    ("--resume study --space narrow.yaml", "space latent_size is"),
    ("--resume study --num-samples 1", "--num-samples must be >= 2, the trials started already, but got 1"),
    ("--resume study --study-name other", "--resume study names the study: leave out --study-name"),
    ("--resume study --results-dir other", "--resume study names the study: leave out --results-dir"),
    ("--resume mangled", "mangled is no study: study.json is damaged (it lacks 'name')"),
    ("--resume lost", "lost is no study: its journal cannot be read (optuna.journal is missing)"),
    ("--resume torn", "torn is no study: its journal cannot be read"),
    ("--warm-start nowhere", "nowhere is no study: the folder is missing"),
    ("--points nowhere.yaml", "The points file nowhere.yaml cannot be read"),
    ("--points order.yaml", "order.yaml: points are a list of mappings"),
    ("--resume cma", "as a pickle, which is not read"),
    ("--address 127.0.0.1:1", "No Ray cluster at address '127.0.0.1:1'"),
]


@pytest.mark.parametrize(("words", "message"), BAD, ids=[ascii(words) for words, _ in BAD])
def test_bad_input_is_refused_in_two_lines_and_creates_nothing(place, monkeypatch, capsys, words, message):
    before = everything_below(place)
    code, _, errors = run(monkeypatch, capsys, *shlex.split(words))
    assert code == 2
    assert message in errors
    assert "Traceback" not in errors
    assert 1 <= len(errors.strip().splitlines()) <= 2
    assert everything_below(place) == before


def test_a_misspelled_data_set_is_refused_before_ray_starts(place, monkeypatch, capsys):
    code, output, errors = run(monkeypatch, capsys, "--dataset", "MNIST")
    assert (code, output) == (2, "")
    assert errors.endswith("but got 'MNIST'. Did you mean mnist?\n")


def test_a_study_that_was_made_in_its_own_folder_can_be_resumed_from_elsewhere(place):
    metadata = json.loads((place / "study" / "study.json").read_text())
    metadata["config"]["results_dir"] = "."  # as an older version recorded it
    write_json(place / "study" / "study.json", metadata)
    assert make_plan(read_search_config(place / "study"), None, place / "study").remaining == 50


def without_rights(folder, *words):
    """Run a search in ``folder`` as a user who is bound by the rights of files, which root is not."""
    drop = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
    command = [*drop, sys.executable, ROOT / "search.py", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)


@pytest.mark.parametrize(
    ("closed", "words", "message"),
    [
        ("results", "--study-name new", "--results-dir results cannot be written: Permission denied"),
        ("study/study.json", "--resume study", "study is no study: study.json"),
        ("study/optuna.journal", "--resume study", "study is no study: its journal cannot be read"),
    ],
)
def test_what_may_not_be_read_is_named(place, closed, words, message):
    (place / closed).chmod(0)
    try:
        ran = without_rights(place, *words.split())
    finally:
        (place / closed).chmod(0o755)
    assert ran.returncode == 2
    assert message in ran.stderr
    assert len(ran.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("words", [["--results-dir=~/file"], ["--resume=~/file"]])
def test_a_home_folder_is_found_behind_an_equals_sign(place, monkeypatch, capsys, words):
    monkeypatch.setenv("HOME", str(place))
    code, _, errors = run(monkeypatch, capsys, *words)
    assert code == 2
    assert str(place / "file") in errors
    assert not (place / "~").exists()


def test_an_unknown_command_names_the_known_ones(monkeypatch, capsys):
    code, _, errors = run(monkeypatch, capsys, "serach", command=None)
    assert code == 2
    assert "unknown command 'serach'. Did you mean search? Commands: search" in errors


def shown(*command):
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, check=True, cwd=ROOT).stdout


def test_help_is_grouped_and_shows_every_option_with_its_default():
    text = re.sub(r"[\s│]+", " ", shown("search.py", "--help"))
    for group in ("asha options", "resources options", "views options", "data options", "trial options"):
        assert group in text
    for option, default in (
        ("--num-samples", 50),
        ("--grace-period", 1),
        ("--learning-rate", 0.001),
        ("--sampler", "tpe"),
    ):
        assert option in text
        assert f"(default: {default})" in text


def test_the_script_without_its_environment_names_the_way_there(tmp_path):
    command = [sys.executable, "-S", ROOT / "search.py"]  # no site-packages, as in a shell without the environment
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr == "search.py: tyro is not installed here: run make setup, then source .venv/bin/activate.\n"


@pytest.mark.parametrize("words", [["search.py", "--help"], ["-c", "from vae_tune.cli.main import main; main()"]])
def test_a_reader_that_leaves_ends_a_command_without_a_word(words):
    for unbuffered in ("", "1"):
        there, here = os.pipe()
        os.close(there)
        how = {"env": os.environ | {"PYTHONUNBUFFERED": unbuffered}, "stdout": here, "stderr": subprocess.PIPE}
        done = subprocess.run([sys.executable, *words], cwd=ROOT, check=False, **how)
        os.close(here)
        assert (done.returncode, done.stderr) == (1, b"")


def test_the_script_is_the_search_command():
    command = shown("-c", "from vae_tune.cli.main import main; main()", "search", "--help")
    examples = re.compile(r"^  .*(search\.py|vae-tune search|-m vae_tune search) ", re.MULTILINE)
    script = examples.sub("  ", shown("search.py", "--help"))
    assert script.replace("search.py", "vae-tune search").split() == examples.sub("  ", command).split()


@pytest.mark.parametrize("name", cli.COMMANDS)
@pytest.mark.parametrize("columns", [60, 80, 100])
def test_a_help_fits_the_terminal_and_shows_what_can_be_typed(monkeypatch, capsys, name, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    code, text, _ = run(monkeypatch, capsys, name, "--help", command=None)
    summary, _, rest = text.partition("Examples:\n")
    examples, _, boxes = rest.partition("\n\n")
    assert code == 0
    assert "None" not in text
    lines = [line for line in (summary.partition("\n\n")[2] + boxes).splitlines() if len(line.split()) > 3]
    assert max(map(len, lines)) <= columns
    for line, after in pairwise(boxes.splitlines()):
        if re.match(r"[│ ] {12,}\w", line) and (word := re.match(r"[│ ] {12,}(\S+) ", after)):  # of one option's text
            assert len(line.rstrip("│ ")) + 1 + len(word[1]) > columns - 2
    for example in examples.splitlines():
        words = shlex.split(example.replace("results/NAME", "nowhere"))
        words = words[words.index(name) + 1 :]
        assert "unknown option" not in run(monkeypatch, capsys, name, *words, "--help", command=None)[2]


@pytest.mark.parametrize("start", [["search.py"], ["-m", "vae_tune"], ["-m", "vae_tune", "search"]])
def test_the_version_is_said(start):
    assert shown(*start, "--version") == f"vae_tune {__version__}\n"


def test_the_package_runs_as_a_module(monkeypatch):
    text = shown("-m", "vae_tune", "search", "--help")
    assert "usage: python -m vae_tune search" in text
    assert (
        f"{sys.executable} -m vae_tune search --num-samples 50" in text or "vae-tune search --num-samples 50" in text
    )


SPELLINGS = {
    "here": ("results/s", "."),
    "inside": ("results/s/best", ".."),
    "beside": ("results/t", "../s"),
    "slash": (".", "results/s/"),
    "link": (".", "link"),
    "home": ("results", "~/results/s"),
    "below": (".", "results/t/../s"),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_study_is_known_however_its_folder_is_spelled(spelling, tmp_path, monkeypatch, capsys):
    study = make_study(tmp_path / "results" / "s", trials=4)
    make_study(tmp_path / "results" / "t", trials=4, seed=1)
    (tmp_path / "link").symlink_to(study)
    monkeypatch.setenv("HOME", str(tmp_path))
    where, typed = SPELLINGS[spelling]
    monkeypatch.chdir(tmp_path / where)
    name = "link" if spelling == "link" else "s"
    assert load_study(typed).name == name
    assert run(monkeypatch, capsys, "audit", typed, command=None)[0] == 0
    code, out, _ = run(monkeypatch, capsys, "report", typed, "--output", tmp_path / "page.html", command=None)
    assert code == 0, out
    assert f"<title>{name} " in (tmp_path / "page.html").read_text().replace("</title>", " ")
    code, _, errors = run(monkeypatch, capsys, "compare", typed, study, command=None)
    assert (code, "two or more different studies" in errors) == (2, True)
    code, out, errors = run(monkeypatch, capsys, "compare", typed, tmp_path / "results" / "t", command=None)
    assert code == 0, errors
    assert re.search(rf"\b{name} +t\b", out)
    code, _, errors = run(monkeypatch, capsys, "--resume", typed, "--max-epochs", 3)
    assert (code, "--max-epochs is 9 in this study, but got 3" in errors) == (2, True)


def test_without_a_command_the_commands_are_listed(monkeypatch, capsys):
    code, text, _ = run(monkeypatch, capsys, command=None)
    assert code == 0
    assert "search" in text
