"""Event files, read with TensorBoard's own reader, and shown by its server."""

import io
import json
import sys
import time
import urllib.parse
import urllib.request

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from tests.view_servers import SECONDS, VALUES, Server, free_port, trial
from vae_tune.config.names import FAIL, PRUNED
from vae_tune.views.live import tensorboard

METADATA = {"metric": {"name": "val_loss", "unit": "nats per image", "kind": "grey", "direction": "minimize"}}
SHEET = np.arange(1200, dtype=np.uint8).reshape(30, 40)


def open_view(folder):
    return tensorboard.TensorBoard(folder, folder, METADATA)


def read(folder):
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0})
    return events.Reload()


def scalars(folder, tag="val_loss"):
    return [(event.step, event.value) for event in read(folder).Scalars(tag)]


def test_a_trial_becomes_scalars_by_epoch_at_the_time_of_each_report(tmp_path):
    view = open_view(tmp_path)
    row = trial(3, 120.0, 110.0)
    view.show(trial(3, 120.0), None)
    assert scalars(tmp_path / "trial_00003") == [(1, 120.0)]  # while it runs
    view.show(row, None)
    events = read(tmp_path / "trial_00003")
    assert set(events.Tags()["scalars"]) == set(row.reports[0]) - {"epoch", "time"}
    assert [(event.step, event.value) for event in events.Scalars("train_loss")] == [(1, 121.0), (2, 111.0)]
    moments = [event.wall_time for event in events.Scalars("val_loss")]
    assert moments[1] - moments[0] == 1
    assert events.Tags()["images"] == []


def test_samples_are_drawn_at_the_end_of_a_trial(tmp_path):
    view = open_view(tmp_path)
    view.show(trial(0, 120.0, state=PRUNED), lambda: SHEET)
    (image,) = read(tmp_path / "trial_00000").Images("samples")
    assert (image.step, image.width, image.height) == (1, 40, 30)
    view.show(trial(1, 120.0, state=PRUNED), lambda: np.stack([SHEET, SHEET // 2, SHEET // 3], axis=2))
    (image,) = read(tmp_path / "trial_00001").Images("samples")
    with Image.open(io.BytesIO(image.encoded_image_string)) as picture:
        assert (picture.size, picture.getpixel((3, 5))) == ((40, 30), (203, 101, 67))


@pytest.mark.parametrize(("state", "success"), [(PRUNED, True), (FAIL, False)])
def test_the_hyperparameters_are_there_for_the_hparams_tab(tmp_path, state, success):
    view = open_view(tmp_path)
    view.show(trial(0, 120.0, state=state, values={**VALUES, "encoder_activation": "relu"}), None)
    plugin = read(tmp_path / "trial_00000").SummaryMetadata
    data = HParamsPluginData.FromString(plugin("_hparams_/session_start_info").plugin_data.content)
    found = data.session_start_info.hparams
    assert found["latent_size"].number_value == 20
    assert found["learning_rate"].number_value == 1e-3
    assert found["encoder_activation"].string_value == "relu"
    experiment = HParamsPluginData.FromString(plugin("_hparams_/experiment").plugin_data.content).experiment
    assert [metric.name.tag for metric in experiment.metric_infos] == ["val_loss"]
    ended = "_hparams_/session_end_info" in read(tmp_path / "trial_00000").summary_metadata
    assert ended == success


def test_a_resumed_search_goes_on_with_each_epoch_once_and_leaves_whole_trials_alone(tmp_path):
    view = open_view(tmp_path)
    view.show(trial(0, 120.0, 110.0), lambda: SHEET)
    view.show(trial(1, 130.0), None)  # and then the search is killed
    again = open_view(tmp_path)
    again.show(trial(0, 120.0, 110.0), None)
    again.show(trial(1, 130.0), None)
    again.show(trial(1, 130.0, 125.0), None)
    again.close("complete")
    assert scalars(tmp_path / "trial_00000") == [(1, 120.0), (2, 110.0)]
    assert len(read(tmp_path / "trial_00000").Images("samples")) == 1
    assert scalars(tmp_path / "trial_00001") == [(1, 130.0), (2, 125.0)]
    assert len(list((tmp_path / "trial_00001").glob("events.*"))) == 1


def test_a_trial_that_goes_on_after_its_end_is_written_again(tmp_path):
    open_view(tmp_path).show(trial(0, 120.0, 110.0), lambda: SHEET)
    again = open_view(tmp_path)
    again.show(trial(0, 120.0, 110.0, max_epochs=3), None)
    again.show(trial(0, 120.0, 110.0, 105.0, max_epochs=3), lambda: SHEET)
    open_view(tmp_path).show(trial(0, 120.0, 110.0, 105.0, max_epochs=3), None)
    assert scalars(tmp_path / "trial_00000") == [(1, 120.0), (2, 110.0), (3, 105.0)]
    assert [image.step for image in read(tmp_path / "trial_00000").Images("samples")] == [3]


def test_the_server_shows_the_curves_and_samples_of_each_trial(tmp_path):
    view = open_view(tmp_path / "events")
    for number in range(2):
        view.show(trial(number, 120.0 - number, 110.0 - number), lambda: SHEET)
    port = free_port()
    options = ("--logdir", tmp_path / "events", "--port", port, "--host", "127.0.0.1")
    server = Server([sys.executable, "-m", "tensorboard.main", *options], port, tmp_path / "log")

    def ask(page, **query):
        url = f"http://127.0.0.1:{port}/data/{page}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(url, timeout=SECONDS) as reply:
            return json.load(reply)

    try:
        deadline = time.monotonic() + SECONDS
        while len(ask("plugin/images/tags")) < 2:  # it reads the files after it has begun to serve
            assert time.monotonic() < deadline, server.log.read_text()
            time.sleep(0.1)
        points = ask("plugin/scalars/scalars", run="trial_00001", tag="val_loss")
        assert [(epoch, loss) for _, epoch, loss in points] == [(1, 119.0), (2, 109.0)]
        (image,) = ask("plugin/images/images", run="trial_00001", tag="samples", sample=0)
        assert image["step"] == 2
        picture = f"http://127.0.0.1:{port}/data/plugin/images/individualImage?{image['query']}"
        with urllib.request.urlopen(picture, timeout=SECONDS) as reply, Image.open(reply) as drawn:
            np.testing.assert_array_equal(np.asarray(drawn.convert("L")), SHEET)
    finally:
        server.kill()
