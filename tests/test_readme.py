"""The options, files, snippets and links in the README and the documents exist and work."""

import re
from pathlib import Path

import pytest

from tests.studies import make_study
from tests.test_walls import ROOMS
from vae_tune import load_study
from vae_tune.cli.main import COMMANDS, load_command
from vae_tune.config.settings import AshaConfig, DataConfig, ResourceConfig, TrialConfig, ViewsConfig
from vae_tune.config.space import load_space
from vae_tune.vae.checkpoint import write_model
from vae_tune.vae.model import build_model

BRITISH = re.compile(
    r"(?i)(?<!--)(?<!\.)colour(?!: Color|=)|(?:behavi|neighb|fav)our|\bcent(?:re|red)\b|labelled|modelled|cancelled|"
    r"\banalyse|(?:binar|discret|initial|normal|optim|parameter|regular|standard|summar)is(?:e|ing|ation)"
)
"""Spellings; the option and the field ``colour`` stay."""
ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
MORE_PAGES = [ROOT / "benchmarks" / "README.md", ROOT / "vae_tune" / "images" / "mnist" / "README.md"]


def test_it_fits_into_150_lines():
    assert len(TEXT.splitlines()) <= 150


@pytest.mark.parametrize("page", ["README.md", "docs/searching.md", "docs/commands.md", "docs/record.md"])
def test_every_option_that_is_named_exists(page):
    fields = {
        name.replace("_", "-")
        for config in (
            AshaConfig,
            ResourceConfig,
            DataConfig,
            TrialConfig,
            ViewsConfig,
            *(load_command(name).options for name in COMMANDS),
        )
        for name in config.__dataclass_fields__
    }
    text = (ROOT / page).read_text()
    named = set(re.findall(r"--([a-z][a-z-]+)", re.sub(r"pip install.*|mypy --strict", "", text)))
    assert named
    assert named - fields - {"help", "epochs", "logdir"} == set()


def test_the_map_has_one_row_for_each_room():
    section = TEXT.partition("## Map of the code")[2].partition("\n## ")[0]
    rows = re.findall(r"^\|.*`vae_tune/([a-z]+)/`", section, re.MULTILINE)
    assert rows == list(ROOMS)


def test_the_space_that_is_shown_loads(tmp_path):
    path = tmp_path / "space.yaml"
    path.write_text(re.search(r"```yaml\n(.*?)```", TEXT, re.DOTALL)[1])
    assert load_space(path, TrialConfig()).fixed == {"encoder_activation": "relu"}


@pytest.mark.parametrize("page", ["README.md", "docs/tables.md", "docs/vae.md"])
def test_the_snippets_that_read_a_study_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("NAME", "A", "B"):
        study = load_study(make_study(tmp_path / "results" / name, trials=3))
        write_model(study.folder / "best", build_model(study.reference, (1, 28, 28)), study.reference)
    snippets = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    (snippet,) = (snippet for snippet in snippets if "load_study" in snippet)
    exec(snippet, {})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name if page.parent == ROOT else f"docs/{page.name}")
def test_every_link_leads_somewhere(page):
    text = page.read_text()
    links = re.findall(r"\]\(([^):#]+)(?:#[^)]*)?\)", text) + re.findall(r'src="([^"]+)"', text)
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", [*PAGES, *MORE_PAGES], ids=lambda page: str(page.relative_to(ROOT)))
def test_every_file_of_the_repository_that_is_named_exists(page):
    named = set(re.findall(r"`((?:vae_tune|tests|benchmarks|cluster|docs|analysis)/[a-z0-9_./-]+)`", page.read_text()))
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


def test_code_and_documents_are_in_american_english():
    files = [
        path for path in (ROOT / "vae_tune").rglob("*") if path.suffix in (".py", ".html", ".css", ".js", ".yaml")
    ]
    found = {
        f"{path.name}: {word}"
        for path in [*PAGES, *MORE_PAGES, *files]
        for word in BRITISH.findall(path.read_text(encoding="utf-8"))
    }
    assert found == set()


def test_the_index_of_the_documents_names_each():
    named = set(re.findall(r"\]\(([a-z-]+\.md)\)", (ROOT / "docs" / "README.md").read_text()))
    assert named == {page.name for page in (ROOT / "docs").glob("*.md")} - {"README.md"}


def test_make_knows_the_targets():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:^|`)make ([a-z]+)", TEXT, re.MULTILINE)) <= targets
