"""Curves, surrogate, tables and the command of a replay."""

import io
import math
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks.curves import write_curves
from tests.studies import hand_made, make_study
from vae_tune.analysis.loss_unit import NATS, LossUnit
from vae_tune.cli.replay import ReplayOptions
from vae_tune.config.errors import UsageError
from vae_tune.config.names import COMPLETE, FAIL, PRUNED
from vae_tune.config.settings import AshaConfig, TrialConfig
from vae_tune.config.space import DEFAULT_SPACE
from vae_tune.replay.curves import Curve, Curves, Tabular, load_curves, places, read_table
from vae_tune.replay.setting import Setting
from vae_tune.replay.simulator import ReplayedTrial
from vae_tune.replay.surrogate import ERROR, Surrogate, is_poor
from vae_tune.replay.tables import bootstrap, lowest, regret_table, summary_table
from vae_tune.tasks.replay import replay
from vae_tune.views.console import make_console
from vae_tune.views.figures import regret as regret_figure

TABLE = Path(__file__).parents[1] / "curves"
SETTING = Setting("random", AshaConfig(), 1)


def made(losses, *, seed=0, count=60):
    """Curves of ``count`` random configurations; ``losses(place, epoch)`` gives each loss."""
    random = np.random.default_rng(seed)
    points = random.random((count, 3))
    values = tuple(
        {
            "latent_size": round(2 * 32 ** point[0]),
            "hidden_width": round(64 * 16 ** point[1]),
            "learning_rate": float(1e-4 * 100 ** point[2]),
        }
        for point in points
    )
    real = places(DEFAULT_SPACE, values)
    table = np.array([[losses(place, epoch) for epoch in range(1, 5)] for place in real])
    return Curves(
        "made", DEFAULT_SPACE, TrialConfig(max_epochs=4), NATS, values, table, np.exp(real[:, :1]) * np.ones(4)
    )


def smooth(place, epoch):
    return 100 + 30 * ((place - [0.7, 0.4, 0.5]) ** 2).sum() + 40 / epoch * (1 + place[2])


def test_a_table_is_what_the_study_recorded(tmp_path):
    study = hand_made(
        tmp_path / "s",
        {"losses": [9.0, 8.0, 7.0]},
        {"losses": [5.0], "state": PRUNED, "values": {"latent_size": 9}},
        {"losses": [6.0, 5.0, 4.5], "values": {"learning_rate": 0.004}},
    )
    path = write_curves(study.folder, tmp_path / "table")
    curves = load_curves(path.parent)
    assert curves.losses.tolist() == [[9, 8, 7], [6, 5, 4.5]]
    assert curves.values[1] == {"latent_size": 20, "hidden_width": 400, "learning_rate": 0.004}
    assert list(read_table(path.parent).columns)[:2] == ["trial", "epoch"]
    first = path.read_bytes()
    assert write_curves(study.folder, tmp_path / "table").read_bytes() == first


def test_a_stopped_trial_has_its_part_of_a_curve_and_a_diverged_one_ends_in_infinity(tmp_path):
    study = hand_made(
        tmp_path / "s",
        {"losses": [9.0, 8.0, 7.0]},
        {"losses": [5.0], "state": PRUNED},
        {"losses": [6.0], "state": FAIL, "diverged": True, "reason": "diverged: val_loss nan in epoch 2"},
        {"losses": [6.0], "state": FAIL, "reason": "out of luck"},
    )
    curves = load_curves(study.folder)
    np.testing.assert_array_equal(curves.losses, [[9, 8, 7], [5, np.nan, np.nan], [6, np.inf, np.nan]])
    assert curves.whole.tolist() == [True, False, False]


def test_the_published_form_loads():
    curves = load_curves(TABLE)
    assert curves.losses.shape == (20, 4)
    assert curves.whole.all()
    assert curves.values[0]["latent_size"] == 20
    assert (TABLE / "curves.csv.gz").stat().st_size < 10_000


def test_a_damaged_table_is_refused(tmp_path):
    (tmp_path / "study.json").write_bytes((TABLE / "study.json").read_bytes())
    (tmp_path / "curves.csv.gz").write_bytes(b"no table")
    with pytest.raises(UsageError, match=r"curves\.csv\.gz cannot be read"):
        load_curves(tmp_path)


@pytest.mark.parametrize("study", [{"trials": 0}, {"trials": 4, "ended": 0, "status": "interrupted"}])
def test_a_study_without_a_report_has_nothing_to_replay(tmp_path, study):
    with pytest.raises(UsageError, match="has no learning curve: no trial has reported an epoch"):
        load_curves(make_study(tmp_path / "s", **study))


def test_the_nearest_recorded_configuration_lends_its_curve():
    curves = made(smooth)
    near = {**curves.values[7], "learning_rate": curves.values[7]["learning_rate"] * 1.001}
    assert Tabular(curves).curve(near).losses.tolist() == curves.losses[7].tolist()


def test_a_stopped_curve_is_lent_to_its_own_configuration_alone():
    curves = made(smooth)
    curves.losses[7, 1:] = np.nan
    near = {**curves.values[7], "learning_rate": curves.values[7]["learning_rate"] * 1.001}
    source = Tabular(curves)
    assert np.isnan(source.curve(curves.values[7]).losses[-1])
    assert np.isfinite(source.curve(near).losses).all()


def test_the_surrogate_knows_what_lies_between_and_says_how_well():
    curves = made(smooth)
    surrogate = Surrogate(curves)
    table = surrogate.validate()
    assert (table["spearman"] > 0.98).all()  # the poorest tenth are ties, in no order
    assert (table[ERROR] < 0.5).all()
    assert surrogate.pace_error() < 0.01
    other = made(smooth, seed=1, count=5)
    poor = np.quantile(curves.losses, 0.9, axis=0)  # and poorer losses are capped
    for values, truth in zip(other.values, np.minimum(other.losses, poor), strict=True):
        np.testing.assert_allclose(surrogate.curve(values).losses, truth, rtol=0.02)
    assert surrogate.best == pytest.approx(114.1667, abs=0.5)  # at 0.7, 0.4, 1/3; the lowest recorded is 114.67


@pytest.mark.parametrize("stopped", [False, True])
def test_the_surrogate_knows_negative_losses_as_well_as_positive_ones(stopped):
    positive, negative = (made(lambda place, epoch, shift=shift: smooth(place, epoch) - shift) for shift in (0, 140))
    assert negative.losses.min() < 0 < negative.losses.max()
    for curves in (positive, negative):
        if stopped:
            curves.losses[curves.losses[:, 0] > np.quantile(curves.losses[:, 0], 0.4), 1:] = np.nan
    own, other = (Surrogate(curves) for curves in (negative, positive))
    for ahead in (False, True):
        assert (own.validate(ahead=ahead)["spearman"] > 0.97).all()
    for values in made(smooth, seed=1, count=5).values:
        np.testing.assert_allclose(own.curve(values).losses + 140, other.curve(values).losses, atol=3)
    assert own.residuals() == pytest.approx(1, abs=0.2)
    noisy = own.with_noise(own.curve(negative.values[0]), 1.1).losses
    assert (noisy > own.curve(negative.values[0]).losses).all()


def test_a_curve_below_all_that_were_fitted_is_continued_without_a_warning():
    curves = made(smooth)
    curves.losses[:, 1:][curves.losses[:, 0] > np.quantile(curves.losses[:, 0], 0.4)] = np.nan
    curves.losses[:] -= 150
    surrogate = Surrogate(curves)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        curve = surrogate.continued(curves.values[0], np.array([-1000.0, np.nan, np.nan, np.nan]))
    assert np.isfinite(curve.losses).all()


def test_a_trial_that_almost_diverged_makes_no_better_place_elsewhere():
    curves = made(smooth)
    curves.losses[np.argmax(curves.losses[:, -1])] *= 6
    lowest = curves.losses[:, -1].min()
    assert Surrogate(curves).best == pytest.approx(lowest, abs=0.3)


def test_where_poor_trials_were_stopped_the_surrogate_still_thinks_them_poor():
    curves = made(smooth)
    truth = curves.losses.copy()
    poor = curves.losses[:, 0] > np.quantile(curves.losses[:, 0], 0.4)
    curves.losses[poor, 1:] = np.nan
    surrogate = Surrogate(curves)
    expected = np.array([surrogate.curve(values).losses[-1] for values in curves.values])
    assert np.corrcoef(expected[poor], truth[poor, -1])[0, 1] > 0.8
    assert expected[poor].mean() > expected[~poor].mean()


def test_noise_makes_a_poor_surrogate():
    random = np.random.default_rng(3)
    assert is_poor(Surrogate(made(lambda place, epoch: 100 + random.random())).validate())


def test_a_surrogate_stands_losses_that_are_mostly_equal():
    curves = made(lambda place, epoch: 100.0 + 10 * (place[0] > 0.8))
    assert 99 < Surrogate(curves).curve(curves.values[0]).losses[-1] < 111


def test_too_few_whole_curves_make_no_surrogate():
    with pytest.raises(UsageError, match="3 whole curves"):
        Surrogate(made(smooth, count=3))


def run(*trials):
    """A search from (loss at each of 2 epochs, epochs, ended, spent)."""
    states = {2: COMPLETE, 1: PRUNED}
    return [
        ReplayedTrial(number, {}, Curve(np.array(losses), np.ones(2)), states[epochs], epochs, ended, spent)
        for number, (losses, epochs, ended, spent) in enumerate(trials)
    ]


FIRST = run(([9.0, 5.0], 2, 3600.0, 2), ([8.0, 1.0], 1, 5400.0, 3), ([7.0, 3.0], 2, 7200.0, 5))
SECOND = run(([9.0, 4.0], 2, 1800.0, 2), ([8.0, 3.5], 2, 3600.0, 4), ([9.5, 6.0], 1, 5400.0, 5))


def test_regret_is_that_of_the_best_whole_trial_so_far():
    table = regret_table({SETTING: [FIRST, SECOND]}, best=3.0)
    epochs = table[table["axis"] == "epochs"].set_index("at")["regret"]
    assert epochs.iloc[0] == (2 + 1) / 2  # after 2 epochs
    assert epochs.iloc[-1] == (0 + 0.5) / 2  # after 5
    assert epochs[epochs.index < 4].eq(1.5).all()
    hours = table[table["axis"] == "hours"]
    assert (hours["at"].iloc[0], hours["at"].iloc[-1]) == (1.0, 1.5)
    assert hours["regret"].iloc[0] == (2 + 0.5) / 2


def test_the_summary_of_two_searches_is_as_worked_by_hand():
    row = summary_table({SETTING: [FIRST, SECOND]}, best=3.0).iloc[0]
    assert (row["epochs"], row["hours"], row["regret"]) == (5, 1.75, 0.25)
    assert (row["regret_low"], row["regret_high"]) == (0.0, 0.5)
    assert row["best_stopped"] == 0.5  # in the first search trial 1 would have reached 1.0
    assert (row["epochs_to_0.5"], row["reached_0.5"]) == (4, 1.0)
    assert (row["epochs_to_0.5_low"], row["epochs_to_0.5_high"]) == (4, 5)


def test_a_search_that_never_comes_near_counts_as_infinitely_long():
    row = summary_table({SETTING: [FIRST, SECOND]}, best=2.9).iloc[0]
    assert (row["reached_0.5"], row["epochs_to_0.5"]) == (0.5, 5)
    assert math.isinf(row["epochs_to_0.5_high"])


def test_settings_are_compared_at_the_fewest_epochs():
    longer = [*SECOND, *run(([1.0, 1.0], 1, 0.0, 0), ([3.0, 3.0], 2, 9000.0, 8))]
    searches = {SETTING: [SECOND], Setting("tpe", AshaConfig(), 1): [longer]}
    table = summary_table(searches, lowest(searches, 3.2))
    assert table["regret"].tolist() == [0.5, 0.0]
    assert table["fair_regret"].tolist() == [0.5, 0.5]


def test_the_bootstrap_interval_of_a_mean_is_that_of_the_central_limit():
    values = np.random.default_rng(0).normal(5, 2, (400, 1))
    low, high = bootstrap(values, lambda sample: sample.mean(axis=-2))
    half = 1.96 * values.std() / 20
    assert [low[0], high[0]] == pytest.approx([values.mean() - half, values.mean() + half], abs=0.03)


def test_every_combination_is_a_setting_once():
    options = ReplayOptions(
        source=TABLE, scheduler="asha,none", reduction_factor="2,3", workers="1,8", bridge="ours,pruned,stock"
    )
    assert len(options.settings) == len(set(options.settings)) == 2 * 3 * 4  # tpe with each bridge, and random
    assert str(options.settings[0]) == "tpe, asha/2, 1 worker"
    assert str(options.settings[-1]) == "tpe (stock), none, 8 workers"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sampler": "tpe,hyperband"}, "sampler must be some of tpe, random"),
        ({"scheduler": "asha,ash"}, "but got 'ash'. Did you mean asha?"),
        ({"reduction_factor": "1"}, "reduction_factor must be whole numbers >= 2"),
        ({"workers": "2,many"}, "workers must be whole numbers >= 1"),
        ({"repeats": 0}, "repeats must be >= 1"),
        ({"sampler": "random", "bridge": "stock"}, "needs tpe"),
    ],
)
def test_what_cannot_be_replayed_is_refused(change, message):
    with pytest.raises(UsageError, match=message):
        ReplayOptions(source=TABLE, **change)


def command(num_samples=6, repeats=2, output=None, curves="surrogate", force=False, **lists):
    text = io.StringIO()
    settings = ReplayOptions(source=TABLE, **lists).settings
    how = {"num_samples": num_samples, "seeds": range(repeats), "output": output, "curves": curves, "force": force}
    return replay(TABLE, settings, **how, console=make_console(file=text, width=200)), text.getvalue()


def test_the_command_prints_the_error_first_and_writes_tables_figure_and_page(tmp_path):
    summary, text = command(sampler="random", scheduler="asha,none", output=tmp_path / "out")
    assert text.index("spearman") < text.index("| random, asha/3, 1 worker |")
    assert "| never, 0% |" in text
    assert summary["setting"].tolist() == ["random, asha/3, 1 worker", "random, none, 1 worker"]
    names = {"summary.csv", "regret.csv", "regret.png", "replay.html"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    assert pd.read_csv(tmp_path / "out" / "summary.csv")["epochs"].iloc[1] == 24
    page = (tmp_path / "out" / "replay.html").read_text()
    assert '<section id="replay">' in page
    assert "http" not in page


def test_one_search_has_no_interval(tmp_path):
    out = tmp_path / "out"
    summary, text = command(sampler="random", scheduler="none", curves="tabular", repeats=1, output=out)
    assert "1 search of 6 trials\n" in text
    assert "\n1 search in " in text
    assert " each" not in text
    (cells,) = (line for line in text.splitlines() if line.startswith("| random, none"))
    assert f"| {summary['regret'][0]:.2f} | {summary['fair_regret'][0]:.2f} |" in cells
    assert " to " not in cells
    assert pd.read_csv(out / "summary.csv")[["regret_low", "regret_high"]].isna().all(axis=None)
    assert pd.read_csv(out / "regret.csv")[["low", "high"]].isna().all(axis=None)
    _, text = command(sampler="random", scheduler="none", curves="tabular", output=out)
    assert "2 searches of 6 trials each, with 95 % intervals\n" in text


def test_table_and_page_tell_of_one_zero_of_regret(tmp_path, monkeypatch):
    monkeypatch.setattr("vae_tune.tasks.replay.lowest", lambda *_: 12.34)  # below what the source holds itself
    _, text = command(sampler="random", scheduler="none", output=tmp_path / "out")
    for page in (text, (tmp_path / "out" / "replay.html").read_text()):
        assert "nats per image above 12.34, the lowest" in page


def test_a_target_is_larger_for_larger_images(tmp_path):
    row = summary_table({SETTING: [FIRST, SECOND]}, best=3.0, size_factor=2.0).iloc[0]
    assert (row["epochs_to_0.5"], row["epochs_to_0.5_high"]) == (2, 5)  # within 1 nat
    study = make_study(tmp_path / "s", trials=3, shape=(3, 32, 32))
    assert load_curves(study).size_factor == 3 * 32 * 32 / 784


def test_regret_of_levels_is_shown_in_bits_and_written_in_nats(tmp_path, monkeypatch):
    unit = LossUnit.of({"kind": "levels", "dimensions": 3072})
    curves = replace(load_curves(TABLE), unit=unit, size_factor=3072 / 784)
    monkeypatch.setattr("vae_tune.tasks.replay.load_curves", lambda _: curves)
    summary, text = command(sampler="random", scheduler="none", repeats=1, output=tmp_path, force=True)
    assert "median error in bits/dim" in " ".join(text.split())
    assert "| regret | at equal epochs | epochs to 0.00092 bits/dim | epochs to 0.0018 bits/dim |" in text
    assert f"| {summary['regret'][0] / unit.nats:.4f} | {summary['fair_regret'][0] / unit.nats:.4f} |" in text
    assert "Regret: bits/dim above 0." in text
    table = pd.read_csv(tmp_path / "regret.csv")
    assert table["regret"].iloc[-1] == pytest.approx(summary["regret"][0], rel=1e-5)
    axes = regret_figure.draw(table, unit).axes[0]
    assert axes.get_ylabel() == "regret, bits/dim (log)"
    drawn = axes.lines[0].get_ydata()
    assert drawn[0] == pytest.approx(table["regret"].iloc[0] / unit.nats)


@pytest.mark.parametrize("scale", [1.0, 1 / 3.1, 1 / 3.3])
def test_regret_begins_with_the_first_whole_trial_and_never_rises_whatever_the_hours_are(scale):
    scaled = [[replace(trial, ended=trial.ended * scale) for trial in search] for search in (FIRST, SECOND)]
    table = regret_table({SETTING: scaled}, best=3.0)
    hours = table[table["axis"] == "hours"]
    assert hours["regret"].iloc[0] == (2 + 0.5) / 2
    assert (hours["regret"].diff().dropna() <= 0).all()


def test_what_could_not_be_written_or_stopped_is_refused_before_the_searches(tmp_path, monkeypatch):
    monkeypatch.setattr("vae_tune.tasks.replay.simulate", pytest.fail)
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"file cannot be written: .*file is no writable folder"):
        command(sampler="random", output=tmp_path / "file")
    with pytest.raises(UsageError, match="grace_period must be at most the 4 epochs of these curves, but got 50"):
        command(sampler="random", grace_period="50", output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_poor_surrogate_is_refused_unless_forced(tmp_path, monkeypatch):
    monkeypatch.setattr("vae_tune.replay.surrogate.LOWEST_CORRELATION", 0.999)
    options = {"sampler": "random", "scheduler": "none", "output": tmp_path / "out"}
    with pytest.raises(UsageError, match="--force"):
        command(**options)
    assert not (tmp_path / "out").exists()
    assert len(command(**options, force=True)[0]) == 1


def test_the_table_alone_needs_no_surrogate(tmp_path):
    assert "spearman" not in command(sampler="random", curves="tabular", output=tmp_path / "out")[1]
