"""Fetches a published data set, or converts a file of it, to rows that need no mapping.

Written are `NAME.jsonl` and `NAME.provenance.json` (hub id, revision, licence, rows, sha256). Rows
that cannot be used are left out and counted with the reason. JSON lines rather than Parquet: a
table would give every row the union of all constraints' arguments.

Left out: test splits, and filtering by difficulty or language.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mgsrl import __version__
from mgsrl.config import SourceConfig
from mgsrl.config.hub import hub_info
from mgsrl.config.places import split_hub_path
from mgsrl.data import smollm2
from mgsrl.data.published import PUBLISHED, PublishedSet
from mgsrl.data.rows import Row, RowProblem, RowReader
from mgsrl.errors import DataError, MissingPathError, UserError, explain, nearest
from mgsrl.files.jsonl import dump_line, write_atomic
from mgsrl.files.records import NumberedRecord, read_records, row_number
from mgsrl.obs.outputs import output_file

_SPLIT = "train"


@dataclass(slots=True)
class Prepared:
    """What was written."""

    path: Path
    rows: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    """What was expected and not found -> how many rows."""
    examples: dict[str, str] = field(default_factory=dict)
    """The first row of each, with its place and what was found."""


def published_set(name: str) -> PublishedSet:
    """Look up a data set. Raises UserError with the nearest name."""
    if name not in PUBLISHED:
        raise UserError(
            explain(
                f"There is no published data set {name!r}.",
                expected=nearest(name, [*PUBLISHED, smollm2.NAME]),
                found=repr(name),
                todo="choose one of `mgsrl data prepare --list`",
            )
        )
    return PUBLISHED[name]


def listing() -> list[str]:
    """The table as lines of text."""
    lines = []
    for name, entry in PUBLISHED.items():
        lines.append(f"{name:<12} {entry.rows:>6} rows  {entry.licence:<11} {entry.hub}")
        lines.append(f"{'':<12} {entry.about}")
        if entry.unverified:
            lines.append(f"{'':<12} not verified: {entry.unverified}")
    lines.append(f"{smollm2.NAME:<12} a model, to {smollm2.FOLDER}")
    return lines


def prepare(
    name: str,
    folder: Path,
    *,
    file: Path | None = None,
    force: bool = False,
    validate: Callable[[dict[str, Any]], None] | None = None,
    progress: Callable[[Iterable[NumberedRecord]], Iterable[NumberedRecord]] = iter,
) -> Prepared:
    """Write a data set into `folder`.

    Args:
        file: a local file with the set's columns instead of the hub.
        force: files of an earlier call may be replaced.
        validate: as of `RowReader`; rows that it refuses are left out.
        progress: wraps the records, for a progress bar.

    Raises:
        MissingPathError: the hub or the file cannot be reached.
        DataError: a file that cannot be read, or no row that can be used.
        ConfigError: a file to write exists, or is the one that is read.
    """
    entry = published_set(name)
    inputs = [file] if file else []
    path, provenance_path = folder / f"{name}.jsonl", folder / f"{name}.provenance.json"
    if folder.exists():
        for each in (path, provenance_path):
            output_file(each, "--output", inputs=inputs, force=force)
    if file is None:
        records, provenance = _from_hub(entry)
    else:
        records = read_records(file, key="--from")
        provenance = {"file": file.name, "file_sha256": _sha256(file)}
    prepared = Prepared(path)
    text = "".join(map(dump_line, _rows(name, entry, progress(records), validate, prepared)))
    if not prepared.rows:
        raise _nothing(name, prepared)
    write_atomic(prepared.path, text)
    write_atomic(
        provenance_path,
        json.dumps(
            {
                "name": name,
                "hub": entry.hub,
                "licence": entry.licence,
                **provenance,
                "rows": prepared.rows,
                "left_out": dict(prepared.left_out),
                "sha256": _sha256(prepared.path),
                "mgsrl": __version__,
            },
            indent=2,
        )
        + "\n",
    )
    return prepared


def _rows(
    name: str,
    entry: PublishedSet,
    records: Iterable[NumberedRecord],
    validate: Callable[[dict[str, Any]], None] | None,
    prepared: Prepared,
) -> Iterator[dict[str, Any]]:
    """The usable rows in our layout; counts into `prepared`."""
    source = SourceConfig(columns=dict(entry.columns), answer_pattern=entry.answer_pattern)
    reader = RowReader(source, key=name, reward_kind=entry.reward_kind, validate=validate)
    ids: set[str] = set()
    for where, record in records:
        try:
            if entry.convert and isinstance(record, dict):
                record = entry.convert(record)
            row = reader.read(record, default_id=f"{name}-{row_number(where)}")
        except RowProblem as problem:
            prepared.left_out[problem.expected] += 1
            prepared.examples.setdefault(problem.expected, f"{where}: {problem.found}")
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


def _from_hub(entry: PublishedSet) -> tuple[Iterator[NumberedRecord], dict[str, str]]:
    """The records of the training split at one revision, and which that is."""
    repo, config, data_files = split_hub_path(entry.hub)
    todo = "download it elsewhere and give the file with --from FILE"
    info = hub_info(repo, "dataset", entry.hub, todo)
    revision = None if info is None else str(info.sha)
    try:
        import datasets  # here, because it takes seconds

        table = datasets.load_dataset(
            repo, name=config, data_files=data_files, split=_SPLIT, revision=revision
        )
    except Exception as error:  # the clients below raise classes of their own HTTP libraries
        reason = (str(error).splitlines() or [""])[0][:200]
        raise MissingPathError(
            explain(
                f"The hub data set {entry.hub!r} could not be fetched.",
                expected=f"https://huggingface.co/datasets/{repo} within reach of this machine",
                found=f"{type(error).__name__}: {reason}",
                todo=f"check the network and, for a gated set, `hf auth login`; or {todo}",
            )
        ) from error
    records = ((f"row {number}", dict(record)) for number, record in enumerate(table, start=1))
    return records, {"split": _SPLIT, "revision": revision or "unknown"}


def _nothing(name: str, prepared: Prepared) -> DataError:
    expected, found = next(iter(prepared.examples.items()), ("rows", "an empty file"))
    return DataError(
        explain(
            f"{name}: no row can be used.",
            expected=expected,
            found=found,
            todo="check that the file is this data set (`mgsrl data prepare --list`)",
        )
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
