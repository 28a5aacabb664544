import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from tests.studies import make_study
from vae_tune import TrialConfig, load_study
from vae_tune.analysis.audit import audit
from vae_tune.config.space import Space

SPACE = Space(
    {
        "learning_rate": FloatDistribution(0.001, 0.01, step=0.001),
        "batch_size": IntDistribution(32, 256, step=32),
        "encoder_activation": CategoricalDistribution(("linear", "relu")),
    }
)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"trials": 200, "max_epochs": 30, "nodes": ("a", "b"), "failed": 0.2},
        {"trials": 40, "ended": 25, "status": "running"},
        {"trials": 40, "ended": 25, "status": "interrupted"},
        {"trials": 1},
        {"trials": 5, "failed": 1.0},
        {"trials": 9, "scheduler": "none", "space": SPACE},
        {"trials": 9, "reference": TrialConfig(latent_size=100, max_epochs=9)},  # outside of the space
    ],
)
def test_a_made_up_study_agrees_with_itself(tmp_path, options):
    assert audit(make_study(tmp_path / "s", **options)) == []


def test_a_made_up_study_has_trials_in_every_state(tmp_path):
    finished = load_study(make_study(tmp_path / "finished"))
    running = load_study(make_study(tmp_path / "running", ended=25, status="running"))
    assert set(finished.trials.state) == {"COMPLETE", "PRUNED", "FAIL"}
    assert list(running.trials.state).count("RUNNING") == 2
    assert set(load_study(make_study(tmp_path / "failed", trials=3, failed=1.0)).trials.state) == {"FAIL"}
    assert load_study(make_study(tmp_path / "empty", trials=0)).trials.empty
