"""Checking a job for Slurm before it is submitted: its partition, its time, its token, and one of its nodes."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from vae_tune.cli.check.document import Problem, nearest
from vae_tune.cli.check.node_tests import open_storage, own_versions
from vae_tune.cli.check.slurm_script import Script, seconds
from vae_tune.config.errors import UsageError, telling_line
from vae_tune.config.message_hints import quantity
from vae_tune.config.storage import QUICK, delete_folder

_COMMANDS = ("scontrol", "sbatch", "sinfo", "srun")
_PROBE = "vae_tune.cli.check.slurm_probe"
_PATIENCE_SECONDS = 60
"""How long to wait for a node: a busy cluster has none."""
_ANSWER_SECONDS = 240
"""How long its answer may take, with a first import of PyTorch from a shared disk."""
_WHERE = ("account", "clusters", "constraint", "exclude", "nodelist", "partition", "qos", "reservation")
"""Options that decide on which nodes a job may run."""
_HOW_MUCH = ("nodes", "cpus-per-task", "mem", "mem-per-cpu", "gres", "gpus", "constraint")
"""Options that decide whether the nodes of a partition suffice."""
_TOO_MUCH = ("node configuration", "Node count", "processors")
"""What is printed where they do not."""
_RAY_START = re.compile(r"^[^#\n]*\bray start\b", re.MULTILINE)
_NUMBER = re.compile(r"^Job \d+ to start")
"""How Slurm begins when it could start a job; the number is none of a job that there is."""
_SIGNAL = re.compile(r"USR1@(\d+)")
_SHORTEST_SECONDS = 60
"""What a job needs to start, beside the time to pause."""


def check_script(script: Script, results_dir: str | None, offline: bool, say: Callable[[str], None]) -> list[Problem]:
    """Return the problems of a job; ``say`` gets a line about when it could start, and one about the node tested.

    Raises:
        UsageError: the commands of Slurm are not installed here, or the controller does not answer.
    """
    problems = [*token(script), *malformed_time(script)]
    if offline:
        return problems
    if missing := [name for name in _COMMANDS if shutil.which(name) is None]:
        where = "Run this on a login node of the cluster, or check the script alone with --offline."
        raise UsageError(f"{missing[0]} is not installed here.\n{where}")
    shown = _run("scontrol", "--oneliner", "show", "partition")
    if shown.returncode:
        raise UsageError(f"Slurm does not answer: {telling_line(shown.stderr)}")
    known = partitions(shown.stdout)
    problems += [*partition(script, known), *time_limit(script, known)]
    if not _has_error(problems):
        problems += dry_run(script, known, say)
    if not _has_error(problems):
        problems += try_node(script, results_dir or ".", say)
    return problems


def _has_error(problems: list[Problem]) -> bool:
    return any(problem.level == "error" for problem in problems)


def token(script: Script) -> Iterator[Problem]:
    """Find a script that starts Ray without a token: whoever reaches a node could run code as its user."""
    if _RAY_START.search(script.text) and "RAY_AUTH_" not in script.text:
        what = "The script starts Ray without a token: whoever reaches a node of the job can run code as you."
        yield script.problem("error", None, what, "Let `search --address slurm` start Ray, as cluster/slurm.sh does.")


def malformed_time(script: Script) -> Iterator[Problem]:
    """Find a time that Slurm does not understand, or that leaves none for training."""
    given = script.options.get("time")
    if given is None:
        return
    if (wanted := seconds(given)) is None:
        yield script.problem("error", "time", f"{given!r} is no time.", "Write for instance 4:00:00 or 2-12:00:00.")
        return
    found = _SIGNAL.search(script.options.get("signal", ""))
    if found and wanted < int(found[1]) + _SHORTEST_SECONDS:
        what = f"The job has {wanted:.0f} seconds, and pauses {found[1]} seconds before their end."
        yield script.problem("error", "time", what, "Give it more time, or a later --signal.")


def partitions(shown: str) -> dict[str, dict[str, str]]:
    """Return the properties of each partition, given the output of ``scontrol --oneliner show partition``."""
    found = [dict(word.split("=", 1) for word in line.split() if "=" in word) for line in shown.splitlines()]
    return {properties["PartitionName"]: properties for properties in found if "PartitionName" in properties}


def partition(script: Script, known: Mapping[str, Mapping[str, str]]) -> Iterator[Problem]:
    """Find a partition that does not exist, and one that runs no jobs."""
    names, listed = _named(script, known), ", ".join(sorted(known)) or "none"
    if not names:
        what = "The job names no partition, and the cluster has no default one."
        yield script.problem("error", "partition", what, f"Add --partition. There are: {listed}.")
    for name in names:
        if name not in known:
            guess = nearest(name, known)
            advice = f"Did you mean {guess}?" if guess else f"There are: {listed}."
            yield script.problem("error", "partition", f"There is no partition {name}.", advice)
        elif (state := known[name].get("State", "UP")) != "UP":
            what = f"The partition {name} is {state}."
            yield script.problem("warning", "partition", what, "The job waits until the administrator changes that.")


def time_limit(script: Script, known: Mapping[str, Mapping[str, str]]) -> Iterator[Problem]:
    """Find a time that is longer than the partitions allow: Slurm accepts such a job, and never starts it."""
    limits = {name: known[name].get("MaxTime", "UNLIMITED") for name in _named(script, known) if name in known}
    allowed = {name: seconds(limit) or float("inf") for name, limit in limits.items()}
    given = script.options.get("time", "")
    if allowed and (seconds(given) or 0) > max(allowed.values()):
        name = max(allowed, key=lambda name: allowed[name])
        what = f"{given} is longer than the partition {name} allows, {limits[name]}: the job would wait forever."
        advice = f"Write --time={limits[name]}: the search goes on in the next job."
        yield script.problem("error", "time", what, advice)


def _named(script: Script, known: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Return the names of the partitions in which the job may run."""
    if named := script.options.get("partition"):
        return named.split(",")
    return [name for name, properties in known.items() if properties.get("Default") == "YES"]


def dry_run(script: Script, known: Mapping[str, Mapping[str, str]], say: Callable[[str], None]) -> Iterator[Problem]:
    """Ask Slurm whether it accepts the job, and when it could start."""
    done = _run("sbatch", "--test-only", *script.typed, str(script.path))
    lines = [line.removeprefix("sbatch: ") for line in (done.stderr + done.stdout).splitlines() if line.strip()]
    if done.returncode == 0:
        say(f"Slurm: {_NUMBER.sub('the job could start', (lines or ['the job is accepted'])[-1])}")
        return
    first = (lines or [f"exit code {done.returncode}"])[0]
    reason = first.removeprefix("error: ").removeprefix("allocation failure: ").rstrip(".")
    advice = "Options after the script are those of sbatch; `sinfo` shows the nodes."
    if any(text in reason for text in _TOO_MUCH):
        asked = " ".join(f"--{name}={script.options[name]}" for name in _HOW_MUCH if name in script.options)
        advice = f"It asks for {asked or 'one CPU'}; {'; '.join(map(nodes_of, _named(script, known)))}."
    yield Problem("error", str(script.path), f"Slurm cannot run the job: {reason}.", advice)


def nodes_of(partition: str) -> str:
    """Return what the nodes of a partition have, for a message."""
    shown = _run("sinfo", "--noheader", "--exact", f"--partition={partition}", "--format=%D %c %m %G").stdout
    groups = [line.replace("(null)", "no GPU").split(maxsplit=3) for line in shown.splitlines()]
    described = (
        f"{quantity(int(count), 'node')} with {quantity(int(cpus), 'CPU')}, {memory} MB, {gres} each"
        for count, cpus, memory, gres in groups
    )
    return f"{partition} has {' and '.join(described) or 'no nodes'}"


def try_node(script: Script, results_dir: str, say: Callable[[str], None]) -> Iterator[Problem]:
    """Test a node on which the job may run."""
    folder, refusal = open_storage(results_dir)
    if folder is None:
        yield Problem("error", "this machine", f"{results_dir}: {refusal}", "No search could start.")
        return
    options = [f"--{name}={value}" for name, value in script.options.items() if name in _WHERE and value]
    job = ["--nodes=1", "--ntasks=1", "--time=5", f"--immediate={_PATIENCE_SECONDS}", "--job-name=vae-tune-check"]
    say(f"Waiting up to {_PATIENCE_SECONDS} seconds for one free node to test ...")
    try:
        answer, errors = _ask("srun", "--unbuffered", *options, *job, sys.executable, "-m", _PROBE, str(folder))
    finally:
        with contextlib.suppress(OSError, ValueError):  # it was writable a moment ago
            delete_folder(folder, QUICK)
    yield from [no_answer(errors)] if answer is None else judge(answer, str(folder.parent), say)


def _ask(*command: str) -> tuple[dict[str, Any] | None, str]:
    """Run the tests of a node; return the answer and, as its clock's "skew", how far it is ahead; then the errors."""
    answer = None
    with tempfile.TemporaryFile("w+") as errors:
        srun = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
        limit = threading.Timer(_PATIENCE_SECONDS + _ANSWER_SECONDS, srun.terminate)
        limit.start()
        try:
            for line in srun.stdout or ():
                if line.startswith("{"):  # other lines are the site's
                    answer = json.loads(line)
                    answer["skew"] = answer["time"] - time.time()
            srun.wait()
        finally:
            limit.cancel()
            if srun.poll() is None:
                srun.terminate()
                srun.wait()
        errors.seek(0)
        return answer, errors.read()


def judge(answer: Mapping[str, Any], results: str, say: Callable[[str], None]) -> Iterator[Problem]:
    """Find what is wrong with a node that answered."""
    from vae_tune.cli.check.running_cluster import Probe, describe, node_problems

    probe = Probe(answer["versions"], answer["storage"], answer["images_per_second"], answer["device"])
    say(f"{answer['node']}: {describe(probe, answer['skew'])}")
    if probe.storage is None:
        say(f"{results} is shared with {answer['node']}, which can write to it.")
    yield from node_problems(answer["node"], probe, answer["skew"], own_versions())
    if answer["temporary"]:
        yield Problem("error", answer["node"], answer["temporary"], "")


def no_answer(errors: str) -> Problem:
    """Return the problem of a node that did not answer, given what srun printed about it."""
    if "Requested nodes are busy" in errors:
        what = f"No node was free within {_PATIENCE_SECONDS} seconds, so none was tested."
        return Problem("warning", "srun", what, "Try again later: they may or may not see the results folder.")
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    if missing := [line for line in lines if "execve()" in line or "No module named 'vae_tune" in line]:
        what = f"vae_tune is not installed there: {missing[0].rpartition('error: ')[2]}."
        return Problem("error", "a node", what, f"Use a folder that the nodes share, unlike {sys.prefix}.")
    lines = [line.removeprefix("srun: ").removeprefix("error: ") for line in lines]
    reason = next((line for line in reversed(lines) if "Error" in line), next(iter(lines), "it did not answer"))
    return Problem("error", "a node", f"The test failed: {reason.rstrip('.')}.", "Without it, no search could start.")


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a command of Slurm; raise UsageError if it does not end."""
    try:
        return subprocess.run(command, check=False, capture_output=True, text=True, timeout=_PATIENCE_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise UsageError(f"{command[0]} did not end within {error.timeout:.0f} seconds.") from error
