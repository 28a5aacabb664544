"""Import all that a trial needs, while a worker of this machine waits for its first trial.

Without garbage collection, which would add a quarter to the time of these imports.
"""

import gc
from importlib import import_module

gc.disable()
import_module("vae_tune.cluster.trainable")
gc.enable()
