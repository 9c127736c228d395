"""The table of agreement with the references: what it says is so, and every part is in it."""

import re
import subprocess
import sys

from mgsrl.config.algo import ADVANTAGES, IMPORTANCE_MASKS, LOSSES
from tests.documented import ROOT


def test_the_committed_table_is_what_the_recorded_cases_give() -> None:
    command = [sys.executable, str(ROOT / "scripts" / "agreement.py")]
    # by itself: it takes the extracts, whatever this process compares with
    table = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    page = (ROOT / "docs" / "algorithm.md").read_text(encoding="utf-8")
    assert table in page, "python scripts/agreement.py --docs"
    rows = re.findall(r"(?m)^\| `(\S+)` \| (\S+ \S+) \| (\d+) \|", table)
    members = {"advantage": ADVANTAGES.members, "loss": LOSSES.members}
    members["importance_mask"] = dict.fromkeys(IMPORTANCE_MASKS)
    wanted = {f"algo.{key}={name}" for key, names in members.items() for name in names}
    assert {part for part, _, _ in rows} >= wanted
    sources = (ROOT / "tests" / "data" / "SOURCES.md").read_text(encoding="utf-8")
    for _, reference, cases in rows:
        assert reference in sources
        assert int(cases) > 1
