"""`vae-tune check cluster/slurm.sh` on a real Slurm, and what a job there takes itself to have."""

import subprocess
import sys

import pytest

from tests.system.conftest import ROOT
from tests.system.slurm import SCRIPT, running_slurm

pytestmark = pytest.mark.system

PROGRAM = "import sys; from vae_tune.cli.main import main; sys.argv[0] = 'vae-tune'; main()"
LIMITS = "from vae_tune.config.machine_limits import *; print(usable_cpus(), available_memory())"


@pytest.fixture(scope="module")
def slurm():
    with running_slurm(cpus=2) as slurm:
        yield slurm


def check(slurm, *words, before=(), **how):
    """Start the command; one CPU a task, since the script asks for more than the nodes have."""
    command = [*before, sys.executable, "-c", PROGRAM, "check", SCRIPT, "--cpus-per-task=1", *words]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "env": slurm.environment, **how}
    return subprocess.Popen(list(map(str, command)), **options)


def test_a_job_is_checked_with_a_node_that_sees_the_results_folder_or_another_one(slurm, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    hidden = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs tmpfs "$0" && exec "$@"', elsewhere]
    running = {
        "seen": check(slurm, "--results-dir", tmp_path, cwd=tmp_path),
        "hidden": check(slurm, "--results-dir", elsewhere, before=hidden, cwd=tmp_path),
        "partition": check(slurm, "--partition=shrt", cwd=tmp_path),
        "time": check(slurm, "--partition=short", "--time=0:11:00", cwd=tmp_path),
        "nodes": check(slurm, "--nodes=3", cwd=tmp_path),
    }
    output = {name: process.communicate(timeout=120)[0] for name, process in running.items()}
    codes = {name: process.returncode for name, process in running.items()}
    assert codes == {"seen": 0, "hidden": 1, "partition": 1, "time": 1, "nodes": 1}, output
    assert "Slurm: the job could start at " in output["seen"]
    assert f"{tmp_path} is shared with " in output["seen"]
    assert output["seen"].endswith("no errors, no warnings.\n")
    assert "it is not shared: this node has another folder of that name" in output["hidden"]
    assert "There is no partition shrt. Did you mean short?" in output["partition"]
    assert "0:11:00 is longer than the partition short allows, 00:10:00" in output["time"]
    assert "Requested node configuration is not available" in output["nodes"]
    assert "It asks for --nodes=3 --cpus-per-task=1; main has 2 nodes with 2 CPUs" in output["nodes"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere"]
    assert list(elsewhere.iterdir()) == []


def test_slurm_accepts_a_job_that_may_never_start(slurm, tmp_path):
    """Why the check compares times itself; if this fails, `sbatch --test-only` would do."""
    slurm.run("sbatch", "--test-only", "--partition=short", "--time=0:11:00", "--cpus-per-task=1", SCRIPT)


def test_a_step_takes_itself_to_have_the_cpus_that_it_was_given(slurm):
    command = ["srun", "--nodes=1", "--ntasks=1", sys.executable, "-c", LIMITS]
    assert slurm.run(*command[:-3], "--cpus-per-task=1", *command[-3:], cwd=ROOT).split()[0] == "1"
