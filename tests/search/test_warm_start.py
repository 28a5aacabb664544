"""What a study learns from other studies, and that it stays its own."""

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from tests.cli.test_dashboard import get, serving
from tests.record.test_study_record import report
from tests.search.test_initial_trials import BASE, CONFIG, searcher_of, study
from tests.studies import hand_made, make_study
from vae_tune.analysis.audit import audit
from vae_tune.cluster.slots import Slots
from vae_tune.config.errors import UsageError
from vae_tune.config.names import TRIAL, VALUES
from vae_tune.config.settings import DataConfig, SearchConfig, TrialConfig
from vae_tune.config.space import DEFAULT_SPACE, load_space
from vae_tune.record.metadata import new_metadata
from vae_tune.record.study_record import StudyRecord
from vae_tune.record.trials import winner
from vae_tune.search.initial_trials import InitialTrials
from vae_tune.search.searcher import StudySearcher
from vae_tune.search.stopping import Stopping
from vae_tune.search.warm_start import read_warm_start
from vae_tune.tasks.search_plan import make_plan
from vae_tune.tasks.search_record import open_record


def finished(folder, tiny):
    record = study(folder, tiny)
    searcher = searcher_of(record)
    for number, epochs in enumerate((10, 1, 10)):
        searcher.suggest(str(number))
        for epoch in range(1, epochs + 1):
            record.report(number, report(epoch, 50.0 - number))
        record.finish(number, "COMPLETE" if epochs == 10 else "PRUNED")
    searcher.suggest("running")
    record.close()
    return record


def test_a_warm_start_teaches_the_sampler_but_counts_nowhere(tmp_path, tiny):
    source = finished(tmp_path / "old", tiny)
    metadata = new_metadata("new", CONFIG, BASE, DEFAULT_SPACE, tiny)
    warm_start = read_warm_start(source.folder, metadata, DEFAULT_SPACE, BASE)
    trials = warm_start.trials
    assert [trial.state.name for trial in trials] == ["COMPLETE", "PRUNED", "COMPLETE"]
    assert trials[1].intermediate_values == {1: 49.0}

    record = study(tmp_path / "new", tiny, InitialTrials(warm_start=trials))
    searcher = searcher_of(record)
    assert searcher.suggest("a")[TRIAL] == 0
    second = searcher.suggest("b")[TRIAL]
    assert [row.trial for row in record.rows] == [0, second]
    learned = record.sampler_view.trials[:3]
    assert [trial.value for trial in learned] == [50.0, 49.0, 48.0]
    assert learned[2].user_attrs["warm_start"] == f"{source.folder}: trial 2"
    assert second == 1
    assert [trial.number for trial in record.study.trials] == [0, 1]
    record.report(0, report(1, 60.0))
    assert winner(record.rows, 10).trial == 0
    record.close()
    lines = (record.folder / "trials.csv").read_text().splitlines()
    assert len(lines) == 3

    # a chain of warm starts passes on only what the study itself trained
    own = read_warm_start(record.folder, metadata, DEFAULT_SPACE, BASE)
    assert (list(own.trials), own.among) == ([], 2)
    again = StudyRecord.resume(record.folder, record.metadata)
    assert [row.trial for row in again.rows] == [0, second]
    assert [trial.params for trial in again.warm_start_trials] == [trial.params for trial in trials]
    again.close()


def test_trials_outside_of_the_ranges_are_left_out(tmp_path, tiny):
    source = finished(tmp_path / "old", tiny)
    path = tmp_path / "space.yaml"
    path.write_text(
        "latent_size: {type: int, low: 20, high: 21}\nhidden_width: {type: int, low: 64, high: 1024}\n"
        "learning_rate: {type: float, low: 1.0e-4, high: 1.0e-2}\n"
    )
    space = load_space(path, BASE)
    metadata = new_metadata("new", CONFIG, BASE, space, tiny)
    kept = read_warm_start(source.folder, metadata, space, BASE)
    assert [trial.params["latent_size"] for trial in kept.trials] == [20]
    assert str(kept) == f"1 of 4 trials of {source.folder} lies in this space and teaches the sampler."


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            ("data", "sha256", "other"),
            r"other images \(60 of mnist to train on, checksum other; here 60 of mnist to train on, checksum \w{8}\)",
        ),
        (("reference", "max_epochs", 7), "max_epochs is 7"),
        (("metric", "kind", "static"), "kind of the losses is"),
    ],
)
def test_a_study_whose_losses_mean_something_else_is_refused(tmp_path, tiny, change, message):
    source = finished(tmp_path / "old", tiny)
    stored = json.loads((source.folder / "study.json").read_text())
    part, name, value = change
    stored[part][name] = value
    (source.folder / "study.json").write_text(json.dumps(stored))
    metadata = new_metadata("new", CONFIG, BASE, DEFAULT_SPACE, tiny)
    with pytest.raises(UsageError, match=message):
        read_warm_start(source.folder, metadata, DEFAULT_SPACE, BASE)


@pytest.fixture
def heard(tmp_path, tiny):
    """Start a search from another study, in a space that ``latent_size`` limits; and what it says."""
    told = []
    view = SimpleNamespace(say=lambda text: told.append(("say", text)), warn=lambda text: told.append(("warn", text)))

    def start(source, latent_size, num_samples=5):
        (tmp_path / "space.yaml").write_text(
            f"latent_size: {latent_size}\nhidden_width: {{type: int, low: 64, high: 1024, log: true}}\n"
            "learning_rate: {type: float, low: 1.0e-4, high: 1.0e-2, log: true}\n"
        )
        config = SearchConfig(
            num_samples=num_samples,
            space=tmp_path / "space.yaml",
            results_dir=tmp_path,
            study_name="new",
            warm_start=(source,),
        )
        plan = make_plan(config, None, tmp_path / "new")
        record = open_record(plan, tiny, Slots(count=1, cpus=1, gpus=0), view)
        record.close()
        return record

    return start, told


def test_it_is_said_how_many_trials_teach(tmp_path, tiny, heard):
    source = finished(tmp_path / "old", tiny)
    start, told = heard
    record = start(source.folder, "{type: int, low: 20, high: 21}")
    assert told == [("say", f"1 of 4 trials of {source.folder} lies in this space and teaches the sampler.")]
    assert len(record.warm_start_trials) == 1


def test_a_warm_start_that_teaches_nothing_is_a_warning(tmp_path, tiny, heard):
    source = finished(tmp_path / "old", tiny)
    start, told = heard
    start(source.folder, "{type: int, low: 63, high: 64}")
    ((how, text),) = told
    assert how == "warn"
    assert text.startswith(f"None of the 4 trials of {source.folder} has finished in this space")


def test_a_space_that_holds_fewer_configurations_than_trials_is_a_warning(tmp_path, tiny):
    told = []
    view = SimpleNamespace(say=pytest.fail, warn=told.append)
    (tmp_path / "space.yaml").write_text("latent_size: {type: categorical, choices: [10, 20, 30]}\n")
    config = SearchConfig(num_samples=3, space=tmp_path / "space.yaml", results_dir=tmp_path, study_name="s")
    slots, place = Slots(count=1, cpus=1, gpus=0), tmp_path / "s"
    open_record(make_plan(config, None, place), tiny, slots, view).close()
    assert not told
    more = replace(config, num_samples=5, space=None, resume=place)
    open_record(make_plan(more, None, place), tiny, slots, view).close()
    assert told == [
        "The space has 3 configurations, 1 of them known or given already: "
        "2 of the 4 trials to come will repeat others."
    ]


def test_a_reference_outside_of_its_own_space_teaches_where_it_lies_in_this_one(tmp_path):
    path = tmp_path / "space.yaml"
    path.write_text("latent_size: {type: int, low: 30, high: 40}\n")
    narrow = load_space(path, BASE)
    source = hand_made(tmp_path / "old", {"losses": [5.0, 4.0, 3.0]}, space=narrow)
    metadata = json.loads((source.folder / "study.json").read_text())
    path.write_text("latent_size: {type: int, low: 2, high: 64}\n")
    wide, base = load_space(path, BASE), TrialConfig(max_epochs=3)
    warm_start = read_warm_start(source.folder, metadata, wide, base)
    assert [trial.params for trial in warm_start.trials] == [{"latent_size": 20}]


def copied(folder):
    return shutil.copytree(folder, folder.parent / "copy")


def linked(folder):
    (folder.parent / "link").symlink_to(folder)
    return folder.parent / "link"


@pytest.mark.parametrize("other", [lambda folder: folder, lambda folder: folder / ".." / folder.name, copied, linked])
def test_a_study_teaches_once_however_it_is_named(tmp_path, other):
    folder = make_study(tmp_path / "s", trials=2)
    again = other(folder)
    config = SearchConfig(results_dir=tmp_path, study_name="new", warm_start=(folder, again))
    with pytest.raises(UsageError, match=r"--warm-start names .*/s twice") as error:
        make_plan(config, None, tmp_path / "new")
    assert str(again) in str(error.value)
    assert len(str(error.value).splitlines()) == 2
    assert not (tmp_path / "new").exists()
    make_plan(replace(config, warm_start=(folder, make_study(tmp_path / "t", trials=2))), None, tmp_path / "new")


@pytest.mark.parametrize("sampler", ["tpe", "random", "qmc", "gp", "cmaes"])
def test_what_a_warm_start_has_brought_is_not_proposed_again_with_the_same_seed(tmp_path, tiny, sampler):
    source = trained(study(tmp_path / "old", tiny), sampler, 6)
    warm_start = read_warm_start(source.folder, source.metadata, DEFAULT_SPACE, BASE)
    assert len(warm_start.trials) == 6
    record = trained(study(tmp_path / "new", tiny, InitialTrials(warm_start=warm_start.trials)), sampler, 6)
    known = {tuple(trial.params.values()) for trial in warm_start.trials[1:]}
    assert not known & {tuple(row.values.values()) for row in record.rows}


def trained(record, sampler, count):
    """Train ``count`` trials to the end, one after another."""
    searcher = StudySearcher(record, DEFAULT_SPACE, BASE, sampler, Stopping())
    for number in range(count):
        handed = searcher.suggest(str(number))
        for epoch in range(1, 11):
            record.report(handed[TRIAL], report(epoch, 100.0 + handed[VALUES]["latent_size"] - epoch))
        record.finish(handed[TRIAL], "COMPLETE")
    record.close()
    return record


def plain(folder):
    storage = JournalStorage(JournalFileBackend(str(folder / "optuna.journal")))
    return optuna.load_study(study_name=None, storage=storage)


def test_the_best_trial_of_the_journal_is_the_winner_for_plain_optuna_and_for_its_dashboard(tmp_path, tiny):
    source = finished(tmp_path / "old", tiny)  # down to 48 nats
    warm_start = read_warm_start(source.folder, source.metadata, DEFAULT_SPACE, BASE)
    record = study(tmp_path / "new", tiny, InitialTrials(warm_start=warm_start.trials))
    searcher = searcher_of(record)
    for number, (epochs, loss) in enumerate([(10, 60.0), (10, 55.0), (3, 1.0), (10, 57.0), (10, 56.0)]):
        searcher.suggest(str(number))
        for epoch in range(1, epochs + 1):
            record.report(number, report(epoch, loss))
        if number == 3:
            record.note(number, "collapsed: no unit is active")
        record.finish(number, "COMPLETE" if epochs == 10 else "PRUNED")
    record.close()
    best = winner(record.rows, 10)
    assert plain(record.folder).best_trial.number == best.trial == 1
    with serving(record.folder) as url:
        detail = json.loads(get(f"{url}/api/studies/0"))
    assert [trial["number"] for trial in detail["best_trials"]] == [1]
    assert len(detail["trials"]) == 5


def test_a_study_that_holds_foreign_trials_as_older_versions_wrote_them_goes_on(tmp_path, tiny):
    source = finished(tmp_path / "old", tiny)
    warm_start = read_warm_start(source.folder, source.metadata, DEFAULT_SPACE, BASE)

    def plant(optuna_study):
        InitialTrials().enqueue(optuna_study, DEFAULT_SPACE, BASE)
        optuna_study.add_trials(warm_start.trials)

    metadata = new_metadata("older", CONFIG, BASE, DEFAULT_SPACE, tiny)
    record = StudyRecord.create(tmp_path / "older", metadata, plant)
    searcher = searcher_of(record)
    first = [searcher.suggest(name)[TRIAL] for name in "ab"]
    record.close()
    again = StudyRecord.resume(record.folder, record.metadata)
    assert [row.trial for row in again.rows] == first == [0, 4]
    assert len(again.sampler_view.trials) == 5
    known = {tuple(trial.params.values()) for trial in again.warm_start_trials}
    assert len(known) == 3
    assert tuple(again.rows[1].values.values()) not in known
    again.close()
    assert not [found for found in audit(record.folder) if "best/" not in found]


def test_a_warm_start_from_another_kind_of_numbers_is_refused(tmp_path, tiny):
    source = finished(tmp_path / "old", tiny)
    config = replace(CONFIG, data=DataConfig(binarization="static"))
    metadata = new_metadata("new", config, BASE, DEFAULT_SPACE, tiny)
    with pytest.raises(UsageError, match=r"cannot be compared: kind of the losses is 'grey' there, 'static' here"):
        read_warm_start(source.folder, metadata, DEFAULT_SPACE, BASE)


def test_a_warm_start_from_other_images_is_refused_by_their_number(tmp_path, tiny):
    source = finished(tmp_path / "old", tiny)
    metadata = new_metadata("new", CONFIG, BASE, DEFAULT_SPACE, replace(tiny, train=tiny.train[:50]))
    with pytest.raises(
        UsageError, match=r"other images \(60 of mnist to train on, .*; here 50 of mnist to train on, "
    ):
        read_warm_start(source.folder, metadata, DEFAULT_SPACE, BASE)


def test_a_study_older_than_a_field_has_its_default(tmp_path, tiny):
    source = finished(tmp_path / "old", tiny)
    stored = json.loads((source.folder / "study.json").read_text())
    del stored["reference"]["precision"]
    (source.folder / "study.json").write_text(json.dumps(stored))
    metadata = new_metadata("new", CONFIG, BASE, DEFAULT_SPACE, tiny)
    assert read_warm_start(source.folder, metadata, DEFAULT_SPACE, BASE).trials


def test_a_folder_that_is_no_study_is_refused(tmp_path, tiny):
    metadata = new_metadata("new", CONFIG, BASE, DEFAULT_SPACE, tiny)
    with pytest.raises(UsageError, match="is no study"):
        read_warm_start(tmp_path, metadata, DEFAULT_SPACE, BASE)
