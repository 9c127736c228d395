"""The study's runner: what it plans, in which order, and what it makes of comparisons."""

import argparse
import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

import study
import study_claims
from study_arms import ARMS, seeds_of
from study_claims import CLAIMS, MEAN, WORST, Claim, contrast, verdict


def options(folder: Path, **more: object) -> argparse.Namespace:
    usual = {"arms": ["mixed", "mgda"], "positions": [0.0, 1.0], "seeds": [0, 7]}
    return argparse.Namespace(folder=folder, overrides=["train.num_steps=2"], **usual | more)


def test_cells_are_arms_by_position_and_seed(tmp_path: Path) -> None:
    planned = study.plan(options(tmp_path))
    assert list(planned) == [0.0, 1.0]
    for position, cells in planned.items():
        # mgda has no eighth seed
        assert [(c.arm, c.seed) for c in cells] == [("mixed", 0), ("mgda", 0), ("mixed", 7)]
        assert {c.config.domains["pronouns"].reward.options.conflict for c in cells} == {position}
        assert {c.dir.parent.name for c in cells} == {f"conflict-{position:g}"}
        assert {c.config.train.num_steps for c in cells} == {2}


def test_a_seed_is_run_at_all_positions_before_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[tuple[int, float]] = []

    class Done:
        finished = True

    def run_cells(cells: list[study.Cell], planned: list[study.Cell], jobs: int) -> list[Done]:
        assert {cell.seed for cell in planned} == {0, 7}, "the folder's plan keeps all seeds"
        conflict = cells[0].config.domains["commas"].reward.options.conflict
        ran.extend(dict.fromkeys((cell.seed, conflict) for cell in cells))
        return [Done()] * len(cells)

    monkeypatch.setattr(study, "run_cells", run_cells)
    planned = study.plan(options(tmp_path))
    assert study.run(planned, [0, 7], jobs=1)
    assert ran == [(0, 0.0), (0, 1.0), (7, 0.0), (7, 1.0)]
    assert 7 in seeds_of("mixed")


def rows(**arms: list[float]) -> list[dict[str, object]]:
    """Cells at conflict 1 whose two domains come to `v` and `v + 1`; the worst gain is `-v`."""
    return [
        {"conflict": 1.0, "arm": arm, "seed": i, "after": {"a": v, "b": v + 1}, "worst_gain": -v}
        for arm, values in arms.items()
        for i, v in enumerate(values)
    ]


def test_the_tables_of_the_page() -> None:
    found = rows(mixed=[0.1, 0.2, 0.3], mgs=[0.2, 0.3, 0.41], layer=[0.7], mgda=[0.1, 0.3, 0.2])
    assert study.tables(found).splitlines()[4:] == [
        "| mixed | 3 | +0.70 (+0.45 to +0.95) | -0.20 (-0.45 to +0.05) | – | – |",
        "| mgs | 3 | +0.80 (+0.54 to +1.06) | -0.30 (-0.56 to -0.04) | **+0.10 (+0.09 to +0.12)** "
        "| **-0.10 (-0.12 to -0.09)** |",
        "| layer | 1 | +1.20 | -0.70 | +0.60 | -0.60 |",
        "| mgda | 3 | +0.70 (+0.45 to +0.95) | -0.20 (-0.45 to +0.05) | +0.00 (-0.25 to +0.25) "
        "| +0.00 (-0.25 to +0.25) |",
    ]


def test_cells_of_several_machines_are_put_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(study, "RESULTS", tmp_path / "rows.jsonl")
    before = rows(mgs=[0.3], mixed=[0.1, 0.2])
    study.RESULTS.write_text("".join(json.dumps(row) + "\n" for row in before))
    assert study.known_rows(tmp_path) == [*before[1:], before[0]], "in the order of the arms"
    new = rows(mixed=[0.1, 0.25, 0.3])
    monkeypatch.setattr(study_claims, "rows_of", lambda folder: new)
    assert study.known_rows(tmp_path) == [*new, before[0]]
    assert capsys.readouterr().err.count("other numbers") == 1, "of the cell that differed"


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.0, 0.4, "holds"), (0.19, 0.4, "open"), (0.3, 0.4, "refuted"), (-1, 0.1, "refuted")],
)
def test_a_claim_holds_if_the_whole_interval_is_as_predicted(
    low: float, high: float, expected: str
) -> None:
    found = rows(mixed=[0.1, 0.2, 0.3, 0.4], mgs=[0.29, 0.41, 0.5, 0.6])  # about +0.2 each
    claim = Claim(1, 1.0, "mgs", "mixed", MEAN, low, high)
    came_out = contrast(found, claim)
    assert came_out.mean == pytest.approx(0.2)
    assert verdict(claim, came_out) == expected
    worst = contrast(found, Claim(1, 1.0, "mgs", "mixed", WORST, low, high))
    assert worst.mean == pytest.approx(-0.2)


def test_without_two_seeds_nothing_is_said() -> None:
    claim = Claim(1, 1.0, "mgs", "mixed", MEAN, -1, 1)
    assert verdict(claim, contrast(rows(mixed=[0.1, 0.2], mgs=[0.1]), claim)) == "no data"
    assert verdict(claim, contrast(rows(mixed=[0.1]), claim)) == "no data"


def test_every_prediction_is_claimed_of_arms_that_run(tmp_path: Path) -> None:
    assert {claim.number for claim in CLAIMS} == set(range(1, 10))
    assert {arm for claim in CLAIMS for arm in (claim.arm, claim.other)} <= set(ARMS)
    text = study_claims.tables(rows(mixed=[0.1, 0.2, 0.3], mgs=[0.2, 0.3, 0.41]))
    assert "| 4 | 1 | `mgs` - `mixed` | mean | 3 | -0.1 to +0.2 | **+0.103" in text
    study_claims.draw(rows(mixed=[0.1, 0.2, 0.3], mgs=[0.2, 0.3, 0.41]), tmp_path / "i" / "s.png")
    assert (tmp_path / "i" / "s.png").read_bytes().startswith(b"\x89PNG")
