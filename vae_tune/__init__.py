"""vae_tune: hyperparameter search for variational autoencoders with Ray Tune and Optuna."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vae_tune.config import AshaConfig, DataConfig, ResourceConfig, SearchConfig, TrialConfig, ViewsConfig

if TYPE_CHECKING:
    from vae_tune.study import load_studies, load_study
    from vae_tune.tuning import run_search

__version__ = "0.1.0"
__all__ = [
    "AshaConfig",
    "DataConfig",
    "ResourceConfig",
    "SearchConfig",
    "TrialConfig",
    "ViewsConfig",
    "load_studies",
    "load_study",
    "run_search",
]


def __getattr__(name: str) -> Any:
    """Import what is heavy (Ray, torch, pandas) only when it is asked for."""
    if name == "run_search":
        from vae_tune.tuning import run_search

        return run_search
    if name in ("load_study", "load_studies"):
        from vae_tune import study

        return getattr(study, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
