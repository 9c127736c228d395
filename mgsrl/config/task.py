"""What a task is: one data set or benchmark, said once for training, evaluation and preparation.

Ours are the files of `mgsrl/tasks/`, each with its `TASK`; a user's is `my_task.py:TASK`. A local
file or another hub data set can stand in for the task's own.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from mgsrl.config.data import TASK_SPLITS, SourceConfig
from mgsrl.config.reward import REWARDS, RewardConfig
from mgsrl.config.typed import chosen_member
from mgsrl.errors import ConfigError, shortened
from mgsrl.plugins import Registry
from mgsrl.types import Sampling

ROOM = "mgsrl.tasks"
GREEDY = Sampling(temperature=0.0, max_new_tokens=1024)
FILE_SUFFIXES = (".jsonl", ".json", ".parquet", ".csv", ".gz")
OPTIONAL = ("id", "baseline", "reference")
"""Columns that a row of a task may do without."""
TASKS = Registry(
    "task",
    ROOM,
    {
        path.stem: f"{ROOM}.{path.stem}:TASK"
        for path in sorted((Path(__file__).parents[1] / "tasks").glob("[a-z]*.py"))
    },
)


@dataclass(frozen=True, slots=True)
class Split:
    """Where some rows are."""

    hub: str = ""
    """`OWNER/NAME[:CONFIG]` or `OWNER/NAME/FILE`."""
    split: str = "train"
    """Of the hub data set."""
    rows: int | None = None
    """How many there are, as published."""
    revision: str | None = None
    """Commit of the hub data set; None is the newest."""
    file: str = ""
    """A local file instead of the hub."""

    def __post_init__(self) -> None:
        _check_types(self)

    def source(self) -> SourceConfig:
        if self.file:
            return SourceConfig(kind="file", path=self.file)
        return SourceConfig(kind="hub", path=self.hub, split=self.split, revision=self.revision)


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One data set or benchmark."""

    about: str
    reward: Mapping[str, Any]
    """The keys of its reward, `{"kind": "math"}`: what a row must hold and what scores it."""
    train: Split | None = None
    """Rows to train on; None where there are none."""
    test: Split | None = None
    """Rows to evaluate with; None for a task that `mgsrl eval` knows with a file only."""
    columns: Mapping[str, str | tuple[str, ...]] = field(default_factory=dict)
    """Our column -> theirs, as `source.columns`; of several names the first that a row has.
    Beside ours there may be `baseline` (a model's answer) and `reference`, texts for a judge; they
    and `id` may be missing from a row. Without columns the rows are in a known layout."""
    convert: Callable[[dict[str, Any]], Mapping[str, Any]] | None = None
    """For rows that no mapping of columns can read, before it; raises `RowProblem`."""
    answer_pattern: str = ""
    """As `source.answer_pattern`."""
    prompt_suffix: str = ""
    """Added to every prompt."""
    distinct: bool = False
    """Evaluating, rows with the prompt of an earlier row are left out: files repeat them."""
    samples: int = 1
    """Responses per prompt of an evaluation."""
    sampling: Sampling = GREEDY
    """Of an evaluation; temperature 0 is greedy decoding."""
    licence: str = ""
    citation: str = ""
    unverified: str = ""
    """What rests on less than the data set's card and public code that loads it."""
    name: str = ""
    """Given by `find_task`."""

    def __post_init__(self) -> None:
        _check_types(self)
        for ours, theirs in self.columns.items():
            if not all(
                isinstance(n, str) for n in (theirs if type(theirs) is tuple else (theirs,))
            ):
                raise TypeError(f"columns[{ours!r}] should be a name or a tuple of them")
        if self.samples < 1:
            raise ValueError(f"samples should be 1 or more, found {self.samples}")

    @property
    def metric(self) -> str:
        """How `mgsrl eval` sums up: `math`, `constraints`, `chat` or `score`."""
        metric: str = REWARDS.load(chosen_member(RewardConfig, self.reward), "task.reward").metric
        return metric

    def at(self, where: str) -> "Task":
        """The task with the data of a local file or of another hub data set."""

        def moved(name: str, own: Split | None) -> Split:
            if own is not None and own.hub == where:
                return replace(own, revision=None)
            return Split(file=where) if is_file else Split(where, name)

        hubs = [split.hub for split in (self.train, self.test) if split]
        is_file = Path(where).suffix.lower() in FILE_SUFFIXES and where not in hubs
        return replace(self, train=moved("train", self.train), test=moved("test", self.test))


def _check_types(record: Any) -> None:
    """Users write these records by hand. Raises TypeError for a value of another type."""
    for name, hint in get_type_hints(type(record)).items():
        options = get_args(hint) if get_origin(hint) is UnionType else (hint,)
        value = getattr(record, name)
        if not isinstance(value, tuple(get_origin(option) or option for option in options)):
            wanted = " or ".join(getattr(option, "__name__", str(option)) for option in options)
            raise TypeError(f"{name} should be of type {wanted}, found {shortened(repr(value))}")


def find_task(reference: str, key: str, where: str = "") -> Task:
    """The task that `Registry.load` finds, under its plain name.

    Args:
        key: the configuration key or option that holds the reference, for messages.
        where: a local file or hub id to read instead of the task's own.

    Raises:
        ConfigError: there is no such task, or what the name names is none.
    """
    task = TASKS.load(reference, key)
    if not isinstance(task, Task):
        raise ConfigError(
            f"{key}: {reference} is no task.",
            expected="a mgsrl.tasks.Task",
            found=type(task).__name__,
            todo="write TASK = Task(...), as the files of mgsrl/tasks/ do",
        )
    place, _, name = reference.rpartition(":")
    if name == "TASK":
        name = Path(place.removesuffix(".py")).name.rpartition(".")[2]
    task = replace(task, name=name)
    return task.at(where) if where else task


def task_source(
    source: SourceConfig, key: str, task: Task | None = None
) -> tuple[Task, SourceConfig]:
    """The task that a source of `kind=task` names, and where the rows are and how they are read.

    Args:
        task: instead of the one that it names.

    Raises:
        ConfigError: there is no such task, or it has no such split.
    """
    task = task or find_task(source.path, f"{key}.path", source.file)
    split = task.train if source.split == TASK_SPLITS[0] else task.test
    if split is None:
        raise ConfigError(
            f"{key}: the task {task.name!r} has no rows of its own for {source.split}.",
            expected=task.about,
            found="rows for the other split" if task.train or task.test else "none at all",
            todo=with_file(task, key),
        )
    place = split.source()
    return task, replace(
        source,
        kind=place.kind,
        path=place.path,
        split=place.split,
        revision=source.revision or place.revision,
        columns={
            ours: ours if theirs else ""
            for ours, theirs in task.columns.items()
            if ours not in OPTIONAL or not theirs
        },
        answer_pattern=task.answer_pattern,
        prompt_suffix=source.prompt_suffix or task.prompt_suffix,
    )


def reward_keys(domain: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """The keys of a domain's reward: where its source is a task and it names no other kind, they
    stand over those that the task says.

    Args:
        domain: plain values, unchecked.
        key: the domain's configuration key, for messages.
    """
    source, reward = domain.get("source"), domain.get("reward") or {}
    if not isinstance(source, Mapping) or source.get("kind") != "task" or "function" in reward:
        return reward
    keys = find_task(str(source.get("path")), f"{key}.source.path").reward
    kind = reward.get("kind", keys.get("kind"))
    return {**keys, **reward} if kind == keys.get("kind") else reward


def with_file(task: Task, key: str) -> str:
    """How the user gives a file for a task."""
    if key == "--from":
        return "give it with --from FILE"
    option = f"{key} {task.name}=" if key.startswith("--") else f"{key}.file="
    return f"name the file: {option}FILE.jsonl"
