"""A real MLflow server on loopback over a real sqlite store, and the store without the server."""

import os
import re
import sys
import threading

import pytest
from mlflow import MlflowClient
from PIL import Image

from tests.studies import iso, make_study
from tests.view_servers import SECONDS, VALUES, Server, Warnings, free_port, hanging_port, trial
from vae_tune.config.files import read_json
from vae_tune.config.names import COMPLETE, FAIL, PRUNED, RUNNING
from vae_tune.views.live import close_views
from vae_tune.views.live.background_thread import BackgroundView
from vae_tune.views.live.mlflow import EXPERIMENT, MLflow

ROWS = [
    trial(0, 120.0, 110.0),
    trial(1, 150.0, state=PRUNED),
    trial(2, 140.0, state=FAIL, reason="diverged: it's nan"),
    trial(3, 121.0),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("mlflow")


@pytest.fixture(scope="module")
def server(place):
    os.environ |= {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    port = free_port()
    options = {"host": "127.0.0.1", "port": port, "workers": 1}
    options |= {"backend-store-uri": f"sqlite:///{place}/mlflow.db", "artifacts-destination": place / "artifacts"}
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    server = Server([sys.executable, "-m", "mlflow", "server", *words], port, place / "log")
    yield server
    server.kill()


@pytest.fixture(scope="module")
def folder(place):
    """The study's folder; of its record MLflow gets ``study.json`` and ``best/``, the trials come as values."""
    return make_study(place / "study's name", trials=3, max_epochs=2)


def url(server):
    return f"http://127.0.0.1:{server.port}"


def runs(client, name=EXPERIMENT):
    """All runs of the experiment, by name."""
    found = client.search_runs([client.get_experiment_by_name(name).experiment_id])
    assert len({run.info.run_name for run in found}) == len(found)
    return {run.info.run_name: run for run in found}


def history(client, run, name):
    return [
        (metric.step, metric.value, metric.timestamp) for metric in client.get_metric_history(run.info.run_id, name)
    ]


@pytest.fixture(scope="module")
def shown(server, folder):
    """A client of the server that was shown all trials, of which one is not at its end when the search ends."""
    view = MLflow(url(server), folder, read_json(folder / "study.json"))
    view.show(trial(0, 120.0), None)
    for row in ROWS:
        view.show(row, None)
    view.close("interrupted")
    return MlflowClient(url(server))


def test_a_study_is_a_run_and_each_trial_one_below_it(shown, folder):
    found = runs(shown)
    assert set(found) == {folder.name, "trial 0", "trial 1", "trial 2", "trial 3"}
    study = found.pop(folder.name)
    assert {run.data.tags["mlflow.parentRunId"] for run in found.values()} == {study.info.run_id}
    assert study.data.tags["vae_tune.study"] == folder.name
    assert study.data.params["reference/latent_size"] == "20"
    assert study.data.params["data/dataset"] == "mnist"


def test_a_trial_has_its_hyperparameters_its_state_and_each_report_once_at_its_epoch(shown):
    run = runs(shown)["trial 0"]
    assert run.data.params == {name: str(value) for name, value in VALUES.items()}
    tags = {name: text for name, text in run.data.tags.items() if name.startswith("vae_tune.")}
    expected = {"vae_tune.trial": "0", "vae_tune.state": COMPLETE, "vae_tune.node": "host", "vae_tune.device": "cpu"}
    assert tags == expected
    assert run.data.metrics["val_kl"] == 20
    start = run.info.start_time
    assert history(shown, run, "val_loss") == [(1, 120, start + 1000), (2, 110, start + 2000)]
    assert run.info.end_time == start + 2000


def test_the_states_are_those_of_the_record_in_mlflows_words(shown):
    found = runs(shown)
    assert {name: run.info.status for name, run in found.items() if name.startswith("trial")} == {
        "trial 0": "FINISHED",
        "trial 1": "KILLED",
        "trial 2": "FAILED",
        "trial 3": "SCHEDULED",  # it goes on when the search is resumed
    }
    assert found["trial 2"].data.tags["vae_tune.reason"] == "diverged: it's nan"


def test_the_study_names_its_winner_and_holds_the_files_of_the_best_model(shown, folder):
    study = runs(shown)[folder.name]
    assert study.info.status == "KILLED"
    assert study.data.tags["vae_tune.status"] == "interrupted"
    assert study.data.tags["vae_tune.best_trial"] == "0"
    assert [step for step, *_ in history(shown, study, "best_val_loss")] == [1, 2, 3]
    metrics = read_json(folder / "best" / "metrics.json")
    assert study.data.metrics["winner/test/negative_elbo"] == metrics["winner"]["test"]["negative_elbo"]
    names = {file.path for file in shown.list_artifacts(study.info.run_id, "best")}
    assert names == {f"best/{path.name}" for path in (folder / "best").iterdir()}


def test_a_resumed_search_goes_on_with_the_same_runs_whatever_it_was_told_before(shown, folder, place):
    before = {name: run.info.run_id for name, run in runs(shown).items()}
    view = MLflow(f"sqlite:///{place}/mlflow.db", folder, read_json(folder / "study.json"))  # past the server
    for row in [*ROWS, trial(3, 121.0, 109.0), trial(4, 130.0)]:
        view.show(row, None)
    assert runs(shown)["trial 3"].info.status == "FINISHED"
    found = runs(shown)
    assert {name: found[name].info.run_id for name in before} == before
    assert set(found) - set(before) == {"trial 4"}
    assert found[folder.name].info.status == found["trial 4"].info.status == RUNNING
    assert [step for step, *_ in history(shown, found["trial 3"], "val_loss")] == [1, 2]
    assert found[folder.name].data.tags["vae_tune.best_trial"] == "3"


def test_a_view_that_was_away_names_the_winner_of_all_trials_not_of_those_shown_again_so_far(
    folder, place, monkeypatch
):
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "away")
    uri, metadata = f"sqlite:///{place}/mlflow.db", read_json(folder / "study.json")
    before = [trial(0, 120.0, 110.0), trial(1, 121.0), trial(2, 120.0, 100.0)]
    for rows in (before, [before[0], trial(1, 121.0, 109.0), before[2]]):
        view = MLflow(uri, folder, metadata)
        for row in rows:
            view.show(row, None)
    client = MlflowClient(uri)
    study = runs(client, "away")[folder.name]
    assert study.data.tags["vae_tune.best_trial"] == "2"
    assert [(step, value) for step, value, _ in history(client, study, "best_val_loss")] == [
        (1, 110),
        (2, 100),
        (3, 100),
    ]


def test_a_winner_that_was_not_told_of_is_named_at_the_end(folder, place, monkeypatch):
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "untold")
    uri, metadata = f"sqlite:///{place}/mlflow.db", read_json(folder / "study.json")
    view = MLflow(uri, folder, metadata)
    with monkeypatch.context() as patch:
        patch.setattr(view, "_log_best", lambda: None)  # as where the server goes away in between
        view.show(ROWS[0], None)
    again = MLflow(uri, folder, metadata)
    again.show(ROWS[0], None)
    again.close("complete")
    assert runs(MlflowClient(uri), "untold")[folder.name].data.tags["vae_tune.best_trial"] == "0"


def test_the_run_of_a_trial_that_goes_on_after_its_end_runs_again(folder, place, monkeypatch):
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "longer")
    uri, metadata = f"sqlite:///{place}/mlflow.db", read_json(folder / "study.json")
    MLflow(uri, folder, metadata).show(ROWS[0], None)
    again = MLflow(uri, folder, metadata)
    client = MlflowClient(uri)
    again.show(trial(0, 120.0, 110.0, max_epochs=3), None)
    assert runs(client, "longer")["trial 0"].info.status == "RUNNING"
    again.show(trial(0, 120.0, 110.0, 105.0, max_epochs=3), None)
    run = runs(client, "longer")["trial 0"]
    assert run.info.status == "FINISHED"
    assert [(step, value) for step, value, _ in history(client, run, "val_loss")] == [(1, 120), (2, 110), (3, 105)]


def test_another_study_of_the_same_name_has_runs_of_its_own(shown, folder):
    metadata = read_json(folder / "study.json")
    metadata["runs"][0]["started"] = iso(86_400)
    before = len(shown.search_runs(["1"]))
    MLflow(shown.tracking_uri, folder, metadata)
    assert len(shown.search_runs(["1"])) == before + 1


def test_without_a_server_the_artifacts_lie_beside_the_database(server, folder, place, monkeypatch):
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "direct")
    view = MLflow(f"sqlite:///{place}/mlflow.db", folder, read_json(folder / "study.json"))
    view.show(ROWS[0], None)
    view.close("complete")
    client = MlflowClient(f"sqlite:///{place}/mlflow.db")
    study = runs(client, "direct")[folder.name]
    assert study.info.status == "FINISHED"
    (picture,) = (place / "mlartifacts").rglob(f"{study.info.run_id}/artifacts/best/samples.png")
    assert Image.open(picture).size == (240, 240)


def test_a_server_that_does_not_answer_is_given_up_in_time(folder, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    warnings = Warnings()
    metadata = read_json(folder / "study.json")
    with hanging_port() as port:
        background = BackgroundView("MLflow", lambda: MLflow(f"http://127.0.0.1:{port}", folder, metadata), warnings)
        background.put(ROWS[0])
        assert warnings.first().startswith("MLflow: no answer in time. Training continues")
        close_views([background], "complete", patience_seconds=SECONDS)
    assert len(warnings.lines) == 1


def test_a_server_killed_mid_way_costs_one_warning(server, folder):  # the last test: nobody needs it any more
    warnings, logged = Warnings(), threading.Event()

    class View(MLflow):
        def flush(self):
            logged.set()

    metadata = read_json(folder / "study.json")
    background = BackgroundView("MLflow", lambda: View(url(server), folder, metadata), warnings)
    background.put(ROWS[0])
    assert logged.wait(SECONDS)
    server.kill()
    background.put(trial(5, 120.0))
    assert re.match(
        "MLflow: (Connection refused|Connection reset by peer|Broken pipe|Remote end closed .*)[.] Training continues",
        warnings.first(),
    )
    close_views([background], "complete", patience_seconds=SECONDS)
    assert len(warnings.lines) == 1
