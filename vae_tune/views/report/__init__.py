"""``report.html``: one page that tells what a search found, in one file that loads nothing from elsewhere."""

from __future__ import annotations

import base64
import errno
import hashlib
import json
import os
import re
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vae_tune.config import suggestions
from vae_tune.config.files import address, is_remote, named_path
from vae_tune.config.names import (
    BEST_FOLDER,
    DEVICE,
    EPOCHS,
    NODE,
    REASON,
    RECONSTRUCTIONS_FILE,
    REPLAY_FOLDER,
    REPLAY_PAGE_FILE,
    REPORT_FILE,
    SAMPLES_FILE,
    SECONDS,
    STARTED,
    STATE,
    STATE_WORDS,
    TRIAL,
    VAL_KL,
    VAL_LOSS,
    VAL_RECONSTRUCTION,
)
from vae_tune.config.settings import UsageError
from vae_tune.config.storage import QUICK, write_bytes
from vae_tune.views.figures.conventions import COLOURS

if TYPE_CHECKING:
    import pandas as pd

    from vae_tune.analysis.study import Study
    from vae_tune.views.report.cards import Section

_PICTURES = {
    SAMPLES_FILE: "Drawn by the winner: decoded from the prior.",
    RECONSTRUCTIONS_FILE: "Validation images, each above its reconstruction by the winner.",
}
_TITLES = {
    TRIAL: "number of the trial; 0 is the reference",
    STATE: "COMPLETE: trained to max_epochs; PRUNED: stopped at a rung; FAIL: diverged or broke; RUNNING: unfinished",
    EPOCHS: "epochs trained",
    VAL_LOSS: "validation negative ELBO, nats per image",
    VAL_RECONSTRUCTION: "nats per image",
    VAL_KL: "nats per image",
    SECONDS: "time in epochs",
    STARTED: "UTC",
}
_DIGITS = {VAL_LOSS: 2, VAL_RECONSTRUCTION: 2, VAL_KL: 2, SECONDS: 1}


def write_report(folder: str | Path, output: str | Path | None = None) -> Path:
    """Write the report of the study in ``folder``, in any condition, and return its path.

    Args:
        folder: the study.
        output: the file to write; by default ``report.html`` in the folder, on object storage too.

    Raises:
        UsageError: the folder is no study, or the file cannot be written.
    """
    from vae_tune.analysis.study import load_study

    study = load_study(folder)
    path = named_path(output) if output is not None else named_path(folder) / REPORT_FILE
    page = render(study)
    try:
        if not is_remote(path) and not path.parent.is_dir():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        write_bytes(path, page.encode(), QUICK)
    except OSError as error:
        raise UsageError(f"The report {address(path)} cannot be written: {error.strerror or error}.") from error
    return path


def render(study: Study) -> str:
    """Return the page."""
    import jinja2

    from vae_tune.analysis.compute_cost import compute_cost
    from vae_tune.analysis.early_stopping_audit import sentences
    from vae_tune.analysis.hyperparameters import importance
    from vae_tune.views.report import summary
    from vae_tune.views.report.cards import make_sections

    ledger, shares = compute_cost(study), importance(study)
    sections = make_sections(study, ledger, shares)
    plotly = (resources.files("plotly") / "package_data" / "plotly.min.js").read_text(encoding="utf-8")
    script, css, template = (_resource(name) for name in ("page.js", "page.css", "page.html"))
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    raw = environment.filters["safe"]
    return environment.from_string(template).render(
        name=study.name,
        command=suggestions.command("report", study.place),
        status=summary.make_status(study),
        facts=summary.make_facts(study, ledger),
        tiles=summary.make_tiles(study, ledger),
        findings=summary.make_findings(study, shares),
        comparison=summary.make_comparison(study),
        confirmation=summary.make_confirmation(study),
        pictures=_pictures(study),
        sections=sections,
        ledger=summary.make_ledger_words(ledger, study),
        audit=sentences(study),
        configuration=summary.make_configuration(study),
        replay=raw(_replay(study)),
        record=summary.make_record(study),
        written=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        css=raw(f"{_palette()}\n{css}"),
        plotly=raw(plotly),
        script=raw(script),
        script_hashes=raw(" ".join(_hash(text) for text in (plotly, script))),
        data=raw(_embed({**_table(study), "cards": _figures(sections)})),
    )


def _resource(name: str) -> str:
    return (resources.files(__package__) / name).read_text(encoding="utf-8")


def _palette() -> str:
    """Return the colours of a light theme as CSS variables."""
    return f":root {{ {' '.join(f'--{name}: {colour};' for name, colour in COLOURS.items())} }}"


def _hash(script: str) -> str:
    """Return what allows this very script, and no other, in the page's content security policy."""
    digest = hashlib.sha256(script.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _embed(value: Any) -> str:
    """Return JSON that cannot end the script element around it."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.replace("<", "\\u003c")


def _figures(sections: list[Section]) -> dict[str, Any]:
    return {
        card.key: [{"label": label, "figure": figure} for label, figure in card.figures.items()]
        for section in sections
        for card in section.cards
    }


def _pictures(study: Study) -> list[dict[str, str]]:
    pictures = []
    for name, caption in _PICTURES.items():
        path = study.folder / BEST_FOLDER / name
        if path.exists():
            source = f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"
            pictures.append({"source": source, "caption": caption})
    return pictures


def _replay(study: Study) -> str:
    """Return the section that ``vae-tune replay`` wrote of the study, or nothing where it did not."""
    path = study.folder / REPLAY_FOLDER / REPLAY_PAGE_FILE
    page = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    section = re.search(r'<section id="replay">.*?</section>', page, re.DOTALL)
    return section[0] if section else ""


def _table(study: Study) -> dict[str, Any]:
    """Return the trials for the page's table: columns and rows."""
    from vae_tune.views.figures.traces import plain

    searched = list(study.space.distributions)
    trials = study.trials.reset_index()
    trials[STARTED] = trials[STARTED].dt.strftime("%Y-%m-%d %H:%M:%S")
    names = [TRIAL, STATE, EPOCHS, VAL_LOSS, VAL_RECONSTRUCTION, VAL_KL, *searched, SECONDS, STARTED]
    names += [name for name in (NODE, DEVICE) if len({*trials[name].dropna()} - {""}) > 1]
    names += [REASON] if (trials[REASON] != "").any() else []
    columns: list[dict[str, Any]] = [
        {"name": name, "title": _TITLES.get(name, name), "kind": _kind(trials[name], name)} for name in names
    ]
    for column in columns:
        if column["name"] in _DIGITS:
            column["digits"] = _DIGITS[column["name"]]
    rows = [plain(row) for row in trials[names].itertuples(index=False)]
    return {"columns": columns, "rows": rows, "hyperparameters": searched, "states": STATE_WORDS}


def _kind(values: pd.Series[Any], name: str) -> str:
    return "text note" if name == REASON else "number" if values.dtype.kind in "iuf" else "text"
