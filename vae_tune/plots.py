"""Figures of a study, in pairs: a function that computes the tidy table, and one that draws it.

``learning_curves(study)`` returns a data frame, ``draw_learning_curves(study)`` a matplotlib figure, which
``.savefig(path, dpi=200)`` writes to a file. All work on a study in any condition; where there is nothing to draw, the
figure says so. Matplotlib is imported when the first figure is drawn.

The functions are those of :data:`vae_tune.views.figures.chart.FIGURES`.
"""

from __future__ import annotations

from functools import wraps
from typing import TYPE_CHECKING, Any

from vae_tune.views.figures import FIGURES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from vae_tune.analysis.study import Study

__all__ = sorted([*FIGURES, *(f"draw_{name}" for name in FIGURES)])  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    """Return the table function of a figure, or for ``draw_NAME`` the function that draws it."""
    known = FIGURES.get(name.removeprefix("draw_"))
    if known is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if not name.startswith("draw_"):
        return known.table

    @wraps(known.panels)
    def draw(study: Study, *options: Any, **named: Any) -> Figure:
        from vae_tune.views.figures import matplotlib_renderer

        return matplotlib_renderer.draw(known.title, known.panels(study, *options, **named), known.missing)

    draw.__name__ = name
    return draw


def __dir__() -> list[str]:
    """Return the public names and Python's own."""
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
