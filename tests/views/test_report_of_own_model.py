"""The report of a study of a user's class, whose code a process may run only where its file is named."""

from __future__ import annotations

import re
import sys

import pytest
from optuna.distributions import CategoricalDistribution, IntDistribution

from tests.studies import make_study
from tests.vae.test_own_model import MODEL, TEXT
from vae_tune.analysis.study import load_study
from vae_tune.cli import main as cli
from vae_tune.config.files import read_json, write_json
from vae_tune.config.settings import TrialConfig
from vae_tune.config.space import Space
from vae_tune.vae.networks import registry
from vae_tune.vae.networks.code import read_code
from vae_tune.views.figures import FIGURES

OWN = {"latent_size": IntDistribution(2, 9), "model.width": IntDistribution(2, 9)}
BOTH = {"model": CategoricalDistribution(["mlp", MODEL]), "hidden_width": IntDistribution(8, 64), **OWN}
CONDITIONS = {"hidden_width": ("mlp",), "model.width": (MODEL,)}


@pytest.fixture
def report(tmp_path, monkeypatch, capsys):
    """Return a function that writes a report in a new process: exit code, what it says, and the study."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_vae.py").write_text(TEXT)
    monkeypatch.setattr(registry, "_ADMITTED", {})

    def written(space, model, *words):
        reference = TrialConfig(model=model, max_epochs=9, model_options={"width": 8} if model == MODEL else {})
        if not (tmp_path / "s").exists():
            folder = make_study(tmp_path / "s", space=space, reference=reference, shape=(1, 4, 3), trials=14, failed=0)
            code = {MODEL: {"sha256": read_code(MODEL).digest, "options": {}}}
            write_json(folder / "study.json", read_json(folder / "study.json") | {"code": code})
        monkeypatch.setattr(sys, "argv", ["vae-tune", "s", *words])
        with pytest.raises(SystemExit) as stop:
            cli.main(["report"])
        return stop.value.code, "".join(capsys.readouterr()), load_study(tmp_path / "s")

    return written


def test_sizes_are_computed_where_the_file_is_named(report, tmp_path):
    code, said, study = report(Space(OWN), MODEL)
    assert code == 0, said
    assert FIGURES["pareto"].panels(study) == {}
    page = (tmp_path / "s" / "report.html").read_text()
    assert "or the models are classes of yours, whose size needs their code" in page
    assert f" report s --model {MODEL}</code>" in page.replace(str(tmp_path) + "/", "")
    (tmp_path / "my_vae.py").rename(tmp_path / "moved.py")
    code, said, study = report(Space(OWN), MODEL, "--model", "moved.py:MyVAE")
    assert code == 0, said
    assert len(FIGURES["pareto"].table(study)) == len(study.trials)
    (tmp_path / "moved.py").write_text(TEXT.replace("0.3", "0.4"))
    code, said, _ = report(Space(OWN), MODEL, "--model", "moved.py:MyVAE")
    assert (code, said) == (
        2,
        "vae-tune: The code of moved.py:MyVAE is not that of a model of s: only comments may change.\n",
    )


def test_trials_whose_size_is_unknown_are_left_out_with_a_word(report):
    space = Space(BOTH, conditions=CONDITIONS)
    code, said, study = report(space, "mlp")
    assert code == 0, said
    counts = study.trials["model"].value_counts()
    note = FIGURES["pareto"].panels(study)[""].note
    assert re.fullmatch(
        rf"Left out: {counts[MODEL]} trials of {MODEL}, whose size needs your code: .* --model {MODEL}", note
    )
    assert set(FIGURES["pareto"].table(study)["trial"]) == set(study.trials.index[study.trials["model"] == "mlp"])
    code, said, study = report(space, "mlp", "--model", MODEL)
    assert code == 0, said
    assert FIGURES["pareto"].panels(study)[""].note == ""
