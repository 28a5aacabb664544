"""The options of ``vae-tune replay``. Nothing heavy is imported: the help must answer at once."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Annotated, Literal, cast, get_args, get_type_hints

import tyro

from vae_tune.config.settings import AshaConfig, Sampler, UsageError, check_types, require
from vae_tune.config.suggestions import did_you_mean

Bridge = Literal["ours", "pruned", "stock"]


@dataclass(frozen=True)
class Setting:
    """How the searches of one line of the comparison are run."""

    sampler: Sampler
    asha: AshaConfig
    workers: int
    bridge: str = "ours"
    """How the sampler sees a stopped trial, see :attr:`ReplayOptions.bridge`."""

    def __str__(self) -> str:
        """Name it in a table."""
        asha = self.asha
        stopping = asha.scheduler if asha.scheduler == "none" else f"{asha.scheduler}/{asha.reduction_factor}"
        stopping += f" from {asha.grace_period}" if asha.scheduler != "none" and asha.grace_period > 1 else ""
        bridge = "" if self.bridge == "ours" else f" ({self.bridge})"
        return f"{self.sampler}{bridge}, {stopping}, {self.workers} worker{'s' if self.workers > 1 else ''}"


@dataclass(frozen=True, kw_only=True)
class ReplayOptions:
    """Replay whole searches on recorded learning curves with other settings; lists are comma-separated.

    The searcher and the scheduler are the real ones; only the training is replaced, and the clock is simulated.
    """

    source: Annotated[Path, tyro.conf.Positional]
    """Folder of a study, or of a recorded curve table."""
    sampler: str = "tpe,random"
    """Optuna samplers: tpe, random, qmc, gp, cmaes."""
    scheduler: str = "asha,none"
    """Schedulers, as in a search."""
    reduction_factor: str = "3"
    """One trial in this many passes a rung."""
    grace_period: str = "1"
    """Epochs that every trial gets."""
    workers: str = "1"
    """Trials side by side."""
    bridge: str = "ours"
    """ours shows the sampler what is expected of trials that are stopped or running; pruned leaves it to Optuna, which
    ranks the stopped behind all others; stock is Ray's own OptunaSearch, which tells a stopped trial as complete."""
    num_samples: int = 50
    """Trials of each search."""
    repeats: int = 50
    """Searches of each setting, with the seeds --seed, --seed + 1, ..."""
    seed: int = 0
    """First seed."""
    curves: Literal["surrogate", "tabular"] = "surrogate"
    """surrogate interpolates between the recorded curves; tabular takes the nearest recorded one as it is."""
    output: Path | None = None
    """Folder to write to; default: replay/ in the study, else replay/ here."""
    force: bool = False
    """Go on although the surrogate is poor."""

    def __post_init__(self) -> None:
        """Refuse what cannot be replayed."""
        check_types(self)
        for name in ("num_samples", "repeats"):
            require(self, name, getattr(self, name) >= 1, ">= 1")
        require(self, "seed", 0 <= self.seed < 2**32 - self.repeats, f"in 0..{2**32 - self.repeats - 1}")
        _ = self.settings

    @property
    def settings(self) -> list[Setting]:
        """Every combination, each once: without a scheduler its reduction factor and grace period change nothing."""
        found: dict[Setting, None] = {}
        for workers, bridge, sampler, scheduler, factor, grace in product(
            self._numbers("workers", 1),
            self._names("bridge", get_args(Bridge)),
            self._names("sampler", get_args(Sampler)),
            self._names("scheduler", get_args(get_type_hints(AshaConfig)["scheduler"])),
            self._numbers("reduction_factor", 2),
            self._numbers("grace_period", 1),
        ):
            asha = AshaConfig(scheduler="none")
            if scheduler != "none":
                asha = AshaConfig(scheduler=scheduler, reduction_factor=factor, grace_period=grace)  # type: ignore[arg-type]
            learns = sampler == "tpe" or (bridge == "pruned" and sampler in ("gp", "cmaes"))
            if bridge == "ours" or (learns and scheduler != "asha-promotion"):
                found[Setting(cast(Sampler, sampler), asha, workers, bridge)] = None
        if not found:
            raise UsageError(
                f"--bridge {self.bridge} needs tpe among --sampler, and asha or none: stock is Ray's OptunaSearch,\n"
                "and it makes no difference to random and qmc what a stopped trial is told as."
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
