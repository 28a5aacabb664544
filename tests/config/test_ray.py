"""The one module that names private parts of Ray, and the pin that they force."""

import re
import tomllib
from itertools import chain
from pathlib import Path

import ray

import vae_tune
from vae_tune.config.compat import ray as ray_private

ROOT = Path(__file__).parents[2]
PRIVATE = re.compile(r"^\s*(?:from|import) ray\.(?:[\w.]*\b_\w+|air\b|tune\.execution\b)|\bray\._[a-z]", re.MULTILINE)


def test_no_other_module_names_a_private_part_of_ray():
    package = Path(vae_tune.__file__).parent
    naming = [path for path in package.rglob("*.py") if PRIVATE.search(path.read_text())]
    assert [str(path.relative_to(package)) for path in naming] == ["config/compat/ray.py"]


def test_each_private_part_is_there_used_and_told():
    sources = [path.read_text() for path in Path(vae_tune.__file__).parent.rglob("*.py") if "compat" not in path.parts]
    for name in ray_private.__all__:
        assert getattr(ray_private, name) is not None
        assert name in ray_private.__doc__
        assert any(re.search(rf"\b{name}\b", text) for text in sources if "compat.ray" in text)
    assert all(hasattr(ray_private.autoscaler(), name) for name in ("prepare_config", "validate_config"))


def test_ray_is_pinned_to_the_release_whose_private_parts_these_are():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *chain(*project["optional-dependencies"].values())]
    pins = {line.partition("]")[2] for line in asked if line.startswith("ray[")}
    assert pins == {">=2.60,<2.61"}
    assert ray.__version__.startswith("2.60.")
    assert "2.60" in ray_private.__doc__
