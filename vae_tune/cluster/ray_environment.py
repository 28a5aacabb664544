"""The environment variables of Ray in this process and in all that it starts."""

from __future__ import annotations

import os

_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",  # Ray Tune imports MLflow wherever it is installed
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_AIR_NEW_OUTPUT": "0",  # vae_tune prints its own progress
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",  # added to that of this command; Ray adds 15, and any other program goes first
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # vae_tune writes its own record
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000000",  # Ray's own state is never read: a resume reads the study
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
}


def set_ray_environment() -> None:
    """Set those that the user has not set; Ray reads some of them when it is imported."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
