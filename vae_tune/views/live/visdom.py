"""visdom: loss curves of all trials and samples of the best so far, in an environment named after the study."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from vae_tune.analysis.loss_unit import LossUnit
from vae_tune.config.names import EPOCH, LOSSES, TRAIN_LOSS, VAL_LOSS
from vae_tune.record.trials import TrialRow, winner
from vae_tune.views.formatting import format_values
from vae_tune.views.live.view import DrawSamples, LiveView

TIMEOUT_SECONDS = 10  # of a request
_CURVES = {VAL_LOSS: "validation negative ELBO", TRAIN_LOSS: "training loss"}


class Visdom(LiveView):
    """Draws trials on a visdom server. It draws whole windows, so the server may lose its state at any time."""

    name = "visdom"
    package = "visdom"

    def __init__(self, address: str, folder: Path, metadata: Mapping[str, Any]):
        """Connect to the server at the URL ``address``."""
        self._server = _connect(address, folder.absolute().name)
        self._max_epochs, self._unit = metadata["reference"]["max_epochs"], LossUnit.of(metadata["metric"])
        self._elbo_unit = LossUnit.of(metadata.get(LOSSES, metadata["metric"]))
        self._rows: dict[int, TrialRow] = {}

    def show(self, row: TrialRow, draw_samples: DrawSamples | None) -> None:
        """Store the trial for :meth:`flush`; draw its samples if it is the best so far."""
        self._rows[row.trial] = row
        best = winner(self._rows.values(), self._max_epochs)
        if best is row and draw_samples is not None and (sheet := draw_samples()) is not None:
            from vae_tune.vae.pictures import zoom_of

            (height, width), zoom = sheet.shape[:2], zoom_of(sheet)
            loss = f"{self._unit.level(row.loss or 0.0)} {self._unit.name}"
            caption = f"{loss} at epoch {row.epochs}: {format_values(row.values)}"
            options: dict[str, Any] = {"title": f"samples of trial {row.trial}", "caption": caption}
            options |= {"width": zoom * width, "height": zoom * height}
            self._server.image(sheet.reshape(height, width, -1).transpose(2, 0, 1), win="samples", opts=options)

    def flush(self) -> None:
        """Draw the curves of all trials."""
        rows = [row for _, row in sorted(self._rows.items()) if row.reports]
        if not rows:
            return
        labels = np.concatenate([np.full(len(row.reports), number) for number, row in enumerate(rows, 1)])
        own = {name: (name, "", self._unit) for name in self._unit.ranking.columns}
        losses = {name: (title, self._elbo_unit.name, self._elbo_unit) for name, title in _CURVES.items()}
        for column, (title, label, unit) in (own | losses).items():
            points = [[report[EPOCH], report[column] / unit.nats] for row in rows for report in row.reports]
            options: dict[str, Any] = {"title": title, "xlabel": "epoch", "ylabel": label}
            options |= {"mode": "lines+markers", "markersize": 4}
            options["legend"] = [f"trial {row.trial}" for row in rows]
            self._server.scatter(np.array(points, float), labels, win=column, opts=options)

    def close(self, status: str) -> None:  # noqa: ARG002
        """Draw the curves a last time."""
        self.flush()


def _connect(url: str, environment: str) -> Any:
    logging.getLogger("visdom").setLevel(logging.CRITICAL)  # it warns about each new session
    import visdom

    class Server(visdom.Visdom):  # type: ignore[misc]
        """A client that raises if the server rejects a request or does not answer; the original waits forever."""

        def _handle_post(self, url: str, data: Any = None) -> str:
            reply = self.session.post(url, data=data or {}, timeout=TIMEOUT_SECONDS)
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
