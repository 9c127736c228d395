"""Loads one domain's rows from the pocket generator, a local file or a hub data set.

The order of the rows is the source's own; `start` and `limit` cut a window out of it, so train and
held-out rows can come from one file. Every row that is used is checked before the run starts.

Left out: streaming. All prompts of a run fit into memory, and a resumable shuffle wants them all.
"""

import logging
import os
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from mgsrl.config import SourceConfig
from mgsrl.config.places import check_hub_source, split_hub_path
from mgsrl.data.pocket import pocket_rows
from mgsrl.data.rows import Row, RowProblem, RowReader
from mgsrl.errors import DataError, MissingPathError, explain
from mgsrl.files.records import NumberedRecord, data_stem, read_records, row_number

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


def load_rows(
    source: SourceConfig,
    domain: str,
    *,
    key: str,
    reward_kind: str = "reward_model",
    validate: Callable[[dict[str, Any]], None] | None = None,
    accept: Callable[[Row], None] | None = None,
    option: str = "",
) -> Rows:
    """All rows of a source, read and checked.

    Args:
        source: where the rows come from.
        domain: the domain's name; the pocket generator's default domain.
        key: the configuration key of the source (`domains.math.source`), for messages.
        reward_kind: decides what a row must hold, see `RowReader`.
        validate: an extra check of each reference; raises `ValueError` for a bad one.
        accept: a last look at each row; raises `RowProblem` for one that cannot be used.
        option: the command-line option that maps columns, where no configuration does.

    Raises:
        MissingPathError: no such file, hub id or split.
        DataError: a file or row that is not what it should be, no rows, an id that occurs twice.
            Rows that are not usable are left out instead under `bad_rows=skip`.
        ConfigError: a mapping that cannot work.
    """
    reader = RowReader(source, key=key, reward_kind=reward_kind, validate=validate, option=option)
    name = source_name(source, domain)
    stem = data_stem(source.path) or domain
    rows: list[Row] = []
    problems: list[DataError] = []
    num_problems = 0
    first_place: dict[str, str] = {}
    for where, record in window(open_records(source, domain, key=key), source):
        try:
            row = reader.read(record, default_id=f"{stem}-{row_number(where)}")
            if row.id in first_place:
                raise _id_again(row.id, first_place[row.id], reader)
            if accept is not None:
                accept(row)
        except RowProblem as problem:
            if source.bad_rows == "error":
                raise problem.at(f"{name}, {where}") from problem
            num_problems += 1
            if num_problems <= _SHOWN_PROBLEMS:
                problems.append(problem.at(f"{name}, {where}"))
            continue
        first_place[row.id] = where
        rows.append(row)
    if not rows:
        raise _no_rows(name, source, key, num_problems)
    if num_problems:
        total = num_problems + len(rows)
        first = "\n".join(map(str, problems))
        more = f"\nand {num_problems - len(problems)} more" if num_problems > len(problems) else ""
        logger.warning("%s: left out %d of %d rows.\n%s%s", name, num_problems, total, first, more)
    return Rows(rows, num_problems)


def _id_again(id_: str, first: str, reader: RowReader) -> RowProblem:
    return RowProblem(
        "every id once",
        f"the id {id_!r} also in {first}",
        f"remove one of the rows, map another column ({reader.mapping('id')}), or none, to number "
        f"the rows ({reader.mapping('id', repr(''))})",
    )


def _no_rows(name: str, source: SourceConfig, key: str, num_problems: int) -> DataError:
    return DataError(
        explain(
            f"{name}: there are no rows to use.",
            expected=f"rows from number {source.start} on ({key}.start, {key}.limit)",
            found=f"none, and {num_problems} that cannot be used" if num_problems else "none",
            todo=f"check the file, {key}.start and {key}.limit"
            + (f", or see what is wrong with {key}.bad_rows=error" if num_problems else ""),
        )
    )


def source_name(source: SourceConfig, domain: str) -> str:
    """How messages call a source."""
    if source.kind == "pocket":
        return f"pocket {source.path or domain} ({source.split})"
    return source.path if source.kind == "file" else f"{source.path} ({source.split})"


def window(records: Iterator[NumberedRecord], source: SourceConfig) -> Iterator[NumberedRecord]:
    """The records that `start` and `limit` leave."""
    stop = None if source.limit is None else source.start + source.limit
    return islice(records, source.start, stop)


def open_records(source: SourceConfig, domain: str, *, key: str) -> Iterator[NumberedRecord]:
    """The raw records of a source in its own order, each with its place for messages."""
    if source.kind == "pocket":
        return _pocket_records(source, domain)
    if source.kind == "file":
        return read_records(Path(os.path.expanduser(source.path)), key=f"{key}.path")
    return _hub_records(source, key)


def _pocket_records(source: SourceConfig, domain: str) -> Iterator[NumberedRecord]:
    rows = pocket_rows(source.path or domain, source.split, source.size, POCKET_SEED)
    return ((f"row {number}", row) for number, row in enumerate(rows, start=1))


def _hub_records(source: SourceConfig, key: str) -> Iterator[NumberedRecord]:
    """Records of a hub data set through the `datasets` library.

    `path` is `owner/name`, with `:config` for a named configuration, or with a file inside the
    repository behind it (`owner/name/folder/train.parquet`).
    """
    check_hub_source(source, key)
    repo, config, data_files = split_hub_path(source.path)
    # Imported here: it takes seconds, and only hub sources need it.
    import datasets

    try:
        table = datasets.load_dataset(repo, name=config, data_files=data_files, split=source.split)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        # A data set that is not there, one that needs a login, an unknown split or configuration
        # and no network are all the user's to mend, and the library's own words say which it is.
        raise MissingPathError(
            explain(
                f"{key}: the hub data set {source.path!r} could not be loaded.",
                expected=f"a data set that this machine can reach, with a split {source.split!r}",
                found=f"{type(error).__name__}: {str(error).splitlines()[0][:200]}",
                todo=f"check {key}.path and {key}.split, log in if it is gated, or download it "
                f"and use {key}.kind=file",
            )
        ) from error
    return ((f"row {number}", dict(record)) for number, record in enumerate(table, start=1))
