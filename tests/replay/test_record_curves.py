"""The recording of a published table, on few images."""

import json
from dataclasses import replace

import numpy as np
import pytest

from benchmarks import record_curves
from benchmarks.record_curves import TABLES, Recording, record, table_of, train
from vae_tune.config.fields import to_dict
from vae_tune.config.settings import DataConfig
from vae_tune.images.datasets import load_images
from vae_tune.record.metadata import new_metadata
from vae_tune.replay.curves import load_curves, write_table


def small(count=2, **trial):
    config = TABLES["mnist-wide"]
    trial = replace(config.trial, max_epochs=2, **trial)
    return Recording.of(replace(config, num_samples=count, data=DataConfig(train_size=256), trial=trial))


def write(recording, folder, numbers):
    data = json.dumps(to_dict(recording.config.data))
    for number, values in enumerate(recording.points()):
        if number in numbers:
            train(recording.base, data, (folder / f"{number:05}.json", values))


@pytest.mark.parametrize("name", TABLES)
def test_the_configurations_begin_with_the_reference_and_spread_over_the_space(name):
    recording = Recording.of(TABLES[name])
    points = list(recording.points())
    assert len(points) == {"mnist-wide": 300}.get(name, 100)
    assert recording.base.max_epochs == 27
    assert points[0] == recording.space.values(recording.base)
    rates = np.log([values["learning_rate"] for values in points[1:65]])
    searched = recording.space.distributions["learning_rate"]
    counts, _ = np.histogram(rates, bins=8, range=(np.log(searched.low), np.log(searched.high)))
    assert counts.max() <= 10  # of 64 in 8 parts; at random, 13 are usual
    assert points == list(Recording.of(TABLES[name]).points())


def test_a_recorded_table_is_read_as_one_of_a_search(tmp_path):
    recording = small()
    write(recording, tmp_path, {0, 1})
    metadata = new_metadata("t", recording.config, recording.base, recording.space, load_images(recording.config.data))
    curves = load_curves(write_table(table_of(recording, tmp_path), metadata, tmp_path / "t").parent)
    assert curves.whole.tolist() == [True, True]
    assert curves.values[0] == recording.space.values(recording.base)
    assert list(curves.values) == list(recording.points())


def test_a_diverged_training_ends_in_infinity(tmp_path):
    recording = small()
    values = {**recording.space.values(recording.base), "learning_rate": 1e30}
    train(recording.base, json.dumps(to_dict(recording.config.data)), (tmp_path / "00007.json", values))
    row = table_of(recording, tmp_path).iloc[-1]
    assert (row["trial"], row["val_loss"]) == (7, np.inf)


def test_only_what_is_missing_is_trained(tmp_path, monkeypatch):
    recording, asked = small(3), []
    write(recording, tmp_path, {0, 2})

    class Pool:
        def __init__(self, processes):
            self.processes = processes

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def imap_unordered(self, work, tasks):
            asked.extend(tasks)
            return map(work, tasks)

    monkeypatch.setattr(record_curves, "get_context", lambda _: type("Context", (), {"Pool": Pool}))
    record(recording, tmp_path, 1)
    assert [file for file, _ in asked] == [tmp_path / "00001.json"]
    assert len(table_of(recording, tmp_path)) == 6
