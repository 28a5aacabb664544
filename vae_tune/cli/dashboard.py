"""``vae-tune dashboard``: optuna-dashboard on the journal of a study, read-only and on this machine alone."""

from __future__ import annotations

import errno
import json
import logging
import os
import time
import webbrowser
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Annotated, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import tyro

from vae_tune.cli.command import Command, Options
from vae_tune.config.errors import UsageError
from vae_tune.config.fields import require
from vae_tune.config.files import address, is_remote
from vae_tune.config.local_copies import local_copy
from vae_tune.config.names import JOURNAL_FILE

_HOST = "127.0.0.1"
_REFUSAL = b'{"reason": "This dashboard is read-only: a change could damage the record of a running search."}'


@dataclass(frozen=True, kw_only=True)
class DashboardOptions(Options):
    """Show a study in the browser with optuna-dashboard, read-only.

    Also works while the search is running.
    """

    folder: Annotated[Path, tyro.conf.Positional]
    """Folder of the study."""
    port: int = 8080
    """Port on 127.0.0.1; 0 chooses a free one."""
    open: bool = False
    """Open the dashboard in the browser."""

    def __post_init__(self) -> None:
        """Refuse an invalid port."""
        super().__post_init__()
        require(self, "port", 0 <= self.port < 2**16, "in 0..65535")


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _QuietHandler(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Print nothing."""


def run(options: DashboardOptions) -> None:
    """Serve the dashboard until Ctrl-C."""
    server = make_dashboard(options.folder, options.port)
    url = f"http://{_HOST}:{server.server_port}/dashboard/studies/0"  # the journal holds one study
    copy = " (a copy of its present state)" if is_remote(options.folder) else ""
    print(f"{address(options.folder)}{copy} is shown at {url} (Ctrl-C ends it)", flush=True)
    if options.open:
        webbrowser.open(url)
    os.environ["TZ"] = "UTC"  # for the one plot whose times have no zone
    time.tzset()
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        print()
    finally:
        server.server_close()


def make_dashboard(folder: Path, port: int) -> WSGIServer:
    """Return a server that is bound but does not serve yet.

    Raises:
        UsageError: the folder is no study, the port is taken, or optuna-dashboard is not installed.
    """
    if find_spec("optuna_dashboard") is None:
        raise UsageError("The dashboard needs the package optuna-dashboard: pip install 'vae-tune[dashboard]'")
    import optuna
    from optuna.storages import JournalStorage

    from vae_tune.record.journal import Journal, UtcStorage
    from vae_tune.record.metadata import read_metadata
    from vae_tune.record.trials import read_trials

    folder = local_copy(folder)
    read_metadata(folder)
    read_trials(folder)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    import optuna_dashboard

    logging.getLogger("optuna_dashboard").setLevel(logging.CRITICAL)  # the page shows what failed
    journal = folder / JOURNAL_FILE

    @lru_cache(maxsize=1)
    def apps(inode: int) -> tuple[Any, Any]:  # noqa: ARG001
        """Return the dashboard of the journal, and one for the timeline alone; of another file, others."""
        # Optuna compares a running trial's start with a time without a zone where it draws this itself
        plain = JournalStorage(Journal(journal))
        return optuna_dashboard.wsgi(UtcStorage(Journal(journal))), optuna_dashboard.wsgi(plain)

    def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            start_response("405 Method Not Allowed", [("Content-Type", "application/json"), ("Allow", "GET, HEAD")])
            return [_REFUSAL]
        try:
            app, timeline = apps(journal.stat().st_ino)  # a resume may have written it anew
        except OSError as error:
            start_response("500 Internal Server Error", [("Content-Type", "application/json")])
            return [json.dumps({"reason": f"{address(journal)} cannot be read: {error.strerror}."}).encode()]
        return (timeline if environ["PATH_INFO"].endswith("/plot/timeline") else app)(environ, start_response)

    try:
        return make_server(_HOST, port, answer, server_class=_Server, handler_class=_QuietHandler)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise UsageError(f"Port {port} on {_HOST} is taken: choose another with --port.") from error
        raise UsageError(f"Port {port} on {_HOST} cannot be used: {error.strerror}.") from error


COMMAND = Command(DashboardOptions, run, ("results/NAME --open",))
