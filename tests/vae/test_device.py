"""What a training asks of a GPU, counted where there is none.

Torch's fake tensors have a device, a shape and a type, but no content. Every operation on them is seen: one that mixes
devices fails, one that asks for the content is where the host would wait, and what is no view would be a kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from vae_tune.config.settings import TrialConfig
from vae_tune.images.datasets import Images
from vae_tune.vae import training
from vae_tune.vae.training import TrainingState, evaluate, fit, new_state

CUDA = torch.device("cuda")
Midway = Callable[[TrainingState], None] | None
CONFIG = TrialConfig(max_epochs=1, batch_size=128)
LIKE_THE_USUAL = {
    "both layers of the encoder at once": CONFIG,
    "layer by layer": replace(CONFIG, batch_size=8),
    "tf32": replace(CONFIG, precision="tf32"),
    "relu": replace(CONFIG, encoder_activation="relu"),
}
CONFIGS = LIKE_THE_USUAL | {
    "clipped": replace(CONFIG, grad_clip=1.0),
    "bfloat16": replace(CONFIG, precision="bfloat16"),
    "deep": replace(CONFIG, encoder_activation="gelu", decoder_activation="elu", hidden_layers=3),
    "tanh": replace(CONFIG, encoder_activation="tanh", kl_warmup_epochs=3, lr_schedule="cosine"),
}
COUNTS = ("calls", "kernels", "flops", "bytes", "moved", "waits")
NO_KERNEL = {"empty", "empty_like", "_unsafe_view", "_record_function_enter_new", "_record_function_exit", "device"}


class Seen(TorchDispatchMode):
    """Counts what is asked of a GPU; answers that the host waits for are 1.

    A product adds its bias in a kernel of its own (see ``vae_tune/vae/flat_parameters.py``) or, by default, within;
    that of a matrix and a vector copies it first.
    """

    def __init__(self, *, adds_within: bool = False) -> None:
        super().__init__()
        self._more = {"addmv": 1} if adds_within else {"addmv": 1, "addmm": 1}
        self.calls = 0
        """Of torch's operations by the host, views among them."""
        self.kernels = 0
        self.flops = 0
        """Of the products of matrices."""
        self.bytes = 0
        """That kernels read and write, had none a cache."""
        self.moved = 0
        """Tensors brought from one device to another."""
        self.waits = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = function.overloadpacket.__name__
        self.calls += 1
        if name == "_local_scalar_dense":
            self.waits += 1
            return 1.0
        result = function(*args, **kwargs)
        self.moved += len({tensor.device for tensor in tensors(args, result)}) > 1
        if not (function.is_view or name in NO_KERNEL):
            self.kernels += 1 + self._more.get(name, 0)
            self.bytes += sum(tensor.nbytes for tensor in tensors(args, written(function, args, kwargs, result)))
            if function.overloadpacket in flop_registry:
                self.flops += flop_registry[function.overloadpacket](*args, out_val=result)
        return result


def tensors(*values: object) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor)]


def written(function: torch._ops.OpOverload, args: tuple, kwargs: dict, result: object) -> list[object]:
    """Return what ``function`` wrote into, or else what it made."""
    arguments = function._schema.arguments
    given = dict(zip((argument.name for argument in arguments), args, strict=False)) | kwargs
    return [given.get(argument.name) for argument in arguments if argument.is_write] or [result]


@contextmanager
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let there be one in the block, of which torch knows no more than what tensors on it are like."""
    generator, build = torch.Generator, training.build_model

    def build_there(config, shape):
        with CUDA:
            return build(config, shape)

    with monkeypatch.context() as patch, FakeTensorMode(allow_non_fake_inputs=True):
        patch.setattr(torch, "Generator", lambda device=None: generator())
        patch.setattr(training, "build_model", build_there)
        patch.setattr(torch.nn.Module, "to", lambda module, device: module)
        patch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # it asks the driver
        blank = partial(torch.zeros, dtype=torch.uint8, device=CUDA)
        patch.setattr(training, "to_tensor", lambda images, _: blank(images.shape))
        yield


def an_epoch(monkeypatch: pytest.MonkeyPatch, config: TrialConfig, steps: int, midway: Midway = None) -> Seen:
    """Return what so many steps ask of a GPU."""
    train, rest = (np.zeros((count, 1, 28, 28), np.uint8) for count in (steps * config.batch_size, 10))
    with gpu(monkeypatch), Seen() as seen:
        assert len(list(fit(config, Images(train, rest, rest), CUDA, midway=midway))) == 1
    return seen


def the_usual_way(monkeypatch: pytest.MonkeyPatch, config: TrialConfig, steps: int, *, trains: bool = True) -> Seen:
    """Return the same of what the benchmarks compare with: it is counted on a CPU, but with the optimizer of a GPU.

    That keeps its count of steps on the CPU: to add to it is no kernel.
    """
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    usual = import_module("usual")
    model = usual.VAE(CONFIG.hidden_width, CONFIG.latent_size, activation=config.encoder_activation or "linear")
    optimizer = torch.optim.Adam(model.parameters(), foreach=True)
    batches = [(torch.rand(config.batch_size, 1, 28, 28), torch.zeros(2))] * steps
    with Seen(adds_within=True) as seen:
        if trains:
            usual.train_epoch(model, batches, optimizer)
            seen.kernels -= steps
        else:
            usual.validate(model, batches)
    return seen


def an_evaluation(monkeypatch: pytest.MonkeyPatch, images: int) -> Seen:
    """Return what the evaluation on so many images asks of a GPU."""
    with gpu(monkeypatch):
        model = new_state(CONFIG, (1, 28, 28), CUDA).model
        there = torch.zeros(images, 1, 28, 28, dtype=torch.uint8, device=CUDA)
        with Seen() as seen:
            evaluate(model, there, CONFIG)
    return seen


def more(of: Callable[[int], Seen]) -> dict[str, float]:
    """Return what each further step adds to the counts."""
    few, many = vars(of(2)), vars(of(6))
    return {name: (many[name] - few[name]) / 4 for name in COUNTS}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_in_a_step_the_host_neither_waits_for_the_gpu_nor_brings_it_anything(monkeypatch, config):
    asked = more(lambda steps: an_epoch(monkeypatch, config, steps))
    assert asked["kernels"] > 0
    assert (asked["moved"], asked["waits"]) == (0, 0)


@pytest.mark.parametrize("config", LIKE_THE_USUAL.values(), ids=LIKE_THE_USUAL)
def test_a_step_asks_for_less_than_one_of_the_usual_way(monkeypatch, config):
    """Calls keep the host busy, kernels a GPU that waits for each, bytes and products one that is full."""
    ours = more(lambda steps: an_epoch(monkeypatch, config, steps))
    usual = more(lambda steps: the_usual_way(monkeypatch, config, steps))
    assert ours["calls"] <= 0.5 * usual["calls"]
    assert ours["kernels"] <= 0.8 * usual["kernels"]
    assert ours["bytes"] <= 0.75 * usual["bytes"]
    assert 0 < ours["flops"] <= usual["flops"]


def test_an_evaluation_waits_for_the_gpu_as_often_whatever_the_images(monkeypatch):
    few, many = an_evaluation(monkeypatch, 10), an_evaluation(monkeypatch, 5000)
    assert few.waits == many.waits
    assert few.kernels < many.kernels


def test_an_evaluation_asks_less_often_than_one_of_the_usual_way(monkeypatch):
    """It takes more images at once. It reads and writes more, since the gradient is computed along with the loss."""
    ours = an_evaluation(monkeypatch, 40 * CONFIG.batch_size)
    usual = the_usual_way(monkeypatch, CONFIG, 40, trains=False)
    for name in ("calls", "kernels", "flops", "waits"):
        assert 0 < getattr(ours, name) < getattr(usual, name), name


def test_a_step_whose_loss_is_looked_at_is_seen_to_wait_and_one_that_brings_noise_to_move_it(monkeypatch):
    def look(state):
        state.loss.item()
        torch.zeros(2, device="cpu").to(CUDA)

    asked = more(lambda steps: an_epoch(monkeypatch, CONFIG, steps, look))
    assert (asked["moved"], asked["waits"]) == (1, 1)


def test_tensors_of_two_devices_are_seen_to_differ(monkeypatch):
    with gpu(monkeypatch), Seen(), pytest.raises(RuntimeError, match="device"):
        torch.zeros(2, 2, device=CUDA) @ torch.zeros(2, 2, device="cpu")
