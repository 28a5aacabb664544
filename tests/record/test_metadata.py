import json
from copy import deepcopy
from dataclasses import fields, replace
from pathlib import Path

import pytest

from vae_tune import __version__
from vae_tune.cli import main as cli
from vae_tune.config import message_hints
from vae_tune.config.errors import UsageError
from vae_tune.config.fields import to_dict
from vae_tune.config.names import EXPLORATION, KINDS
from vae_tune.config.settings import AshaConfig, DataConfig, ResourceConfig, SearchConfig, TrialConfig, ViewsConfig
from vae_tune.config.space import DEFAULT_SPACE, Space, load_space
from vae_tune.images.datasets import Images
from vae_tune.record.metadata import (
    MUST_STAY,
    SCHEMA,
    new_metadata,
    read_metadata,
    read_search_config,
    read_space,
    refuse_changes,
    refuse_other_data,
    resume_command,
    this_run,
)

CONFIG = SearchConfig()


@pytest.fixture
def metadata(tiny):
    """As it is read back from study.json."""
    return json.loads(json.dumps(new_metadata("s", CONFIG, CONFIG.trial, DEFAULT_SPACE, tiny)))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (replace(CONFIG, trial=TrialConfig(max_epochs=5)), "max_epochs is 10 in this study, but got 5"),
        (replace(CONFIG, trial=TrialConfig(seed=1)), "seed is 0 in this study, but got 1"),
        (replace(CONFIG, trial=TrialConfig(precision="bfloat16")), "precision is 'float32' in this study"),
        (replace(CONFIG, trial=TrialConfig(latent_size=8)), "latent_size is 20 in this study, but got 8"),
        (replace(CONFIG, trial=TrialConfig(batch_size=64)), "batch_size is 128"),
        (replace(CONFIG, data=DataConfig(dataset="kmnist")), "dataset is 'mnist' in this study, but got 'kmnist'"),
        (replace(CONFIG, data=DataConfig(train_size=5)), "train_size is None in this study, but got 5"),
        (
            replace(CONFIG, data=DataConfig(binarization="static")),
            "binarization is 'grey' in this study, but got 'static'",
        ),
        (replace(CONFIG, asha=AshaConfig(reduction_factor=4)), "reduction_factor is 3 in this study, but got 4"),
        (replace(CONFIG, asha=AshaConfig(grace_period=2)), "grace_period is 1 in this study, but got 2"),
        (replace(CONFIG, asha=AshaConfig(scheduler="none")), "scheduler is 'asha' in this study, but got 'none'"),
        (replace(CONFIG, points=Path("p.yaml")), "points is None in this study"),
        (replace(CONFIG, warm_start=(Path("other"),)), "warm_start is"),
    ],
)
def test_what_makes_trials_incomparable_is_refused_with_old_and_new_value(metadata, changed, message):
    with pytest.raises(UsageError) as error:
        refuse_changes(metadata, changed, DEFAULT_SPACE)
    assert message in str(error.value)
    assert len(str(error.value).splitlines()) == 2


def test_another_space_is_refused_field_by_field(metadata, tmp_path):
    path = tmp_path / "space.yaml"
    path.write_text("latent_size: {type: int, low: 2, high: 32, log: true}\n")
    with pytest.raises(UsageError, match=r"space .* is .* in this study, but got"):
        refuse_changes(metadata, CONFIG, load_space(path, CONFIG.trial))
    with pytest.raises(UsageError, match="fixed batch_size is None in this study, but got 64"):
        refuse_changes(metadata, CONFIG, Space(DEFAULT_SPACE.distributions, {"batch_size": 64}))


@pytest.mark.parametrize(
    "changed",
    [
        CONFIG,
        replace(CONFIG, num_samples=200),
        replace(CONFIG, resources=ResourceConfig(cpus_per_trial=4, max_concurrent=7, address="auto")),
        replace(CONFIG, time_budget="45m", target_loss=100.0, keep=3),
        replace(CONFIG, sampler="random"),
        replace(CONFIG, results_dir=Path("elsewhere")),
        replace(CONFIG, views=ViewsConfig(tensorboard=True, visdom="http://127.0.0.1:8097")),
    ],
)
def test_what_leaves_trials_comparable_may_change(metadata, changed):
    refuse_changes(metadata, changed, DEFAULT_SPACE)


def test_other_images_are_refused(metadata, tiny):
    refuse_other_data(metadata, CONFIG, tiny)
    with pytest.raises(UsageError, match="mnist holds other images than mnist when this study began"):
        refuse_other_data(metadata, CONFIG, Images(tiny.train, tiny.validation, tiny.test[::-1]))


def test_the_command_that_resumes_names_the_code_of_users_classes(metadata):
    folder, begin = Path("results/s"), f"{message_hints.command('search')} --resume results/s"
    assert resume_command(metadata, folder, num_samples=60) == f"{begin} --num-samples 60"
    one = metadata | {"code": {"my_vae.py:MyVAE": {"sha256": ""}}}
    assert resume_command(one, folder, num_samples=60) == f"{begin} --model my_vae.py:MyVAE --num-samples 60"
    explore = f"{message_hints.command('explore')} --resume results/s --model my_vae.py:MyVAE"
    assert resume_command(one | {"kind": EXPLORATION}, folder) == explore
    ranked = metadata | {"config": metadata["config"] | {"metric": "my_metric.py:psnr"}}
    assert resume_command(ranked, folder) == f"{begin} --metric my_metric.py:psnr"
    searched = {"config": metadata["config"] | {"space": "s.yaml"}, "code": {"a.py:A": {}, "b.py:B": {}}}
    assert resume_command(metadata | searched, folder) == f"{begin} --model a.py:A --space s.yaml"


def test_what_a_job_of_slurm_searched_is_resumed_by_another_job(metadata, monkeypatch):
    in_job = metadata | {"config": to_dict(replace(CONFIG, resources=ResourceConfig(address="slurm")))}
    assert resume_command(in_job, Path("results/a b")) == "sbatch cluster/slurm.sh --resume 'results/a b'"
    assert resume_command(in_job | {"kind": EXPLORATION}, Path("s")).endswith("explore --resume s")
    given = in_job | {"runs": [{"sbatch": ["--nodes=2", "--time=4:00:00"]}, {}]}
    assert resume_command(given, Path("s")) == "sbatch --nodes=2 --time=4:00:00 cluster/slurm.sh --resume s"
    for name, value in {"SLURM_JOB_ID": "17", "SLURMD_NODENAME": "n1"}.items():
        assert "slurm_job" not in this_run()
        monkeypatch.setenv(name, value)
    assert this_run()["slurm_job"] == "17"


def test_a_study_gives_back_its_space_and_its_settings(metadata, tmp_path):
    assert read_space(metadata) == DEFAULT_SPACE
    metadata["config"] = to_dict(replace(CONFIG, num_samples=7, data=DataConfig(data_dir=Path("d"))))
    (tmp_path / "study.json").write_text(json.dumps(metadata))
    config = read_search_config(tmp_path)
    assert config == replace(CONFIG, num_samples=7, data=DataConfig(data_dir=Path("d")), resume=tmp_path)


def test_a_file_is_no_study(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="file is no study: it is no folder"):
        read_metadata(tmp_path / "file")


@pytest.mark.parametrize(
    "path",
    [
        *("name", "config", "reference", "space", "fixed", "data", "metric", "rungs", "runs", "status"),
        *("data.sha256", "data.train", "metric.kind"),
    ],
)
def test_a_study_file_that_lacks_anything_is_damaged_in_one_line(metadata, tmp_path, path):
    *parts, name = path.split(".")
    for value in (None, 7.5):
        changed = deepcopy(metadata)
        place = changed
        for part in parts:
            place = place[part]
        place[name] = value
        if value is None:
            del place[name]
        (tmp_path / "study.json").write_text(json.dumps(changed))
        with pytest.raises(UsageError, match=rf"study\.json is damaged \(.*{name}") as raised:
            read_metadata(tmp_path)
        assert len(str(raised.value).splitlines()) == 1


def test_a_study_older_than_an_option_goes_on_with_its_default(metadata):
    del metadata["config"]["data"]["binarization"]
    refuse_changes(metadata, CONFIG, DEFAULT_SPACE)
    with pytest.raises(UsageError, match="binarization is 'grey' in this study"):
        refuse_changes(metadata, replace(CONFIG, data=DataConfig(binarization="static")), DEFAULT_SPACE)


@pytest.mark.parametrize("kind", ["grey", "static"])
def test_the_metric_carries_the_kind_of_its_numbers(tiny, kind):
    config = replace(CONFIG, data=DataConfig(binarization=kind))
    assert new_metadata("s", config, CONFIG.trial, DEFAULT_SPACE, tiny)["metric"]["kind"] == kind


@pytest.mark.parametrize(
    "change", [{"schema": SCHEMA + 1}, {"schema": SCHEMA + 1, "runs": []}, {"config": {"new": 1}}]
)
def test_a_study_of_a_newer_version_is_called_so(metadata, tmp_path, change, monkeypatch, capsys):
    newer = metadata | {"runs": [{"versions": {"vae-tune": "0.30.1"}}]} | change
    (tmp_path / "study.json").write_text(json.dumps(newer))
    monkeypatch.setattr("sys.argv", ["vae-tune", "audit", str(tmp_path)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2
    writer = "vae_tune 0.30.1" if newer["runs"] else f"a newer vae_tune (schema {SCHEMA + 1})"
    assert f"{tmp_path} was written by {writer}, this is {__version__}.\n" in capsys.readouterr().err


@pytest.mark.parametrize("version", [__version__, "0.0.9"])
def test_a_damaged_study_of_this_version_or_an_older_one_is_damaged(metadata, tmp_path, version):
    (tmp_path / "study.json").write_text(
        json.dumps(metadata | {"runs": [{"versions": {"vae-tune": version}}], "space": 1})
    )
    with pytest.raises(UsageError, match="is damaged"):
        read_metadata(tmp_path)


def test_a_study_says_what_it_is(metadata, tmp_path):
    for kind in KINDS:
        (tmp_path / "study.json").write_text(json.dumps(metadata | {"kind": kind}))
        assert read_search_config(tmp_path, kind).resume == tmp_path
    (tmp_path / "study.json").write_text(json.dumps(metadata | {"kind": "other"}))
    with pytest.raises(UsageError, match="is damaged"):
        read_search_config(tmp_path)


def test_a_command_to_notify_with_is_neither_recorded_nor_taken_from_a_record(tiny, tmp_path, monkeypatch):
    config = replace(CONFIG, notify="curl https://chat/secret")
    metadata = new_metadata("s", config, CONFIG.trial, DEFAULT_SPACE, tiny)
    assert "secret" not in json.dumps(metadata)
    metadata["config"]["notify"] = "touch written-by-somebody"
    (tmp_path / "study.json").write_text(json.dumps(metadata))
    assert read_search_config(tmp_path).notify is None
    for given, kept in (
        (["--notify", "curl secret", "--keep", "2"], ["--notify", "...", "--keep", "2"]),
        (["--notify=curl secret"], ["--notify=..."]),
        (["--keep", "2"], ["--keep", "2"]),
    ):
        monkeypatch.setattr("sys.argv", ["search.py", *given])
        assert this_run()["command"] == ["search.py", *kept]


def test_of_each_setting_it_is_decided_whether_a_resume_may_change_it():
    """A new field fails here until it is on one side: trials must stay comparable."""
    may_change = {"num_samples", "resources", "resume", "results_dir", "study_name", "time_budget", "target_loss"}
    may_change |= {
        "max_total_epochs",
        "notify",
        "keep",
        "sampler",
        "views",
        "confirm",
        "confirm_seeds",
        "space",
        "metric",
    }  # the last two are compared by content
    assert {field.name for field in fields(SearchConfig)} - may_change == MUST_STAY
