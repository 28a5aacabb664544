"""The slots of a run in the record: those at its start, and each change of a cluster."""

import json
from types import SimpleNamespace

import pytest

from vae_tune.cluster.slots import Slots
from vae_tune.config.settings import SearchConfig
from vae_tune.record.run_slots import RunSlots, most_slots, slots_of_run, up_to
from vae_tune.tasks.search_plan import make_plan
from vae_tune.tasks.search_record import open_record, record_slots

START = "2026-01-05T08:00:00.000+00:00"


def test_each_change_is_recorded_with_its_moment_and_leaves_the_status_as_it_is(tmp_path, tiny):
    config = SearchConfig(study_name="s", results_dir=tmp_path)
    view = SimpleNamespace(say=pytest.fail, warn=pytest.fail)
    record = open_record(make_plan(config, None, tmp_path / "s"), tiny, Slots(1, 2, 0), view)
    record_slots(record, Slots(2, 2, 0.5))
    record.set_status("paused", ended="2100-01-01T00:00:00.000+00:00")
    record_slots(record, Slots(0, 2, 0.5))
    record.close()
    metadata = json.loads((tmp_path / "s" / "study.json").read_text())
    slots = slots_of_run(metadata["runs"][0])
    assert [(each.count, each.cpus, each.gpus) for each in slots] == [(1, 2, 0), (2, 2, 0.5), (0, 2, 0.5)]
    assert metadata["runs"][0]["started"] == slots[0].time <= slots[1].time <= slots[2].time
    assert metadata["status"] == "paused"


def test_of_a_run_of_an_older_version_the_slots_at_its_start_are_known():
    slots = slots_of_run({"started": START, "slots": {"count": 2, "cpus": 1, "gpus": 0}})
    assert slots == (RunSlots(START, 2, 1, 0),)
    assert (most_slots(slots), up_to(slots)) == (slots[0], "")


def test_of_a_run_without_slots_nothing_is_known():
    slots = slots_of_run({"started": START})
    assert (slots, most_slots(slots), up_to(slots)) == ((), None, "")
