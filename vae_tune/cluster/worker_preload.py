"""Import all that a trial needs: in the process that forks workers, or while a worker waits for its first trial.

Without garbage collection, which would add a quarter to the time of these imports.
"""

import gc
from importlib import import_module

from vae_tune.config.compat.ray import fork_safe_imports

gc.disable()
with fork_safe_imports():
    for module in ("cluster.trainable", "cluster.worker_entry"):
        import_module(f"vae_tune.{module}")
gc.enable()
