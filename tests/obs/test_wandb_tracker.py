"""wandb for real, offline; what it wrote is read back by its own reader (`wandb leet inspect`)."""

import json
import math
import os
import subprocess
import sys
import time

import pytest
from PIL import Image

from mgsrl.config.training import TrackersConfig
from mgsrl.obs.completions import COLUMNS
from mgsrl.obs.console import Console
from mgsrl.obs.tracker import Guest, TrackedRun, Trackers
from mgsrl.obs.trackers import make_trackers
from mgsrl.obs.wandb_tracker import WandbTracker, stored_id, wandb_mode


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")


def tracker_in(folder, notes, next_step=1, last_step=0, **keys):
    run = TrackedRun(folder, "n", {"seed": 1}, next_step, notes.append, last_step)
    config = TrackersConfig(wandb_project="p", **keys)
    guest = Guest("wandb", lambda: WandbTracker(run, config, "offline"), notes.append)
    return Trackers(guests=[guest])


def records(file, limit_s=20.0):
    """The records of a .wandb file, by kind."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)]
    deadline = time.monotonic() + limit_s  # wandb's service writes on for a moment
    while True:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        found = {}
        for line in done.stdout.splitlines():
            record = json.loads(line)
            found.setdefault(record["type"], []).append(record[record["type"]])
        if "exit" in found:
            return found
        assert time.monotonic() < deadline, found
        time.sleep(0.2)


def parts(folder):
    return sorted(folder.glob("wandb/offline-run-*/run-*.wandb"))


def rows(found, *, of):
    """(step, values of the metrics whose names hold `of`) of every row."""
    history = [record["item"] for record in found["history"]]
    return [(row["_step"], {k: v for k, v in row.items() if of in k}) for row in history]


def picture(folder, width=30):
    path = folder / "heat_map.png"
    Image.new("RGB", (width, 20), "red").save(path)
    return path


def test_a_resumed_run_is_the_same_run_and_is_resumed_when_it_is_uploaded(tmp_path, capfd):
    notes = []
    for step in (1, 2):  # the second tracker is a resumed run
        tracker = tracker_in(tmp_path, notes, next_step=step)
        tracker.log(step, {"reward/math": step / 2, "kl/math": math.nan})
        tracker.close()
    assert notes == []
    assert capfd.readouterr() == ("", "")
    both = [records(file) for file in parts(tmp_path)]
    assert len(both) == 2
    for found in both:
        (run,) = found["run"]
        assert (run["run_id"], run["project"]) == (stored_id(tmp_path), "p")
        assert run["resume"] is True  # else an upload of the second would replace the first
    assert [rows(found, of="reward") for found in both] == [
        [(1, {"reward/math": 0.5})],
        [(2, {"reward/math": 1})],
    ]


def test_steps_that_are_done_again_replace_what_was_logged_of_them(tmp_path):
    """wandb ignores rows of earlier steps: its run is told to rewind, offline in what is uploaded
    later."""
    known, notes = stored_id(tmp_path), []
    tracker = tracker_in(tmp_path, notes, next_step=3, last_step=4)
    tracker.evaluation(2, {"evaluate/reward/math": 0.25})  # of the checkpoint's step: a closed row
    for step in (3, 4):
        tracker.log(step, {"reward/math": step / 2})
    tracker.close()
    assert notes == []
    (file,) = parts(tmp_path)
    found = records(file)
    (run,) = found["run"]
    assert (run["run_id"], "resume" in run) == (known, False)
    assert run["branch_point"] == {"run": known, "metric": "_step", "value": 2}
    assert rows(found, of="reward") == [
        (3, {"evaluate/reward/math": 0.25, "reward/math": 1.5}),
        (4, {"reward/math": 2}),
    ]


@pytest.mark.parametrize(
    ("next_step", "last_step", "ids", "moment"),
    [
        (1, 0, 1, None),
        (3, 2, 1, None),  # nothing is done again
        (3, 4, 2, "?_step=2"),
        (1, 4, 2, None),  # it begins again
    ],
)
def test_which_run_of_wandb_it_is(tmp_path, monkeypatch, next_step, last_step, ids, moment):
    """There is no server here: the answer of one that cannot rewind stands in, in wandb's words."""
    known, notes, started = stored_id(tmp_path), [], []

    def start(mode, arguments, limit_s):
        started.append((arguments["id"], arguments.get("resume_from")))
        refused = "resume_from" in arguments
        return ("CommError: failed to rewind run: 404", None) if refused else (None, "a run")

    monkeypatch.setattr("mgsrl.obs.wandb_tracker._start", start)
    run = TrackedRun(tmp_path, "n", {}, next_step, notes.append, last_step)
    WandbTracker(run, TrackersConfig(), "online")
    new = stored_id(tmp_path)
    assert len({known, new}) == ids
    if moment is None:
        assert (started, notes) == ([(new, None)], [])
    else:
        assert started == [(known, known + moment), (new, None)]
        assert notes == [
            f"wandb: CommError: failed to rewind run: 404; the run goes on as {new} from step 3"
        ]


def test_what_the_run_is_called_and_what_the_machine_did(tmp_path):
    notes = []
    keys = {"wandb_entity": "lab", "wandb_group": "seeds", "wandb_tags": ["mgs", "7b"]}
    for wait_s in (0, 5, 20, 60):  # wandb measures in its own time
        folder = tmp_path / str(wait_s)
        folder.mkdir()
        tracker = tracker_in(folder, notes, wandb_notes="first try", wandb_job_type="train", **keys)
        tracker.log(1, {"reward/math": 0.5})
        time.sleep(wait_s)
        tracker.close()
        (file,) = parts(folder)
        found = records(file)
        if "stats" in found:
            break
    assert notes == []
    (run,) = found["run"]
    assert run["entity"] == "lab"
    assert run["run_group"] == "seeds"
    assert run["tags"] == ["mgs", "7b"]
    assert run["notes"] == "first try"
    assert run["display_name"] == "n"
    assert run["job_type"] == "train"
    assert run["config"]["update"]["seed"] == 1
    measured = {key for record in found["stats"] for key in record["item"]}
    assert {"memory_percent", "proc.memory.rssMB"} <= measured


def test_a_table_of_responses(tmp_path):
    notes = []
    tracker = tracker_in(tmp_path, notes)
    row = dict(zip(COLUMNS, (1, "math", "1 + 1?", "2\x1b[1m\u202e", 1.0, 0.5, 4, "stop")))
    given = [[row, {**row, "reward": None}], [{**row, "reward": None}]]
    for step, shown in enumerate(given, start=1):
        tracker.log(step, {"reward/math": 0.5})
        tracker.completions(step, shown)
    tracker.close()
    assert notes == []
    (file,) = parts(tmp_path)
    history = [record["item"] for record in records(file)["history"]]
    assert [(row["_step"], row["completions.nrows"], row["reward/math"]) for row in history] == [
        (1, 2, 0.5),
        (2, 1, 0.5),
    ]
    for row, shown in zip(history, given, strict=True):
        table = json.loads((file.parent / "files" / row["completions.path"]).read_text())
        assert table["columns"] == list(COLUMNS)
        assert [dict(zip(COLUMNS, values)) for values in table["data"]] == shown


def test_the_picture_of_every_step_is_kept(tmp_path):
    notes = []
    tracker = tracker_in(tmp_path, notes)
    for step in (1, 2):
        tracker.log(step, {"reward/math": 0.5})
        # the same file, drawn anew
        tracker.image(step, "surgery/heat_map", picture(tmp_path, width=30 * step))
    tracker.close()
    assert notes == []
    stored = tmp_path.glob("wandb/offline-run-*/files/media/images/surgery/heat_map_*.png")
    sizes = {path.name.split("_")[2]: Image.open(path).size for path in stored}
    assert sizes == {"1": (30, 20), "2": (60, 20)}


def test_held_out_scores_are_in_the_row_of_their_step(tmp_path):
    notes = []
    tracker = tracker_in(tmp_path, notes)
    tracker.evaluation(0, {"evaluate/reward/math": 0.25})
    tracker.log(1, {"reward/math": 0.5})
    tracker.evaluation(1, {"evaluate/reward/math": 0.75})
    tracker.log(2, {"reward/math": 0.5})
    tracker.close()
    assert notes == []
    (file,) = parts(tmp_path)
    assert rows(records(file), of="math") == [
        (0, {"evaluate/reward/math": 0.25}),
        (1, {"reward/math": 0.5, "evaluate/reward/math": 0.75}),
        (2, {"reward/math": 0.5}),
    ]


def test_a_picture_that_cannot_be_read_ends_wandb_and_nothing_else(tmp_path):
    notes = []
    tracker = tracker_in(tmp_path, notes)
    tracker.image(3, "surgery/heat_map", tmp_path / "missing.png")
    tracker.log(4, {"reward/math": 0.5})
    tracker.close()
    assert len(notes) == 1
    assert notes[0].startswith("wandb: stopped at step 3 (")


@pytest.mark.parametrize(
    ("configured", "environment", "mode"),
    [
        ("online", "offline", "offline"),
        ("online", "disabled", "disabled"),
        ("offline", "disabled", "disabled"),
        ("offline", "online", "offline"),
        ("disabled", "online", "disabled"),
        ("online", "", "online"),
        ("online", "dryrun", "online"),
    ],
)
def test_the_environment_can_only_make_it_quieter(configured, environment, mode, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", environment)
    assert wandb_mode(configured) == mode


def test_the_environment_switches_it_off(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    trackers = make_trackers(TrackersConfig(), TrackedRun(tmp_path), Console(False, 1))
    trackers.close()
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


UNREACHABLE = """
import sys, pathlib
from mgsrl.config.training import TrackersConfig
from mgsrl.obs.tracker import Guest, TrackedRun, Trackers
from mgsrl.obs.wandb_tracker import WandbTracker
note = lambda text: print("NOTE", text)
run = TrackedRun(pathlib.Path(sys.argv[1]), note=note)
make = lambda: WandbTracker(run, TrackersConfig(), "online", init_limit_s=2.0)
t = Trackers(guests=[Guest("wandb", make, note)])
t.log(1, {"reward/math": 0.5})
t.close()
print("done")
"""


@pytest.mark.parametrize("key", ["", "a" * 40])
def test_without_a_server_or_key_it_goes_offline_with_one_message(tmp_path, key):
    env = {k: v for k, v in os.environ.items() if not k.startswith("WANDB")}
    env |= {"WANDB_BASE_URL": "http://127.0.0.1:9", "NETRC": str(tmp_path / "none")}
    env |= {"WANDB_API_KEY": key} if key else {}
    begin = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", UNREACHABLE, str(tmp_path)],
        env=env,
        capture_output=True,
        text=True,
        timeout=90,
        check=True,
    )
    out = done.stdout.splitlines()
    assert len(out) == 2, done.stdout
    assert out[0].startswith("NOTE wandb: going on offline (")
    assert out[1] == "done"
    assert "Traceback" not in done.stderr
    assert list((tmp_path / "wandb").glob("offline-run-*"))
    assert time.monotonic() - begin < 60
