"""What is written comes back, and what is damaged is named."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from vae_tune.config.errors import UsageError
from vae_tune.config.settings import TrialConfig
from vae_tune.images.datasets import Images
from vae_tune.vae.checkpoint import (
    Checkpoint,
    checkpoint_bytes,
    checkpoint_file,
    checkpoint_folder,
    checkpoints,
    discard_checkpoints,
    newest_checkpoint,
    read_checkpoint,
    read_model,
    write_checkpoint,
    write_model,
)
from vae_tune.vae.model import build_model
from vae_tune.vae.training import EpochReport, fit, new_state

CPU = torch.device("cpu")
CONFIG = TrialConfig(latent_size=3, hidden_width=8, batch_size=16, max_epochs=3, encoder_activation="relu", seed=7)


def _train_and_write(folder: Path, images: Images, epochs: int = 3) -> Checkpoint:
    """Train and write a checkpoint after every epoch; return the last."""
    config = replace(CONFIG, max_epochs=epochs)
    state = new_state(config, images.shape, CPU)
    for report in fit(config, images, CPU, state):
        write_checkpoint(folder, config, state, report)
    return Checkpoint(config, state, report)


def _cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def test_a_checkpoint_comes_back_as_it_was(tiny, tmp_path):
    written = _train_and_write(tmp_path, tiny)
    read = read_checkpoint(checkpoint_file(tmp_path, 3), CPU)
    assert (read.config, read.report, read.state.epoch) == (written.config, written.report, 3)
    for name, tensor in written.state.model.state_dict().items():
        assert torch.equal(read.state.model.state_dict()[name], tensor)


def test_what_a_killed_worker_left_of_a_checkpoint_goes_when_its_training_is_taken_up(tiny, tmp_path):
    written = _train_and_write(tmp_path, tiny)
    left = tmp_path / ".epoch_0004.safetensors.abc.tmp"
    left.write_bytes(b"half a checkpoint")
    newest = newest_checkpoint(tmp_path, CPU)
    assert newest is not None
    assert newest.report == written.report
    assert not left.exists()


def test_writing_a_checkpoint_leaves_alone_what_another_worker_is_writing(tiny, tmp_path):
    other = tmp_path / ".epoch_0002.safetensors.abc.tmp"
    other.write_bytes(b"the first half of a checkpoint")
    _train_and_write(tmp_path, tiny)
    assert other.exists()


def test_the_moments_of_the_optimizer_come_back(tiny, tmp_path):
    written = _train_and_write(tmp_path, tiny).state.optimizer.moments
    read = read_checkpoint(checkpoint_file(tmp_path, 3), CPU).state.optimizer.moments
    assert {"step", "exp_avg", "exp_avg_sq"} == written.keys() == read.keys()
    assert all(tensor.any() and torch.equal(read[name], tensor) for name, tensor in written.items())


def test_the_newest_two_checkpoints_are_kept(tiny, tmp_path):
    _train_and_write(tmp_path, tiny, epochs=4)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["epoch_0003.safetensors", "epoch_0004.safetensors"]


def test_the_checkpoints_are_listed_newest_first(tiny, tmp_path):
    _train_and_write(tmp_path, tiny)
    assert checkpoints(tmp_path) == [checkpoint_file(tmp_path, 3), checkpoint_file(tmp_path, 2)]


def test_the_newest_checkpoint_is_read(tiny, tmp_path):
    written = _train_and_write(tmp_path, tiny)
    newest = newest_checkpoint(tmp_path, CPU)
    assert newest is not None
    assert newest.report == written.report


def test_the_newest_checkpoint_is_the_one_of_the_highest_epoch_beyond_four_digits(tiny, tmp_path):
    state = new_state(CONFIG, tiny.shape, CPU)
    report = next(fit(CONFIG, tiny, CPU, state))
    for state.epoch in (9998, 9999, 10_000):
        write_checkpoint(tmp_path, CONFIG, state, replace(report, epoch=state.epoch))
    newest = newest_checkpoint(tmp_path, CPU)
    assert newest is not None
    assert newest.report.epoch == 10_000


def test_where_there_is_no_checkpoint_none_is_read(tmp_path):
    assert newest_checkpoint(tmp_path, CPU) is None


def test_where_there_is_no_folder_none_is_read(tmp_path):
    assert newest_checkpoint(tmp_path / "nowhere", CPU) is None


@pytest.mark.parametrize("share", [0, 0.001, 0.05, 0.5, 0.999])
def test_a_file_that_was_cut_falls_back_to_the_one_before(tiny, tmp_path, share):
    _train_and_write(tmp_path, tiny)
    path = checkpoint_file(tmp_path, 3)
    _cut(path, int(share * path.stat().st_size))
    with pytest.warns(UserWarning, match=r"epoch_0003\.safetensors is damaged .*; using the checkpoint before it\.$"):
        newest = newest_checkpoint(tmp_path, CPU)
    assert newest is not None
    assert newest.state.epoch == 2


def test_a_whole_checkpoint_is_read_without_a_warning(tiny, tmp_path):
    _train_and_write(tmp_path, tiny)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        newest_checkpoint(tmp_path, CPU)


def test_where_all_checkpoints_are_damaged_none_is_read(tiny, tmp_path):
    _train_and_write(tmp_path, tiny)
    for path in checkpoints(tmp_path):
        _cut(path, path.stat().st_size // 2)
    with pytest.warns(UserWarning, match="is damaged") as caught:
        assert newest_checkpoint(tmp_path, CPU) is None
    assert [str(warning.message).rpartition("; ")[2] for warning in caught] == [
        "using the checkpoint before it.",
        "training from the start.",
    ]


@pytest.mark.parametrize("readable", [0, 3])
def test_damaged_checkpoints_of_later_epochs_push_out_none_that_can_be_read(tiny, tmp_path, readable):
    config, state = replace(CONFIG, max_epochs=5), new_state(CONFIG, tiny.shape, CPU)
    reports = {}
    for report in fit(config, tiny, CPU, state):
        content = checkpoint_bytes(config, state, report)
        if report.epoch > 3:
            checkpoint_file(tmp_path, report.epoch).write_bytes(content[:100])
        elif report.epoch == readable:
            checkpoint_file(tmp_path, report.epoch).write_bytes(content)
        reports[report.epoch] = report.val_loss
    with pytest.warns(UserWarning, match="is damaged"):
        newest = newest_checkpoint(tmp_path, CPU)
    state = newest.state if newest else new_state(config, tiny.shape, CPU)
    assert state.epoch == readable
    for report in fit(config, tiny, CPU, state):
        write_checkpoint(tmp_path, config, state, report)
        assert report.val_loss == reports[report.epoch]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            newest = newest_checkpoint(tmp_path, CPU)  # as after a kill at this moment
        assert newest is not None
        assert newest.state.epoch == report.epoch
    assert checkpoints(tmp_path) == [checkpoint_file(tmp_path, 5), checkpoint_file(tmp_path, 4)]


def test_of_a_trial_that_has_ended_the_checkpoint_of_its_last_epoch_stays_not_a_later_one(tiny, tmp_path):
    folder = checkpoint_folder(tmp_path, 7)
    _train_and_write(folder, tiny)
    discard_checkpoints(tmp_path, 7, keep=2)
    assert checkpoints(folder) == [checkpoint_file(folder, 2)]


@pytest.mark.parametrize("readable", [True, False])
def test_of_a_trial_that_has_ended_the_newest_checkpoint_that_can_be_read_stays(tiny, tmp_path, readable):
    folder = checkpoint_folder(tmp_path, 7)
    _train_and_write(folder, tiny)
    whole, *damaged = (checkpoint_file(folder, epoch) for epoch in (2, 3, 4))
    for path in damaged if readable else [whole, *damaged]:
        path.write_bytes(whole.read_bytes()[:100])
    discard_checkpoints(tmp_path, 7, keep=3)
    assert checkpoints(folder) == ([whole] if readable else [*reversed(damaged), whole])


@pytest.mark.parametrize("key", ["config", "report"])
@pytest.mark.parametrize("text", ["{", "[]", "3", '{"nonsense": 1}'])
def test_a_checkpoint_with_damaged_metadata_falls_back_to_the_one_before(tiny, tmp_path, key, text):
    _train_and_write(tmp_path, tiny)
    path = checkpoint_file(tmp_path, 3)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() | {key: text}
    save_file(load_file(path), path, metadata)
    with pytest.warns(UserWarning, match=r"epoch_0003\.safetensors is damaged"):
        newest = newest_checkpoint(tmp_path, CPU)
    assert newest is not None
    assert newest.state.epoch == 2


def test_a_checkpoint_without_its_tensors_falls_back_to_the_one_before(tiny, tmp_path):
    _train_and_write(tmp_path, tiny)
    path = checkpoint_file(tmp_path, 3)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    save_file({"other": torch.zeros(3)}, path, metadata)
    with pytest.warns(UserWarning, match=r"epoch_0003\.safetensors is damaged"):
        newest = newest_checkpoint(tmp_path, CPU)
    assert newest is not None
    assert newest.state.epoch == 2


def test_moments_in_the_order_of_an_older_version_are_never_taken_for_those_of_this_one(tiny, tmp_path):
    _train_and_write(tmp_path, tiny)
    path = checkpoint_file(tmp_path, 3)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    older = {name.replace("optimizer.", "optimizer.0."): tensor for name, tensor in load_file(path).items()}
    save_file(older, path, metadata)
    with pytest.warns(UserWarning, match=r"epoch_0003\.safetensors is damaged"):
        newest_checkpoint(tmp_path, CPU)


def test_an_unfinished_file_is_no_checkpoint(tiny, tmp_path):
    """What a killed process leaves: the temporary file of the next epoch."""
    _train_and_write(tmp_path, tiny)
    (tmp_path / ".epoch_0004.safetensors.abc.tmp").write_bytes(b"half")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        newest = newest_checkpoint(tmp_path, CPU)
    assert newest is not None
    assert newest.state.epoch == 3


def test_a_checkpoint_is_plain_safetensors_and_json(tiny, tmp_path):
    written = _train_and_write(tmp_path, tiny)
    path = checkpoint_file(tmp_path, 3)
    with safe_open(path, framework="pt") as file:
        metadata, names = file.metadata(), set(file.keys())
    assert {f"model.{name}" for name in written.state.model.network.state_dict()} < names
    assert json.loads(metadata["config"])["seed"] == 7
    assert json.loads(metadata["shape"]) == [1, 5, 7]
    assert EpochReport(**json.loads(metadata["report"])) == written.report


def test_files_of_version_0_1_0_which_names_no_shape_are_for_images_of_28_x_28(tmp_path):
    random = np.random.default_rng(0)
    images = Images(*(random.integers(0, 256, (40, 1, 28, 28), np.uint8) for _ in range(3)))
    written = _train_and_write(tmp_path, images)
    write_model(tmp_path / "best", written.state.model, CONFIG)
    for path in (checkpoint_file(tmp_path, 3), tmp_path / "best" / "model.safetensors"):
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
        del metadata["shape"]
        save_file(load_file(path), path, metadata)
    read = read_checkpoint(checkpoint_file(tmp_path, 3), CPU)
    goes_on = [
        [(report.train_loss, report.val_loss) for report in fit(replace(CONFIG, max_epochs=4), images, CPU, state)]
        for state in (read.state, written.state)
    ]
    assert len(goes_on[0]) == 1
    assert goes_on[0] == goes_on[1]
    assert read_model(tmp_path / "best")[0].shape == (1, 28, 28)


def test_no_file_holds_a_pickle(tiny, tmp_path):
    written = _train_and_write(tmp_path, tiny)
    write_model(tmp_path, written.state.model, CONFIG)
    for path in tmp_path.iterdir():
        content = path.read_bytes()
        # safetensors begins with the length of its JSON header; a pickle with 0x80, torch's zip file with PK
        assert content.startswith(b"{") or content[8:10] == b'{"'


def test_a_model_comes_back_with_the_same_outputs(tiny, tmp_path):
    model = build_model(CONFIG, tiny.shape)
    write_model(tmp_path / "best", model, CONFIG)
    read, config = read_model(tmp_path / "best")
    source = torch.Generator().manual_seed(0)
    x, noise = torch.rand(4, 35, generator=source), torch.randn(4, 3, generator=source)
    assert config == CONFIG
    assert all(torch.equal(a, b) for a, b in zip(read(x, noise), model(x, noise), strict=True))


def _refusal(folder: Path) -> str:
    with pytest.raises(UsageError) as caught:
        read_model(folder)
    return str(caught.value)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_model_with_a_missing_file_is_refused_in_one_line(tiny, tmp_path, name):
    write_model(tmp_path, build_model(CONFIG, tiny.shape), CONFIG)
    (tmp_path / name).unlink()
    assert _refusal(tmp_path) == f"No usable model in {tmp_path}: {name} is missing."


def test_a_folder_that_is_not_there_is_refused_in_one_line(tmp_path):
    assert _refusal(tmp_path / "nowhere") == f"No usable model in {tmp_path / 'nowhere'}: there is no such folder."


@pytest.mark.parametrize("content", [b"", b"{", b"\x80\x04N.", b"PK\x03\x04 a zip file", b"\xff" * 100])
def test_a_model_that_is_no_safetensors_is_refused_in_one_line(tiny, tmp_path, content):
    write_model(tmp_path, build_model(CONFIG, tiny.shape), CONFIG)
    (tmp_path / "model.safetensors").write_bytes(content)
    message = _refusal(tmp_path)
    assert message.startswith(f"No usable model in {tmp_path}: ")
    assert "\n" not in message


@pytest.mark.parametrize("share", [0.01, 0.5, 0.999])
def test_a_model_that_was_cut_is_refused_in_one_line(tiny, tmp_path, share):
    write_model(tmp_path, build_model(CONFIG, tiny.shape), CONFIG)
    path = tmp_path / "model.safetensors"
    _cut(path, int(share * path.stat().st_size))
    message = _refusal(tmp_path)
    assert message.startswith(f"No usable model in {tmp_path}: ")
    assert "\n" not in message


@pytest.mark.parametrize(
    "tensors",
    [
        {"other": torch.zeros(3)},
        {"encoder.hidden.0.weight": torch.zeros(8, 35)},
        {"encoder.hidden.0.weight": torch.zeros(3)},
    ],
    ids=["foreign", "partial", "one axis"],
)
def test_a_model_of_other_tensors_is_refused_in_one_line(tiny, tmp_path, tensors):
    write_model(tmp_path, build_model(CONFIG, tiny.shape), CONFIG)
    save_file(tensors, tmp_path / "model.safetensors")
    message = _refusal(tmp_path)
    assert message.startswith(f"No usable model in {tmp_path}: ")
    assert "\n" not in message


def test_a_model_of_another_shape_is_refused_in_one_line_that_says_so(tiny, tmp_path):
    write_model(tmp_path, build_model(CONFIG, tiny.shape), replace(CONFIG, latent_size=4))
    prefix, message = f"No usable model in {tmp_path}: ", _refusal(tmp_path)
    assert message.startswith(prefix)
    assert "\n" not in message
    assert "encoder.mean.weight" in message.removeprefix(prefix)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null"])
def test_a_configuration_that_is_no_json_object_is_refused_in_one_line(tiny, tmp_path, text):
    write_model(tmp_path, build_model(CONFIG, tiny.shape), CONFIG)
    (tmp_path / "config.json").write_text(text)
    message = _refusal(tmp_path)
    assert message.startswith(f"No usable model in {tmp_path}: ")
    assert "\n" not in message


def test_a_configuration_with_a_bad_value_is_refused_by_field(tiny, tmp_path):
    write_model(tmp_path, build_model(CONFIG, tiny.shape), CONFIG)
    (tmp_path / "config.json").write_text('{"latent_size": 0}')
    assert "latent_size must be >= 1, but got 0." in _refusal(tmp_path)
