"""How long a training step of any network takes on this machine."""

from __future__ import annotations

import time

import torch

from vae_tune.config.settings import TrialConfig
from vae_tune.vae.threads import cpu_threads
from vae_tune.vae.training import make_step, new_state, train_epoch

_STEPS, _SECONDS = 4, 3.0
"""How many steps are timed, and the seconds after which no further one begins."""


def step_seconds(config: TrialConfig, shape: tuple[int, int, int]) -> float:
    """Return the seconds of the fastest of a few training steps on ``config.batch_size`` made-up images.

    They are those of one thread of the CPU, and include the optimizer, but no evaluation. The global random state is
    left as it was. (torch.utils.benchmark would time them too, but its import looks for CUDA's compiler, and says so.)
    """
    with torch.random.fork_rng(devices=[]), cpu_threads(1):
        torch.manual_seed(0)
        images = torch.randint(0, 256, (config.batch_size, *shape), dtype=torch.uint8)
        state = new_state(config, shape, torch.device("cpu"))
        step = make_step(state.model, config)
        seconds: list[float] = []
        # the first step also allocates memory, which counts little where steps are so long that it is the only one
        while len(seconds) < _STEPS and sum(seconds) < _SECONDS:
            start = time.perf_counter()
            train_epoch(config, images, state, step, epoch=1)
            seconds.append(time.perf_counter() - start)
    return min(seconds)
