"""Ray's own processes die under a real session: the process says so, records it and leaves."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from mgsrl.cluster.watch import LOOK_S, NOTICE_S

PROGRAM = """
import sys, time
from pathlib import Path
import mgsrl
from mgsrl.cluster import watch
from mgsrl.cluster.session import ray_session
from mgsrl.config import ClusterConfig
watch.STOPPED_LOOKS = 3
with ray_session(ClusterConfig(object_store_gib=0.2), Path(sys.argv[1]).write_text):
    print("up", flush=True)
    time.sleep(float(sys.argv[2]))
"""


def _start(record: Path, seconds: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROGRAM, str(record), str(seconds)]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdout=pipe, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    while "up" not in (line := process.stdout.readline()):
        assert line, "it never came up"
    return process


@pytest.mark.ray_cluster
@pytest.mark.parametrize(
    ("name", "end"), [("raylet", signal.SIGSTOP), ("gcs_server", signal.SIGKILL)]
)
def test_a_death_is_told_and_recorded_and_nothing_stays(
    name: str, end: signal.Signals, tmp_path: Path
) -> None:
    process = _start(tmp_path / "record", 100)
    family = psutil.Process(process.pid).children(recursive=True)
    (victim,) = [child for child in family if child.name() == name]
    victim.send_signal(end)
    begin = time.monotonic()
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert time.monotonic() - begin < 4 * LOOK_S + NOTICE_S + 5, "on a busy machine"
    assert f"mgsrl: Ray's {name} died" in output
    assert f"Ray's {name} died" in (tmp_path / "record").read_text()
    _, alive = psutil.wait_procs(family, timeout=30)
    assert not alive


@pytest.mark.ray_cluster
def test_an_orderly_end_is_no_death(tmp_path: Path) -> None:
    process = _start(tmp_path / "record", 2 * LOOK_S)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    assert not (tmp_path / "record").exists()
