"""The forecast at the end of a search, on studies with known answers."""

import numpy as np
import pytest

from tests.studies import hand_made, make_study
from vae_tune import load_study
from vae_tune.analysis.advice import conclusions, final_findings, read_forecast
from vae_tune.config import message_hints
from vae_tune.config.names import FORECAST_FILE
from vae_tune.config.settings import AshaConfig
from vae_tune.config.space import DEFAULT_SPACE, Space
from vae_tune.replay import forecast as module
from vae_tune.replay.curves import load_curves
from vae_tune.replay.forecast import Recorded, forecast, write_forecast
from vae_tune.replay.setting import Setting
from vae_tune.replay.simulator import simulate
from vae_tune.replay.surrogate import Surrogate

LEARNING_RATE = Space({"learning_rate": DEFAULT_SPACE.distributions["learning_rate"]})


@pytest.fixture(autouse=True)
def little_to_compute(monkeypatch):
    monkeypatch.setattr(module, "MORE", 8)
    monkeypatch.setattr(module, "_REPEATS", 3)


def rates(folder, places, loss, **options):
    """A study of whole trials at ``places`` in the range of the learning rate, 0 to 1, each worse than the last."""
    trials = [
        {"losses": [loss(place) + 10 / epoch for epoch in (1, 2, 3, 4)], "values": {"learning_rate": rate}}
        for place, rate in zip(places, 1e-4 * 100 ** np.asarray(places), strict=True)
    ]
    options = {"asha": AshaConfig(scheduler="none")} | options
    return hand_made(folder, *trials, max_epochs=4, space=LEARNING_RATE, **options)


def about(findings, topic):
    return [str(finding) for finding in findings if finding.topic == topic]


def test_the_recorded_trials_replayed_give_the_recorded_decisions(tmp_path):
    study = load_study(make_study(tmp_path / "s", trials=50, slots=1, failed=0))
    curves = load_curves(study.folder)
    source = Recorded(curves, Surrogate(curves))
    trials = simulate(source, Setting("random", study.config.asha, 1), 50, 0, curves.values[1:])
    assert [trial.values for trial in trials] == list(curves.values)
    assert [(t.state, t.epochs) for t in trials] == [*zip(study.trials.state, study.trials.epochs, strict=True)]


def test_a_stopped_trial_goes_on_from_where_it_ended(tmp_path):
    study = load_study(make_study(tmp_path / "s", trials=50, slots=1, failed=0))
    curves = load_curves(study.folder)
    surrogate = Surrogate(curves, [1, 3, 9])
    ended = int(np.flatnonzero(np.isnan(curves.losses[:, 1]))[0])
    curve = Recorded(curves, surrogate).curve(curves.values[ended])
    assert curve.losses[0] == curves.losses[ended, 0]
    assert (np.diff(curve.losses) < 0).all()
    worse = surrogate.continued(curves.values[ended], curves.losses[ended] + 5)
    assert worse.losses[-1] > curve.losses[-1]
    assert curve.losses[1] == pytest.approx(curve.losses[[0, 2]].mean(), rel=0.01)  # between two that are modeled


def test_a_stopped_trial_goes_on_from_its_last_loss_where_whole_ones_abound_too(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_MOST", 16)
    curves = load_curves(make_study(tmp_path / "s", trials=120, failed=0))
    assert curves.whole.sum() > 16
    some = module._some(curves)
    assert (some.whole.sum(), len(some.values)) == (8, 16)
    surrogate = Surrogate(some, [1, 3, 9])
    index = next(index for index, losses in enumerate(curves.losses) if np.isnan(losses[3]) and losses[2] > 0)
    lasts = [surrogate.continued(curves.values[index], curves.losses[index] + up).losses[-1] for up in (0, 20)]
    assert lasts[1] > lasts[0] + 2


@pytest.mark.parametrize(("later", "workers"), [([], 2), ([5, 0], 5)])
def test_a_replay_has_as_many_workers_as_the_last_run_had_slots_at_most(tmp_path, monkeypatch, later, workers):
    study = load_study(make_study(tmp_path / "s", trials=50, slots=2, failed=0))
    (run,) = study.metadata["runs"]
    changes = [run["slots"] | {"time": run["started"], "count": count} for count in later]
    study.metadata["runs"] = [run | {"slots": run["slots"] | {"count": 9}}, run | {"slot_changes": changes}]
    asked = []
    monkeypatch.setattr(module, "_factors", lambda *words: asked.append(words[2]) or [])
    monkeypatch.setattr(module, "_gain", lambda *words: asked.append(words[2]) or [])
    assert forecast(study, 60) == []
    assert asked == [workers, workers]


def test_early_stopping_that_would_have_saved_is_advised_with_its_share(tmp_path):
    # Each trial is worse than the one before, so ASHA stops all but the reference after an epoch: 4 + 11 of 48.
    study = rates(tmp_path / "s", np.linspace(0.5, 0.9, 12), lambda place: 100 + 10 * place)
    (text,) = about(forecast(study, 60), "stopping")
    assert "reduction factor 4 (15 epochs, best 107.50 nats)" in text
    assert "no early stopping (48 epochs, best 107.50 nats)" in text
    assert text.endswith("--scheduler asha --reduction-factor 2 would have saved 69% of the epochs.")


def test_what_stopping_costs_is_told_where_another_factor_finds_a_better_trial(tmp_path):
    # Trial 11 overtakes all after epoch 1, where it is second of 12: factor 6 passes it, 12 does not.
    places = np.linspace(0.5, 0.9, 12)
    losses = [[101 + place, 100 + place, 99 + place, 98 + place] for place in places]
    losses[0][0], losses[11] = 101.0, [101.2, 90, 89, 88]
    trials = [
        {"losses": curve, "values": {"learning_rate": 1e-4 * 100**place}}
        for curve, place in zip(losses, places, strict=True)
    ]
    asha = AshaConfig(reduction_factor=12)
    study = hand_made(tmp_path / "s", *trials, max_epochs=4, space=LEARNING_RATE, asha=asha)
    curves = load_curves(study.folder)
    source = Recorded(curves, Surrogate(curves))
    (finding,) = module._factors(study, source, 1)
    assert "nats better for +" in finding.advice
    assert finding.advice.startswith("--reduction-factor ")


@pytest.mark.parametrize("shift", [-130.0, -900.0])
def test_a_study_of_negative_losses_has_a_forecast(tmp_path, shift):
    study = load_study(make_study(tmp_path / "s", trials=60, failed=0, shift=shift, likelihood="gaussian"))
    assert study.trials["val_loss"].min() < 0
    found = forecast(study, 120)
    assert [finding.topic for finding in found] == ["stopping", "trials"]
    gain = float(about(found, "trials")[0].split("gain ")[1].split()[0])
    assert 0 <= gain < 5


def test_more_trials_gain_where_the_best_place_is_unexplored_and_nothing_where_it_is_known(tmp_path):
    def bowl(place):
        return 100 + 100 * (place - 0.7) ** 2

    explored = rates(tmp_path / "explored", [0.5, *np.linspace(0.3, 1, 12), 0.7], bowl)
    (text,) = about(forecast(explored, 60), "trials")
    assert text.startswith("8 more trials are expected to gain 0.0")
    assert text.endswith("They are not worth it.")
    aside = rates(tmp_path / "aside", [0.5, *np.linspace(0, 0.58, 12)], bowl)
    (text,) = about(forecast(aside, 60), "trials")
    assert float(text.split("gain ")[1].split()[0]) > 0.5
    assert text.endswith(f"To go on: {message_hints.resume(aside.folder, num_samples=21)}")


def test_a_missing_forecast_gives_its_reason(tmp_path):
    few = rates(tmp_path / "few", np.linspace(0.5, 0.9, 5), lambda place: 100 + place)
    assert about(forecast(few), "replay") == ["Not enough data for a forecast: 5 trials trained to the end, needs 6."]
    random = np.random.default_rng(0)
    noise = rates(tmp_path / "noise", np.linspace(0.1, 0.9, 20), lambda place: 100 + random.random())
    (text,) = about(forecast(noise, 60), "replay")
    assert text.startswith("Not enough data for a forecast: rank correlation ")
    assert about(forecast(noise, 0), "replay") == ["No forecast: no time is left."]


def test_a_forecast_that_takes_too_long_ends_with_what_it_has(tmp_path, monkeypatch):
    study = rates(tmp_path / "s", np.linspace(0.5, 0.9, 12), lambda place: 100 + 10 * place)

    def late(*_):
        raise module._OutOfTime
        yield

    monkeypatch.setattr(module, "_gain", late)
    findings = forecast(study, 60)
    assert [finding.topic for finding in findings] == ["stopping", "replay"]
    assert findings[-1].text == "No further forecast: it takes more than 60 s."


def test_a_forecast_is_read_until_another_trial_begins(tmp_path):
    study = rates(tmp_path / "s", [0.6, *np.linspace(0.5, 0.9, 12)], lambda place: 100 + 10 * place)
    assert read_forecast(study) == []
    write_forecast(study, 60)
    assert {finding.topic for finding in read_forecast(study)} == {"stopping", "trials"}
    assert set(read_forecast(study)) <= set(final_findings(study))
    texts = about(conclusions(study), "trials")
    assert len(texts) == 2
    assert "The last improvement" in texts[0]
    (study.folder / FORECAST_FILE).write_text('{"trials": 12, "findings": [{"topic": "trials", "text": "x"}]}')
    assert read_forecast(study) == []
    (study.folder / FORECAST_FILE).write_text("[")
    assert read_forecast(study) == []
