"""Scoring files without training: contract, resuming, bad input, memory."""

import json
import os
import signal
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path
from typing import Any

import psutil
import pytest

from mgsrl.errors import DataError, UserError
from mgsrl.scoring import score_file as module
from mgsrl.scoring.score_file import ScoreSummary, default_reward
from mgsrl.scoring.score_file import score_file as score_with
from mgsrl.scoring.score_workers import ScoreWorkers

MATH = [
    {"id": "a", "prompt": "1+1?", "response": "<response>\\boxed{2}</response>", "answer": "2"},
    {"prompt": "1+1?", "response": "<response>3</response>", "answer": 2, "extra": [1]},
    {"id": 7, "response": "no tags: 2", "answer": "2"},
]
CONSTRAINTS = {
    "prompt": "Write.",
    "response": "Sure!\nthere are no commas in here",
    "instruction_id_list": ["change_case:english_lowercase", "punctuation:no_comma"],
    "kwargs": [{}, {"num_words": None}],
}


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def score_file(
    domain: str,
    source: Path,
    output: Path,
    *,
    loose: bool = False,
    whole_response: bool = False,
    reward_model: str = "",
    **options: Any,
) -> ScoreSummary:
    keys: dict[str, Any] = {"missing_tag": "whole_response" if whole_response else "zero"}
    keys |= {"strict": False} if loose else {}
    keys |= {"path": reward_model} if reward_model else {}
    reward = default_reward(domain, keys)
    return score_with(reward, source, output, **options)


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("workers", [1, 2])
def test_math(tmp_path: Path, workers: int) -> None:
    source, output = write(tmp_path / "in.jsonl", MATH), tmp_path / "out.jsonl"
    progress: list[tuple[int, int]] = []
    summary = score_file(
        "math",
        source,
        output,
        workers=workers,
        on_progress=lambda done, total: progress.append((done, total)),
    )
    rows = read(output)
    assert [(row["id"], row["reward"], row["abstained"]) for row in rows] == [
        ("a", 1.0, False),
        (2, 0.0, False),
        (7, 0.0, False),
    ]
    assert [row["details"].get("extracted") for row in rows] == ["2", "3", None]
    assert progress == [(1, 3), (2, 3), (3, 3)]
    assert (summary.rows, summary.without_block, summary.abstained) == (3, 1, 0)
    assert summary.mean_reward == pytest.approx(1 / 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl"]


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(("loose", "followed"), [(False, [False, True]), (True, [True, True])])
def test_constraints(tmp_path: Path, workers: int, loose: bool, followed: list[bool]) -> None:
    source, output = write(tmp_path / "in.jsonl", [CONSTRAINTS]), tmp_path / "out.jsonl"
    score_file(
        "instruction_following", source, output, whole_response=True, loose=loose, workers=workers
    )
    (row,) = read(output)
    assert row["details"]["followed"] == followed
    assert row["reward"] == sum(followed) / 2


def test_without_a_block_nothing_is_followed(tmp_path: Path) -> None:
    source, output = write(tmp_path / "in.jsonl", [CONSTRAINTS]), tmp_path / "out.jsonl"
    score_file("instruction_following", source, output)
    (row,) = read(output)
    assert (row["reward"], row["details"]["followed"]) == (0.0, [False, False])


def test_whole_response(tmp_path: Path) -> None:
    source, output = write(tmp_path / "in.jsonl", MATH), tmp_path / "out.jsonl"
    score_file("math", source, output, whole_response=True)
    assert [row["reward"] for row in read(output)] == [1.0, 0.0, 1.0]


GOOD = json.dumps(MATH[0]).encode()
BAD_LINES = {
    "not json": (b"{not json}", "one JSON object"),
    "a list": (b"[1]", "one JSON object"),
    "cut short": (GOOD[:-3], "one JSON object"),
    "not utf-8": (b'{"response": "\xff\xfe", "answer": 1}', "UTF-8"),
    "no response": (b'{"answer": 1}', "`response`"),
    "no answer": (b'{"response": "x"}', "`answer`"),
    "bad answer": (b'{"response": "x", "answer": [1]}', "an answer"),
    "bad id": (b'{"id": [1], "response": "x", "answer": 1}', "an id"),
    "same id": (GOOD, "a second row with id 'a'"),
    "bad prompt": (b'{"prompt": 3, "response": "x", "answer": 1}', "a prompt"),
}


@pytest.mark.parametrize("name", BAD_LINES)
def test_a_bad_row_is_named_before_anything_is_scored(tmp_path: Path, name: str) -> None:
    line, message = BAD_LINES[name]
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_bytes(GOOD + b"\n\n" + line + b"\n")
    with pytest.raises(DataError, match=message) as caught:
        score_file("math", source, output)
    assert f"{source}, line 3" in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl"]


def test_bad_constraints_are_named_with_their_line(tmp_path: Path) -> None:
    row = {**CONSTRAINTS, "instruction_id_list": ["punctuation:no_coma", "punctuation:no_comma"]}
    source = write(tmp_path / "in.jsonl", [CONSTRAINTS, row])
    with pytest.raises(DataError, match=r"(?s)line 2: .*did you mean 'punctuation:no_comma'"):
        score_file("instruction_following", source, tmp_path / "out.jsonl")


def test_other_mistakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, output = write(tmp_path / "in.jsonl", MATH), tmp_path / "out.jsonl"
    with pytest.raises(UserError, match="did you mean 'math'"):
        score_file("maths", source, output)
    with pytest.raises(UserError, match="no such data file"):
        score_file("math", tmp_path / "none.jsonl", output)
    with pytest.raises(UserError, match="no folder"):
        score_file("math", source, tmp_path / "none" / "out.jsonl")
    with pytest.raises(UserError, match="workers"):
        score_file("math", source, output, workers=0)
    with pytest.raises(UserError, match=r"reward-model.*does not name a model"):
        score_file("chat", source, output, reward_model="./none")
    with pytest.raises(DataError, match="has no rows"):
        score_file("math", write(tmp_path / "empty.jsonl", []), output)
    monkeypatch.setattr("mgsrl.files.lines.MAX_LINE_BYTES", 10)
    with pytest.raises(DataError, match="longer"):
        score_file("math", source, output)


def test_an_interrupted_call_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the day on which it was begun."""
    days = list[str]()

    class Workers(ScoreWorkers):
        def __init__(self, *args: Any) -> None:
            days.append(args[3])
            super().__init__(*args)

    monkeypatch.setattr(module, "ScoreWorkers", Workers)
    rows = [{"id": n, "response": f"\\boxed{{{n}}}", "answer": 1} for n in range(100)]
    source, output = write(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"

    def stop(done: int, total: int) -> None:
        if done == 70:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score_file("math", source, output, whole_response=True, on_progress=stop)
    assert not output.exists()
    (partial,) = tmp_path.glob(".out.jsonl.*.partial")
    partial = partial.rename(partial.with_name(partial.name.replace(days[0], "2024-07-26")))
    with partial.open("a") as file:
        file.write('{"id": 70, "rew')  # a line cut short by a crash
    summary = score_file("math", source, output, whole_response=True)
    assert (summary.rows, summary.resumed) == (100, 70)
    assert [row["id"] for row in read(output)] == list(range(100))
    assert [row["reward"] for row in read(output)] == [float(n == 1) for n in range(100)]
    assert not list(tmp_path.glob(".*"))
    assert days[1:] == ["2024-07-26"]


def test_other_options_do_not_continue_the_same_file(tmp_path: Path) -> None:
    source, output = write(tmp_path / "in.jsonl", MATH), tmp_path / "out.jsonl"
    score_file("math", source, output, whole_response=True)
    summary = score_file("math", source, output, force=True)
    assert summary.resumed == 0
    assert [row["reward"] for row in read(output)] == [1.0, 0.0, 0.0]


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    def peak(count: int) -> int:
        rows = [
            {"response": "x" * 20_000, "instruction_id_list": ["punctuation:no_comma"], "id": n}
            for n in range(count)
        ]
        source = write(tmp_path / f"{count}.jsonl", rows)
        tracemalloc.start()
        score_file("constraints", source, tmp_path / "out.jsonl", whole_response=True, force=True)
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    peak(10)
    assert peak(500) < peak(100) + 1_000_000  # 400 rows are 8 MB of text


def test_a_killed_call_leaves_nothing_running_and_can_go_on(tmp_path: Path) -> None:
    rows = [{"id": 0, "response": r"\boxed{9^{9^{9^{9}}}}", "answer": 1}]
    source, output = write(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    code = (
        "from pathlib import Path; from mgsrl.scoring.score_file import *; "
        "score_file(default_reward('math', {'missing_tag': 'whole_response'}), "
        f"Path({str(source)!r}), Path({str(output)!r}))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], env=os.environ)
    deadline = time.monotonic() + 30
    children: list[psutil.Process] = []
    while not children and time.monotonic() < deadline:
        time.sleep(0.2)
        children = psutil.Process(process.pid).children(recursive=True)
    time.sleep(1.5)  # let it begin the hostile item
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=10)
    # The verifier's own timer ends it: 5 s of limit and 1 s of grace, though its parent is gone.
    gone, alive = psutil.wait_procs(children, timeout=15)
    assert not alive
    assert not output.exists()


def test_a_process_that_is_killed_costs_at_most_one_row(tmp_path: Path) -> None:
    row = {"response": "a. " * 20_000, "instruction_id_list": ["keywords:existence"] * 20}
    row["kwargs"] = [{"keywords": ["x" * 20]}] * 20
    source = write(tmp_path / "in.jsonl", [{**row, "id": i} for i in range(100)])
    killed: list[int] = []

    def kill_one(done: int, _total: int) -> None:
        if done == 10:
            children = psutil.Process().children(recursive=True)
            killed.append(children[0].pid)
            children[0].kill()

    output = tmp_path / "out.jsonl"
    summary = score_file(
        "constraints", source, output, whole_response=True, workers=2, on_progress=kill_one
    )
    assert killed
    assert (summary.rows, summary.mean_reward) == (100, 0.0)
    assert summary.abstained <= 1
    assert [row["id"] for row in read(output)] == list(range(100))
