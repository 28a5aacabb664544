"""The folder in which data sets, and working copies of studies on object storage, are kept between runs."""

from __future__ import annotations

import os
from pathlib import Path

from vae_tune.config.files import named_path

CACHE_VARIABLE = "VAE_TUNE_CACHE"
COPIES_FOLDER = "studies"
"""Folder in the cache for the working copies of studies on object storage."""
PREPARED_FOLDER = "prepared"
"""Folder in the cache for pictures, decoded."""
TORCHVISION_FOLDER = "torchvision"
"""Folder in the cache for the files of torchvision's data sets that are not 28 x 28 and gray, one folder per class."""


def cache_dir() -> Path:
    """Return the cache: ``$VAE_TUNE_CACHE``, else the platform's cache folder for this program."""
    if configured := os.environ.get(CACHE_VARIABLE):
        return named_path(configured)
    from platformdirs import user_cache_path

    return user_cache_path("vae_tune")
