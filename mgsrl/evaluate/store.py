"""The output folder of an evaluation, made so that the same command continues it.

    eval.json             the settings, once there is an engine; a call with others stops here
    samples/TASK.jsonl    one row per response, appended as batches end; its `score` in the end
    scores/TASK.jsonl     scores while a task is being scored
    results.json          metrics, counts, times, versions

A row that a killed process left unfinished is dropped, and settings under which no response was
ever made are no settings. Left out: locks (one process a folder).
"""

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mgsrl.errors import ConfigError, DataError
from mgsrl.files.jsonl import dump_line, jsonable, read_rows, rewrite, write_atomic

SETTINGS = "eval.json"
RESULTS = "results.json"
REPORT = "report.html"
MODEL_FOLDER = "model"
"""A checkpoint's weights while the engine needs them as a plain folder."""
OURS = (SETTINGS, RESULTS, REPORT, MODEL_FOLDER, "samples", "scores")
SampleRow = dict[str, Any]
Key = tuple[str, int]
"""(prompt id, index of the sample)"""


def key_of(row: Mapping[str, Any]) -> Key:
    return row["id"], row["sample"]


def check_folder(folder: Path) -> None:
    """Raise ConfigError for a folder with something else in it than an evaluation."""
    if not folder.is_dir() or (folder / SETTINGS).exists():
        return
    others = sorted(entry.name for entry in folder.iterdir() if entry.name not in OURS)
    if others:
        raise ConfigError(
            f"--output {folder} is no evaluation's folder.",
            expected="a new folder, an empty one, or an evaluation to go on with",
            found=f"{', '.join(others[:5])}{' ...' if len(others) > 5 else ''}",
            todo="choose another --output",
        )


def remove_evaluation(folder: Path) -> None:
    """Take away what an evaluation wrote into `folder`, and nothing else."""
    for name in OURS:
        if name == MODEL_FOLDER:
            continue  # of the evaluation that begins
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def merged_settings(folder: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """`settings`, and those of the other tasks that the folder holds responses of.

    Raises:
        ConfigError: the folder holds responses that were made with other settings.
        DataError: its settings cannot be read.
    """
    wanted: dict[str, Any] = jsonable(settings)
    stored = stored_settings(folder)
    stored.setdefault("date", wanted["date"])  # earlier evaluations did not record it
    known = {n: of for n, of in stored.get("tasks", {}).items() if _has_responses(folder, n)}
    if known:
        for name, of_task in wanted["tasks"].items():
            if name in known:
                _compare(folder, f"{name}: ", known[name], of_task)
        _compare(folder, "", _without_tasks(stored), _without_tasks(wanted))
    return {**wanted, "tasks": known | wanted["tasks"]}


def store_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Write what `merged_settings` gave."""
    text = json.dumps(settings, indent=2, ensure_ascii=False) + "\n"
    write_atomic(folder / SETTINGS, text)


def stored_settings(folder: Path) -> dict[str, Any]:
    """The settings of the evaluation in `folder`; empty where there is none yet.

    Raises:
        DataError: they cannot be read.
    """
    path = folder / SETTINGS
    if not path.exists():
        return {}
    try:
        stored: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return stored
    except ValueError as error:
        raise DataError(
            f"{path} is damaged.",
            expected="the settings of an evaluation as JSON",
            found=str(error),
            todo="choose another --output, or start again with --force",
        ) from error


def _has_responses(folder: Path, task: str) -> bool:
    path = folder / "samples" / f"{task}.jsonl"
    return path.exists() and path.stat().st_size > 0


def _without_tasks(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name != "tasks"}


def _compare(folder: Path, prefix: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    for name in sorted({*old, *new}):
        if old.get(name) != new.get(name):
            raise ConfigError(
                f"{folder} holds an evaluation with other settings.",
                expected=f"{prefix}{name} = {json.dumps(old.get(name))[:200]}",
                found=json.dumps(new.get(name))[:200],
                todo="choose another --output, or start again with --force",
            )


class TaskFiles:
    """Samples and scores of one task. `rows` are those stored so far, by key; none if `fresh`."""

    def __init__(self, folder: Path, task: str, *, fresh: bool = False) -> None:
        self.samples = folder / "samples" / f"{task}.jsonl"
        self.scores = folder / "scores" / f"{task}.jsonl"
        self.rows: dict[Key, SampleRow] = {}
        if fresh:
            return
        self.rows = {key_of(row): row for row in _whole_rows(self.samples)}
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
