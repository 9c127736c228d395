"""The Slurm job's script, run as Slurm runs it: stopped at its time limit, requeued, gone on with.

Real are the script, its Ray of two nodes (both here) and `mgsrl train`; `srun` and `scontrol` are
stand-ins. `scripts/slurm_test.sh` is for a real Slurm.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.documented import ROOT
from tests.training import runs

SCRIPT = ROOT / "scripts/slurm/train.sbatch"
SRUN = """#!/usr/bin/env bash
# The task of the other node, in a session of its own that ends as a whole
while [[ $1 == --* ]]; do echo "$1" >>"$STANDINS/srun.log"; shift; done
SLURMD_NODENAME=n2 setsid "$@" &
trap 'kill -- -$!' TERM
wait $!
wait
"""
SCONTROL = '#!/usr/bin/env bash\necho "$*" >>"$STANDINS/scontrol.log"\n'
JOB = str(900000 + os.getpid())


@pytest.fixture
def slurm(tmp_path: Path) -> dict[str, str]:
    """The environment of a job's script: task 7 of an array, on two nodes without GPUs."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    path = f"{folder}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    return os.environ | {
        "PATH": path,
        "STANDINS": str(tmp_path),
        "SLURM_JOB_ID": JOB,
        "SLURM_ARRAY_TASK_ID": "7",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_JOB_NODELIST": "n[1-2]",
        "SLURMD_NODENAME": "n1",
        "SLURM_CPUS_ON_NODE": "2",
        "MGSRL_NODE_IP": "127.0.0.1",
    }


def _submit(folder: Path, slurm: dict[str, str], *arguments: str) -> subprocess.Popen[str]:
    log = (folder / "job.log").open("a")  # as --open-mode=append
    command = ["bash", str(SCRIPT), *runs.SMALL, *arguments]
    return subprocess.Popen(
        command, cwd=folder, env=slurm, stdout=log, stderr=subprocess.STDOUT, text=True
    )


def _left() -> list[psutil.Process]:
    """Processes of the job, found by the folder that only it has."""
    folder = f"/tmp/mgsrl-{JOB}"
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("RAY_TMPDIR") == folder:
                found.append(process)
        except psutil.Error:
            continue
    return found


def _nothing_is_left() -> None:
    """Ray's workers go by themselves a moment after the job, which has ended their raylet."""
    runs.wait_for(lambda: not _left(), "the job's processes to go", 20)
    assert not Path(f"/tmp/mgsrl-{JOB}").exists()


@pytest.mark.slow
@pytest.mark.ray_cluster
@pytest.mark.timeout(900)
def test_a_job_is_requeued_at_its_time_limit_and_goes_on(
    tmp_path: Path, slurm: dict[str, str]
) -> None:
    run, steps = tmp_path / "run-seed7", 12
    arguments = (f"run.dir={tmp_path / 'run'}", f"train.num_steps={steps}")
    job = _submit(tmp_path, slurm, *arguments)
    try:
        runs.wait_for(lambda: runs.steps_done(run) >= 1 or job.poll() is not None, "a step", 400)
        job.send_signal(signal.SIGUSR1)  # --signal=B:USR1@600
        code = job.wait(timeout=300)
        log = (tmp_path / "job.log").read_text()
        assert code == 1, log
        done = runs.steps_done(run)
        assert 1 <= done < steps
        assert (tmp_path / "scontrol.log").read_text() == f"requeue {JOB}\n"
        assert f"requeued, to go on from step_{done}\n" in log
        assert "--exclude=n1" in (tmp_path / "srun.log").read_text()
        _nothing_is_left()

        job = _submit(tmp_path, slurm | {"SLURM_RESTART_COUNT": "1"}, *arguments)
        code = job.wait(timeout=400)
        log = (tmp_path / "job.log").read_text()
        assert code == 0, log
        assert f"attempt 2] 2 nodes (n[1-2]), 0 GPUs ; {run}\n" in log
        assert [row["step"] for row in runs.metrics(run)] == list(range(1, steps + 1))
        record = json.loads((run / "run.json").read_text())
        assert [session["first_step"] for session in record["sessions"]] == [0, done]
        assert "seed: 7\n" in (run / "config.yaml").read_text()
        assert (tmp_path / "scontrol.log").read_text() == f"requeue {JOB}\n"
        _nothing_is_left()
    finally:
        for process in _left():
            process.kill()


def test_a_mistake_is_told_before_ray_starts(tmp_path: Path, slurm: dict[str, str]) -> None:
    job = _submit(tmp_path, slurm, "train.num_step=3")
    assert job.wait(timeout=60) == 2
    log = (tmp_path / "job.log").read_text()
    assert "train.num_step" in log
    assert "Traceback" not in log
    assert not (tmp_path / "scontrol.log").exists()
    assert not Path(f"/tmp/mgsrl-{JOB}").exists()
