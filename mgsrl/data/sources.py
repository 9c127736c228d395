"""Loads one domain's rows from the pocket generator, a local file, a hub data set or a task.

The order of the rows is the source's own; `start` and `limit` cut a window out of it, so train and
held-out rows can come from one file. Every row that is used is checked before the run starts.

Left out: streaming. All prompts of a run fit into memory, and a resumable shuffle wants them all.
"""

import logging
import os
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

from mgsrl.config import SourceConfig
from mgsrl.config.places import check_hub_source, split_hub_path
from mgsrl.config.task import Task, task_source, with_file
from mgsrl.data.pocket import DOMAINS, pocket_rows
from mgsrl.data.rows import Row, RowProblem, RowReader
from mgsrl.data.task_rows import task_records
from mgsrl.errors import ConfigError, DataError, MissingPathError
from mgsrl.files.records import NumberedRecord, data_stem, read_records, row_number
from mgsrl.types import RowNeeds

logger = logging.getLogger(__name__)

POCKET_SEED = 0
"""The pocket prompts are one fixed data set; the run's seed only shuffles them."""


_SHOWN_PROBLEMS = 3


class Rows(list[Row]):
    """The usable rows of a source."""

    def __init__(self, rows: Iterable[Row], num_skipped: int) -> None:
        super().__init__(rows)
        self.num_skipped = num_skipped
        """Rows left out under `bad_rows=skip`."""


class Reading:
    """A source as it is read: iterating gives every row, or what is wrong with it, in order.

    Args:
        source: where the rows come from; `start` and `limit` count in it.
        domain: the domain's name; the pocket generator's default domain.
        key: the configuration key of the source (`domains.math.source`), for messages.
        needs: what the domain's rewards want of a row, see `RowReader`.
        option: the command-line option that maps columns, where no configuration does.
        prefix: of the ids of rows without one; the default is the file's or domain's name.
        task: instead of the one that `source` names.

    Raises:
        ConfigError: no such task, a mapping that cannot work.
    """

    def __init__(
        self,
        source: SourceConfig,
        domain: str,
        *,
        key: str,
        needs: RowNeeds | None = None,
        option: str = "",
        prefix: str | None = None,
        task: Task | None = None,
    ) -> None:
        self.file_hint = f"use {key}.kind=file"
        """How the user names a file instead, for messages."""
        self._distinct = False
        if source.kind == "task":
            role = source.split
            task, source = task_source(source, key, task)
            self.file_hint = with_file(task, key)
            self._distinct = task.distinct and role == "test"
        self.task = task
        self.source = source
        """Where the rows are and how they are read; a task's own, where it is one."""
        self.name = source_name(source, domain)
        self.reader = RowReader(source, key=key, needs=needs, option=option)
        self._key, self._domain = key, domain
        self._prefix = f"{data_stem(source.path) or domain}-" if prefix is None else prefix

    def __iter__(self) -> Iterator[tuple[str, Row | RowProblem]]:
        """(place, row or problem) of each. Raises MissingPathError and DataError for the file."""
        records = open_records(self.source, self._domain, key=self._key, file_hint=self.file_hint)
        if self.task is not None:
            records = task_records(self.task, records, distinct=self._distinct)
        for where, record in window(records, self.source):
            try:
                row = self.reader.read(record, f"{self._prefix}{row_number(where)}")
            except RowProblem as problem:
                if self.task is not None and f"{self._key}." in problem.todo:
                    problem = RowProblem(problem.expected, problem.found)
                yield where, problem
            else:
                yield where, row

    def checked(
        self, accept: Callable[[Row], None] | None = None
    ) -> Iterator[tuple[str, Row | RowProblem]]:
        """The same, where an id that came before is a problem, and what `accept` raises."""
        first_place: dict[str, str] = {}
        for where, row in self:
            if isinstance(row, Row):
                try:
                    if row.id in first_place:
                        raise self._id_again(row.id, first_place[row.id])
                    if accept is not None:
                        accept(row)
                except RowProblem as problem:
                    yield where, problem
                    continue
                first_place[row.id] = where
            yield where, row

    def _id_again(self, id_: str, first: str) -> RowProblem:
        found, todo = f"the id {id_!r} also in {first}", "remove one of the rows"
        if self.task is None:
            columns = [self.reader.mapping("id"), self.reader.mapping("id", repr(""))]
            todo += (
                f", map another column ({columns[0]}), or none, to number the rows ({columns[1]})"
            )
        return RowProblem("every id once", found, todo)

    def no_rows(self, num_problems: int) -> DataError:
        key = self._key
        keys = f"{key}.start and {key}.limit"
        return DataError(
            f"{self.name}: there are no rows to use.",
            expected=f"rows from number {self.source.start} on"
            + ("" if key.startswith("--") else f" ({keys})"),
            found=f"none, and {num_problems} that cannot be used" if num_problems else "none",
            todo=(self.file_hint if key.startswith("--") else f"check the file, {keys}")
            + (f", or see what is wrong with {key}.bad_rows=error" if num_problems else ""),
        )


def load_rows(
    source: SourceConfig,
    domain: str,
    *,
    key: str,
    needs: RowNeeds | None = None,
    accept: Callable[[Row], None] | None = None,
    option: str = "",
    prefix: str | None = None,
    task: Task | None = None,
) -> Rows:
    """All rows of a source, read and checked; arguments as of `Reading`.

    Args:
        accept: a last look at each row; raises `RowProblem` for one that cannot be used.

    Raises:
        MissingPathError: no such file, hub id or split.
        DataError: a file or row that is not what it should be, no rows, an id that occurs twice.
            Rows that are not usable are left out instead under `bad_rows=skip`.
        ConfigError: a mapping that cannot work.
    """
    reading = Reading(source, domain, key=key, needs=needs, option=option, prefix=prefix, task=task)
    rows: list[Row] = []
    problems: list[DataError] = []
    num_problems = 0
    for where, row in reading.checked(accept):
        if isinstance(row, Row):
            rows.append(row)
            continue
        problem = row.at(f"{reading.name}, {where}")
        if source.bad_rows == "error":
            raise problem from row
        num_problems += 1
        if num_problems <= _SHOWN_PROBLEMS:
            problems.append(problem)
    if not rows:
        raise reading.no_rows(num_problems)
    if num_problems:
        total = num_problems + len(rows)
        first = "\n".join(map(str, problems))
        more = f"\nand {num_problems - len(problems)} more" if num_problems > len(problems) else ""
        text = "%s: left out %d of %d rows.\n%s%s"
        logger.warning(text, reading.name, num_problems, total, first, more)
    return Rows(rows, num_problems)


def source_name(source: SourceConfig, domain: str) -> str:
    """How messages call a source."""
    if source.kind == "pocket":
        return f"pocket {source.path or domain} ({source.split})"
    return source.path if source.kind == "file" else f"{source.path} ({source.split})"


def window(records: Iterator[NumberedRecord], source: SourceConfig) -> Iterator[NumberedRecord]:
    """The records that `start` and `limit` leave."""
    stop = None if source.limit is None else source.start + source.limit
    return islice(records, source.start, stop)


def open_records(
    source: SourceConfig, domain: str, *, key: str, file_hint: str
) -> Iterator[NumberedRecord]:
    """The raw records of a source in its own order, each with its place for messages."""
    if source.kind == "pocket":
        return _pocket_records(source, domain, key)
    if source.kind == "file":
        option = key if key.startswith("--") else f"{key}.path"
        return read_records(Path(os.path.expanduser(source.path)), key=option)
    return _hub_records(source, key, file_hint)


def _pocket_records(source: SourceConfig, domain: str, key: str) -> Iterator[NumberedRecord]:
    if not source.path and domain not in DOMAINS:
        raise ConfigError(
            f"{key} does not say where the rows are.",
            expected=f"kind and path, or a domain that is generated ({', '.join(DOMAINS)})",
            found=f"neither, for {domain!r}",
            todo=f"set {key}.kind=file and {key}.path=FILE",
        )
    rows = pocket_rows(source.path or domain, source.split, source.size, POCKET_SEED)
    return ((f"row {number}", row) for number, row in enumerate(rows, start=1))


def _hub_records(source: SourceConfig, key: str, file_hint: str) -> Iterator[NumberedRecord]:
    """Records of a hub data set through the `datasets` library.

    `path` is `owner/name`, with `:config` for a named configuration, or with a file inside the
    repository behind it (`owner/name/folder/train.parquet`).
    """
    check_hub_source(source, key, file_hint)
    repo, config, data_files = split_hub_path(source.path)
    # Imported here: it takes seconds, and only hub sources need it.
    import datasets

    try:
        table = datasets.load_dataset(
            repo, name=config, data_files=data_files, split=source.split, revision=source.revision
        )
    except Exception as error:
        # A data set that is not there, one that needs a login, an unknown split or configuration
        # and no network are all the user's to mend, and the library's own words say which it is.
        # The HTTP libraries beneath raise classes of their own.
        reason = (str(error).splitlines() or [""])[0][:200]
        raise MissingPathError(
            f"{key}: the hub data set {source.path!r} could not be loaded.",
            expected=f"a data set that this machine can reach, with a split {source.split!r}",
            found=f"{type(error).__name__}: {reason}",
            todo=f"check its name and split, log in if it is gated (`hf auth login`), or "
            f"download it and {file_hint}",
        ) from error
    return ((f"row {number}", dict(record)) for number, record in enumerate(table, start=1))
