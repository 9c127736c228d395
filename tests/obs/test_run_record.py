import json

from mgsrl.obs import run_record
from mgsrl.obs.run_record import finish_run_record, read_run_record, write_run_record


def begin(tmp_path, first_step=0):
    return write_run_record(
        tmp_path,
        first_step=first_step,
        engines={"rollout": "vllm"},
        placement={"learner_ranks": 1},
        command=["mgsrl", "train"],
    )


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
    assert run_record.session_seconds(record) >= 0


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


def test_no_record_reads_as_empty(tmp_path):
    assert read_run_record(tmp_path) == {}


def test_git_state_names_the_commit_of_this_checkout():
    state = run_record.git_state()
    assert state == {} or len(state["commit"]) == 40
