import numpy as np
import pandas as pd
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from tests.studies import hand_made, make_study
from tests.views.test_plots import STUDIES
from vae_tune import load_study
from vae_tune.analysis.advice import conclusions, edges, final_findings, stopping
from vae_tune.analysis.next_space import next_space
from vae_tune.analysis.range_edges import best_trials
from vae_tune.config.names import EXPLORATION
from vae_tune.config.space import Space

GOOD = {"losses": [120, 110, 100]}


def sentences(study, topic):
    return [str(finding) for finding in conclusions(study) if finding.topic == topic]


def rates(*values, losses=None):
    """Trials with these learning rates, the first the best."""
    losses = losses or [100 + number for number in range(len(values))]
    return [
        {"losses": [150, 140, loss], "values": {"learning_rate": value}}
        for value, loss in zip(values, losses, strict=True)
    ]


def falling(*values, steps=8.0):
    """Trials with these learning rates and some latent sizes, the loss of which falls along the range, with noise."""
    random = np.random.default_rng(0)
    return [
        {
            "losses": [150, 140, 110 - steps * np.log10(value / 1e-4) + random.normal(0, 0.3)],
            "values": {"learning_rate": value, "latent_size": int(random.integers(2, 64))},
        }
        for value in values
    ]


@pytest.mark.parametrize("condition", STUDIES)
def test_every_study_has_conclusions(condition, tmp_path):
    findings = conclusions(load_study(make_study(tmp_path / "s", **STUDIES[condition])))
    assert findings[0].topic == "result"
    assert all(str(finding).endswith(".") for finding in findings)


def test_a_study_of_given_configurations_gets_no_advice_on_more_trials_or_wider_range(tmp_path):
    space = Space({"latent_size": CategoricalDistribution([2, 20]), "seed": IntDistribution(0, 9)})
    values = [{"latent_size": size, "seed": seed} for seed in range(10) for size in (20, 2)]
    trials = [{"losses": [150, 140, 120 - number], "values": each} for number, each in enumerate(values)]
    given = hand_made(tmp_path / "given", *trials, space=space, kind=EXPLORATION)
    assert sentences(given, "trials") == sentences(given, "edges") == []
    assert sentences(given, "importance")
    proposed = hand_made(tmp_path / "proposed", *trials, space=space)
    assert sentences(proposed, "trials")
    assert not any("seed" in line for line in sentences(proposed, "edges"))  # whose ends mean nothing


def test_the_result_names_the_winner_and_its_gain(tmp_path):
    study = hand_made(tmp_path / "s", {"losses": [120, 110, 105.25]}, {"losses": [120, 110, 101.5]})
    assert sentences(study, "result") == [
        "The best is trial 1: 101.50 nats per image on validation at epoch 3, 3.75 below the reference."
    ]


def test_a_result_before_the_first_trial_is_complete_says_so(tmp_path):
    study = hand_made(tmp_path / "s", {"losses": [120], "state": "RUNNING"}, {"losses": [130], "state": "PRUNED"})
    assert sentences(study, "result")[0].endswith("No trial has been trained to the end yet.")


def test_failed_trials_alone_are_no_result(tmp_path):
    study = hand_made(tmp_path / "s", {"state": "FAIL"}, {"state": "FAIL", "losses": [120]})
    assert sentences(study, "result") == ["No trial has succeeded."]
    assert sentences(study, "failures")[0].startswith("2 of 2 trials failed")


def test_the_best_quarter_is_compared_at_one_epoch(tmp_path):
    study = hand_made(tmp_path / "s", *rates(*np.geomspace(1e-4, 1e-2, 40)), {"losses": [1], "state": "PRUNED"})
    best = best_trials(study)
    assert list(best.trial) == list(range(10))
    assert set(best.epoch) == {3}


def test_a_range_is_too_narrow_where_the_loss_still_falls_at_its_end(tmp_path):
    study = hand_made(tmp_path / "s", *falling(*np.geomspace(1e-4, 9e-3, 21)))
    row = edges(study).set_index("hyperparameter").loc["learning_rate"]
    assert row.edge == "high"
    assert row.place == pytest.approx(np.log10(row.best / 1e-4) / 2)
    assert row.fall_low < 1.6 < row.fall_high  # of 8 nats a decade, of which the range has 2
    assert (row.trials, row.epoch) == (21, 3)
    (found,) = [finding for finding in conclusions(study) if finding.topic == "edges"]
    assert found.certain
    assert "lie at the high end of its range 0.0001 to 0.01. The loss still falls there by" in found.text
    assert "21 trials at epoch 3" in found.text
    assert found.advice == "Search above 0.01 too."


def test_a_best_trial_at_an_end_alone_says_nothing_of_the_range(tmp_path):
    study = hand_made(tmp_path / "s", *rates(9e-3, *np.geomspace(1e-4, 8e-3, 20)))
    row = edges(study).set_index("hyperparameter").loc["learning_rate"]
    assert (row.crowded, row.edge) == ("high", "")
    assert sentences(study, "edges") == []


def test_nothing_is_advised_from_first_epochs_that_the_complete_trials_contradict(tmp_path):
    complete = [([165, 150, 134.3], 0.0026), ([160, 155, 146.0], 0.0044), ([155, 153, 152.0], 0.0088)]
    complete.append(([180, 160, 141.0], 0.001))
    stopped = [(160 - 3 * number, rate) for number, rate in enumerate(np.geomspace(3e-4, 9.9e-3, 8))]
    trials = [{"losses": losses, "values": scaled(rate)} for losses, rate in complete]
    trials += [{"losses": [loss], "state": "PRUNED", "values": scaled(rate)} for loss, rate in stopped]
    study = hand_made(tmp_path / "s", *trials)
    assert set(edges(study).crowded) == {"high"}
    assert set(edges(study).epoch) == {1}
    assert sentences(study, "edges") == []
    for name, distribution in next_space(study).distributions.items():
        assert distribution.low <= study.best[name] <= distribution.high <= study.space.distributions[name].high


def scaled(rate):
    """Values at the same place of each range of the default space."""
    place = np.log10(rate / 1e-4) / 2
    return {"learning_rate": rate, "latent_size": round(2 * 32**place), "hidden_width": round(64 * 16**place)}


def test_an_end_found_at_an_earlier_epoch_is_a_hint_unless_complete_trials_differ(tmp_path):
    curves = falling(*np.geomspace(1e-4, 9e-3, 21))
    stopped = [trial | {"losses": trial["losses"][1:], "state": "PRUNED"} for trial in curves]

    def found(name, *complete):
        whole = [{"losses": [150, 100, loss], "values": {"learning_rate": rate}} for rate, loss in complete]
        study = hand_made(tmp_path / name, *stopped, *whole)
        return [finding.certain for finding in conclusions(study) if finding.advice == "Search above 0.01 too."]

    assert found("alike", (1e-3, 101), (2e-3, 100), (3e-3, 99)) == [False]
    assert found("contrary", (1e-3, 99), (2e-3, 100), (3e-3, 101)) == []


def test_the_edges_name_the_winner_where_another_trial_was_best_at_the_epoch_that_is_compared(tmp_path):
    curves = falling(*np.geomspace(1e-4, 9.5e-3, 20))
    early = [{**trial, "losses": trial["losses"][1:], "state": "PRUNED"} for trial in curves]
    late = {"losses": [140, 98.2, 90], "values": {"learning_rate": 3e-3}}
    study = hand_made(tmp_path / "s", *early, late)
    assert edges(study).set_index("hyperparameter").loc["learning_rate"].best == 9.5e-3
    assert any("The winner has 0.003. Search above 0.01 too." in text for text in sentences(study, "edges"))


def test_a_range_is_wide_enough_where_trials_beyond_the_best_were_worse(tmp_path):
    inner = [4.1e-3, 4.2e-3, 4.3e-3, 4.4e-3, 4.5e-3]  # in the outer fifth, the best quarter
    worse = [1e-4, 1e-3, 2e-4, 3e-4, 4e-4, 5e-4, 6e-4]
    narrow = hand_made(tmp_path / "narrow", *rates(*inner, *worse))
    assert edges(narrow).set_index("hyperparameter").crowded["learning_rate"] == "high"
    tried = hand_made(tmp_path / "tried", *rates(*inner, *worse, 7e-3, 8e-3, 9e-3))
    assert edges(tried).set_index("hyperparameter").crowded["learning_rate"] == ""


@pytest.mark.parametrize(
    ("name", "searched", "best", "crowded"),
    [
        ("hidden_layers", IntDistribution(1, 3), 1, ""),
        ("hidden_layers", IntDistribution(1, 3), 3, "high"),
        ("latent_size", IntDistribution(1, 64, log=True), 1, ""),
        ("latent_size", IntDistribution(2, 64, log=True), 2, "low"),
        ("free_bits", FloatDistribution(0, 0.5), 0.0, ""),
        ("learning_rate", FloatDistribution(1e-4, 1e-2, log=True), 1e-4, "low"),
    ],
)
def test_a_range_that_cannot_go_on_is_not_too_narrow(tmp_path, name, searched, best, crowded):
    trials = [{"losses": [3, 2, 1 + number], "values": {name: best}} for number in range(12)]
    assert list(edges(hand_made(tmp_path / "s", *trials, space=Space({name: searched}))).crowded) == [crowded]


def test_edges_of_few_trials_are_not_reported(tmp_path):
    assert edges(hand_made(tmp_path / "s", *rates(9e-3, 8e-3))).empty


def test_stopping_shows_what_became_of_trials_that_were_lucky(tmp_path):
    # six reach the rung at epoch 1, two of them would pass: trials 1 and 4, had they come last
    firsts, lasts = [30, 10, 60, 50, 20, 40], [105, 100, 101, 104, 103, None]
    trials = [
        {"losses": [first, 106, last]} if last else {"losses": [first], "state": "PRUNED"}
        for first, last in zip(firsts, lasts, strict=True)
    ]
    row = stopping(hand_made(tmp_path / "s", *trials)).iloc[0]
    assert (row.epoch, row.reached, row.stopped, row.quota) == (1, 6, 1, 2)
    assert row.winner_rank == 1
    assert row.lucky == 2  # 2 and 3, since the reference is never stopped
    assert row.lucky_good == 1
    order = [pd.Series(values).rank() for values in ([30, 10, 60, 50, 20], [105, 100, 101, 104, 103])]
    assert row.spearman == pytest.approx(order[0].corr(order[1]))


def test_a_rung_whose_order_does_not_last_is_doubted(tmp_path):
    curves = [[100 + number, 100, 100 - number] for number in range(10)]
    study = hand_made(tmp_path / "s", *({"losses": curve} for curve in curves), {"losses": [200], "state": "PRUNED"})
    assert sentences(study, "stopping")[0].endswith("raise --grace-period or lower --reduction-factor.")
    curves = [[100 + number, 95 + number, 90 + number] for number in range(10)]
    faithful = hand_made(
        tmp_path / "t", *({"losses": curve} for curve in curves), {"losses": [200], "state": "PRUNED"}
    )
    assert "raise" not in sentences(faithful, "stopping")[0]


def test_a_rung_that_its_winner_passed_only_by_coming_early_is_doubted(tmp_path):
    curves = [[100 + number, 95 + number, 90 + number] for number in range(10)]
    curves[0] = [104.5, 94, 80]  # fifth at the rung, where three pass
    study = hand_made(tmp_path / "s", *({"losses": curve} for curve in curves), {"losses": [200], "state": "PRUNED"})
    (text,) = sentences(study, "stopping")
    assert "losses at the rung with their final losses is 0.8" in text
    assert "For the 10 trials trained to the end" in text
    assert "The winner ranked 5 at the rung, where the best 3 pass." in text
    assert text.endswith("raise --grace-period or lower --reduction-factor.")


def test_the_last_gain_is_reported_and_nothing_about_more_trials(tmp_path):
    def made(name, gain):
        losses = [101] + [102] * 19
        losses[gain] = 90
        trials = [{"losses": [150, 140, loss], "started": number} for number, loss in enumerate(losses)]
        return hand_made(tmp_path / name, *trials)

    for name, gain, found in (("early", 3, "4th"), ("late", 18, "19th")):
        expected = [f"The last improvement, 11.00 nats, came from the {found} of the 20 trials that ended."]
        assert sentences(made(name, gain), "trials") == expected


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        (
            [120, 110, 105, 100],
            "-6.50 nats per epoch over its last 4 epochs (95 % interval -10.23 to -2.77). Train longer",
        ),
        ([165, 150, 134.3], "still falling at the end: -15.35"),
        ([120, 100, 104, 108, 109], "best at epoch 2; its loss has risen by 9.00 nats since: +3.10"),
        ([120, 100.2, 100.15, 100.05, 100], "had converged: -0.07 nats per epoch over its last 4 epochs"),
        ([120, 108, 101, 100.9, 101, 100.8, 100.85], "had converged: -0.04"),
        ([110, 101, 103, 100, 101.8], "Whether the winner had converged is not clear"),  # noise
    ],
)
def test_the_winners_curve_shows_whether_the_epochs_suited(tmp_path, losses, expected):
    study = hand_made(tmp_path / "s", {"losses": losses}, max_epochs=len(losses))
    assert expected in sentences(study, "epochs")[0]


def test_a_winner_that_is_not_at_its_end_says_nothing_about_the_number_of_epochs(tmp_path):
    running = {"losses": [120, 110, 100], "state": "RUNNING"}
    assert sentences(hand_made(tmp_path / "s", running, max_epochs=10), "epochs") == []


def test_a_search_in_which_none_beats_the_first_is_reported(tmp_path):
    worse = [{"losses": [150, 140, 130 + number], "started": number} for number in range(1, 12)]
    study = hand_made(tmp_path / "s", {"losses": [120, 110, 100]}, *worse)
    assert sentences(study, "trials") == [
        "None of the 12 trials that ended was better than trial 0, the first complete one."
    ]


def test_a_trial_that_failed_after_a_report_has_reported(tmp_path):
    failed, running = {"losses": [120], "state": "FAIL", "reason": "no"}, {"losses": [], "state": "RUNNING"}
    study = hand_made(tmp_path / "s", failed, running)
    assert sentences(study, "result") == ["No trial has succeeded yet."]


def test_latents_that_are_not_used_are_named(tmp_path):
    study = hand_made(tmp_path / "s", GOOD | {"values": {"latent_size": 48}, "active_units": 11})
    assert sentences(study, "latents") == ["11 of the winner's 48 latents are active. A smaller latent_size would do."]
    assert sentences(hand_made(tmp_path / "t", GOOD | {"active_units": 20}), "latents") == [
        "20 of the winner's 20 latents are active."
    ]


def test_importance_names_the_first_from_enough_trials_alone(tmp_path):
    few = hand_made(tmp_path / "few", *falling(*np.geomspace(1e-4, 9e-3, 12)))
    many = hand_made(tmp_path / "many", *falling(*np.geomspace(1e-4, 9e-3, 40)))
    assert sentences(few, "importance")[0].startswith("Which hyperparameter matters most is not clear: learning_rate")
    assert sentences(many, "importance")[0].startswith("learning_rate matters most")


def test_importance_names_none_that_is_not_far_ahead(tmp_path):
    random = np.random.default_rng(0)
    values = [scaled(rate) for rate in 1e-4 * 100 ** random.random(40)]
    trials = [{"losses": [150, 140, 100 + random.normal()], "values": each} for each in values]
    (found,) = sentences(hand_made(tmp_path / "s", *trials), "importance")
    assert found.startswith("Which hyperparameter matters most is not clear")


def test_latents_that_are_idle_are_no_reason_for_fewer_where_the_losses_ask_for_more(tmp_path):
    sizes = range(4, 64, 3)
    trials = [
        {"losses": [150, 140, 130 - 0.5 * size + number % 3 / 5], "values": {"latent_size": size}, "active_units": 4}
        for number, size in enumerate(sizes)
    ]
    study = hand_made(tmp_path / "s", *trials, space=Space({"latent_size": IntDistribution(2, 64)}))
    assert [finding.advice for finding in conclusions(study) if finding.advice] == ["Search above 64 too."]
    assert [finding.advice for finding in final_findings(study)] == ["Search above 64 too."]


def test_a_winner_that_overfits_is_advised_no_smaller_model_where_the_losses_ask_for_a_larger(tmp_path):
    def found(name, fall):
        trials = [
            {"losses": [150, *(100 - fall * size + number % 3 / 5 + loss for loss in range(4))]}
            | {"values": {"latent_size": size}, "active_units": size}
            for number, size in enumerate(range(4, 64, 3))
        ]
        space = Space({"latent_size": IntDistribution(2, 64)})
        return sentences(hand_made(tmp_path / name, *trials, space=space, max_epochs=5), "epochs")[0]

    assert found("larger", 0.5).endswith("It overfits: fewer epochs or more images would help.")
    assert found("any", 0).endswith("It overfits: fewer epochs, a smaller model or more images would help.")


def test_an_early_epoch_says_nothing_of_ranges_without_an_edge(tmp_path):
    """Two trials alone were trained to the end, and the winner of these lies at the end of a range."""
    random = np.random.default_rng(0)
    rates = 1e-4 * 100 ** random.uniform(0.3, 0.7, 12)
    first = [100 + 40 * abs(np.log10(rate) + 3) for rate in rates]
    stopped = [
        {"losses": [loss], "state": "PRUNED", "values": {"learning_rate": rate}}
        for rate, loss in zip(rates, first, strict=True)
    ]
    whole = [{"losses": [141, 130, 120, 110, 80], "values": {"learning_rate": 0.0099}}]
    study = hand_made(tmp_path / "s", GOOD | {"losses": [140, 130, 120, 110, 100]}, *whole, *stopped, max_epochs=5)
    assert set(edges(study).epoch) == {1}
    assert sentences(study, "edges") == []


def test_collapsed_trials_are_counted(tmp_path):
    collapsed = {"losses": [300], "state": "PRUNED", "collapsed": True}
    study = hand_made(tmp_path / "s", GOOD, collapsed, collapsed)
    assert sentences(study, "latents")[1] == "2 of 3 trials collapsed: below a tenth of their latents active."


def test_the_public_module_names_what_a_notebook_uses():
    import vae_tune.advice

    assert vae_tune.advice.conclusions is conclusions
    assert all(hasattr(vae_tune.advice, name) for name in vae_tune.advice.__all__)
