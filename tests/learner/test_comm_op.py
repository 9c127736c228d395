"""DeepSpeed's compiled op: one builder at a time, and what a killed one leaves behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mgsrl.errors import WaitTimeoutError
from mgsrl.learner.comm_op import BATON, LOCK, only_builder

BUILD = (
    "from mgsrl.learner.runtime import prepare_process; prepare_process(0, 1, 'cpu', 1); "
    "from mgsrl.learner.comm_op import load_comm_op; load_comm_op(200)"
)
HOLD = (
    "import sys, time, pathlib; from mgsrl.learner.comm_op import only_builder\n"
    "with only_builder(pathlib.Path(sys.argv[1]), 5): print('held', flush=True); time.sleep(100)"
)


def test_a_stale_file_is_removed(tmp_path: Path) -> None:
    (tmp_path / BATON).touch()
    with only_builder(tmp_path, 1.0):
        assert not (tmp_path / BATON).exists()


def test_a_file_in_use_is_waited_for(tmp_path: Path) -> None:
    with (
        (tmp_path / BATON).open("w"),
        pytest.raises(WaitTimeoutError, match="builds DeepSpeed"),
        only_builder(tmp_path, 0.3),
    ):
        pass
    assert (tmp_path / BATON).exists()


def test_builders_queue_and_a_killed_one_leaves_the_lock(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(WaitTimeoutError, match=LOCK), only_builder(tmp_path, 0.3):
            pass
        holder.kill()
        holder.wait(10)
        with only_builder(tmp_path, 1.0):
            pass


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the op is Linux-only")
def test_runs_after_a_killed_build_do_not_hang(tmp_path: Path) -> None:
    """The real build, killed midway; then two ranks at once."""
    env = {**os.environ, "TORCH_EXTENSIONS_DIR": str(tmp_path)}
    baton = tmp_path / "deepspeed_shm_comm" / BATON
    first = subprocess.Popen([sys.executable, "-c", BUILD], env=env, start_new_session=True)
    deadline = time.monotonic() + 60
    while not baton.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait(10)
    assert baton.exists()
    ranks = [subprocess.Popen([sys.executable, "-c", BUILD], env=env) for _ in range(2)]
    assert [rank.wait(200) for rank in ranks] == [0, 0]
    assert not baton.exists()
    assert (baton.parent / "deepspeed_shm_comm.so").exists()
