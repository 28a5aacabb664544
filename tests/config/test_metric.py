"""The metric that ranks trials is described in one module."""

import ast
import re
from pathlib import Path

import vae_tune
from vae_tune.config.metric import METRIC, Metric

PACKAGE = Path(vae_tune.__file__).parent


def test_each_library_gets_its_own_spelling_of_the_direction():
    assert (METRIC.direction, METRIC.mode) == ("minimize", "min")
    assert Metric("accuracy", "share", "maximize").mode == "max"


def written(path):
    """Yield the unit and the direction where code spells them; docstrings and other texts may explain them."""
    tree = ast.parse(path.read_text())
    texts = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        match node:
            case ast.Constant(value=str(text)) if id(node) not in texts:
                yield from re.findall(r"nats per image|\bminimize\b", text)
            case ast.keyword(arg="mode", value=ast.Constant(value="min" | "max")) | ast.Attribute(attr="MINIMIZE"):
                yield "direction"


def test_no_other_module_spells_its_unit_or_direction():
    spelled = {path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py") if any(written(path))}
    assert spelled == {"config/metric.py"}
