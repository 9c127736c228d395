"""Published rows and numbers that the code is compared with.

The whole files lie in `$MGSRL_ORACLES`, or in `shared/data` beside the repository. Where one is not
there, its extract in `tests/data/extracts` serves (same name, same form, a few dozen rows; sources
and licences in `tests/data/SOURCES.md`), so every comparison runs in a fresh clone too. Tests count
what they expect from the file itself, or state it as a share of its rows.
"""

import json
import os
from pathlib import Path
from typing import Any

import pyarrow.parquet

EXTRACTS = Path(__file__).resolve().parent / "data" / "extracts"
WHOLE = Path(
    os.environ.get("MGSRL_ORACLES") or Path(__file__).resolve().parents[2] / "shared" / "data"
)


def published_file(name: str) -> Path:
    """The whole file, or its extract; where there is neither, the extract's path."""
    return WHOLE / name if (WHOLE / name).is_file() else EXTRACTS / name


def published_rows(name: str) -> list[dict[str, Any]]:
    """The rows of a published file: JSON lines, one JSON array, or Parquet."""
    return read_rows(published_file(name))


def read_rows(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        return pyarrow.parquet.read_table(path).to_pylist()
    text = path.read_text(encoding="utf-8")
    # Not `splitlines`: texts hold separators of lines that JSON does not.
    return json.loads(text if path.suffix == ".json" else f"[{text.strip().replace(chr(10), ',')}]")
