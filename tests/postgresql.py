"""A real PostgreSQL server on loopback, which asks for a password."""

import os
import shutil
import signal
import subprocess
import tempfile
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import optuna
import psycopg
import pytest
from optuna.storages import RDBStorage

from tests.debian import install
from tests.view_servers import Server, free_port
from vae_tune.record.trials import read_trials

USER, PASSWORD, DATABASE = "watcher", "hunter2 is secret", "teams"
FAST = ("fsync=off", "full_page_writes=off", "synchronous_commit=off", "unix_socket_directories=", "jit=off")


class PostgreSQL(Server):
    """A server with one database."""

    def url(self, database=DATABASE, user=USER):
        """The address of a database, without the password, which is in the environment."""
        return f"postgresql://{user}@127.0.0.1:{self.port}/{database}"

    def optuna_url(self):
        """The address of the database as Optuna takes it."""
        return self.url().replace("postgresql", "postgresql+psycopg", 1)

    def trials(self, study_name):
        """The trials of a study in the database, as Optuna reads them; none where there is no such study yet."""
        storage = RDBStorage(self.optuna_url())
        try:
            return optuna.load_study(study_name=study_name, storage=storage).trials
        except KeyError:
            return []
        finally:
            storage.engine.dispose()

    def has_copied(self, folder):
        """Whether the database holds what the journal in ``folder`` does; shows the first difference otherwise."""
        assert content(self.trials(folder.name)) == content(read_trials(folder))
        return True

    def kill(self):
        """End it at once, with all of its processes, in the middle of whatever they do."""
        self.process.send_signal(signal.SIGQUIT)
        self.process.wait()

    def _answers(self):
        try:
            psycopg.connect(self.url("postgres"), connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True


def content(trials):
    """All that Optuna knows of trials, apart from the ids that a storage gives them; moments in UTC."""
    return [
        {
            name: value.astimezone(UTC) if isinstance(value, datetime) else value
            for name, value in vars(trial).items()
            if name != "_trial_id"
        }
        for trial in trials
    ]


@contextmanager
def running_postgresql():
    """Start a server, which is installed from Debian where this runs as root; PGPASSWORD is set meanwhile."""
    programs = _find_programs()
    user = "postgres" if os.geteuid() == 0 else None  # the server refuses to run as root
    place = Path(tempfile.mkdtemp(prefix="vae_tune_postgresql_"))  # pytest's own folders are closed to other users
    (place / "password").write_text(PASSWORD)
    if user:
        for path in (place, place / "password"):
            shutil.chown(path, user)
    data = place / "data"
    words = ("--no-sync", "--username", USER, "--auth", "scram-sha-256", "--pwfile", place / "password")
    subprocess.run([programs / "initdb", *words, "--pgdata", data], check=True, capture_output=True, user=user)
    port = free_port()
    settings = [word for setting in (*FAST, "listen_addresses=127.0.0.1") for word in ("-c", setting)]
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PGPASSWORD", PASSWORD)
        server = PostgreSQL([programs / "postgres", "-D", data, "-p", port, *settings], port, place / "log", user)
        try:
            with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
                connection.execute(f"CREATE DATABASE {DATABASE}")
            yield server
        finally:
            server.kill()
            shutil.rmtree(place)


def _find_programs():
    def found():
        return sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))

    if not found() and (path := shutil.which("initdb")):
        return Path(path).parent
    if not found() and (problem := install("postgresql")):
        pytest.skip(f"no PostgreSQL: it is not installed, and {problem}")
    return found()[-1].parent
