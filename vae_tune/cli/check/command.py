"""Running the checks on a cluster file or a cluster, and printing the problems."""

from __future__ import annotations

import contextlib
import io
import logging
import socket
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from vae_tune.cli.check import clouds, kuberay, schema, security, shell_commands
from vae_tune.cli.check.document import Document, Problem, read_document
from vae_tune.cluster.auth_token import make_token
from vae_tune.config.errors import UsageError, telling_line

_CONNECT_SECONDS = 3
_SSH_PORT = 22


def check(path: Path | None, address: str | None, results_dir: str | None, offline: bool, make_token: bool) -> int:
    """Print the problems; return 1 if there is an error among them.

    Raises:
        UsageError: the file cannot be read, is not YAML, or there is no such cluster.
    """
    problems: list[Problem] = []
    if path is not None:
        document = read_document(path)
        if make_token:
            _make_token(document)
        problems += check_document(document, results_dir)
        if not offline:
            problems += reachable(document)
    if address is not None:
        from vae_tune.cli.check.running_cluster import check_cluster

        problems += check_cluster(address, results_dir, print)
    return _print(problems)


def check_job(path: Path, options: Sequence[str], results_dir: str | None, offline: bool) -> int:
    """Print the problems of a script for Slurm with these options of sbatch; return 1 if there is an error among them.

    Raises:
        UsageError: the script cannot be read, or the commands of Slurm are missing.
    """
    from vae_tune.cli.check.slurm import check_script
    from vae_tune.cli.check.slurm_script import read_script

    return _print(check_script(read_script(path, options), results_dir, offline, partial(print, flush=True)))


def _print(problems: Sequence[Problem]) -> int:
    """Print the problems and their number; return 1 if there is an error among them."""
    for problem in problems:
        print(problem)
    errors = sum(problem.level == "error" for problem in problems)
    print(f"{_count(errors, 'error')}, {_count(len(problems) - errors, 'warning')}.")
    return 1 if errors else 0


def _count(number: int, name: str) -> str:
    return f"{number or 'no'} {name}{'' if number == 1 else 's'}"


def check_document(document: Document, results_dir: str | None = None) -> list[Problem]:
    """Return the problems of a file, in the order of its lines."""
    rules = [*schema.RULES, *clouds.RULES, *shell_commands.RULES, *security.RULES]
    for_kuberay = kuberay.is_kuberay(document)
    if for_kuberay:
        rules = [schema.repeated_keys, *kuberay.RULES, shell_commands.pinned_versions, security.secrets]
    problems = [problem for rule in rules for problem in rule(document)]
    if not for_kuberay:
        problems += security.results_folder(document, results_dir)
        if not any(problem.level == "error" for problem in problems):
            problems += ray_validation(document)
    # once each: two rules may agree on a key
    return sorted(dict.fromkeys(problems), key=lambda problem: int(problem.where.rpartition(":")[2]))


def ray_validation(document: Document) -> Iterator[Problem]:
    """Find what `ray up` refuses before it contacts the provider."""
    import copy

    from vae_tune.config.compat.ray import validate_cluster_config

    logger = logging.getLogger("ray")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            validate_cluster_config(copy.deepcopy(document.data))
    except (Exception, SystemExit) as error:  # Ray raises errors of click too
        yield document.error((), f"Ray refuses the file: {telling_line(error)}.", "See docs/cluster.md.")
    finally:
        logger.setLevel(level)


def reachable(document: Document) -> Iterator[Problem]:
    """Find own machines that do not answer on the ssh port, and missing AWS credentials."""
    provider = document.mapping("provider")
    if provider.get("type") == "local":
        for keys, host in clouds.addresses(document):
            named = (keys[-1] == "head_ip" and provider.get("external_head_ip")) or host
            if named and (reason := _silence(str(named))):
                what = f"{named} does not answer on port {_SSH_PORT}: {reason}."
                yield document.error(keys, what, "Start its sshd, or correct the address.")
    if provider.get("type") == "aws" and not _aws_identity():
        yield document.error(
            ("provider",), "No AWS credentials were found here.", "Run: aws configure sso, or aws configure."
        )


def _silence(host: str) -> str | None:
    try:
        socket.create_connection((host, _SSH_PORT), timeout=_CONNECT_SECONDS).close()
    except OSError as error:
        return error.strerror or str(error)
    return None


def _aws_identity() -> bool:
    """Whether botocore finds credentials in the environment, in files or in the instance profile."""
    try:
        from botocore.session import Session
    except ImportError:
        return True  # another problem reports that
    return Session().get_credentials() is not None


def _make_token(document: Document) -> None:
    path = security.token_source(document)
    if path is None:
        raise UsageError(f"{document.path} ships no token: add ~/.ray/auth_token: ~/.ray/auth_token to file_mounts.")
    print(f"Created the token {path}." if make_token(path) else f"The token {path} exists already.")
