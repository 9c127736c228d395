import io
import json
import math
import sys
import time

import pytest
from PIL import Image

from mgsrl.config.training import CompletionsConfig, TrackersConfig
from mgsrl.errors import ConfigError
from mgsrl.obs.completions import COLUMNS
from mgsrl.obs.console import Console
from mgsrl.obs.tracker import Bounded, Guest, TrackedRun, Tracker, Trackers
from mgsrl.obs.trackers import JsonlTracker, TensorBoardTracker, check_trackers, make_trackers

ROWS = [dict(zip(COLUMNS, (1, "math", "1 + 1?", "# 2\n[b]", 1.0, 0.5, 4, "stop"), strict=True))]


def lines(tmp_path):
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        del row["timestamp"]
    return rows


def test_jsonl_has_one_object_a_step_and_null_for_what_is_not_finite(tmp_path):
    tracker = JsonlTracker(tmp_path)
    tracker.log(1, {"reward/math": 0.5, "kl/math": math.nan, "loss/math": math.inf})
    assert lines(tmp_path) == [
        {"step": 1, "reward/math": 0.5, "kl/math": None, "loss/math": None}
    ]  # readable before it is closed: flushed
    tracker.close()


def test_jsonl_says_when(tmp_path):
    begin = time.time()
    tracker = JsonlTracker(tmp_path)
    tracker.log(1, {})
    tracker.close()
    row = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert begin - 0.001 <= row["timestamp"] <= time.time() + 0.001


def test_jsonl_drops_the_steps_that_are_run_again(tmp_path):
    tracker = JsonlTracker(tmp_path)
    for step in range(1, 6):
        tracker.log(step, {"reward/math": step / 10})
    tracker.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "rew')  # killed in the middle of a line
    resumed = JsonlTracker(tmp_path, next_step=4)
    resumed.log(4, {"reward/math": 0.99})
    resumed.close()
    assert [(r["step"], r["reward/math"]) for r in lines(tmp_path)] == [
        (1, 0.1),
        (2, 0.2),
        (3, 0.3),
        (4, 0.99),
    ]


def events_of(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(folder / "tensorboard")).Reload()


def test_tensorboard_writes_what_it_is_given(tmp_path):
    pytest.importorskip("tensorboard")
    tracker = TensorBoardTracker(TrackedRun(tmp_path))
    tracker.log(1, {"reward/math": 0.25})
    tracker.close()
    assert events_of(tmp_path).Scalars("reward/math")[0].value == 0.25


def test_tensorboard_shows_pictures(tmp_path):
    pytest.importorskip("tensorboard")
    path = tmp_path / "heat_map.png"
    Image.new("RGB", (30, 20), "red").save(path)
    tracker = TensorBoardTracker(TrackedRun(tmp_path))
    tracker.image(2, "surgery/heat_map", path)
    tracker.close()
    (shown,) = events_of(tmp_path).Images("surgery/heat_map")
    assert (shown.step, shown.width, shown.height) == (2, 30, 20)
    assert Image.open(io.BytesIO(shown.encoded_image_string)).getpixel((5, 5)) == (255, 0, 0)


def test_tensorboard_shows_responses_by_domain(tmp_path):
    pytest.importorskip("tensorboard")
    tracker = TensorBoardTracker(TrackedRun(tmp_path))
    tracker.completions(11, [*ROWS, {**ROWS[0], "domain": "chat", "response": "hello"}])
    tracker.close()
    shown = {
        domain: events_of(tmp_path).Tensors(f"completions/{domain}/text_summary")[0]
        for domain in ("math", "chat")
    }
    assert {event.step for event in shown.values()} == {11}
    texts = {d: event.tensor_proto.string_val[0].decode() for d, event in shown.items()}
    assert "    # 2\n    [b]" in texts["math"]
    assert "hello" not in texts["math"]
    assert "    hello" in texts["chat"]


def test_missing_tensorboard_is_said_before_anything_starts(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    check_trackers(TrackersConfig())
    with pytest.raises(ConfigError, match=r"mgsrl\[tensorboard\]"):
        check_trackers(TrackersConfig(tensorboard=True))


def test_make_trackers_follows_the_configuration(tmp_path):
    file = io.StringIO()
    config = TrackersConfig(wandb="disabled", tensorboard=False)
    trackers = make_trackers(config, TrackedRun(tmp_path), Console(True, 2, file=file))
    trackers.evaluation(0, {"evaluate/reward/math": 0.4})
    trackers.log(1, {"reward/math": 0.5})
    trackers.completions(1, ROWS)
    trackers.evaluation(1, {"evaluate/reward/math": 0.6})
    trackers.image(1, "surgery/heat_map", tmp_path / "nobody looks at it.png")
    trackers.close()
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.jsonl"]
    assert "step 1/2" in file.getvalue()
    assert len(file.getvalue().splitlines()) == 1
    assert lines(tmp_path) == [{"step": 1, "reward/math": 0.5}]


OWN = """
import sys
from mgsrl.obs.tracker import TrackedRun, Tracker

class Mine(Tracker):
    def __init__(self, run):
        self.file = (run.folder / "mine.txt").open("a")
        print(f"{run.name} from {run.next_step}", file=self.file)

    def log(self, step, scalars):
        print("log", step, scalars["reward/math"], file=self.file)

    def close(self):
        self.file.close()

class Leaves(Mine):
    def log(self, step, scalars):
        sys.exit(3)

class Absent:
    def __init__(self, run): ...

class NoRun(Tracker):
    def __init__(self): ...

class Breaks(Tracker):
    def __init__(self, run):
        raise LookupError("no server\\nat all")

def another(run):
    return {}
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """The file of a user's trackers, in the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "own.py").write_text(OWN)
    return "own.py"


def run_with(name, folder):
    """Two steps with the tracker `name`; what the console says."""
    file = io.StringIO()
    console = Console(False, 2, file=file)
    config = TrackersConfig(wandb="disabled", also=[name])
    check_trackers(config)
    trackers = make_trackers(config, TrackedRun(folder, "r", note=console.note), console)
    for step in (1, 2):
        trackers.log(step, {"reward/math": step / 10})
    trackers.close()
    trackers.close()  # as when an error follows the end
    assert len(lines(folder)) == 2
    return file.getvalue().splitlines()


def test_a_tracker_of_ones_own(own, tmp_path):
    assert run_with(f"{own}:Mine", tmp_path) == []
    written = (tmp_path / "mine.txt").read_text().splitlines()
    assert written == ["r from 1", "log 1 0.1", "log 2 0.2"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Leaves", "own.py:Leaves: stopped at step 1 (SystemExit: 3). metrics.jsonl goes on."),
        ("Breaks", "own.py:Breaks: off for this run (LookupError: no server at all). metrics"),
        ("another", "own.py:another: off for this run (it is a dict, no Tracker). metrics.jsonl"),
    ],
)
def test_a_tracker_that_fails_is_one_line_and_nothing_else(own, name, said, tmp_path):
    (line,) = run_with(f"{own}:{name}", tmp_path)
    assert line.startswith(said)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("own.py:Mien", "did you mean 'Mine'"),
        ("own.py:Absent", r"class Absent\(Tracker\)"),
        ("own.py:NoRun", r"own.py:NoRun\(run\), a TrackedRun"),
        ("nowhere.trackers:Mine", "the module 'nowhere.trackers'"),
        ("mlflow", "trackers.also names no tracker"),
    ],
)
def test_what_is_no_tracker_is_refused(own, name, said):
    with pytest.raises(ConfigError, match=said):
        check_trackers(TrackersConfig(also=[name]))


def test_a_guest_that_hangs_is_left_behind(monkeypatch):
    monkeypatch.setattr("mgsrl.obs.tracker.CALL_LIMIT_S", 0.05)
    notes, began = [], time.monotonic()

    class Hangs(Tracker):
        def log(self, step, scalars):
            time.sleep(30)

    trackers = Trackers(guests=[Guest("hangs", Hangs, notes.append)])
    trackers.evaluation(0, {})
    for step in (1, 2, 3):
        trackers.log(step, {})
    trackers.close()
    assert notes == ["hangs: stopped at step 1 (no answer within 0 s). metrics.jsonl goes on."]
    assert time.monotonic() - began < 10


def test_bounded_calls_come_back():
    assert Bounded("a")(lambda: time.sleep(30), 0.05) == ("no answer within 0 s", None)
    bounded = Bounded("b")
    assert bounded(lambda: 1 / 0, 1.0) == ("ZeroDivisionError: division by zero", None)
    assert bounded(lambda: 3, 1.0) == (None, 3)


@pytest.mark.parametrize(
    "config",
    [
        TrackersConfig(wandb_tags=["a", ""]),
        TrackersConfig(wandb_tags=["a" * 65]),
        TrackersConfig(completions=CompletionsConfig(every=-1)),
        TrackersConfig(completions=CompletionsConfig(console_every=-1)),
        TrackersConfig(completions=CompletionsConfig(per_domain=0)),
    ],
)
def test_values_out_of_range(config):
    with pytest.raises(ConfigError, match="trackers"):
        config.validate()
