"""Another scheduler, which pauses every trial after each epoch, goes the whole way; no other module names one."""

import ast
import re
from pathlib import Path
from typing import get_args

import pytest

import vae_tune
from tests.replay.test_replay_simulator import Given
from tests.search.test_searcher import result
from vae_tune.analysis.audit import audit
from vae_tune.analysis.compute_cost import compute_cost
from vae_tune.analysis.progress import best_so_far, rung_survival, timeline
from vae_tune.analysis.study import load_study, paused_trials
from vae_tune.cli.replay import ReplayOptions
from vae_tune.config.errors import UsageError
from vae_tune.config.names import COMPLETE, PRUNED, RUNNING, STATE, TRIAL
from vae_tune.config.settings import NO_EARLY_STOPPING, AshaConfig, SchedulerName, SearchConfig, TrialConfig
from vae_tune.config.space import DEFAULT_SPACE
from vae_tune.record.metadata import new_metadata
from vae_tune.record.study_record import StudyRecord
from vae_tune.replay.setting import Setting
from vae_tune.replay.simulator import simulate
from vae_tune.search import scheduler_factory
from vae_tune.search.scheduler import PAUSE, STOP
from vae_tune.search.scheduler_factory import SCHEDULERS, make_scheduler
from vae_tune.search.searcher import StudySearcher
from vae_tune.search.stopping import Stopping
from vae_tune.views.report.provenance import make_record

PACKAGE = Path(vae_tune.__file__).parent
OWN = {"config/settings", "search/asha", "search/scheduler_factory"}
"""The modules that know schedulers by name."""
CURVES = {0: [9.0, 8.0, 7.0], 1: [5.0, 4.0, 3.0], 2: [6.0, 5.5, 5.0]}
BASE = TrialConfig(max_epochs=3)
CONFIG = SearchConfig(num_samples=3, trial=BASE, asha=NO_EARLY_STOPPING)


class Waiting:
    """Of two or more trials that wait, resumes the one with the lowest loss; takes a new one where fewer wait."""

    resumes = True
    proposes = False
    reopens = False
    basis = None

    def __init__(self, config, max_epochs, seed=0):
        self.pauses = range(1, max_epochs)
        self._waiting = {}

    def open(self, space, num_samples):
        self.opened = space, num_samples

    def begin(self, trial, values):
        assert values.keys() == self.opened[0].distributions.keys()

    def decide(self, trial, epoch, loss):
        if epoch not in self.pauses:
            return STOP
        self._waiting[trial] = loss
        return PAUSE

    def quota(self, reached):
        return reached

    def next_paused(self, may_open=False):
        if len(self._waiting) < 2:
            return None
        trial = min(self._waiting, key=self._waiting.get)
        del self._waiting[trial]
        return trial

    def proposal(self):
        return None

    def rebuild(self, rows):
        return {row.trial: self.decide(row.trial, row.epochs, row.val_loss) for row in rows if row.epochs}

    def verify(self, rows):
        return iter([f"{len(rows)} trials were looked at"])

    def outlook(self, rows):
        return None

    def describe(self):
        return "freeze-thaw"


@pytest.fixture
def by_name(monkeypatch):
    """Let the name "none" stand for it, so that configurations take it."""
    monkeypatch.setattr(scheduler_factory, "SCHEDULERS", SCHEDULERS | {"none": Waiting})
    monkeypatch.setattr("vae_tune.cli.replay.SCHEDULERS", SCHEDULERS | {"none": Waiting})


def run(record, reports):
    """Let one worker train for so many epochs."""
    scheduler = make_scheduler(CONFIG.asha, BASE.max_epochs, 0)
    searcher = StudySearcher(record, DEFAULT_SPACE, BASE, "random", Stopping(), scheduler, CONFIG.num_samples)
    trained = []
    for name in map(str, range(reports)):
        if not isinstance(config := searcher.suggest(name), dict):
            break
        number = config[TRIAL]
        epoch = record.row(number).epochs + 1
        trained.append((number, epoch))
        assert not searcher.trials.report(name, result(epoch, CURVES[number][epoch - 1]))
    record.set_status("interrupted")  # a table may lack a report of the last second until then
    record.close()
    return trained


@pytest.mark.usefixtures("by_name")
def test_it_is_replayed_by_itself_and_not_through_rays_own_bridge(tmp_path):
    setting = Setting("random", NO_EARLY_STOPPING, workers=1)
    trials = simulate(Given(*((1, losses) for losses in CURVES.values())), setting, num_samples=3, seed=0)
    assert [(trial.state, trial.epochs, trial.ended) for trial in trials] == [
        (PRUNED, 1, 1.0),
        (COMPLETE, 3, 4.0),
        (COMPLETE, 3, 7.0),
    ]
    with pytest.raises(UsageError, match="needs tpe among --sampler, and asha: stock"):
        ReplayOptions(source=tmp_path, sampler="tpe", scheduler="none", bridge="stock")


@pytest.mark.usefixtures("by_name")
@pytest.mark.parametrize("killed", [1, 2, 4])
def test_it_searches_is_resumed_after_a_kill_and_read(tmp_path, tiny, killed):
    metadata = new_metadata("s", CONFIG, BASE, DEFAULT_SPACE, tiny)
    metadata["runs"] = [{"command": [], "started": "2026-01-01T00:00:00.000+00:00", "versions": {}}]
    first = run(StudyRecord.create(tmp_path / "s", metadata), killed)
    study = load_study(tmp_path / "s")
    waiting = paused_trials(study)
    assert set(study.trials.index[study.trials[STATE] == RUNNING]) == set(waiting.index[waiting])
    record = StudyRecord.resume(tmp_path / "s", metadata)
    assert first + run(record, 20) == [(0, 1), (1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (2, 3)]
    study = load_study(tmp_path / "s")
    assert list(study.trials[STATE]) == [PRUNED, COMPLETE, COMPLETE]
    assert list(paused_trials(study)) == [True, False, False]
    assert study.best_trial == 1
    assert "3 trials were looked at" in audit(tmp_path / "s")
    assert "freeze-thaw" in dict(make_record(study))["Search"]
    assert study.rungs == ()
    assert list(rung_survival(study)["epoch"]) == [3]
    assert (len(best_so_far(study)), compute_cost(study).saved_epochs) == (3, 2)
    assert set(timeline(study)[TRIAL].dropna()) == {0, 1, 2}


def test_every_name_has_a_scheduler_that_says_whether_and_where_it_pauses():
    assert set(SCHEDULERS) == set(get_args(SchedulerName))
    for name, scheduler in SCHEDULERS.items():
        made = make_scheduler(AshaConfig(scheduler=name), 10, 0)
        assert type(made) is scheduler
        assert bool(made.pauses) == scheduler.resumes


def schedulers_named_in(path):
    """Yield what in a module's texts and comparisons names a scheduler; ``asha`` is also a field of SearchConfig."""
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Constant(value=str(text)) if text != "asha":
                yield from re.findall(r"\basha\b", text, re.IGNORECASE)
            case ast.Name(id="Asha" | "PromotionAsha"):
                yield node.id
            case ast.keyword(arg="scheduler", value=ast.Constant(value=str(name))):
                yield name
            case ast.Compare(left=ast.Attribute(attr="scheduler") | ast.Name(id="scheduler"), comparators=[other]):
                yield from [other.value] if isinstance(other, ast.Constant) else []


def test_a_scheduler_is_known_by_name_in_its_module_the_factory_and_the_settings_alone():
    files = {path.relative_to(PACKAGE).with_suffix("").as_posix(): path for path in PACKAGE.rglob("*.py")}
    assert {name for name, path in files.items() if any(schedulers_named_in(path))} == OWN
