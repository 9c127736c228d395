"""The output folder of an evaluation, made so that the same command continues it.

    eval.json             the settings; a call with others stops here
    samples/TASK.jsonl    one row per response, appended as batches end; its `score` in the end
    scores/TASK.jsonl     scores while a task is being scored
    results.json          metrics, counts, times, versions

A row that a killed process left unfinished is dropped. Left out: locks (one process a folder).
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mgsrl.errors import ConfigError, explain
from mgsrl.obs.jsonl import dump_line, jsonable, read_rows, rewrite, write_atomic

SETTINGS = "eval.json"
RESULTS = "results.json"
SampleRow = dict[str, Any]
Key = tuple[str, int]
"""(prompt id, index of the sample)"""


def key_of(row: Mapping[str, Any]) -> Key:
    return row["id"], row["sample"]


def stored_settings(folder: Path) -> dict[str, Any]:
    """The settings of the evaluation in `folder`; empty where there is none yet."""
    path = folder / SETTINGS
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def check_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Store the settings of a new folder; let an old one go on with the same, or with more tasks.

    Raises:
        ConfigError: the folder holds samples that were made with other settings.
    """
    path = folder / SETTINGS
    wanted: dict[str, Any] = jsonable(settings)
    if stored := stored_settings(folder):
        stored.setdefault("date", wanted["date"])  # earlier evaluations did not record it
        known = stored.get("tasks", {})
        for name, of_task in wanted["tasks"].items():
            if name in known:
                _compare(folder, f"{name}: ", known[name], of_task)
        _compare(folder, "", _without_tasks(stored), _without_tasks(wanted))
        wanted["tasks"] = known | wanted["tasks"]
    write_atomic(path, json.dumps(wanted, indent=2, ensure_ascii=False) + "\n")


def _without_tasks(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name != "tasks"}


def _compare(folder: Path, prefix: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    for name in sorted({*old, *new}):
        if old.get(name) != new.get(name):
            raise ConfigError(
                explain(
                    f"{folder} holds an evaluation with other settings.",
                    expected=f"{prefix}{name} = {json.dumps(old.get(name))[:200]}",
                    found=json.dumps(new.get(name))[:200],
                    todo="choose another --output, or remove the folder to start again",
                )
            )


class TaskFiles:
    """Samples and scores of one task. `rows` are those stored so far, by key."""

    def __init__(self, folder: Path, task: str) -> None:
        self.samples = folder / "samples" / f"{task}.jsonl"
        self.scores = folder / "scores" / f"{task}.jsonl"
        self.rows: dict[Key, SampleRow] = {key_of(row): row for row in _whole_rows(self.samples)}
        for score in _whole_rows(self.scores):
            if key_of(score) in self.rows:
                self.rows[key_of(score)]["score"] = score["score"]

    def add_samples(self, rows: Iterable[SampleRow]) -> None:
        new = {key_of(row): row for row in rows}
        _append(self.samples, new.values())
        self.rows |= new

    def add_scores(self, scores: Mapping[Key, Mapping[str, Any]]) -> None:
        _append(
            self.scores,
            ({"id": id_, "sample": n, "score": score} for (id_, n), score in scores.items()),
        )
        for key, score in scores.items():
            self.rows[key]["score"] = dict(score)

    def finish(self, keys: Sequence[Key]) -> None:
        """Put the scores beside their samples, in the order of `keys`."""
        if not self.scores.exists():
            return
        order = {key: place for place, key in enumerate(keys)}
        rows = sorted(self.rows.values(), key=lambda row: order.get(key_of(row), len(order)))
        write_atomic(self.samples, "".join(dump_line(row) for row in rows))
        self.scores.unlink()
        if not any(self.scores.parent.iterdir()):
            self.scores.parent.rmdir()


def _whole_rows(path: Path) -> list[SampleRow]:
    """The rows of a file, after cutting away a last one that is not whole."""
    rewrite(path, lambda row: True)
    return read_rows(path)


def _append(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write("".join(dump_line(row) for row in rows))
