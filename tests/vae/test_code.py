"""The code of a user's model travels as text, and runs from it."""

from __future__ import annotations

import pickle
import sys
import textwrap
import traceback

import pytest
import torch

from vae_tune.config.errors import UsageError
from vae_tune.vae.networks.code import read_code
from vae_tune.vae.networks.code_modules import load_class


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write files into the current folder."""
    monkeypatch.chdir(tmp_path)

    def write(texts):
        for name, text in texts.items():
            path = tmp_path / f"{name}.py"
            path.parent.mkdir(exist_ok=True, parents=True)
            path.write_text(textwrap.dedent(text))
        return tmp_path

    return write


MODEL = """
    # a comment
    import torch
    import blocks
    import parts.inner
    import parts.inner as short
    from blocks import WIDTH
    from parts import inner, top
    from parts.inner import Inner

    class MyVAE(torch.nn.Module):
        "A docstring."

        def encode(self, x):
            import late
            return late.NAME, blocks.WIDTH, parts.inner.WIDTH, short.WIDTH, WIDTH, inner.WIDTH, Inner().up, top

        def decode(self, z):
            raise ValueError("no pictures")
"""
FILES = {
    "my_vae": MODEL,
    "blocks": "WIDTH = 1\n",
    "late": "NAME = 'late'\n",
    "parts/__init__": "from .inner import Inner\ntop = 'top'\n",
    "parts/inner": "import blocks\nfrom . import deep\nfrom .deep import UP\nWIDTH = 2\nclass Inner:\n    up = UP\n",
    "parts/deep": "UP = 'up'\n",
    "unused": "raise SystemExit\n",
}
FOUND = ("late", 1, 2, 2, 1, 2, "up", "top")


@pytest.mark.parametrize("name", ["my_vae.py:MyVAE", "./my_vae.py:MyVAE"])
def test_a_file_is_taken_with_what_it_imports_from_its_own_folder(write, name):
    folder = write(FILES)
    code = read_code(name)
    assert set(code.texts) == {"my_vae", "blocks", "late", "parts", "parts.inner", "parts.deep"}
    travelled = pickle.loads(pickle.dumps(code))
    for path in folder.rglob("*.py"):
        path.unlink()  # as on another host
    assert load_class(travelled)().encode(None) == FOUND
    assert not {"my_vae", "blocks", "parts", "late"} & set(sys.modules)


def test_a_module_is_taken_with_its_own_package_alone(write, monkeypatch):
    folder = write({"pack/__init__": "", "pack/part": "X = 3", "other": ""})
    write({"pack/net": "import torch, other\nfrom . import part\nclass Net: part = part.X"})
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
    code = read_code("pack.net:Net")
    assert set(code.texts) == {"pack", "pack.net", "pack.part"}
    assert load_class(code).part == 3
    assert "pack" not in sys.modules


def test_two_versions_of_a_file_are_two_classes(write):
    write({"my_vae": "class MyVAE: version = 1"})
    first = load_class(read_code("my_vae.py:MyVAE"))
    assert load_class(read_code("my_vae.py:MyVAE")) is first
    write({"my_vae": "class MyVAE: version = 2"})
    assert (first.version, load_class(read_code("my_vae.py:MyVAE")).version) == (1, 2)


def test_comments_and_docstrings_may_change_and_code_may_not(write):
    write(FILES)
    digest = read_code("my_vae.py:MyVAE").digest
    write({"my_vae": MODEL.replace("# a comment", "").replace('"A docstring."', '"""Another."""\n')})
    assert read_code("my_vae.py:MyVAE").digest == digest
    write({"blocks": "WIDTH = 3"})
    assert read_code("my_vae.py:MyVAE").digest != digest


def test_an_own_module_hides_no_other_one(write):
    write({"my_vae": "import json\nclass MyVAE: found = json.NAME", "json": "NAME = 'own'"})
    assert load_class(read_code("my_vae.py:MyVAE")).found == "own"
    import json

    assert not hasattr(json, "NAME")


def test_a_checkout_of_this_project_beside_the_file_is_not_taken(write):
    write({"my_vae": "import vae_tune\nclass MyVAE: version = vae_tune.__version__", "vae_tune/__init__": "1 / 0"})
    code = read_code("my_vae.py:MyVAE")
    assert set(code.texts) == {"my_vae"}
    assert load_class(code).version


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("my_vae.py:MyVAE", None, r"but there is no file my_vae\.py\.$"),
        ("no_such_module:MyVAE", None, r"there is no module no_such_module on Python's path\.$"),
        ("my_vae.py:", "", r"must be FILE\.py:CLASS or MODULE:CLASS, but got 'my_vae\.py:'\.$"),
        ("my_vae.py:MyVAE", "x = (", r"^my_vae\.py:1: not valid Python: '\(' was never closed\.$"),
        ("my_vae.py:MyVAE", "class MyVAE2: ...", r"^my_vae\.py has no class 'MyVAE'\. Did you mean MyVAE2\?$"),
        (
            "my_vae.py:MyVAE",
            "\nimport no_such",
            r"^model my_vae\.py:MyVAE cannot be imported: my_vae\.py:2: ModuleNot",
        ),
        ("my_vae.py:MyVAE", "def f():\n  1 / 0\nf()", r"my_vae\.py:2 in f: ZeroDivisionError: division by zero\.$"),
    ],
)
def test_what_cannot_be_imported_is_refused_with_its_line(write, name, text, message):
    write({} if text is None else {"my_vae": text})
    with pytest.raises(UsageError, match=message) as caught:
        load_class(read_code(name))
    assert "\n" not in str(caught.value)


def test_nothing_runs_before_the_class_is_loaded(write):
    write({"my_vae": "raise SystemExit\nclass MyVAE: ..."})
    assert read_code("my_vae.py:MyVAE").name == "MyVAE"


def test_a_traceback_shows_the_line_of_the_text(write):
    folder = write({"shown": MODEL} | FILES)
    model = load_class(read_code("shown.py:MyVAE"))()
    (folder / "shown.py").unlink()
    with pytest.raises(ValueError, match="no pictures") as caught:
        model.decode(torch.zeros(1))
    assert traceback.extract_tb(caught.tb)[-1].line == 'raise ValueError("no pictures")'
