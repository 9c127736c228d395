"""What the pages tell a reader to write works, and the metrics they name are logged."""

import re
from pathlib import Path

import pytest

from tests.documented import PAGES, ROOT
from tests.hints import hints, wrong_hint
from tests.obs.glossary import documented

PAGE = ROOT / "docs" / "troubleshooting.md"
OTHERS = ("pip ", "make ", "mgsrl eval", "OURS")
"""How spans with another use of `=` begin."""
SPAN = re.compile(r"`([^`\n]+)`")
FAMILIES = {name.split("/")[0] for name in documented() if "/" in name}


def spans(page: Path) -> list[str]:
    """The code spans of a page; those of its fenced blocks are no spans."""
    text = re.sub(r"(?ms)^```.*?^```", "", page.read_text(encoding="utf-8"))
    return SPAN.findall(text)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_key_and_value_is_taken(page: Path) -> None:
    for span in spans(page):
        mine = span.endswith("=mine")  # the name of a file of the reader's
        if "=" in span and not mine and not span.startswith(OTHERS):
            assert wrong_hint(span.replace(r"\|", "|")) is None, span


def test_troubleshooting_says_what_to_write() -> None:
    written = [hint for span in spans(PAGE) for hint in hints(span)]
    assert len(written) > 50
    assert {"memory", "learn", "hangs"} <= set(re.findall(r"\w+", PAGE.read_text()))


def test_troubleshooting_names_metrics_that_are_logged() -> None:
    for span in spans(PAGE):
        if re.fullmatch(r"[a-z_]+/[a-z_<>/*-]*", span) and span.split("/")[0] in FAMILIES:
            assert span in documented() or span == "time/*", span
