"""wandb's offline mode, for real: the runs that it would send, read from its files and listed by its own command."""

import os
import struct
import subprocess
import sys
import time

import numpy as np
import pytest
import wandb
from PIL import Image
from wandb.proto.wandb_internal_pb2 import Record

from tests.view_servers import SECONDS, VALUES, trial
from vae_tune.config.names import FAIL, PRUNED
from vae_tune.views.live.wandb import WandB

METADATA = {
    "name": "mine",
    "metric": {"name": "val_loss", "unit": "nats per image", "kind": "grey", "direction": "minimize"},
    "runs": [{"started": "2026-01-05T08:00:00.000+00:00"}],
}
SHEET = np.arange(1200, dtype=np.uint8).reshape(30, 40)
_HEADER, _BLOCK = 7, 32_768


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")


def open_view(folder, address="vae"):
    return WandB(address, folder, METADATA)


def run_folders(folder):
    """The folders of the runs, by trial."""
    found = {}
    for path in folder.glob("wandb/offline-run-*"):
        name = next(record.run.display_name for record in records(path) if record.HasField("run"))
        assert name not in found
        found[name] = path
    return found


def records(folder):
    """What wandb would send of a run that has ended; its process may write the last of it a moment later."""
    deadline = time.monotonic() + SECONDS
    while not any(record.HasField("exit") for record in read(folder)):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return list(read(folder))


def read(folder):
    """The records of a run so far, in the log format of LevelDB, after a header of wandb's own."""
    (path,) = folder.glob("run-*.wandb")
    content, place, part = path.read_bytes(), _HEADER, b""
    while place + _HEADER <= len(content):
        left = _BLOCK - place % _BLOCK  # a record does not begin in the last bytes of a block
        if left < _HEADER:
            place += left
            continue
        _, length, kind = struct.unpack("<IHB", content[place : place + _HEADER])
        part += content[place + _HEADER : place + _HEADER + length]
        place += _HEADER + length
        if kind in (1, 4):  # whole, or its last part
            yield Record.FromString(part)
            part = b""


def values(items):
    return {item.key or "/".join(item.nested_key): item.value_json for item in items}


def history(folder, name="val_loss"):
    """The epochs of a run with their losses."""
    rows = [values(record.history.item) for record in records(folder) if record.HasField("history")]
    return [(int(row["_step"]), float(row[name])) for row in rows if name in row]


def summary(folder):
    found = {}
    for record in records(folder):
        if record.HasField("summary"):
            found |= values(record.summary.update)
    return found


def test_a_trial_is_a_run_with_its_hyperparameters_its_epochs_and_its_state(tmp_path):
    view = open_view(tmp_path, "team/vae")
    view.show(trial(3, 120.0), None)
    view.show(trial(3, 120.0, 110.0), None)
    view.show(trial(4, 140.0, state=FAIL, reason="diverged: it's nan"), None)
    found = run_folders(tmp_path)
    assert set(found) == {"trial 3", "trial 4"}
    (run,) = (record.run for record in records(found["trial 3"]) if record.HasField("run"))
    assert (run.entity, run.project, run.run_group) == ("team", "vae", "mine")
    config = values(run.config.update)
    assert {name: config[name] for name in VALUES} == {name: str(value) for name, value in VALUES.items()}
    assert history(found["trial 3"]) == [(1, 120.0), (2, 110.0)]
    assert history(found["trial 3"], "train_loss") == [(1, 121.0), (2, 111.0)]
    assert summary(found["trial 3"])["state"] == '"COMPLETE"'
    assert summary(found["trial 4"])["reason"] == '"diverged: it\'s nan"'
    exits = {name: [r.exit.exit_code for r in records(path) if r.HasField("exit")] for name, path in found.items()}
    assert exits == {"trial 3": [0], "trial 4": [1]}


def test_samples_are_there_at_the_end_of_a_trial(tmp_path):
    view = open_view(tmp_path)
    view.show(trial(0, 120.0, state=PRUNED), lambda: SHEET)
    view.show(trial(1, 120.0, state=PRUNED), lambda: np.stack([SHEET, SHEET // 2, SHEET // 3], axis=2))
    found = run_folders(tmp_path)
    for name, mode, pixel in (("trial 0", "L", 203), ("trial 1", "RGB", (203, 101, 67))):
        (path,) = found[name].glob("files/media/images/samples_1_*.png")
        with Image.open(path) as picture:
            assert (picture.mode, picture.size, picture.getpixel((3, 5))) == (mode, (40, 30), pixel)


def test_a_resumed_search_leaves_whole_trials_alone_and_has_each_epoch_of_the_others_once(tmp_path):
    view = open_view(tmp_path)
    view.show(trial(0, 120.0, 110.0), None)
    view.show(trial(1, 130.0), None)
    view.close("interrupted")
    before = run_folders(tmp_path)
    assert summary(before["trial 1"])["state"] == '"RUNNING"'
    again = open_view(tmp_path)
    again.show(trial(0, 120.0, 110.0), None)
    again.show(trial(1, 130.0, 125.0), None)
    again.close("complete")
    found = run_folders(tmp_path)
    assert found["trial 0"] == before["trial 0"]
    assert history(found["trial 1"]) == [(1, 130.0), (2, 125.0)]
    ids = {path.name.rpartition("-")[2] for path in (before["trial 1"], found["trial 1"])}
    assert len(ids) == 1


def test_the_run_of_a_trial_that_goes_on_after_its_end_goes_on_too(tmp_path):
    open_view(tmp_path).show(trial(0, 120.0, 110.0), None)
    again = open_view(tmp_path)
    again.show(trial(0, 120.0, 110.0, max_epochs=3), None)
    again.show(trial(0, 120.0, 110.0, 105.0, max_epochs=3), None)
    found = run_folders(tmp_path)
    assert history(found["trial 0"]) == [(1, 120.0), (2, 110.0), (3, 105.0)]


def test_wandb_lists_the_runs_that_it_would_send_without_a_login(tmp_path):
    view = open_view(tmp_path)
    for number in range(2):
        view.show(trial(number, 120.0, 110.0), lambda: SHEET)
    command = [sys.executable, "-m", "wandb", "sync", "--dry-run", str(tmp_path / "wandb")]
    environment = {name: text for name, text in os.environ.items() if not name.startswith("WANDB_")}
    done = subprocess.run(
        command, env={**environment, "HOME": str(tmp_path)}, capture_output=True, text=True, check=True
    )
    assert "Would sync 2 run(s)" in done.stderr + done.stdout


def has(folder, text):
    return any(text in path.read_bytes() for path in folder.rglob("*") if path.is_file())


def test_nothing_of_the_machine_or_the_command_line_is_sent(tmp_path, monkeypatch):
    """wandb collects it while a run lasts: ours lasts longer than one for which it did."""
    monkeypatch.setattr(sys, "argv", ["search.py", "--notify", "curl https://chat/secret-address"])
    ours, plain = tmp_path / "ours", tmp_path / "plain"
    view, seconds = open_view(ours), 0.25
    ours.mkdir()
    view.show(trial(0, 120.0), None)
    while not has(plain, b"secret-address"):
        plain.mkdir(exist_ok=True)
        run = wandb.init(project="plain", dir=plain, reinit="create_new", settings={"console": "off", "silent": True})
        time.sleep(seconds)
        run.finish()
        seconds *= 2
        assert seconds < SECONDS
    view.show(trial(0, 120.0, 110.0), None)
    assert history(run_folders(ours)["trial 0"])
    assert not has(ours, b"secret-address")


def test_without_a_login_the_view_says_what_to_do_once_and_asks_nobody(tmp_path, monkeypatch):
    """wandb would ask at the terminal for an account, in the midst of the search."""
    code = (
        f"from vae_tune.views.live.wandb import WandB\nfrom pathlib import Path\n"
        f"try:\n    WandB('vae', Path({str(tmp_path)!r}), {METADATA!r})\n"
        f"except ConnectionError as error:\n    print(error)\n"
    )
    environment = {name: text for name, text in os.environ.items() if not name.startswith("WANDB_")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**environment, "HOME": str(tmp_path), "NETRC": str(tmp_path / "netrc")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "not logged in: run `wandb login`, or set WANDB_MODE=offline\n"
    assert done.stderr == ""


def test_a_server_that_is_not_there_costs_one_warning(tmp_path):
    """In a process of its own: wandb reads its environment once."""
    code = (
        "import sys\nfrom pathlib import Path\nfrom tests.view_servers import trial\n"
        "from tests.views.test_wandb import METADATA\nfrom vae_tune.views.live import close_views, wandb\n"
        "from vae_tune.views.live.background_thread import BackgroundView\n"
        "wandb._SETTINGS['init_timeout'] = 1.0\n"
        "view = BackgroundView('W&B', lambda: wandb.WandB('vae', Path(sys.argv[1]), METADATA), print)\n"
        "view.put(trial(0, 120.0))\n"
        "close_views([view], 'complete')\n"
    )
    server = {"WANDB_MODE": "online", "WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": "0" * 40}
    words = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(words, env={**os.environ, **server}, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("W&B: ")
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""
