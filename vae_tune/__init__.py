"""vae_tune: hyperparameter search for variational autoencoders with Ray Tune and Optuna."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from vae_tune.config.errors import SearchError, UsageError
from vae_tune.config.settings import AshaConfig, DataConfig, ResourceConfig, SearchConfig, TrialConfig, ViewsConfig
from vae_tune.config.version import __version__ as __version__

if TYPE_CHECKING:
    from vae_tune import advice, plots
    from vae_tune.analysis.study import load_studies, load_study
    from vae_tune.tasks.search import resume_search, run_search
    from vae_tune.vae.checkpoint import load_model

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
_MODULES = {
    "advice": "advice",
    "load_model": "vae.checkpoint",
    "load_studies": "analysis.study",
    "load_study": "analysis.study",
    "plots": "plots",
    "resume_search": "tasks.search",
    "run_search": "tasks.search",
}
"""Where each public name lives whose module imports Ray, torch or pandas."""


def __getattr__(name: str) -> Any:
    """Import what is heavy (Ray, torch, pandas) only when it is asked for."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(f"vae_tune.{_MODULES[name]}")
    return module if name in ("advice", "plots") else getattr(module, name)


def __dir__() -> list[str]:
    """Return the public names, imported yet or not, and Python's own."""
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
