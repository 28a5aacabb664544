"""vae_tune: hyperparameter search for variational autoencoders with Ray Tune and Optuna."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from vae_tune.config import (
    AshaConfig,
    DataConfig,
    ResourceConfig,
    SearchConfig,
    SearchError,
    TrialConfig,
    UsageError,
    ViewsConfig,
)

if TYPE_CHECKING:
    from vae_tune import advice, plots
    from vae_tune.checkpoint import load_model
    from vae_tune.study import load_studies, load_study
    from vae_tune.tuning import resume_search, run_search

__version__ = "0.1.0"
__all__ = [
    "AshaConfig",
    "DataConfig",
    "ResourceConfig",
    "SearchConfig",
    "SearchError",
    "TrialConfig",
    "UsageError",
    "ViewsConfig",
    "advice",
    "load_model",
    "load_studies",
    "load_study",
    "plots",
    "resume_search",
    "run_search",
]
_HEAVY = {
    "load_model": "checkpoint",
    "load_studies": "study",
    "load_study": "study",
    "resume_search": "tuning",
    "run_search": "tuning",
}
"""Where the functions are that bring in Ray, torch or pandas."""


def __getattr__(name: str) -> Any:
    """Import what is heavy (Ray, torch, pandas) only when it is asked for."""
    if name in _HEAVY:
        return getattr(import_module(f"vae_tune.{_HEAVY[name]}"), name)
    if name in ("advice", "plots"):
        return import_module(f"vae_tune.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """Return the public names, imported yet or not, and Python's own."""
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
