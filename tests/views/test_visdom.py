"""A real visdom server on loopback; without network it is started past the download of its scripts."""

import base64
import io
import json
import math
import sys
import threading
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.view_servers import SECONDS, VALUES, Server, Warnings, free_port, hanging_port, trial
from vae_tune.config.names import PRUNED
from vae_tune.views.live import close_views
from vae_tune.views.live.background_thread import BackgroundView
from vae_tune.views.live.visdom import Visdom

START = "from visdom.server.run_server import main; main()"
METADATA = {"reference": {"max_epochs": 2}, "metric": {"kind": "grey"}}
SHEET = np.arange(1200, dtype=np.uint8).reshape(30, 40)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("visdom")
    port = free_port()
    options = ("-port", port, "-env_path", folder, "-bind_local", "-logging_level", "ERROR")
    server = Server([sys.executable, "-c", START, *options], port, folder / "log")
    yield server
    server.kill()


def url(server):
    return f"http://127.0.0.1:{server.port}"


def windows(server, environment):
    """All windows of an environment, as the browser would get them."""
    body = json.dumps({"eid": environment, "win": None}).encode()
    request = urllib.request.Request(f"{url(server)}/win_data", data=body)
    with urllib.request.urlopen(request, timeout=SECONDS) as reply:
        return json.load(reply)


def curves(server, environment, window="val_loss"):
    return {
        line["name"]: list(zip(line["x"], line["y"], strict=True))
        for line in windows(server, environment)[window]["content"]["data"]
    }


def test_each_trial_is_a_curve_and_the_best_so_far_has_its_samples_shown(server):
    view = Visdom(url(server), Path("study"), METADATA)
    view.show(trial(0, 120.0, 110.0), lambda: SHEET)
    view.show(trial(1, 150.0, state=PRUNED), lambda: 1 / 0)  # it is not drawn
    view.show(trial(2, 121.0), None)
    view.flush()
    assert curves(server, "study") == {
        "trial 0": [(1, 120), (2, 110)],
        "trial 1": [(1, 150)],
        "trial 2": [(1, 121)],
    }
    assert curves(server, "study", "train_loss")["trial 0"] == [(1, 121), (2, 111)]
    samples = windows(server, "study")["samples"]
    assert samples["title"] == "samples of trial 0"
    assert "110.00 nats per image at epoch 2: latent_size=20" in samples["content"]["caption"]
    assert samples["content"]["src"].startswith("data:image/png")

    view.show(trial(2, 121.0, 109.0, values=VALUES | {"latent_size": 30}), lambda: SHEET)
    view.close("complete")
    assert windows(server, "study")["samples"]["title"] == "samples of trial 2"
    assert curves(server, "study")["trial 2"] == [(1, 121), (2, 109)]


def test_a_server_killed_mid_way_costs_one_warning_and_gets_everything_when_it_is_back(server):
    warnings, drawn = Warnings(), threading.Event()

    class View(Visdom):
        def flush(self):
            super().flush()
            drawn.set()

    name = f"visdom at {url(server)}"
    background = BackgroundView(name, lambda: View(url(server), Path("killed"), METADATA), warnings, retry_seconds=0.1)
    background.put(trial(0, 120.0, 110.0))
    assert drawn.wait(SECONDS)
    server.kill()
    background.put(trial(1, 119.0))
    assert warnings.first().startswith(f"{name}: Connection refused. Training continues")
    background.put(trial(1, 119.0, 108.0))
    server.start()
    close_views([background], "complete", patience_seconds=SECONDS)
    assert curves(server, "killed") == {"trial 0": [(1, 120), (2, 110)], "trial 1": [(1, 119), (2, 108)]}
    assert len(warnings.lines) == 1


def test_a_server_that_does_not_answer_is_given_up_in_time(monkeypatch):
    monkeypatch.setattr("vae_tune.views.live.visdom.TIMEOUT_SECONDS", 0.1)
    warnings = Warnings()
    with hanging_port() as port:
        background = BackgroundView(
            "visdom", lambda: Visdom(f"http://127.0.0.1:{port}", Path("x"), METADATA), warnings
        )
        background.put(trial(0, 120.0))
        assert warnings.first().startswith("visdom: no answer in time. Training continues")
        close_views([background], "complete", patience_seconds=SECONDS)
    assert len(warnings.lines) == 1


def test_what_the_server_refuses_is_an_error(server):
    with pytest.raises(ConnectionError):
        Visdom(f"{url(server)}/no/such/path", Path("x"), METADATA)


def test_levels_are_drawn_in_bits_and_samples_in_color(server):
    metric = {"kind": "levels", "dimensions": 3072}
    view = Visdom(url(server), Path("color"), METADATA | {"metric": metric})
    view.show(trial(0, 10_000.0, 3072 * math.log(2) * 4.5), lambda: np.stack([SHEET, SHEET // 2, SHEET // 3], axis=2))
    view.close("complete")
    assert curves(server, "color")["trial 0"][1] == (2, pytest.approx(4.5))
    shown = windows(server, "color")
    assert shown["val_loss"]["content"]["layout"]["yaxis"]["title"] == "bits/dim"
    assert "4.500 bits/dim at epoch 2" in shown["samples"]["content"]["caption"]
    picture = base64.b64decode(shown["samples"]["content"]["src"].partition(",")[2])
    with Image.open(io.BytesIO(picture)) as image:
        assert (image.size, image.getpixel((3, 5))[:3]) == ((40, 30), (203, 101, 67))
