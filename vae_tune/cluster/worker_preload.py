"""What a worker of this machine imports while it waits for its first trial: all that a trial needs.

Without a look for garbage meanwhile, a fifth of what these imports cost.
"""

import gc
from importlib import import_module

gc.disable()
import_module("vae_tune.cluster.trainable")
gc.enable()
