"""A process that ends without a word is spoken for; one that ends as it should is not."""

import subprocess
import sys

import pytest

from tests.system.conftest import wait_for

KILL_CHILDREN = "[os.kill(int(pid), 9) for pid in open(f'/proc/self/task/{os.getpid()}/children').read().split()]"
ENDINGS = {
    f"{KILL_CHILDREN}; os._exit(1)": (1, "\nResume it.\n"),  # as Ray's core does it
    "os._exit(1)": (1, "\nResume it.\n"),
    "os.kill(os.getpid(), 9)": (-9, "\nResume it.\n"),
    "pass": (0, ""),
    "sys.exit(3)": (3, ""),
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_only_a_process_that_ends_in_the_block_is_spoken_for(ending):
    notice = "from vae_tune.search.crash_notice import crash_notice"
    code = f"import os, sys\n{notice}\nwith crash_notice('Resume it.'):\n    {ending}\n"
    done = subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == ENDINGS[ending]


def test_commands_run_after_the_message_one_after_another(tmp_path):
    notice = "from vae_tune.search.crash_notice import crash_notice"
    code = (
        f"import os\n{notice}\nwith crash_notice('Resume it.', ['false'], [], ['touch', {str(tmp_path / 'a b')!r}]):"
    )
    subprocess.run([sys.executable, "-c", f"{code}\n    os._exit(1)\n"], stderr=subprocess.PIPE, check=False)
    wait_for((tmp_path / "a b").exists)
    assert [path.name for path in tmp_path.iterdir()] == ["a b"]


def test_the_output_ends_with_the_message_and_not_with_the_commands(tmp_path):
    notice = "from vae_tune.search.crash_notice import crash_notice"
    waiting = f"until [ -e {tmp_path}/asked ]; do sleep 0.05; done; touch {tmp_path}/done"
    code = f"import os\n{notice}\nwith crash_notice('Resume it.', ['sh', '-c', {waiting!r}]):\n    os._exit(1)\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.stderr == "\nResume it.\n"
    assert not (tmp_path / "done").exists()
    (tmp_path / "asked").touch()
    wait_for((tmp_path / "done").exists)
