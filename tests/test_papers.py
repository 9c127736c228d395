"""docs/papers.md: every configuration is taken, every file is there, no cited paper is missing."""

import re
import shlex

import pytest

from mgsrl.cli import _parser
from mgsrl.config.compose import compose_config
from mgsrl.config.surgery import SURGERY_METHODS
from mgsrl.evaluate.tasks import parse_tasks
from tests.documented import ROOT

PAGE = (ROOT / "docs" / "papers.md").read_text(encoding="utf-8")
ROWS = re.findall(r"(?m)^\| (.+?) \| `(.+?)` \| `(.+?)` \|$", PAGE)
ARXIV = re.compile(r"arxiv[:/ ]*(?:abs/)?(\d{4}\.\d{5})", re.IGNORECASE)


def test_the_tables_are_read() -> None:
    lines = [line for line in PAGE.splitlines() if line.startswith("| ")]
    assert len(ROWS) == len(lines) - PAGE.count("| paper |") > 40


@pytest.mark.parametrize(("paper", "line", "file"), ROWS, ids=[row[0][:40] for row in ROWS])
def test_the_configuration_is_taken(paper: str, line: str, file: str) -> None:
    assert (ROOT / file).is_file()
    words = shlex.split(line)
    if words[0] != "mgsrl":
        compose_config(words)
        return
    options = _parser().parse_args(words[1:])
    if words[1] == "eval":
        assert parse_tasks(options.tasks)


def test_every_paper_that_the_package_cites_is_listed() -> None:
    sources = [*(ROOT / "mgsrl").rglob("*.py"), *(ROOT / "configs").rglob("*.yaml")]
    cited = {number for path in sources for number in ARXIV.findall(path.read_text())}
    assert len(cited) > 15
    assert cited - set(ARXIV.findall(PAGE)) == set()


def test_every_surgery_method_with_a_paper_is_listed() -> None:
    listed = set(re.findall(r"surgery\.method=(\w+)", PAGE))
    nobodys = {"pcgrad", "none", "mean", "pcgrad_smoothed"}  # PCGrad has its rows, by strategy
    assert listed == SURGERY_METHODS.members.keys() - nobodys
