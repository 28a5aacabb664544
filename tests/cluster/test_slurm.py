"""What is read of a Slurm job, and the commands that it is given; tests/system/test_slurm.py has a real one."""

import os
import re
import threading

import pytest

from vae_tune.cluster import slurm
from vae_tune.cluster.slurm import address_towards, cpus_per_node, noticed_cancel, requeue, step_command, this_job
from vae_tune.config.errors import SearchError, UsageError
from vae_tune.record.metadata import this_run

JOB = {
    "SLURM_JOB_ID": "17",
    "SLURM_JOB_NODELIST": "n[1-3]",
    "SLURMD_NODENAME": "n1",
    "SLURM_JOB_CPUS_PER_NODE": "4(x2),8",
}


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Write a program of Slurm's name that is found first."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    def write(name, text):
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)

    return write


@pytest.mark.parametrize(
    ("text", "counts"), [("4", [4]), ("4(x2)", [4, 4]), ("4(x2),8", [4, 4, 8]), ("1,2(x1),3", [1, 2, 3])]
)
def test_the_cpus_of_each_node(text, counts):
    assert cpus_per_node(text) == counts


def test_a_job_knows_its_nodes_and_how_often_it_was_restarted(program):
    program("scontrol", '[ "$*" = "show hostnames n[1-3]" ] && printf "n1\\nn2\\nn3\\n"')
    job = this_job(JOB)
    assert (job.job, job.node, job.goes_on, job.label) == ("17", "n1", False, "17")
    assert job.cpus == {"n1": 4, "n2": 4, "n3": 8}
    assert job.others == ["n2", "n3"]
    task = {"SLURM_RESTART_COUNT": "2", "SLURM_ARRAY_JOB_ID": "15", "SLURM_ARRAY_TASK_ID": "3"}
    again = this_job(JOB | task)
    assert (again.goes_on, again.restarts, again.label) == (True, 2, "15_3")
    successor = this_job(JOB | {"VAE_TUNE_JOB": "15_3"})
    assert (successor.goes_on, successor.label) == (True, "15_3")


@pytest.mark.parametrize("missing", JOB)
def test_outside_of_a_job_the_way_into_one_is_named(missing):
    environ = {name: value for name, value in JOB.items() if name != missing}
    with pytest.raises(UsageError, match=rf"job of Slurm only \({missing} is not set\)\.\nSubmit one, sbatch"):
        this_job(environ)


def test_a_command_of_slurm_that_fails_is_named_with_its_reason(program):
    program("scontrol", "echo 'Requested operation is presently disabled' >&2; exit 1")
    with pytest.raises(SearchError, match=r"scontrol show failed: Requested operation is presently disabled"):
        slurm.slurm("scontrol", "show")


@pytest.mark.parametrize(
    "said",
    [
        "slurm_load_jobs error: Unable to contact slurm controller (connect failure)",
        "Unexpected message received for job 17",  # as `scontrol requeue` of Slurm 22.05 says it
    ],
)
def test_a_controller_that_is_away_is_asked_again_for_a_while(said, program, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(slurm, "_RETRY_SECONDS", 0.01)
    again = f"echo >> {tmp_path}/asked; [ $(wc -l < {tmp_path}/asked) = 3 ] && echo done && exit 0"
    program("scontrol", f"{again}; echo '{said}' >&2; exit 1")
    assert slurm.slurm("scontrol", "requeue", "17") == "done\n"
    assert capsys.readouterr().out == f"scontrol requeue failed: {said}. Trying again for up to 60 seconds ...\n"
    monkeypatch.setattr(slurm, "_PATIENCE_SECONDS", 0.1)
    with pytest.raises(slurm.ControllerAway, match=f"scontrol requeue failed: {re.escape(said)}"):
        slurm.slurm("scontrol", "requeue", "17")


def test_a_command_that_hangs_is_ended(program, monkeypatch):
    monkeypatch.setattr(slurm, "_PATIENCE_SECONDS", 0.1)
    monkeypatch.setattr(slurm, "_LEAST_SECONDS", 0.1)
    program("scontrol", "exec sleep 60")
    with pytest.raises(slurm.ControllerAway, match=r"scontrol requeue failed: no answer in 0 seconds"):
        slurm.slurm("scontrol", "requeue", "17")


def test_a_step_gets_all_of_a_node_and_the_environment():
    words = step_command("n2", 4, "program", "word")
    assert words[0] == "srun"
    assert words[-2:] == ["program", "word"]
    assert {"--overlap", "--nodelist=n2", "--cpus-per-task=4", "--mem=0", "--export=ALL"} <= set(words)


def test_the_address_towards_a_host_is_on_the_same_network():
    assert address_towards("127.0.0.1") == "127.0.0.1"
    with pytest.raises(SearchError, match=r"node nowhere\.invalid cannot be reached"):
        address_towards("nowhere.invalid")


def test_the_token_is_the_jobs_own_and_goes_by_the_environment(monkeypatch):
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.setenv(name, "another")
    slurm.use_own_token()
    first = os.environ["RAY_AUTH_TOKEN"]
    slurm.use_own_token()
    assert len(first) == 64
    assert os.environ["RAY_AUTH_TOKEN"] != first
    assert not {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH"} & set(os.environ)


def job_on(*nodes):
    return slurm.SlurmJob("17", nodes[0], dict.fromkeys(nodes, 1), False, "15")


def test_the_end_of_the_step_that_waits_tells_of_a_cancel(program):
    noticed = threading.Event()
    program("srun", "kill -TERM $$")
    with noticed_cancel(job_on("n1"), noticed.set):
        assert noticed.wait(10)


def test_no_cancel_is_told_of_a_step_that_was_killed_or_that_the_search_ends(program, tmp_path):
    noticed, started = threading.Event(), tmp_path / "started"
    program("srun", f"echo >> {started}; kill -KILL $$")
    with noticed_cancel(job_on("n1"), noticed.set):
        while not started.exists():
            pass
    program("srun", "exec sleep 60")
    with noticed_cancel(job_on("n1"), noticed.set):
        pass
    assert not noticed.is_set()


def test_a_job_is_put_back_in_the_queue_by_its_id(program):
    program("scontrol", '[ "$*" = "requeue 17" ]')
    assert requeue(job_on("n1")) == "Job 17 is in the queue again, and goes on with the search."


SHOWN = (
    "JobId=17 JobName=vae-tune UserId=a(1) Account=(null) QOS=N/A TimeLimit=01:00:00 Partition=main NumNodes=2 "
    "NumCPUs=8 NumTasks=2 CPUs/Task=4 ReqTRES=cpu=8,node=2 MinCPUsNode=4 MinMemoryNode=2G TresPerNode=gres:gpu:2 "
    "Command=/home/a/slurm.sh --num-samples 5 WorkDir=/home/a StdErr=/home/a/17.log StdOut=/home/a/17.log"
)


def test_a_job_that_may_not_be_requeued_is_submitted_again_as_it_was(program, tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "2048")
    monkeypatch.setenv("SLURM_CONF", "/etc/slurm.conf")
    program("scontrol", f'[ "$1" = requeue ] && echo "slurm_requeue error: disabled." >&2 && exit 1; echo "{SHOWN}"')
    program("sbatch", f'for word in "$@"; do echo "$word"; done > {tmp_path}/words; env > {tmp_path}/env; echo 18')
    said = requeue(job_on("n1"), ["--num-samples", "5", "a b"])
    assert said == "scontrol requeue failed: slurm_requeue error: disabled. So job 18 goes on with the search."
    given = (tmp_path / "words").read_text().splitlines()
    assert given[:2] == ["--parsable", "--dependency=afterany:17"]
    assert given[-4:] == ["/home/a/slurm.sh", "--num-samples", "5", "a b"]
    expected = {"nodes=2", "cpus-per-task=4", "mem=2G", "gres=gpu:2", "time=01:00:00", "partition=main"}
    expected |= {"job-name=vae-tune", "chdir=/home/a", "output=/home/a/17.log"}
    assert set(given[2:-4]) == {f"--{option}" for option in expected}
    variables = (tmp_path / "env").read_text().splitlines()
    assert {"VAE_TUNE_JOB=15", "SLURM_CONF=/etc/slurm.conf"} <= set(variables)
    assert not [line for line in variables if "secret" in line or "SLURM_MEM" in line]


def test_what_a_job_was_given_is_noted_for_its_record_if_slurm_answers(program, monkeypatch):
    for name, value in {**JOB, "VAE_TUNE_SBATCH": "--time=5"}.items():
        monkeypatch.setenv(name, value)
    program("scontrol", f'[ "$*" = "--oneliner show job 17" ] && echo "{SHOWN}"')
    slurm.note_given(job_on("n1"))
    given = ["--partition=main", "--nodes=2", "--cpus-per-task=4", "--mem=2G", "--gres=gpu:2", "--time=01:00:00"]
    assert this_run()["sbatch"] == given
    program("scontrol", f'echo "{SHOWN.replace("MinMemoryNode=2G", "MinMemoryNode=0")}"')  # no memory is counted
    slurm.note_given(job_on("n1"))
    assert this_run()["sbatch"] == [option for option in given if option != "--mem=2G"]
    program("scontrol", "exit 1")
    slurm.note_given(job_on("n1"))
    assert "sbatch" not in this_run()


@pytest.mark.parametrize(
    ("shown", "option"),
    [
        ("TresPerNode=gres/gpu:2", "--gres=gpu:2"),  # as Slurm 23.02 writes it
        ("TresPerNode=gres:gpu:a100:2,gres:shard:4", "--gres=gpu:a100:2,shard:4"),
        ("TresPerJob=gres:gpu:8", "--gpus=8"),
        ("TresPerJob=gres/gpu:a100:8", "--gpus=a100:8"),
        ("ReqTRES=cpu=1,mem=4G,node=1 MinMemoryNode=0", "--mem=0"),
        ("Features=a100&ib", "--constraint=a100&ib"),
        ("Reservation=course", "--reservation=course"),
    ],
)
def test_a_job_that_is_submitted_again_keeps_its_gpus_and_its_kind_of_node(shown, option, program, tmp_path):
    program("scontrol", f'[ "$1" = requeue ] && echo no >&2 && exit 1; echo "JobId=17 {shown} Command=slurm.sh"')
    program("sbatch", f'for word in "$@"; do echo "$word"; done > {tmp_path}/words; echo 18')
    requeue(job_on("n1"))
    assert (tmp_path / "words").read_text().splitlines()[2:] == [option, "slurm.sh"]


AWAY = "echo 'Unable to contact slurm controller (connect failure)' >&2; exit 1"


@pytest.fixture
def never_submitted(program, tmp_path, monkeypatch):
    """Let no time pass between requests; no test that asks for it may submit a job."""
    monkeypatch.setattr(slurm, "_RETRY_SECONDS", 0.01)
    program("sbatch", f"touch {tmp_path}/submitted; echo 18")
    yield
    assert not (tmp_path / "submitted").exists()


def test_no_successor_is_submitted_while_the_controller_is_away(program, never_submitted, monkeypatch):
    monkeypatch.setattr(slurm, "_PATIENCE_SECONDS", 0.1)
    program("scontrol", f'[ "$1" = requeue ] && {AWAY}; echo "{SHOWN}"')
    with pytest.raises(SearchError, match=r"failure\)\. So job 17 may not go on.*\nIf squeue does not show it"):
        requeue(job_on("n1"))


def test_no_successor_is_submitted_beside_a_job_whose_requeue_got_no_answer(program, never_submitted, tmp_path):
    """As Slurm 22.05 refuses the second request: with an error, although the job is in the queue."""
    first = f"[ ! -e {tmp_path}/asked ] && touch {tmp_path}/asked && echo 'Unexpected message received for job 17' >&2"
    refused = f"{first} && exit 1; echo 'Job is pending execution for job 17' >&2; exit 1"
    program("scontrol", f'[ "$1" = requeue ] && {{ {refused}; }}; echo "{SHOWN} JobState=COMPLETING Restarts=1"')
    assert requeue(job_on("n1")) == "Job 17 is in the queue again, and goes on with the search."


def test_all_commands_of_a_requeue_share_one_deadline(monkeypatch):
    asked = {}

    def answer(*words, end, env=None):
        asked[words[:2]] = end
        if words[1] == "requeue":
            raise SearchError("no")
        return SHOWN

    monkeypatch.setattr(slurm, "slurm", answer)
    requeue(job_on("n1"))
    assert list(asked) == [("scontrol", "requeue"), ("scontrol", "--oneliner"), ("sbatch", "--parsable")]
    assert len(set(asked.values())) == 1


def test_nodes_that_are_alone_are_reached_on_loopback_only():
    assert slurm.own_address(job_on("n1")) == "127.0.0.1"


def test_the_address_of_a_node_is_where_slurm_reaches_it(program):
    program("scontrol", '[ "$*" = "--oneliner show node n2" ] && echo "NodeName=n2 NodeAddr=127.0.0.1 NodeHostName=x"')
    assert slurm.own_address(job_on("n1", "n2")) == "127.0.0.1"
