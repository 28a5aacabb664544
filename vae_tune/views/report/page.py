"""``report.html``: collect the sections of a study's report and render them into one page."""

from __future__ import annotations

import base64
import errno
import hashlib
import json
import os
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vae_tune.config import message_hints, names
from vae_tune.config.errors import UsageError
from vae_tune.config.files import address, named_path
from vae_tune.config.names import BEST_FOLDER, RECONSTRUCTIONS_FILE, REPLAY_FOLDER, REPLAY_PAGE_FILE, REPORT_FILE
from vae_tune.config.object_stores import Changed
from vae_tune.config.storage import folder_exists, prepare_write
from vae_tune.vae.networks.registry import admit_named
from vae_tune.views.figures.conventions import COLORS

if TYPE_CHECKING:
    from vae_tune.analysis.study import Study

_SCRIPTS = ("page.js", "figures.js", "trial_table.js")
_PICTURES = {
    names.SAMPLES_FILE: "Samples of the winner, decoded from the prior.",
    RECONSTRUCTIONS_FILE: "Validation images, each above its reconstruction by the winner.",
}


def write_report(folder: str | Path, output: str | Path | None = None, models: Iterable[str] = ()) -> Path:
    """Write the report of the study in ``folder``, whatever its state, and return the path of the page.

    That is ``output``, by default ``report.html`` in the study folder. On object storage it replaces the page that was
    there when it began, and no other. A search that is still writing the study replaces it at its end. ``models`` are
    classes of a user's that the study has, FILE.py:CLASS: the sizes of models need their code, which runs only from a
    file that is named.

    Raises:
        UsageError: the folder is not a study, a class is not one of its models, or the file cannot be written.
    """
    from vae_tune.analysis.study import load_study

    path = named_path(output) if output is not None else named_path(folder) / REPORT_FILE
    try:
        write = prepare_write(path)
        study = load_study(folder)
        codes = study.metadata.get(names.CODE, {})
        admit_named({model: code[names.SHA256] for model, code in codes.items()}, models, address(study.place))
        page = render(study)
        if not folder_exists(path.parent):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        write(page.encode())
    except Changed as error:
        raise UsageError(
            f"Another process has written {address(path)} meanwhile.\nRun this again, or choose another --output."
        ) from error
    except OSError as error:
        raise UsageError(f"The report {address(path)} cannot be written: {error.strerror or error}.") from error
    return path


def render(study: Study) -> str:
    """Return the page as HTML."""
    import jinja2

    from vae_tune.analysis.compute_cost import compute_cost
    from vae_tune.analysis.early_stopping_audit import sentences
    from vae_tune.analysis.hyperparameters import importance
    from vae_tune.views.report import compute, figures, provenance, summary
    from vae_tune.views.report.trial_table import make_table

    cost, shares = compute_cost(study), importance(study)
    sections = figures.make_sections(study, shares)
    cards = {card.key: card.views for section in sections for card in section.cards}
    plotly = _read_plotly()
    script = "\n".join(read_resource(name) for name in _SCRIPTS)
    lean: Any = {"trim_blocks": True, "lstrip_blocks": True}
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, **lean)
    raw = environment.filters["safe"]
    colors = f":root {{ {' '.join(f'--{name}: {color};' for name, color in COLORS.items())} }}"
    return environment.from_string(read_resource("page.html")).render(
        name=study.name,
        command=message_hints.command("report", study.place, *_named_models(study)),
        status=summary.make_status(study),
        facts=summary.make_facts(study, cost),
        tiles=summary.make_tiles(study, cost),
        findings=summary.make_findings(study, shares),
        comparison=summary.make_comparison(study),
        code_length=summary.make_code_length(study),
        confirmation=summary.make_confirmation(study),
        pictures=_pictures(study),
        sections=sections,
        compute=compute.make_compute(study, cost),
        audit=sentences(study),
        configuration=provenance.make_configuration(study),
        replay=raw(_replay(study)),
        record=provenance.make_record(study),
        written=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        css=raw(f"{colors}\n{read_resource('page.css')}"),
        plotly=raw(plotly),
        script=raw(script),
        script_hashes=raw(" ".join(_csp_hash(text) for text in (plotly, script))),
        data=raw(_script_json({**make_table(study), "cards": cards})),
    )


def _named_models(study: Study) -> list[str]:
    """Return the options of the command that name the classes of a user's."""
    return [word for model in study.metadata.get(names.CODE, {}) for word in ("--model", model)]


def read_resource(name: str) -> str:
    """Return the text of a file beside this module."""
    return (resources.files(__package__) / name).read_text(encoding="utf-8")


def _read_plotly() -> str:
    """Return the JavaScript of plotly, without an import of the package."""
    spec = find_spec("plotly")
    assert spec is not None
    assert spec.origin is not None
    return (Path(spec.origin).parent / "package_data" / "plotly.min.js").read_text(encoding="utf-8")


def _csp_hash(script: str) -> str:
    """Return the source that allows this script, and no other, in the page's Content Security Policy."""
    digest = hashlib.sha256(script.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _script_json(value: Any) -> str:
    """Return JSON that cannot close the script element around it."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.replace("<", "\\u003c")


def _pictures(study: Study) -> list[dict[str, str]]:
    """Return the pictures of ``best/`` with their captions."""
    paths = {study.folder / BEST_FOLDER / name: caption for name, caption in _PICTURES.items()}
    return [
        {"source": f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}", "caption": caption}
        for path, caption in paths.items()
        if path.exists()
    ]


def _replay(study: Study) -> str:
    """Return the section that ``vae-tune replay`` wrote for this study; empty if it was not run."""
    path = study.folder / REPLAY_FOLDER / REPLAY_PAGE_FILE
    page = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    section = re.search(r'<section id="replay">.*?</section>', page, re.DOTALL)
    return section[0] if section else ""
