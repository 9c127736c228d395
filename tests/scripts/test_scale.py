"""`scripts/scale.py`, small: that its driver does a driver's work on what it made up."""

from pathlib import Path

import pytest


def test_a_small_drivers_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "scripts"))
    import scale

    row = scale.driver(240, 20, 2)
    parts = ("requests", "dealing", "unpickling", "advantages", "packing", "pickling", "metrics")
    assert row["seconds"] == pytest.approx(sum(row[part] for part in parts), abs=0.01)
    assert row["packing"] > 0
    assert scale.markdown([row]).count("\n") == 2
