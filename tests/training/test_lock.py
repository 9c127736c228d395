"""One process per run folder, however the last one ended and whatever the file system can."""

import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from mgsrl.errors import ConfigError
from mgsrl.training.lock import LOCK, locked

HOLDER = """
import sys, time
from pathlib import Path
from mgsrl.training.lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_who_holds_it_is_said_and_a_killed_holder_leaves_it_free(tmp_path: Path) -> None:
    notes: list[str] = []
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, tmp_path], stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        where = f"{socket.gethostname()} process {holder.pid}"
        with pytest.raises(ConfigError, match=rf"is in use.(?s:.*)\({where}\)"), locked(tmp_path):
            pass
        holder.send_signal(signal.SIGKILL)
    assert (tmp_path / LOCK).read_text() == where
    with locked(tmp_path, notes.append):
        assert str(os.getpid()) in (tmp_path / LOCK).read_text()
    assert (tmp_path / LOCK).read_text() == ""
    assert notes == []


def test_another_machine_that_may_hold_it_is_named(tmp_path: Path) -> None:
    notes: list[str] = []
    (tmp_path / LOCK).write_text("node-7 process 4711")
    with locked(tmp_path, notes.append):
        pass
    (note,) = notes
    assert "did not end by itself (node-7 process 4711)" in note


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EIO])
def test_a_file_system_without_locks_is_told(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is none here: the answer of one stands in."""

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    notes: list[str] = []
    if number == errno.EIO:
        with pytest.raises(OSError, match="Input/output"), locked(tmp_path, notes.append):
            pass
        return
    with locked(tmp_path, notes.append):
        pass
    (note,) = notes
    assert "file system without locks" in note
