"""Training on two nodes with networks of their own, one of which dies in the middle."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts/two_node_test.sh"
NOT_ALLOWED = 77


@pytest.mark.slow
@pytest.mark.ray_cluster
@pytest.mark.timeout(600)
def test_a_run_on_two_nodes_survives_one_of_them() -> None:
    command = [str(SCRIPT), "--short", "--python", sys.executable]
    script = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        output, _ = script.communicate(timeout=540)
    finally:
        if script.poll() is None:
            os.kill(script.pid, signal.SIGTERM)  # it removes what it made
            script.wait(timeout=60)
    if script.returncode == NOT_ALLOWED:
        pytest.skip(output.strip().splitlines()[-1])
    assert script.returncode == 0, output
    assert "node-b is dead" in output
    assert "the same to the bit" in output
    assert not list(Path("/var/run/netns").glob(f"mgsrl-{script.pid}-*"))
