"""The tasks of an evaluation: what `--tasks` names, and their rows, checked before a model loads.

Left out: second turns of MT-Bench, and the official templates and baselines of the judge
benchmarks. Any file in the layout of a task's hub data set, of its authors or of ours serves.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from mgsrl.config.data import SourceConfig
from mgsrl.config.reward import RewardConfig
from mgsrl.config.task import Task, find_task, task_source
from mgsrl.config.typed import read_config
from mgsrl.data.rows import Row
from mgsrl.data.sources import load_rows
from mgsrl.errors import ConfigError
from mgsrl.rewards.factory import row_needs
from mgsrl.types import RowNeeds

KEY = "--tasks"
TEXTS = ("baseline", "reference")
"""Columns of chat tasks beside the prompt."""


def parse_tasks(text: str) -> list[Task]:
    """`gsm8k,ifeval=FILE,svamp=OWNER/NAME,my_task.py:TASK` -> tasks with the rows they name.

    Raises:
        ConfigError: an unknown task, one named twice, or one without rows to evaluate with.
    """
    tasks: dict[str, Task] = {}
    for item in text.split(","):
        name, _, where = (part.strip() for part in item.partition("="))
        task = find_task(name, KEY, where)
        if task.name in tasks:
            raise ConfigError(
                f"{KEY} names a task twice.",
                expected="each task once",
                found=repr(task.name),
                todo=f"mend {KEY}, e.g. {KEY} gsm8k,ifeval=ifeval.jsonl",
            )
        task_source(SourceConfig(kind="task", split="test"), KEY, task)
        tasks[task.name] = task
    return list(tasks.values())


def load_task(task: Task, limit: int | None = None) -> list[Row]:
    """The rows of a task in the order of its data, every one checked; at most `limit`.

    Raises:
        MissingPathError: no such file or hub data set.
        DataError: a row that cannot be used, or none at all.
    """
    return load_rows(
        SourceConfig(kind="task", split="test", limit=limit),
        task.name,
        key=KEY,
        needs=task_needs(task),
        prefix="",
        task=task,
    )


def task_needs(task: Task) -> RowNeeds:
    """What the task's reward wants of a row; of a chat task also the texts for a judge, or to
    compare with."""
    needs = row_needs(read_config(RewardConfig, task.reward))
    if task.metric != "chat":
        return needs
    texts = (*needs.accepts, *TEXTS)
    return replace(needs, accepts=texts, validate=partial(_check_texts, needs))


def _check_texts(needs: RowNeeds, reference: Mapping[str, Any]) -> None:
    for name in TEXTS:
        value = reference.get(name, "")
        if not isinstance(value, str):
            raise ValueError(f"`{name}`, which is no text: {type(value).__name__} {value!r}"[:120])
    if needs.validate is not None:
        needs.validate(reference)


def source_of(task: Task) -> str:
    """Where the rows are, a path or a hub id."""
    assert task.test is not None
    return task.test.file or task.test.hub
