"""optuna-dashboard on a study's journal: on this machine alone, and unable to change what it shows."""

from __future__ import annotations

import errno
import logging
import os
import time
import webbrowser
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import optuna
from optuna.storages import JournalStorage

from vae_tune.config.files import address, is_remote
from vae_tune.config.names import JOURNAL_FILE
from vae_tune.config.settings import UsageError
from vae_tune.record.copies import local
from vae_tune.record.journal import ReadOnlyJournal, UtcStorage
from vae_tune.record.metadata import read_manifest
from vae_tune.record.trials import read_trials
from vae_tune.tasks.options import DashboardOptions

_HOST = "127.0.0.1"
_REFUSAL = b'{"reason": "This dashboard only shows the study: a change could tear the record of a running search."}'


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _QuietHandler(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Print no line a request."""


def run_dashboard(options: DashboardOptions, say: Callable[[str], None] = print) -> None:
    """Serve the dashboard until Ctrl-C.

    Raises:
        UsageError: the folder is no study, the port is taken, or optuna-dashboard is not installed.
    """
    server = make_dashboard(options.folder, options.port)
    url = f"http://{_HOST}:{server.server_port}/dashboard/studies/0"  # the journal holds one study
    what = f"{address(options.folder)}{' as it is now' if is_remote(options.folder) else ''}"
    say(f"{what} is shown at {url} (Ctrl-C ends it)")
    if options.open:
        webbrowser.open(url)
    os.environ["TZ"] = "UTC"  # for the one plot whose times have no zone
    time.tzset()
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        say("")
    finally:
        server.server_close()


def make_dashboard(folder: Path, port: int) -> WSGIServer:
    """Return a server that is bound but does not serve yet.

    Raises:
        UsageError: the folder is no study, the port is taken, or optuna-dashboard is not installed.
    """
    if find_spec("optuna_dashboard") is None:
        raise UsageError("The dashboard needs the package optuna-dashboard: pip install 'vae-tune[dashboard]'")
    folder = local(folder)
    read_manifest(folder)
    read_trials(folder)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    import optuna_dashboard

    logging.getLogger("optuna_dashboard").setLevel(logging.CRITICAL)  # what fails is said on the page
    journal = folder / JOURNAL_FILE
    app = optuna_dashboard.wsgi(UtcStorage(ReadOnlyJournal(journal)))
    # Optuna compares a running trial's start with a time without a zone where it draws this itself
    timeline = optuna_dashboard.wsgi(JournalStorage(ReadOnlyJournal(journal)))

    def shown(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        return (timeline if environ["PATH_INFO"].endswith("/plot/timeline") else app)(environ, start_response)

    try:
        return make_server(_HOST, port, _refuse_changes(shown), server_class=_Server, handler_class=_QuietHandler)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise UsageError(f"Port {port} on {_HOST} is taken: choose another with --port.") from error
        raise UsageError(f"Port {port} on {_HOST} cannot be used: {error.strerror}.") from error


def _refuse_changes(app: Any) -> Any:
    """Wrap a WSGI application so that only what reads reaches it."""

    def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        if environ["REQUEST_METHOD"] in ("GET", "HEAD"):
            return app(environ, start_response)
        start_response("405 Method Not Allowed", [("Content-Type", "application/json"), ("Allow", "GET, HEAD")])
        return [_REFUSAL]

    return answer
