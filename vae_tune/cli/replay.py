"""``vae-tune replay``."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Annotated, Literal, cast, get_args

import tyro

from vae_tune.cli.command import Command, Options
from vae_tune.config.errors import UsageError
from vae_tune.config.fields import require
from vae_tune.config.message_hints import did_you_mean
from vae_tune.config.settings import NO_EARLY_STOPPING, AshaConfig, Sampler, SchedulerName
from vae_tune.replay.setting import Bridge, Setting
from vae_tune.search.scheduler_factory import SCHEDULERS


@dataclass(frozen=True, kw_only=True)
class ReplayOptions(Options):
    """Replay searches on recorded learning curves with other settings.

    The sampler and the scheduler are the real ones. Only the training is replaced, and the clock simulated. Lists are
    comma-separated.
    """

    source: Annotated[Path, tyro.conf.Positional]
    """Folder of a study, or of a recorded curve table."""
    sampler: str = "tpe,random"
    """Optuna samplers: tpe, random, qmc, gp, cmaes."""
    scheduler: str = f"{AshaConfig.scheduler},{NO_EARLY_STOPPING.scheduler}"
    """Schedulers, as in a search."""
    reduction_factor: str = "3"
    """Reduction factors: one trial in this many passes a rung."""
    grace_period: str = "1"
    """Grace periods: epochs that every trial gets."""
    workers: str = "1"
    """Numbers of trials side by side."""
    bridge: str = "ours"
    """How the sampler learns of trials that are stopped or running: ours shows it the loss that they are expected to
    reach; pruned leaves it to Optuna, which ranks stopped trials behind all others; stock is the OptunaSearch of Ray,
    which reports a stopped trial as complete."""
    num_samples: int = 50
    """Trials of each search."""
    repeats: int = 50
    """Searches per setting, with the seeds --seed, --seed + 1, ..."""
    seed: int = 0
    """First seed."""
    curves: Literal["surrogate", "tabular"] = "surrogate"
    """surrogate interpolates between the recorded curves; tabular takes the nearest recorded curve as it is."""
    output: Path | None = None
    """Folder to write to; default: replay/ in the study, else replay/ here."""
    force: bool = False
    """Replay even if the surrogate is poor."""

    def __post_init__(self) -> None:
        """Refuse settings that cannot be replayed."""
        super().__post_init__()
        for name in ("num_samples", "repeats"):
            require(self, name, getattr(self, name) >= 1, ">= 1")
        require(self, "seed", 0 <= self.seed < 2**32 - self.repeats, f"in 0..{2**32 - self.repeats - 1}")
        _ = self.settings

    @property
    def settings(self) -> list[Setting]:
        """Every combination, once: without rungs, reduction factor and grace period have no effect."""
        found: dict[Setting, None] = {}
        for workers, bridge, sampler, scheduler, factor, grace in product(
            self._numbers("workers", 1),
            self._names("bridge", get_args(Bridge)),
            self._names("sampler", get_args(Sampler)),
            self._names("scheduler", get_args(SchedulerName)),
            self._numbers("reduction_factor", 2),
            self._numbers("grace_period", 1),
        ):
            asha = AshaConfig(scheduler=cast(SchedulerName, scheduler))
            if asha.has_rungs:
                asha = replace(asha, reduction_factor=factor, grace_period=grace)
            learns = sampler == "tpe" or (bridge == "pruned" and sampler in ("gp", "cmaes"))
            if bridge == "ours" or (learns and not SCHEDULERS[asha.scheduler].resumes):
                found[Setting(cast(Sampler, sampler), asha, workers, cast(Bridge, bridge))] = None
        if not found:
            simple = " or ".join(name for name, scheduler in SCHEDULERS.items() if not scheduler.resumes)
            raise UsageError(
                f"--bridge {self.bridge} needs tpe among --sampler, and {simple}: stock is Ray's OptunaSearch,\n"
                "and random and qmc do not learn from stopped trials."
            )
        return list(found)

    def _names(self, name: str, allowed: tuple[str, ...]) -> list[str]:
        words = [word.strip() for word in getattr(self, name).split(",")]
        if unknown := [word for word in words if word not in allowed]:
            known = f"{name} must be some of {', '.join(allowed)}, comma-separated, but got {unknown[0]!r}."
            raise UsageError(known + did_you_mean(unknown[0], allowed))
        return words

    def _numbers(self, name: str, least: int) -> list[int]:
        words = getattr(self, name).split(",")
        valid = all(word.strip().isdecimal() and int(word) >= least for word in words)
        require(self, name, valid, f"whole numbers >= {least}, comma-separated")
        return [int(word) for word in words]


def run(options: ReplayOptions) -> None:
    """Replay the searches."""
    from vae_tune.tasks.replay import replay

    replay(
        options.source,
        options.settings,
        num_samples=options.num_samples,
        seeds=range(options.seed, options.seed + options.repeats),
        curves=options.curves,
        output=options.output,
        force=options.force,
    )


COMMAND = Command(ReplayOptions, run, ("results/NAME --sampler tpe,random --reduction-factor 2,3,4 --workers 1,8",))
