"""`vae-tune check cluster/slurm.sh`, with commands that answer as Slurm's own did."""

from __future__ import annotations

import json
import time

import pytest

from vae_tune.cli.check import COMMAND, CheckOptions, run, split
from vae_tune.cli.check.node_tests import own_versions
from vae_tune.cli.check.slurm import no_answer
from vae_tune.cli.check.slurm_script import named_options, read_script, seconds
from vae_tune.config.errors import UsageError

SCRIPT = """#!/bin/bash
# a comment, and an empty line

#SBATCH --job-name=vae-tune   # a name
#SBATCH -p main
#SBATCH --signal=B:USR1@180
#SBATCH --time=1:00:00
set -e
#SBATCH --partition=ignored
exec vae-tune search --address slurm "$@"
"""
PARTITIONS = """\
PartitionName=main Default=YES MaxTime=UNLIMITED State=UP TotalNodes=2
PartitionName=short Default=NO MaxTime=00:30:00 State=UP TotalNodes=2
PartitionName=old Default=NO MaxTime=2-00:00:00 State=DOWN TotalNodes=1
"""
FAKE = """#!/bin/sh
echo "$@" >> {log}
{body}
"""


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "job.sh"
    path.write_text(SCRIPT)
    return path


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """Commands of Slurm that print what they are told to; by default, all is well."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.chdir(tmp_path)
    for name in ("SBATCH_PARTITION", "SBATCH_TIMELIMIT", "SBATCH_ACCOUNT", "SBATCH_QOS"):
        monkeypatch.delenv(name, raising=False)

    def command(name, body):
        path = tmp_path / "bin" / name
        path.write_text(FAKE.format(log=tmp_path / f"{name}.log", body=body))
        path.chmod(0o755)

    def answer(**changes):
        node = {"node": "n7", "versions": own_versions(), "storage": None, "temporary": None, "time": time.time()}
        text = json.dumps({**node, "images_per_second": 1e4, "device": "cpu", **changes})
        command("srun", f"echo Welcome to n7!\necho '{text}'")

    command.answer = answer
    command("scontrol", f"echo '{PARTITIONS}'")
    command("sinfo", "echo '3 8 64000 gpu:a100:2'; echo '2 4 8000 (null)'")
    command("sbatch", "echo sbatch: Job 5 to start at noon >&2")
    answer()
    return command


def check(capsys, script, *words, **options):
    """Return the exit code and what is printed."""
    own, others = split([str(script), *words])
    assert own == [str(script)]
    code = run(CheckOptions(file=script, others=" ".join(others), **options))
    return code, capsys.readouterr().out


def test_a_job_with_nothing_wrong_ends_with_0_and_shows_its_start_and_a_node(slurm, script, tmp_path, capsys):
    code, output = check(capsys, script, "--account=us", "-w", "n7", results_dir=str(tmp_path))
    assert code == 0
    assert "Slurm: the job could start at noon" in output
    assert f"{tmp_path} is shared with n7, which can write to it." in output
    assert "n7: Python 3." in output
    assert output.endswith("no errors, no warnings.\n")
    assert (tmp_path / "sbatch.log").read_text() == f"--test-only --account=us -w n7 {script}\n"
    asked = (tmp_path / "srun.log").read_text()
    assert "--partition=main --account=us --nodelist=n7 --nodes=1" in asked
    assert "--signal" not in asked
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "bin",
        "job.sh",
        "sbatch.log",
        "scontrol.log",
        "srun.log",
    ]


@pytest.mark.parametrize(
    ("words", "where", "said"),
    [
        (["--partition", "mian"], "--partition", "There is no partition mian. Did you mean main?"),
        (["-pxyz"], "--partition", "There is no partition xyz. There are: main, old, short."),
        (["-p", "short"], "{script}:7", "1:00:00 is longer than the partition short allows, 00:30:00"),
        (["-p", "short", "-t31"], "--time", "31 is longer than the partition short allows, 00:30:00"),
        (["--partition=old,short", "--time=3-0"], "--time", "3-0 is longer than the partition old allows, 2-00:00:00"),
        (["--time", "soon"], "--time", "'soon' is no time. Write for instance"),
        (["--time=3"], "--time", "The job has 180 seconds, and pauses 180 seconds before their end."),
    ],
)
def test_a_partition_or_a_time_that_cannot_be_is_an_error_at_its_option(slurm, script, words, where, said, capsys):
    code, output = check(capsys, script, *words)
    assert code == 1
    assert f"{where.format(script=script)}: error: {said}" in output
    assert "n7" not in output


@pytest.mark.parametrize(
    "words", [["-p", "short", "-t30"], ["-p", "old,main", "-t9-0"], ["--time=UNLIMITED"], ["-t 4"]]
)
def test_a_time_that_a_partition_allows_is_none(slurm, script, words, capsys):
    code, output = check(capsys, script, *words)
    assert code == 0, output


def test_a_partition_that_runs_no_jobs_is_a_warning(slurm, script, capsys):
    code, output = check(capsys, script, "-p", "old")
    assert code == 0
    assert "--partition: warning: The partition old is DOWN." in output


def test_without_a_default_partition_one_has_to_be_named_which_a_variable_may_do(slurm, script, monkeypatch, capsys):
    script.write_text(SCRIPT.replace("#SBATCH -p main\n", ""))
    slurm("scontrol", f"echo '{PARTITIONS.replace('Default=YES', 'Default=NO')}'")
    code, output = check(capsys, script)
    assert code == 1
    assert f"{script}:1: error: The job names no partition" in output
    monkeypatch.setenv("SBATCH_PARTITION", "main")
    code, output = check(capsys, script)
    assert code == 0, output


def test_what_else_sbatch_refuses_is_said_in_its_words(slurm, script, tmp_path, capsys):
    slurm("sbatch", "echo allocation failure: Requested node configuration is not available >&2; exit 1")
    code, output = check(capsys, script, "--nodes", "9")
    assert code == 1
    assert f"{script}: error: Slurm cannot run the job: Requested node configuration is not available. " in output
    has = "main has 3 nodes with 8 CPUs, 64000 MB, gpu:a100:2 each and 2 nodes with 4 CPUs, 8000 MB, no GPU each."
    assert f"It asks for --nodes=9; {has}\n" in output
    assert (tmp_path / "sinfo.log").read_text().split()[:3] == ["--noheader", "--exact", "--partition=main"]
    slurm("sbatch", "echo sbatch: error: Invalid account >&2; exit 1")
    assert "cannot run the job: Invalid account. Options after the script" in check(capsys, script)[1]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"storage": "it is another folder on this node"}, "n7: error: The results cannot be written: it is another"),
        ({"versions": {**own_versions(), "ray": "2.9.0"}}, "n7: error: ray is 2.9.0 there, but"),
        ({"temporary": "Ray needs a temporary folder"}, "n7: error: Ray needs a temporary folder"),
        ({"time": time.time() - 1e6}, "n7: error: The clock is off by -"),
    ],
)
def test_what_is_wrong_with_a_node_is_an_error_of_the_node(slurm, script, changes, said, capsys):
    slurm.answer(**changes)
    code, output = check(capsys, script)
    assert code == 1
    assert said in output


def test_a_folder_that_cannot_be_made_here_is_an_error_before_a_node_is_asked(slurm, script, tmp_path, capsys):
    code, output = check(capsys, script, results_dir=str(script / "x"))
    assert code == 1
    assert "this machine: error: " in output
    assert not (tmp_path / "srun.log").exists()


@pytest.mark.parametrize(
    ("errors", "level", "said"),
    [
        (
            "srun: error: Unable to allocate resources: Requested nodes are busy\n",
            "warning",
            "No node was free within",
        ),
        (
            "srun: job 6 queued and waiting for resources\nslurmstepd-n1: error: execve(): /x/python: No such file or "
            "directory\nsrun: error: n1: task 0: Exited with exit code 2\n",
            "error",
            "vae_tune is not installed there: execve(): /x/python: No such file or directory.",
        ),
        ("/usr/bin/python3: Error while finding module: No module named 'vae_tune'\n", "error", "not installed there"),
        (
            "Traceback (most recent call last):\n  File\nImportError: libcuda\nsrun: error: n1: task 0: Exited\n",
            "error",
            "The test failed: ImportError: libcuda.",
        ),
        (
            "srun: error: Unable to allocate resources: Invalid qos\n",
            "error",
            "Unable to allocate resources: Invalid qos",
        ),
        ("", "error", "it did not answer"),
    ],
)
def test_a_node_without_an_answer_is_told_with_the_reason(errors, level, said):
    problem = no_answer(errors)
    assert problem.level == level
    assert said in problem.what


def test_a_script_that_starts_ray_without_a_token_is_an_error_also_offline(script, capsys):
    script.write_text("#!/bin/bash\n# ray start here\nsrun ray start --head\n")
    code, output = check(capsys, script, offline=True)
    assert code == 1
    assert f"{script}:1: error: The script starts Ray without a token" in output
    script.write_text("#!/bin/bash\nexport RAY_AUTH_TOKEN=$(openssl rand -hex 32)\nray start --head\n")
    assert check(capsys, script, offline=True)[0] == 0


def test_where_slurm_is_not_installed_two_lines_say_where_to_check(slurm, script, tmp_path):
    (tmp_path / "bin/srun").unlink()
    with pytest.raises(UsageError, match=r"^srun is not installed here\.\nRun this on a login node .*--offline\.$"):
        run(CheckOptions(file=script))


def test_a_controller_that_does_not_answer_is_said(slurm, script):
    slurm("scontrol", "echo slurm_load_partitions: Unable to contact slurm controller >&2; exit 1")
    with pytest.raises(UsageError, match=r"^Slurm does not answer: .*Unable to contact"):
        run(CheckOptions(file=script))


def test_a_script_needs_neither_a_cluster_nor_its_token(script):
    for options in ({"address": "auto"}, {"make_token": True}):
        with pytest.raises(UsageError, match="is a script for Slurm"):
            run(CheckOptions(file=script, **options))


def test_options_of_sbatch_follow_the_script_and_those_of_check_are_found_among_them(script):
    words = ["--offline", str(script), "-p", "main", "--results_dir", "/shared", "--time=4", "--results-dir=x", "-h"]
    own, others = split(words)
    assert own == ["--offline", str(script), "--results_dir", "/shared", "--results-dir=x", "-h"]
    assert others == ["-p", "main", "--time=4"]
    assert split(["cluster.yaml", "--time", "4"]) == (["cluster.yaml", "--time", "4"], [])
    assert split([str(script), "--results-dir"])[0] == [str(script), "--results-dir"]
    assert COMMAND.split is split


def test_a_missing_script_and_options_of_sbatch_before_the_script_are_named(script, tmp_path):
    missing = tmp_path / "slrm.sh"
    assert split([str(missing), "--time", "4"]) == ([str(missing)], ["--time", "4"])
    with pytest.raises(UsageError, match=r"slrm\.sh cannot be read: No such file"):
        run(CheckOptions(file=missing))
    with pytest.raises(UsageError, match=r"^--time is no option of check\. .* follow the script: \S+job\.sh --time$"):
        split(["--results-dir", "x", "--time", "4", str(script)])


def test_what_is_typed_replaces_what_the_script_says(script):
    found = read_script(script, ["--partition", "short", "--exclusive", "--nodes=2"])
    assert found.options == {
        "job-name": "vae-tune",
        "partition": "short",
        "signal": "B:USR1@180",
        "time": "1:00:00",
        "exclusive": "",
        "nodes": "2",
    }
    assert found.lines == {"job-name": 4, "signal": 6, "time": 7}


def test_options_are_read_as_sbatch_reads_them():
    words = ["-N", "2", "-t5", "--requeue", "--mem=3G", "-p=main", "--gres", "gpu:2", "-H"]
    expected = {"nodes": "2", "time": "5", "requeue": "", "mem": "3G", "partition": "main", "gres": "gpu:2", "H": ""}
    assert dict(named_options(words)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("30", 1800),
        ("1:30", 90),
        ("4:00:00", 14_400),
        ("2-12", 216_000),
        ("1-00:30", 88_200),
        ("1-02:03:04", 93_784),
        ("UNLIMITED", float("inf")),
        ("infinite", float("inf")),
        ("soon", None),
        ("1:2:3:4", None),
        ("-5", None),
        ("", None),
    ],
)
def test_times_are_read_as_slurm_writes_them(text, expected):
    assert seconds(text) == expected


def test_a_script_that_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(UsageError, match="cannot be read"):
        read_script(tmp_path / "missing.sh", [])
    (tmp_path / "job.sh").write_bytes(b"#!/bin/bash\n\xff\xfe")
    with pytest.raises(UsageError, match="is no text"):
        read_script(tmp_path / "job.sh", [])
    (tmp_path / "job.sh").write_text("#!/bin/bash\n#SBATCH --comment='open\n")
    with pytest.raises(UsageError, match=r"job\.sh:2: No closing quotation"):
        read_script(tmp_path / "job.sh", [])
