"""Fetches a task's data set, or converts a file of it, to rows that need no mapping.

Written are `NAME.jsonl` and `NAME.provenance.json` (hub id, revision, licence, rows, sha256). Rows
that cannot be used are left out and counted with the reason. JSON lines rather than Parquet: a
table would give every row the union of all constraints' arguments.

Training rows are taken where a task has any, else those to evaluate with, unless the caller says
which; prompts have no suffix.
Left out: filtering by difficulty or language.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mgsrl import __version__
from mgsrl.config import SourceConfig
from mgsrl.config.data import TASK_SPLITS
from mgsrl.config.hub import hub_info
from mgsrl.config.places import split_hub_path
from mgsrl.config.task import TASKS, Split, Task, find_task
from mgsrl.data import smollm2
from mgsrl.data.rows import Row, RowProblem
from mgsrl.data.sources import Reading
from mgsrl.errors import ConfigError, DataError
from mgsrl.files.jsonl import dump_line, write_atomic
from mgsrl.files.records import row_number
from mgsrl.obs.outputs import output_file
from mgsrl.types import RowNeeds

ReadRow = tuple[str, Row | RowProblem]


@dataclass(slots=True)
class Prepared:
    """What was written."""

    path: Path
    rows: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    """What was expected and not found -> how many rows."""
    examples: dict[str, str] = field(default_factory=dict)
    """The first row of each, with its place and what was found."""


def listing() -> list[str]:
    """Every task with data on the hub, as lines of text."""
    lines = []
    for name in TASKS.names():
        task = find_task(name, "--list")
        split = part_of(task)
        if split is None:
            continue
        lines.append(f"{name:<16} {split.rows or '?':>6} rows  {task.licence:<11} {split.hub}")
        lines.append(f"{'':<16} {task.about}{'' if task.train else ' (to evaluate with)'}")
        if task.unverified:
            lines.append(f"{'':<16} not verified: {task.unverified}")
    lines.append(f"{smollm2.NAME:<16} a model, to {smollm2.FOLDER}")
    return lines


def prepare(
    task: Task,
    folder: Path,
    *,
    split: str | None = None,
    file: Path | None = None,
    force: bool = False,
    needs: RowNeeds | None = None,
    progress: Callable[[Iterable[ReadRow]], Iterable[ReadRow]] = iter,
) -> Prepared:
    """Write a task's data set into `folder`.

    Args:
        split: which rows, `train` or `test`; None is the former, where there are any.
        file: a local file with the set's columns instead of the hub.
        force: files of an earlier call may be replaced.
        needs: as of `RowReader`; rows that do not meet them are left out.
        progress: wraps the rows, for a progress bar.

    Raises:
        MissingPathError: the hub or the file cannot be reached.
        DataError: a file that cannot be read, or no row that can be used.
        ConfigError: a file to write exists, or is the one that is read; no such split.
    """
    name = task.name
    part, file = _place(task, split, file)
    inputs = [file] if file else []
    path, provenance_path = folder / f"{name}.jsonl", folder / f"{name}.provenance.json"
    if folder.exists():
        for each in (path, provenance_path):
            output_file(each, "--output", inputs=inputs, force=force)
    at = Split(file=str(file)) if file else part
    reading = Reading(
        SourceConfig(kind="task"),
        name,
        key="--from",
        needs=needs,
        prefix=f"{name}-",
        task=replace(task, train=at, prompt_suffix=""),
    )
    provenance = {} if file else _pinned(reading)
    prepared = Prepared(path)
    text = "".join(map(dump_line, _rows(name, progress(reading), prepared)))
    if not prepared.rows:
        raise _nothing(name, prepared)
    write_atomic(prepared.path, text)
    if file:
        provenance = {"file": file.name, "file_sha256": _sha256(file)}
    record = {
        "name": name,
        "hub": part.hub if part else "",
        "licence": task.licence,
        **provenance,
        "rows": prepared.rows,
        "left_out": dict(prepared.left_out),
        "sha256": _sha256(prepared.path),
        "mgsrl": __version__,
    }
    write_atomic(provenance_path, json.dumps(record, indent=2) + "\n")
    return prepared


def part_of(task: Task, split: str | None = None) -> Split | None:
    """Where the rows of a split are; without a name those to train on, else to evaluate with."""
    if split is None:
        return task.train or task.test
    return task.train if split == TASK_SPLITS[0] else task.test


def _rows(name: str, rows: Iterable[ReadRow], prepared: Prepared) -> Iterator[dict[str, Any]]:
    """The usable rows in our layout; counts into `prepared`."""
    ids: set[str] = set()
    for where, row in rows:
        if isinstance(row, RowProblem):
            prepared.left_out[row.expected] += 1
            prepared.examples.setdefault(row.expected, f"{where}: {row.found}")
            continue
        # Ids that come twice would be refused when the file is loaded.
        id_ = row.id if row.id not in ids else f"{row.id}-{row_number(where)}"
        ids.add(id_)
        prepared.rows += 1
        yield {"id": id_, **_conversation(row), **row.reference}


def _conversation(row: Row) -> dict[str, Any]:
    if len(row.messages) == 1:
        return {"prompt": row.messages[0]["content"]}
    return {"messages": list(row.messages)}


def _pinned(reading: Reading) -> dict[str, str]:
    """The split and the one revision at which its records will be read."""
    source = reading.source
    if source.revision is None:
        repo = split_hub_path(source.path)[0]
        info = hub_info(repo, "dataset", source.path, f"download it and {reading.file_hint}")
        source.revision = None if info is None else str(info.sha)
    return {"split": source.split, "revision": source.revision or "unknown"}


def _nothing(name: str, prepared: Prepared) -> DataError:
    expected, found = next(iter(prepared.examples.items()), ("rows", "an empty file"))
    return DataError(
        f"{name}: no row can be used.",
        expected=expected,
        found=found,
        todo="check that the file is this data set (`mgsrl data prepare --list`)",
    )


def _place(task: Task, split: str | None, file: Path | None) -> tuple[Split | None, Path | None]:
    """The task's own rows, and the local file that is read instead."""
    part = part_of(task, split)
    if file is None and part is None and split:
        raise ConfigError(
            f"--split {split}: {task.name} has no such rows of its own.",
            expected=task.about,
            found="rows for the other split" if part_of(task) else "none at all",
            todo="leave --split out, or name a file with --from FILE",
        )
    if file is None and part is not None and part.file:
        file = Path(part.file)
    return part, file


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
