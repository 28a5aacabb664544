"""The peers that train for real, where a trial diverges."""

import json
import sys

import optuna
import plain_optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from vae_tune.vae.training import Diverged


def test_a_search_with_optuna_alone_survives_diverged_trials(tmp_path, monkeypatch):
    count = iter(range(9))

    def train(*_):
        number = next(count)
        yield 120.0 - number
        if number == 1:
            raise Diverged(2, "training loss")
        yield float("nan") if number == 0 else 110.0

    monkeypatch.setattr(plain_optuna, "train", train)
    spread = {name: {"low": 2, "high": 64} for name in ("latent_size", "hidden_width", "learning_rate")}
    (tmp_path / "space.json").write_text(json.dumps(spread))
    monkeypatch.setattr(sys, "argv", ["plain_optuna.py", "ours", str(tmp_path), "4", "500", "2"])
    plain_optuna.main()
    storage = JournalStorage(JournalFileBackend(str(tmp_path / "journal.log")))
    trials = optuna.load_study(study_name="search", storage=storage).trials
    assert [trial.state.name for trial in trials] == ["FAIL", "FAIL", "COMPLETE", "COMPLETE"]
    assert len((tmp_path / "epochs.jsonl").read_text().splitlines()) == 7
