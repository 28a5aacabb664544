"""The tests of a node, as a program for ``srun``: its argument is a folder, its output a line of JSON."""

from __future__ import annotations

import json
import platform
import sys
import time
from pathlib import Path

from vae_tune.cli.check.node_tests import own_versions, try_storage
from vae_tune.cli.check.node_trial import one_second_trial
from vae_tune.cluster.ray_folder import create_ray_folder
from vae_tune.config.errors import UsageError, telling_line
from vae_tune.config.files import is_remote
from vae_tune.record.lock import refuse_without_locks


def answer(folder: Path) -> dict[str, object]:
    """Test this node, and return what :func:`vae_tune.cli.check.slurm.judge` reads."""
    images_per_second, device = one_second_trial(gpu=False)
    try:
        create_ray_folder().delete()
        refusal = None
    except UsageError as error:
        refusal = str(error)
    return {
        "node": platform.node(),
        "versions": own_versions(),
        "storage": try_storage(folder) or no_locks(folder),
        "temporary": refusal,
        "images_per_second": images_per_second,
        "device": device,
        "time": time.time(),
    }


def no_locks(folder: Path) -> str | None:
    """Return what went wrong if the search could not lock a study there."""
    try:
        if not is_remote(folder):
            refuse_without_locks(folder)
    except (UsageError, OSError) as error:
        return telling_line(error)
    return None


if __name__ == "__main__":
    print(json.dumps(answer(Path(sys.argv[1]))), flush=True)
