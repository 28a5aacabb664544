"""visdom: loss curves of all trials and samples of the best so far, in an environment named after the study."""

from __future__ import annotations

import logging
import os
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from vae_tune.config.names import EPOCH, TRAIN_LOSS, VAL_LOSS
from vae_tune.record.trials import TrialRow, winner
from vae_tune.views.live.channel import Draw
from vae_tune.views.terminal import describe

SECONDS = 10
"""How long a request may take."""
_CURVES = {VAL_LOSS: "validation negative ELBO", TRAIN_LOSS: "training loss"}


class Visdom:
    """Draws trials on a visdom server; it needs no search, only rows.

    Each window is drawn anew as a whole: so it does not matter what the server knows, or whether it was restarted.
    """

    def __init__(self, url: str, environment: str, max_epochs: int):
        """Connect to the server at ``url``.

        Raises:
            OSError: there is none, or it does not answer.
        """
        self._server = _connect(url, environment)
        self._max_epochs = max_epochs
        self._rows: dict[int, TrialRow] = {}

    def show(self, row: TrialRow, draw: Draw | None) -> None:
        """Take note of a trial; draw samples where it is the best so far."""
        self._rows[row.trial] = row
        best = winner(self._rows.values(), self._max_epochs)
        if best is row and draw is not None and (sheet := draw()) is not None:
            self.show_picture("samples", sheet, f"samples of trial {row.trial}", _caption(row))

    def show_picture(self, window: str, sheet: np.ndarray[Any, np.dtype[np.uint8]], title: str, caption: str) -> None:
        """Draw grey values (height, width)."""
        height, width = sheet.shape
        options = {"title": title, "caption": caption, "width": 2 * width, "height": 2 * height}
        self._server.image(sheet[np.newaxis], win=window, opts=options)

    def flush(self) -> None:
        """Draw the curves."""
        rows = [row for _, row in sorted(self._rows.items()) if row.reports]
        if not rows:
            return
        labels = np.concatenate([np.full(len(row.reports), number) for number, row in enumerate(rows, 1)])
        for column, title in _CURVES.items():
            points = [[report[EPOCH], report[column]] for row in rows for report in row.reports]
            options = {
                "title": title,
                "xlabel": "epoch",
                "ylabel": "nats per image",
                "mode": "lines+markers",
                "markersize": 4,
                "legend": [f"trial {row.trial}" for row in rows],
            }
            self._server.scatter(np.array(points, float), labels, win=column, opts=options)

    def close(self, status: str) -> None:  # noqa: ARG002
        """Draw the curves for the last time."""
        self.flush()


def _caption(row: TrialRow) -> str:
    return f"{row.val_loss:.2f} nats per image at epoch {row.epochs}: {describe(row.values)}"


def _connect(url: str, environment: str) -> Any:
    logging.getLogger("visdom").setLevel(logging.CRITICAL)  # it warns of each new session
    import visdom

    class Server(visdom.Visdom):  # type: ignore[misc]
        """Says so where the server does not take what it is sent, or does not answer; the original waits forever."""

        def _handle_post(self, url: str, data: Any = None) -> str:
            reply = self.session.post(url, data=data or {}, timeout=SECONDS)
            reply.raise_for_status()
            return str(reply.text)

    parts = urlsplit(url)
    return Server(
        server=f"{parts.scheme}://{parts.netloc.removesuffix(f':{parts.port}')}",
        port=parts.port or {"http": 80, "https": 443}[parts.scheme],
        base_url=parts.path.rstrip("/") or "/",
        env=environment,
        username=os.environ.get("VISDOM_USERNAME"),
        password=os.environ.get("VISDOM_PASSWORD"),
        use_incoming_socket=False,
        raise_exceptions=True,
    )
