"""Published verdicts next to the repository; tests that need them are skipped without them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
needs_oracle = pytest.mark.skipif(not DATA.is_dir(), reason=f"{DATA} is not there")


def rows(name: str) -> Iterator[dict[str, Any]]:
    with (DATA / name).open(encoding="utf-8") as file:
        yield from map(json.loads, file)
