"""The text of report.html; test_report_browser.py tests how it behaves in a browser."""

import fcntl
import html
import json
import re
import sys

import numpy as np
import pytest
from optuna.distributions import CategoricalDistribution, IntDistribution

from tests.analysis.test_plots_hyperparameters import SPACE
from tests.cli.test_main import run
from tests.studies import hand_made, make_study
from tests.views.test_interactive import CONDITIONS
from vae_tune import TrialConfig, load_study
from vae_tune.analysis.advice import conclusions
from vae_tune.cli import main as cli
from vae_tune.cli.command import Command
from vae_tune.cli.replay import ReplayOptions
from vae_tune.cli.train import TrainOptions
from vae_tune.config import message_hints
from vae_tune.config.errors import UsageError
from vae_tune.config.names import EXPLORATION
from vae_tune.config.space import Space
from vae_tune.tasks.replay import replay
from vae_tune.views.console import make_console
from vae_tune.views.figures.conventions import COLORS
from vae_tune.views.report.page import write_report


def read(folder, **options):
    """The report's words and its data."""
    page = write_report(folder, **options).read_text()
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1]
    words = re.sub(r"<(script|style).*?</\1>", "", page, flags=re.DOTALL)
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", words))), json.loads(data)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return make_study(tmp_path_factory.mktemp("results") / "s", trials=40)


@pytest.fixture(scope="module")
def parsed(whole):
    """The text of the report of the whole study, and its data."""
    return read(whole)


def test_it_compares_winner_and_reference_and_names_kind_and_unit(whole, parsed):
    words, _ = parsed
    metrics = load_study(whole).metrics
    winner, gain = metrics["winner"], metrics["improvement"]["test"]
    assert f"Trial {winner['trial']} wins" in words
    assert f"Test loss {winner['test']['negative_elbo']:.2f} negative ELBO" in words
    assert "nats per image, grey values" in words
    assert "which is no likelihood" in words
    assert f"{gain:.2f} nats per image better than the reference" in words
    numbers = [metrics[who]["test"]["negative_elbo"] for who in ("reference", "winner")]
    assert f"test negative ELBO {numbers[0]:.2f} {numbers[1]:.2f} {-gain:+.2f}" in words


def test_it_tells_what_early_stopping_saved_and_where_the_hours_went(whole, parsed):
    words, _ = parsed
    study = load_study(whole)
    epochs, pruned = len(study.epochs), study.trials[study.trials.state == "PRUNED"]
    saved = len(pruned) * 9 - pruned.epochs.sum()
    assert f"{len(pruned)} trials were pruned: the search trained {epochs} epochs instead of {epochs + saved}" in words
    for entry in ("complete", "pruned", "failed", "idle"):
        assert re.search(rf" {entry} [\d ]*[\d.]+ [\d.]+% ", words)


def test_what_costs_less_than_an_hour_is_told_in_minutes(tmp_path):
    for seconds, unit in ((60, "core-minutes"), (9000, "core-hours")):
        study = hand_made(tmp_path / unit, {"losses": (9, 8), "times": (seconds, 2 * seconds)})
        assert re.search(rf"Compute [\d.]+ {unit} in .* Where the {unit} went", read(study.folder)[0])


def test_the_page_has_the_colors_of_the_figures(whole):
    page = write_report(whole).read_text()
    assert all(f"--{name}: {color};" in page for name, color in COLORS.items())
    figures = re.search(r'id="data">(.*?)</script>', page)[1]
    assert set(re.findall(r'"@([\w-]+)"', figures)) - {"scale"} <= set(re.findall(r"--([\w-]+):", page))


def test_three_findings_come_first_and_the_others_are_folded(whole):
    page = write_report(whole).read_text()
    lists = re.compile(r'<ul class="words">(.*?)</ul>\s*<details class="more">(.*?)</details>', re.DOTALL)
    shown, folded = lists.search(page).groups()
    more = folded.count("<li>")
    assert shown.count("<li>") == 3
    assert f"<summary>{more} more</summary>" in folded
    assert more == len(conclusions(load_study(whole))) - 3


def test_it_tells_where_everything_came_from(whole, parsed):
    words, _ = parsed
    metadata = load_study(whole).metadata
    assert metadata["data"]["sha256"] in words
    assert "search.py --num-samples 40" in words
    assert f"torch {metadata['runs'][0]['versions']['torch']}" in words
    assert "ASHA with rungs at 1, 3 and reduction factor 3" in words


def test_its_table_holds_every_trial(whole, parsed):
    _, data = parsed
    trials = load_study(whole).trials
    names = [column["name"] for column in data["columns"]]
    assert [row[names.index("trial")] for row in data["rows"]] == list(trials.index)
    assert [row[names.index("state")] for row in data["rows"]] == list(trials.state)
    assert {"latent_size", "val_loss", "seconds", "reason"} <= set(names)
    assert "node" not in names  # there is but one


@pytest.mark.parametrize("space", [None, SPACE])
def test_its_command_trains_the_winner(space, tmp_path, monkeypatch):
    folder = make_study(tmp_path / "a study", **({} if space is None else {"space": space}))
    words, _ = read(folder)
    command = re.search(r"vae.tune (train .*?--train-size 5000)", words)[1].replace("'models/a study'", "models/a")
    caught = []
    monkeypatch.setattr("vae_tune.cli.train.COMMAND", Command(TrainOptions, caught.append, ()))
    monkeypatch.setattr(sys, "argv", ["vae-tune", *command.split()])
    with pytest.raises(SystemExit):
        cli.main()
    study = load_study(folder)
    values = study.metrics["winner"]["hyperparameters"]
    expected = TrialConfig(max_epochs=9, **{"encoder_activation": "linear"} | values)  # of gray images
    assert {name: getattr(caught[0].trial, name) for name in expected.__dataclass_fields__} == vars(expected)
    assert caught[0].data.train_size == 5000


def test_of_many_hyperparameters_those_that_matter_are_told_and_shown_two_by_two(tmp_path):
    names = ("hidden_width", "batch_size", "kl_warmup_epochs", "hidden_layers", "iwae_samples", "latent_size")
    space = Space({name: IntDistribution(1, 100) for name in names})
    random = np.random.default_rng(0)
    draws = [{name: int(random.integers(1, 100)) for name in names} for _ in range(40)]
    trials = [{"losses": [100 + values["iwae_samples"]] * 3, "values": values} for values in draws]
    study = hand_made(tmp_path / "s", *trials, space=space)
    words, data = read(study.folder)
    assert re.search("iwae_samples matters most: .*, the other 1 less", words)
    views = [view["label"] for view in data["cards"]["pair_grid"]]
    assert len(views) == 10
    assert "hidden_width, iwae_samples" in views
    titles = re.findall("<h3>(.*?)</h3>", (study.folder / "report.html").read_text())
    assert titles[titles.index("Which hyperparameters matter") + 1] == "iwae_samples"


SAID = {
    "whole": "complete",
    "running": f"To resume: {message_hints.command('search')} --resume",  # nobody writes it any more
    "no trial yet": "No trial has reported an epoch yet.",
    "one trial": "1 complete, 0 pruned",
    "one that runs": "No trial has reported an epoch yet.",
    "all failed": "No trial has succeeded.",
    "other space": "One of linear, relu.",
    "zero on a log range": "The reference, 0, is not on this axis.",
    "no early stopping": "Early stopping was off",
}


@pytest.mark.parametrize("condition", CONDITIONS)
def test_it_says_in_words_how_a_study_stands(condition, tmp_path):
    words, data = read(make_study(tmp_path / "s", **CONDITIONS[condition]))
    assert SAID[condition] in words
    assert " nan" not in words.lower().replace("nanc", "")
    assert data["cards"]


def test_it_tells_a_search_that_runs_from_one_that_was_killed(tmp_path):
    folder = make_study(tmp_path / "s", ended=20, status="running")
    assert " killed " in read(folder)[0]
    with (folder / "study.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "The search is still running: 20 of 40 trials have ended." in read(folder)[0]


def test_an_exploration_goes_on_as_one(tmp_path):
    space = Space({"latent_size": CategoricalDistribution([2, 20]), "seed": IntDistribution(0, 9)})
    words, _ = read(
        make_study(tmp_path / "s", ended=3, status="interrupted", space=space, scheduler="none", kind=EXPLORATION)
    )
    assert f"To resume: {message_hints.resume(tmp_path / 's', 'explore')}" in words
    assert "Pruned trials are ticks" not in words  # there are none


def test_a_search_in_slurm_jobs_names_them_and_goes_on_as_another(tmp_path):
    folder = make_study(tmp_path / "s", trials=4, ended=2, status="interrupted")
    path = folder / "study.json"
    metadata = json.loads(path.read_text())
    metadata["config"]["resources"]["address"] = "slurm"
    metadata["runs"][0]["slurm_job"] = "15_3"
    path.write_text(json.dumps(metadata))
    words, _ = read(folder)
    assert f"To resume: sbatch cluster/slurm.sh --resume {folder}" in words
    assert "; Slurm job 15_3)" in words


def test_slots_that_changed_are_named_by_their_largest_number(tmp_path):
    folder = make_study(tmp_path / "s", trials=4, slots=1)
    assert "s on 1 slot ·" in read(folder)[0]
    metadata = json.loads((folder / "study.json").read_text())
    (run,) = metadata["runs"]
    run["slot_changes"] = [{"time": run["started"], **run["slots"], "count": count} for count in (2, 0)]
    (folder / "study.json").write_text(json.dumps(metadata))
    words, _ = read(folder)
    assert "s on up to 2 slots ·" in words
    assert "; up to 2 x 1 CPU)" in words
    again = {name: value for name, value in run.items() if name != "slot_changes"}
    (folder / "study.json").write_text(json.dumps({**metadata, "runs": [run, again]}))
    assert "s on up to 2 slots ·" in read(folder)[0]  # the time is that of both runs


def test_it_says_all_that_the_study_teaches(whole, parsed):
    words, _ = parsed
    findings = conclusions(load_study(whole))
    assert len(findings) > 4
    for finding in findings:
        assert finding.topic == "result" or re.sub(r"\s+", " ", str(finding)) in words


def test_it_shows_what_fresh_seeds_confirmed(tmp_path):
    folder = make_study(tmp_path / "s", trials=12)
    assert "fresh seeds" not in read(folder)[0]
    (folder / "confirmation.csv").write_text(
        "trial,latent_size,searched_val_loss,optimism,trials,val_loss_mean,val_loss_high,test_loss_mean,test_loss_high\n"
        "7,12,100.5,0.25,3,100.75,101.0,99.875,\n"
    )
    assert "trial 7 100.50 100.75 ± 0.25 +0.25 99.88 3" in read(folder)[0]


def test_a_confirmation_changes_nothing_of_what_it_says_of_the_search(tmp_path):
    folder, said = make_study(tmp_path / "s", trials=12), []
    for again in (False, True):
        if again:
            make_study(folder / "confirmation", trials=4, max_epochs=9, scheduler="none")
        page = read(folder)[0]
        said.append(re.findall(r"trained [\d,]+ epochs instead of [\d,]+|Workers trained for \d+%", page))
    assert said[0] == said[1]
    assert len(said[0]) == 2
    assert "confirmation" in page


def test_a_name_or_a_reason_stays_text(tmp_path):
    folder = make_study(tmp_path / "<script>alert(1)<", trials=6, failed=1.0)
    table = folder / "trials.csv"
    table.write_text(table.read_text().replace("RuntimeError", "</script><b>").replace("diverged:", "</script><b>"))
    page = write_report(folder).read_text()
    assert "<script>alert" not in page
    assert "</script><b>" not in page


def test_a_trial_of_30_epochs_costs_less_than_two_kilobytes(tmp_path):
    sizes = []
    for trials in (20, 120):
        folder = make_study(tmp_path / str(trials), trials=trials, max_epochs=30, scheduler="none", failed=0)
        sizes.append(write_report(folder).stat().st_size)
    assert (sizes[1] - sizes[0]) / 100 < 2000  # so that 1,000 of them stay below 2 MB, beside plotly's 5


def test_the_command_writes_it_where_it_is_told(whole, tmp_path, monkeypatch, capsys):
    code, out, _ = run(monkeypatch, capsys, whole, "--output", tmp_path / "r.html", command="report")
    assert (code, out.strip()) == (0, str(tmp_path / "r.html"))
    assert (tmp_path / "r.html").read_text().startswith("<!doctype html>")


@pytest.mark.parametrize("words", [("nothing",), ("{whole}", "--output", "nowhere/r.html"), ()])
def test_bad_input_is_refused_in_one_line(words, whole, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code, _, error = run(monkeypatch, capsys, *(word.format(whole=whole) for word in words), command="report")
    assert code == 2
    assert len(error.splitlines()) == 1


def test_a_folder_that_is_no_study_is_refused(tmp_path):
    with pytest.raises(UsageError, match="is no study"):
        write_report(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_replay_of_the_study_is_shown_once_it_was_made(tmp_path):
    folder = make_study(tmp_path / "s", trials=40, scheduler="none", max_epochs=2)
    assert "Replayed" not in read(folder)[0]
    settings = ReplayOptions(source=folder, sampler="random", scheduler="asha").settings
    replay(folder, settings, num_samples=4, seeds=range(2), console=make_console(quiet=True))
    assert "Replayed with other settings setting epochs hours regret" in read(folder)[0]
    assert "random, asha/3, 1 worker" in read(folder)[0]


def test_advice_is_bold_where_complete_trials_support_it_beyond_an_interval(tmp_path):
    rates = np.geomspace(1e-4, 9e-3, 21)
    noise = np.random.default_rng(0).normal(0, 0.3, len(rates))
    losses = 110 - 8 * np.log10(rates / 1e-4) + noise
    trials = [
        {"losses": [150, 140, float(loss)], "values": {"learning_rate": rate}, "active_units": 2}
        for rate, loss in zip(rates, losses, strict=True)
    ]
    page = write_report(hand_made(tmp_path / "s", *trials).folder).read_text()
    assert "<b>Search above 0.01 too.</b>" in page
    assert "A smaller latent_size would do.</li>" in page
    assert page.index(" wins (") < page.index("Search above") < page.index("matters most")
