"""The Slurm job that this process runs in, and its steps: one on each further node, and one that notices a cancel."""

from __future__ import annotations

import os
import re
import secrets
import shlex
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from signal import SIGKILL, SIGTERM

from vae_tune.config.errors import SearchError, UsageError, telling_line
from vae_tune.config.settings import SLURM
from vae_tune.config.slurm_job import OPTIONS

_NODE_PROGRAM = "vae_tune.cluster.slurm_node"
_ANY_PORT = 9
_END_SECONDS = 10.0
"""A step gets this long to end by itself."""
_MOST_STARTS = 5
"""Starts of a node's step in a row that last less than a minute, before it is given up."""
_LONG_ENOUGH = 60.0
_POLL_SECONDS = 0.2
_AWAY = ("Unable to contact slurm controller", "Unexpected message received for job")
"""What is printed where the controller does not answer; the latter by ``scontrol requeue``."""
_PATIENCE_SECONDS, _RETRY_SECONDS = 60.0, 5.0
"""How long a controller that does not answer is asked in all, and how often: a job that pauses has three minutes."""
_LEAST_SECONDS = 5.0
"""A command gets at least this long to answer."""
_LABEL = "VAE_TUNE_JOB"
"""The variable that gives a job the label of the one that it succeeds."""
_OF_THIS_JOB = ("SLURM_", "SLURMD_", "RAY_")
"""Variables that describe this job, or hold its token."""
_OPTIONS = {
    "job-name": "JobName",
    "partition": "Partition",
    "account": "Account",
    "qos": "QOS",
    "nodes": "NumNodes",
    "cpus-per-task": "CPUs/Task",
    "mem": "MinMemoryNode",
    "mem-per-cpu": "MinMemoryCPU",
    "gres": "TresPerNode",
    "gpus": "TresPerJob",
    "constraint": "Features",
    "reservation": "Reservation",
    "time": "TimeLimit",
    "chdir": "WorkDir",
    "output": "StdOut",
}
"""Options of ``sbatch``, with the names of their values in ``scontrol show job``."""
_UNLIKE_GIVEN = ("job-name", "chdir", "output")
"""Those of them that do not say what the job was given."""
_KIND = {"gres": re.compile(r"\bgres[:/]"), "gpus": re.compile(r"\bgres[:/]gpu:")}
"""What precedes these values there: "gres:", since Slurm 23.02 "gres/"."""


@dataclass(frozen=True)
class SlurmJob:
    """A job of Slurm, as its batch process sees it."""

    job: str
    """The id."""
    node: str
    """The node of this process, the first one."""
    cpus: Mapping[str, int]
    """CPUs of the job on each of its nodes."""
    goes_on: bool
    """Whether the job, or one that it succeeds, ran before."""
    label: str
    """A name that stays the same over all restarts: the id, or of a job array that of the array and the task."""
    restarts: int = 0
    """How often the job was requeued before this start."""

    @property
    def others(self) -> list[str]:
        """The other nodes."""
        return [node for node in self.cpus if node != self.node]


def this_job(environ: Mapping[str, str] = os.environ) -> SlurmJob:
    """Return the job of this process; raise UsageError if it is in none, or is not its batch script."""
    try:
        job, nodes = environ["SLURM_JOB_ID"], environ["SLURM_JOB_NODELIST"]
        node, counts = environ["SLURMD_NODENAME"], environ["SLURM_JOB_CPUS_PER_NODE"]
    except KeyError as error:
        raise UsageError(
            f"--address {SLURM} works in a job of Slurm only ({error.args[0]} is not set).\n"
            "Submit one, sbatch cluster/slurm.sh with the options of the search; or search here, with --address None."
        ) from error
    names = slurm("scontrol", "show", "hostnames", nodes).split()
    array, predecessor = environ.get("SLURM_ARRAY_JOB_ID"), environ.get(_LABEL)
    label = predecessor or (f"{array}_{environ.get('SLURM_ARRAY_TASK_ID')}" if array else job)
    cpus = dict(zip(names, cpus_per_node(counts), strict=True))
    restarts = int(environ.get("SLURM_RESTART_COUNT", 0))
    return SlurmJob(job, node, cpus, predecessor is not None or restarts > 0, label, restarts)


def cpus_per_node(text: str) -> list[int]:
    """Return the CPUs of each node in the text of SLURM_JOB_CPUS_PER_NODE, such as "4(x2),8"."""
    found = re.findall(r"(\d+)(?:\(x(\d+)\))?", text)
    return [int(count) for count, times in found for _ in range(int(times or 1))]


class ControllerAway(SearchError):
    """The controller of Slurm does not answer; it may have done what it was asked for."""


def slurm(*words: str, env: Mapping[str, str] | None = None, end: float | None = None) -> str:
    """Run a command of Slurm and return what it prints.

    A controller that does not answer, as while it is restarted, is asked again until ``end``, a moment of
    ``time.monotonic``: by default for a minute. A line in the log says so.

    Raises:
        ControllerAway: it has not answered by then.
        SearchError: the command fails.
    """
    end = time.monotonic() + _PATIENCE_SECONDS if end is None else end
    name, waits = " ".join(words[:2]), False
    while True:
        patience = max(end - time.monotonic(), _LEAST_SECONDS)
        try:
            done = subprocess.run(words, check=False, capture_output=True, text=True, env=env, timeout=patience)
        except OSError as error:
            raise SearchError(f"{words[0]} cannot be run on this node: {error.strerror or error}.") from error
        except subprocess.TimeoutExpired as error:
            raise ControllerAway(f"{name} failed: no answer in {patience:.0f} seconds.") from error
        if done.returncode == 0:
            return done.stdout
        problem = f"{name} failed: {telling_line(done.stderr).rstrip('.')}."
        if not any(text in done.stderr for text in _AWAY):
            raise SearchError(problem)
        if time.monotonic() > end:
            raise ControllerAway(problem)
        if not waits:
            print(f"{problem} Trying again for up to {end - time.monotonic():.0f} seconds ...", flush=True)
        waits = True
        time.sleep(_RETRY_SECONDS)


def use_own_token() -> None:
    """Give the Ray of this job a token of its own, in the environment that its steps inherit."""
    os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    for name in ("RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"):  # Ray sets the mode to token as it starts; set before, a
        os.environ.pop(name, None)  # process that has imported Ray does not notice it


def note_given(job: SlurmJob) -> None:
    """Note in the environment what the job was given, with which the record of its search says how to resume it."""
    os.environ.pop(OPTIONS, None)  # of the job that this one succeeds
    with suppress(SearchError):  # the controller is away: the search can run, and is resumed with the script's options
        shown = slurm("scontrol", "--oneliner", "show", "job", job.job)
        os.environ[OPTIONS] = shlex.join(_options(shown, without=_UNLIKE_GIVEN))


def own_address(job: SlurmJob) -> str:
    """Return the address of this node as its job's other nodes see it; loopback if there are none."""
    if not job.others:
        return "127.0.0.1"
    shown = slurm("scontrol", "--oneliner", "show", "node", job.others[0])
    found = re.search(r"\bNodeAddr=(\S+)", shown)
    return address_towards(found[1] if found else job.others[0])


def address_towards(host: str) -> str:
    """Return this machine's address on the network where it reaches ``host``; no packet is sent.

    Raises SearchError if the host is unknown.
    """
    try:
        family, kind, protocol, _, target = socket.getaddrinfo(host, _ANY_PORT, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.connect(target)
            return str(probe.getsockname()[0])
    except OSError as error:
        raise SearchError(f"The node {host} cannot be reached: {error.strerror or error}.") from error


def step_command(node: str, cpus: int, *program: str) -> list[str]:
    """Return the command that runs a program on a node with so many CPUs, beside all else that the job runs there."""
    where = ["--nodes=1", "--ntasks=1", "--ntasks-per-node=1", f"--nodelist={node}"]
    given = [f"--cpus-per-task={cpus}", "--mem=0", "--cpu-bind=none", "--export=ALL"]
    return ["srun", "--overlap", "--quiet", *where, *given, *program]


class NodeSteps:
    """The steps in which the other nodes of a job take part in its Ray.

    A step that ends is started again: its node may have lost its Ray only. The standard input of a step tells it that
    the search has ended, also when this process was killed.
    """

    def __init__(self, job: SlurmJob, say: Callable[[str], None]):
        self._job = job
        self._say = say
        self._ended = threading.Event()
        self._threads: list[threading.Thread] = []

    def join(self, address: str) -> None:
        """Let all nodes join the Ray at ``address``, and no longer another one."""
        self.end()
        self._ended = threading.Event()
        for node in self._job.others:
            self._threads.append(threading.Thread(target=self._keep, args=[node, address, self._ended], daemon=True))
            self._threads[-1].start()

    def end(self) -> None:
        """End all steps, and wait until they have."""
        self._ended.set()
        for thread in self._threads:
            thread.join()
        self._threads = []

    def _keep(self, node: str, address: str, ended: threading.Event) -> None:
        """Run the step of a node until the search ends."""
        command = step_command(node, self._job.cpus[node], sys.executable, "-m", _NODE_PROGRAM, address)
        tries = 0
        while not ended.is_set():
            began = time.monotonic()
            step = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            said = _LastLine(step)
            while step.poll() is None and not ended.wait(_POLL_SECONDS):
                pass
            if ended.is_set():
                end_step(step)
                return
            tries = 1 if time.monotonic() - began > _LONG_ENOUGH else tries + 1
            if tries >= _MOST_STARTS:
                self._say(f"Node {node} does not come back ({said}): the search goes on without it.")
                return
            self._say(f"Node {node} was lost ({said}); it is asked to join again.")
            ended.wait(2.0**tries)


class _LastLine:
    """The last line that a step has printed as an error."""

    def __init__(self, step: subprocess.Popen[bytes]):
        self._step, self._line = step, ""
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def __str__(self) -> str:
        self._thread.join(1.0)
        return self._line or f"exit code {self._step.returncode}"

    def _read(self) -> None:
        for line in self._step.stderr or ():
            self._line = line.decode(errors="replace").strip().rstrip(".") or self._line


def end_step(step: subprocess.Popen[bytes]) -> None:
    """Tell a step to end, and force it if it does not."""
    with suppress(OSError):
        if step.stdin:
            step.stdin.close()
    for number in (None, SIGTERM, SIGKILL):  # srun kills its step at the second
        if number is not None:
            step.send_signal(number)
        with suppress(subprocess.TimeoutExpired):
            step.wait(_END_SECONDS)
            return


@contextmanager
def noticed_cancel(job: SlurmJob, interrupt: Callable[[], None]) -> Iterator[None]:
    """Call ``interrupt`` if Slurm ends the job in the block: by ``scancel``, at its time limit, or for another job.

    Slurm sends SIGTERM to the steps of a job then, but not to its batch script, and half a minute later SIGKILL to
    all. So a step that does nothing but wait shows it by its end.
    """
    ended = threading.Event()

    def watch() -> None:
        while not ended.is_set():
            step = subprocess.Popen(
                step_command(job.node, 1, "sleep", "infinity"),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            while step.poll() is None and not ended.wait(_POLL_SECONDS):
                pass
            if ended.is_set():
                step.terminate()
                step.wait()
            elif step.returncode in (128 + SIGTERM, -SIGTERM):
                interrupt()
                return
            else:
                ended.wait(_END_SECONDS)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def requeue(job: SlurmJob, words: Sequence[str] = ()) -> str:
    """Put this job back in the queue, to go on with its search, and return a line about it.

    Where the site or ``--no-requeue`` forbids that, submit a successor with the same script, its arguments ``words``
    and what the job was given. All of it takes as long as one command of Slurm may take.

    Raises:
        ControllerAway: it is not known whether the job is in the queue again.
        SearchError: that is refused too.
    """
    end = time.monotonic() + _PATIENCE_SECONDS
    try:
        return _requeued(job, words, end)
    except ControllerAway as away:
        raise ControllerAway(
            f"{away} So job {job.job} may not go on with the search.\n"
            "If squeue does not show it when Slurm answers again, resume the study."
        ) from away


def _requeued(job: SlurmJob, words: Sequence[str], end: float) -> str:
    """Do what ``requeue`` does, by ``end``."""
    again = f"Job {job.job} is in the queue again, and goes on with the search."
    try:
        slurm("scontrol", "requeue", job.job, end=end)
    except ControllerAway:
        raise
    except SearchError as refused:
        shown = slurm("scontrol", "--oneliner", "show", "job", job.job, end=end)
        if _restarts(shown) > job.restarts:  # the answer to a first request was lost
            return again
        command = [
            "sbatch",
            "--parsable",
            f"--dependency=afterany:{job.job}",
            *_options(shown),
            _script(shown),
            *words,
        ]
        outside = {name: value for name, value in os.environ.items() if not name.startswith(_OF_THIS_JOB)}
        known = {"SLURM_CONF": os.environ["SLURM_CONF"]} if "SLURM_CONF" in os.environ else {}
        successor = slurm(*command, env={**outside, **known, _LABEL: job.label}, end=end).strip()
        return f"{refused} So job {successor} goes on with the search."
    return again


def _restarts(shown: str) -> int:
    """Return how often a job was requeued, from ``scontrol show job``; the job that runs may be one start behind."""
    found = re.search(r"\bRestarts=(\d+)", shown)
    return int(found[1]) if found else 0


def _options(shown: str, without: Sequence[str] = ()) -> Iterator[str]:
    """Yield the options of ``sbatch`` that a job was submitted with, from ``scontrol show job``."""
    fields = _fields(shown)
    unset = ["(null)", "N/A", *(["0"] if ",mem=" not in shown else [])]  # all memory, where Slurm counts none
    for option, name in _OPTIONS.items():
        value = fields.get(name, "(null)")
        if value not in unset and option not in without:
            yield f"--{option}={_KIND[option].sub('', value) if option in _KIND else value}"


def _script(shown: str) -> str:
    """Return the script of a job, from ``scontrol show job``."""
    return _fields(shown)["Command"]


def _fields(shown: str) -> dict[str, str]:
    return dict(re.findall(r"(?:^| )([A-Z][\w/]*)=(\S+)", shown))
