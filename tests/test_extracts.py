"""The extracts of published files: listed with their sources, true to the whole, enough."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.oracle import EXTRACTS, WHOLE, read_rows

ROOT = Path(__file__).resolve().parents[1]
LISTED = dict(
    re.findall(r"^\| (\S+\.\w+) \| (\w+) \|", (EXTRACTS.parent / "SOURCES.md").read_text(), re.M)
)
COMPARISONS = sorted(
    str(path.relative_to(ROOT))
    for path in (ROOT / "tests").rglob("test_*.py")
    if "from tests.oracle import" in path.read_text() and path != Path(__file__)
)


def test_every_extract_is_listed_with_its_source() -> None:
    files = {str(path.relative_to(EXTRACTS)) for path in EXTRACTS.rglob("*.*")}
    assert files == {*LISTED}
    assert {*LISTED.values()} == {"extract", "numbers", "own"}
    assert sum((EXTRACTS / name).stat().st_size for name in files) < 500_000


@pytest.mark.parametrize("name", LISTED)
def test_the_rows_are_rows_of_the_whole_file_or_have_its_columns(name: str) -> None:
    part = read_rows(EXTRACTS / name)
    assert part
    if not (WHOLE / name).is_file():
        return
    whole = read_rows(WHOLE / name)
    if LISTED[name] == "own":
        assert set().union(*part) <= set().union(*whole)
    else:
        assert not lacks(whole, part)


def lacks(whole: Any, part: Any) -> Any:
    """What of `part` is not in `whole`: `part` may leave out keys, and rows of lists."""
    if isinstance(part, dict) and isinstance(whole, dict):
        return {key: value for key, value in part.items() if lacks(whole.get(key), value)}
    if isinstance(part, list) and isinstance(whole, list) and len(part) != len(whole):
        return [row for row in part if all(lacks(other, row) for other in whole)]
    if isinstance(part, list) and isinstance(whole, list):
        return [each for ours, each in zip(whole, part, strict=True) if lacks(ours, each)]
    return [] if part == whole else [part]


def test_a_row_that_is_not_in_the_whole_file_is_seen() -> None:
    whole = [{"id": 1, "kwargs": [{"n": 2, "m": None}]}, {"id": 2, "kwargs": []}]
    assert not lacks(whole, [{"id": 1, "kwargs": [{"n": 2}]}])
    assert lacks(whole, [{"id": 1, "kwargs": [{"n": 3}]}])
    assert lacks(whole, [{"id": 3}])


WORDS = (
    "verl golden trl published public known unit_cases exception gsm8k converted heldout mapping"
)


@pytest.mark.slow
def test_the_comparisons_pass_on_the_extracts_and_none_is_skipped() -> None:
    """As in a fresh clone without the whole files."""
    assert len(COMPARISONS) > 10
    options = ["-n", "0", "-p", "no:cacheprovider", "-rs", "-v", "-k", " or ".join(WORDS.split())]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *COMPARISONS],
        cwd=ROOT,
        env={**os.environ, "MGSRL_ORACLES": str(EXTRACTS)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    assert "skipped" not in done.stdout
    (passed,) = re.findall(r"(\d+) passed", done.stdout)
    assert int(passed) >= 100
