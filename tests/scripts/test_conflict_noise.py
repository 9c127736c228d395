"""The simulation of the methods on noisy gradients, and its table in docs/surgery.md."""

import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

import conflict_noise

PAGE = Path(__file__).resolve().parents[2] / "docs" / "surgery.md"
CELL = r"(\d+) % \((\d\.\d+)\)"


@pytest.mark.parametrize("method", conflict_noise.METHODS)
def test_the_table_is_what_the_simulation_gives(method: str) -> None:
    shares, lengths = conflict_noise.rates(method)
    text = PAGE.read_text(encoding="utf-8")
    for row, cosine in enumerate(conflict_noise.COSINES):
        (line,) = re.findall(rf"(?m)^\| {cosine:g} \| `{method}` \| (.*) \|$", text)
        cells = re.findall(CELL, line)
        assert len(cells) == len(conflict_noise.RATIOS)
        for column, (share, length) in enumerate(cells):
            assert 100 * shares[row, column].item() == pytest.approx(float(share), abs=1.5)
            assert lengths[row, column].item() == pytest.approx(float(length), abs=0.003)


def test_the_table_of_weights_is_what_the_simulation_gives() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for line in conflict_noise.weights_table():
        assert line in text


def test_the_average_lets_as_little_through_as_the_gate_and_misses_less() -> None:
    smoothed, gate = (
        conflict_noise.rates(method)[0] for method in ("pcgrad_smoothed", "gate=reliable")
    )
    assert (smoothed[0] <= 0.07).all()
    assert (smoothed[2] > gate[2]).all()
