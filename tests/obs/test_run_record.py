import contextlib
import json
import shutil
import subprocess

import pytest

from mgsrl.obs import run_record
from mgsrl.obs.run_record import (
    begin_run_record,
    finish_run_record,
    read_run_record,
    record_checkpoint,
    record_start,
    recorded_checkpoint,
    session_seconds,
    write_run_record,
)


def begin(tmp_path, first_step=0):
    begin_run_record(tmp_path, first_step=first_step, command=["mgsrl", "train"])
    assert read_run_record(tmp_path)["status"] == "starting"
    return write_run_record(tmp_path, engines={"rollout": "vllm"}, placement={"learner_ranks": 1})


def test_a_session_is_begun_and_ended(tmp_path):
    path = begin(tmp_path)
    record = json.loads(path.read_text())
    assert record["status"] == "running"
    assert record["versions"]["torch"]
    assert record["hardware"]["cores"] >= 1
    assert record["hardware"]["memory_gib"] > 0
    finish_run_record(tmp_path, status="finished", last_step=30)
    record = read_run_record(tmp_path)
    assert record["status"] == "finished"
    assert record["sessions"][0]["last_step"] == 30


def test_a_resume_adds_a_session_and_keeps_the_start(tmp_path):
    begin(tmp_path)
    started = read_run_record(tmp_path)["started"]
    begin(tmp_path, first_step=10)
    finish_run_record(tmp_path, status="failed", last_step=12, error="worker died")
    record = read_run_record(tmp_path)
    assert record["started"] == started
    assert [s["first_step"] for s in record["sessions"]] == [0, 10]
    assert "finished" not in record["sessions"][0]
    assert record["sessions"][1]["error"] == "worker died"


def test_users_code_is_written_down_and_a_change_is_told(tmp_path):
    old = {"mine.py:drop": {"file": "/lab/mine.py", "sha256": "1" * 64}}
    new = {name: facts | {"sha256": "2" * 64} for name, facts in old.items()}
    assert run_record.changed_plugins(tmp_path, old) == []
    begin_run_record(tmp_path, first_step=0, plugins=old)
    assert read_run_record(tmp_path)["plugins"] == old
    assert run_record.changed_plugins(tmp_path, old) == []
    assert run_record.changed_plugins(tmp_path, {"mine.py:keep": new["mine.py:drop"]}) == []
    elsewhere = {"/lab/mine.py:drop": new["mine.py:drop"]}
    assert len(run_record.changed_plugins(tmp_path, elsewhere)) == 1
    (line,) = run_record.changed_plugins(tmp_path, new)
    assert "\n" not in line
    assert all(part in line for part in ("mine.py:drop", "/lab/mine.py", "1" * 12, "2" * 12))


def test_a_session_that_never_started_ends_too(tmp_path):
    begin_run_record(tmp_path, first_step=0)
    finish_run_record(tmp_path, status="interrupted", last_step=0, error="stopped by SIGTERM")
    assert read_run_record(tmp_path)["status"] == "interrupted"


def test_the_seconds_of_the_start_belong_to_the_session(tmp_path):
    for first_step in (0, 4):
        begin_run_record(tmp_path, first_step=first_step)
        record_start(
            tmp_path, {"starting Ray": 2.345, "sending the first weights": 0.5 + first_step}
        )
    sessions = read_run_record(tmp_path)["sessions"]
    assert [session["start_up"]["sending the first weights"] for session in sessions] == [0.5, 4.5]
    assert sessions[0]["start_up"]["starting Ray"] == 2.3


def test_it_knows_whether_a_checkpoint_was_ever_written(tmp_path):
    assert recorded_checkpoint(tmp_path) is None
    begin(tmp_path)
    assert recorded_checkpoint(tmp_path) == 0
    record_checkpoint(tmp_path, 10)
    begin(tmp_path, first_step=10)
    assert recorded_checkpoint(tmp_path) == 10
    record = read_run_record(tmp_path)
    del record["sessions"][0]["last_checkpoint"]  # an older version wrote it
    (tmp_path / "run.json").write_text(json.dumps(record))
    assert recorded_checkpoint(tmp_path) is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"sessions": 3}', '{"sessions": [1]}', "\udcff"])
def test_a_damaged_record_is_kept_aside_and_stops_nobody(tmp_path, text):
    (tmp_path / "run.json").write_text(text, errors="surrogateescape")
    assert recorded_checkpoint(tmp_path) is None
    begin(tmp_path)
    finish_run_record(tmp_path, status="finished", last_step=3)
    assert read_run_record(tmp_path)["status"] == "finished"
    assert (tmp_path / "run.json.damaged").read_text(errors="surrogateescape") == text


def test_how_a_run_ended_is_written_on_a_full_disk(small_disk):
    begin(small_disk)
    with contextlib.suppress(OSError):
        (small_disk / "ballast").write_bytes(bytes(8 << 20))
    assert shutil.disk_usage(small_disk).free == 0
    finish_run_record(small_disk, status="failed", last_step=7, error="No space left " * 100)
    session = read_run_record(small_disk)["sessions"][-1]
    assert (session["status"], session["last_step"]) == ("failed", 7)
    assert session["error"].startswith("No space left")


def test_no_record_reads_as_empty(tmp_path):
    assert read_run_record(tmp_path) == {}


def test_git_state_names_the_commit_of_this_checkout(tmp_path, monkeypatch):
    def git(*arguments):
        settings = ("user.name=tester", "user.email=tester@localhost", "commit.gpgsign=false")
        options = [word for setting in settings for word in ("-c", setting)]
        command = ["git", "-C", str(tmp_path), *options, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    monkeypatch.setattr(run_record, "__file__", str(tmp_path / "mgsrl" / "obs" / "run_record.py"))
    assert run_record.git_state() == {}  # an installed package
    git("init")
    assert run_record.git_state() == {}  # nothing was committed
    (tmp_path / "code.py").write_text("a = 1")
    git("add", "code.py")
    git("commit", "--message", "one")
    commit = git("rev-parse", "HEAD")
    assert len(commit) == 40
    assert run_record.git_state() == {"commit": commit, "dirty": False}
    (tmp_path / "notes.txt").write_text("not part of the code")
    assert run_record.git_state() == {"commit": commit, "dirty": False}
    (tmp_path / "code.py").write_text("a = 2")
    assert run_record.git_state() == {"commit": commit, "dirty": True}


def test_the_seconds_of_finished_sessions_add_up():
    def session(begin, end=None):
        times = {"started": f"2026-01-05T10:{begin}+00:00"}
        return times if end is None else times | {"finished": f"2026-01-05T10:{end}+00:00"}

    sessions = [session("00:10", "01:40"), session("02:00"), session("03:00", "03:05")]
    assert session_seconds({"sessions": sessions}) == 95  # the second was killed
    assert session_seconds({}) == 0


def test_starting_up_counts(tmp_path):
    begin_run_record(tmp_path, first_step=0, seconds_ago=90.0)
    finish_run_record(tmp_path, status="finished", last_step=1)
    assert 89 <= session_seconds(read_run_record(tmp_path)) <= 92
