"""Collapsed and diverged trials are named, and the end of a search says what follows."""

import pytest

from tests.record.test_study_record import report
from vae_tune.config.names import COMPLETE, FAIL
from vae_tune.record.diagnostics import collapse_reason, latents_remedy, problem_notes
from vae_tune.record.trials import TrialRow, marks_of_schema_1


def row(number=0, state=COMPLETE, reason="", active=None, epochs=1, **values):
    reports = tuple({**report(epoch, 100.0), "active_units": active} for epoch in range(1, epochs + 1))
    return TrialRow(
        number, values, "", state, reason, reports if active is not None else (), **marks_of_schema_1(reason)
    )


@pytest.mark.parametrize(
    ("active", "latents", "collapsed"),
    [(0, 2, True), (1, 2, False), (1, 10, False), (0, 10, True), (4, 48, True), (5, 48, False), (48, 48, False)],
)
def test_a_trial_with_below_a_tenth_of_its_latents_active_has_collapsed(active, latents, collapsed):
    reason = collapse_reason(row(active=active), latents, least_epochs=1)
    assert reason == (f"collapsed: {active} of {latents} latents active" if collapsed else "")


def test_within_the_grace_period_nothing_has_collapsed():
    assert collapse_reason(row(active=0, epochs=2), 20, least_epochs=3) == ""
    assert collapse_reason(row(active=0, epochs=3), 20, least_epochs=3) != ""
    assert collapse_reason(row(), 20, least_epochs=0) == ""


def test_idle_latents_suggest_a_smaller_space():
    assert latents_remedy(11, 48) == "A smaller latent_size would do."
    assert latents_remedy(40, 48) == ""


def test_a_collapsed_winner_suggests_no_smaller_space():
    assert latents_remedy(4, 48).startswith("A KL warm-up")


def test_diverged_and_collapsed_trials_are_counted():
    rows = [
        row(0, active=20, learning_rate=0.001),
        row(1, FAIL, "diverged: non-finite training loss in epoch 1", learning_rate=0.02),
        row(2, FAIL, "diverged: non-finite training loss in epoch 2", learning_rate=0.0081),
        row(3, FAIL, "worker died", learning_rate=0.0001),
        row(4, COMPLETE, "collapsed: 0 of 20 latents active", active=0, learning_rate=0.003),
    ]
    assert problem_notes(rows) == [
        "1 of 5 trials collapsed: below a tenth of their latents active.",
        "2 of 5 trials diverged, the lowest learning_rate of them 0.0081, the highest of a complete trial 0.003: "
        "the space could end between them.",
    ]


def test_a_rate_at_which_another_trial_ended_well_is_not_too_high():
    rows = [
        row(0, FAIL, "diverged: non-finite training loss in epoch 1", learning_rate=0.003),
        row(1, COMPLETE, active=20, learning_rate=0.005),
    ]
    assert problem_notes(rows) == ["1 of 2 trials diverged, the lowest learning_rate of them 0.003."]


def test_trials_for_which_a_gpu_had_no_room_are_counted():
    reason = (
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of ..."
    )
    (told,) = problem_notes([row(0, FAIL, reason), row(1)])
    assert told == "1 of 2 trials found a GPU full: a larger --gpus-per-trial lets fewer share it."


def test_without_trouble_there_is_no_advice():
    assert problem_notes([row(active=20)]) == []
    assert problem_notes([row(state=FAIL, reason="diverged: x")]) == ["1 of 1 trials diverged."]
