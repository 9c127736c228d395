"""A command whose reader goes away (`mgsrl ... | head`): no traceback, and a run is not ended."""

import io
import os
import subprocess
import sys

import pytest

from mgsrl.obs.console import Console

TRAIN = """
import sys
from mgsrl.obs.console import Console
with Console(True, 500) as console:
    with console.stage("starting"):
        pass
    for step in range(1, 501):
        console.step_line(step, {"reward/math": 0.5})
    print("done")
sys.stdout.flush()
print(f"step {step}", file=open(sys.argv[1], "w"))
"""


@pytest.mark.parametrize(
    ("arguments", "errors_too"),
    [
        (["train", "--print-config"], False),  # more than a buffer holds
        (["data", "prepare", "--list"], False),
        (["data", "prepare", "--list"], True),
        (["doctor"], False),  # a table of rich's
    ],
)
def test_a_reader_that_goes_away_sees_no_traceback(arguments, errors_too):
    reading, writing = os.pipe()
    os.close(reading)  # as if `head` had ended already
    command = [sys.executable, "-m", "mgsrl.cli", *arguments]
    errors = writing if errors_too else subprocess.PIPE
    done = subprocess.run(command, stdout=writing, stderr=errors, text=True, timeout=120)
    os.close(writing)
    assert done.returncode == 1
    assert errors_too or done.stderr == ""


@pytest.mark.parametrize("errors_too", [False, True])
def test_a_run_goes_on_without_its_reader(errors_too, tmp_path):
    reading, writing = os.pipe()
    command = [sys.executable, "-c", TRAIN, str(tmp_path / "end")]
    errors = writing if errors_too else subprocess.PIPE
    process = subprocess.Popen(command, stdout=writing, stderr=errors, text=True)
    os.close(writing)
    os.read(reading, 20)
    os.close(reading)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 0, told
    assert errors_too or told == ""
    assert (tmp_path / "end").read_text() == "step 500\n"


def test_a_run_goes_on_when_its_log_takes_no_more():
    with open("/dev/full", "w") as full:
        with Console(True, 3, file=full) as console, console.stage("starting"):
            console.step_line(1, {"reward/math": 0.5})
        with pytest.raises(OSError):
            full.flush()
        os.dup2(os.open(os.devnull, os.O_WRONLY), full.fileno())  # it closes without complaint


def test_a_broken_pipe_of_another_stream_is_an_error():
    """Only standard output may lose its reader; another file's error is told."""

    class Broken(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        Console(True, 3, file=Broken()).note("text")
