"""The study's runner: what it plans, in which order, and what it makes of comparisons."""

import argparse
import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

import study
import study_claims
import study_inputs
from study_arms import ARMS, EVERY, STEPS, seeds_of
from study_claims import CLAIMS, LATER_CLAIMS, MEAN, WORST, Claim, contrast, verdict

from mgsrl.errors import MissingPathError
from mgsrl.rewards.pocket_conflict import HABITS


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
    assert study.run(planned, tmp_path, [0, 7], jobs=1)
    assert ran == [(0, 0.0), (0, 1.0), (7, 0.0), (7, 1.0)]
    assert 7 in seeds_of("mixed")


def run_folder(folder: Path, *, before: float, after: float, step: int = STEPS) -> None:
    """What a finished run left: the rewards of the domains, each an eighth above the one before."""
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"status": "finished"}))
    rest = dict.fromkeys(
        ("standard_error", "n", "num_samples", "mean_length", "format_ok", "abstained"), 0
    )
    lines = [
        {"step": at, "domain": domain, "mean": value + i / 8, **rest}
        for at, value in ((0, before), (step, after))
        for i, domain in enumerate(HABITS)
    ]
    (folder / "evaluations.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))


SINGLES = [f"single_{domain}" for domain in HABITS]


def test_what_is_made_of_other_runs_comes_after_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arms = ["merged_sum", "mopd", "merged_ties", *SINGLES]
    planned = study.plan(options(tmp_path, arms=arms, positions=[0.5], seeds=[1, 2]))
    mopd = next(cell for cell in planned[0.5] if (cell.arm, cell.seed) == ("mopd", 2))
    runs = [tmp_path / "conflict-0.5" / f"{single}-seed2" for single in SINGLES]
    assert [mopd.config.algos[domain].teacher for domain in HABITS] == [str(run) for run in runs]
    model = tmp_path / "merged-0.5" / "models" / "merged_ties-seed2"
    merged = next(cell for cell in planned[0.5] if (cell.arm, cell.seed) == ("merged_ties", 2))
    assert merged.dir == tmp_path / "merged-0.5" / "merged_ties-seed2"
    assert merged.config.policy.path == str(model)
    assert (merged.config.train.num_steps, merged.config.learner.optimizer.lr) == (1, 0)

    did: list[tuple[str, ...]] = []

    class Done:
        finished = True

    def run_cells(cells: list[study.Cell], planned: list[study.Cell], jobs: int) -> list[Done]:
        assert {cell.dir.parent for cell in planned} == {cells[0].dir.parent}
        for cell in cells:
            if cell.arm != "single_pronouns" or cell.seed == 2:
                run_folder(cell.dir, before=0, after=1)
        did.append(tuple(cell.name for cell in cells))
        return [Done()] * len(cells)

    def merge(runs: list[Path], model: Path, method: str, dtype: str) -> None:
        model.mkdir()
        did.append((*(run.name for run in runs), method))

    monkeypatch.setattr(study, "run_cells", run_cells)
    monkeypatch.setattr(study_inputs, "merge_models", merge)
    assert not study.run(planned, tmp_path, [1, 2], jobs=2), "one of the single runs failed"
    of_2 = tuple(run.name for run in runs)
    assert did == [
        tuple(name.replace("seed2", "seed1") for name in of_2),
        of_2,
        ("mopd-seed2",),
        (*of_2, "task_arithmetic"),
        (*of_2, "ties"),
        ("merged_sum-seed2", "merged_ties-seed2"),
    ]


@pytest.mark.parametrize("arm", ["mopd", "merged_mean"])
def test_without_the_runs_that_an_arm_is_made_of_it_is_refused(tmp_path: Path, arm: str) -> None:
    asked = options(tmp_path, arms=[arm, *SINGLES[1:]], positions=[1.0], seeds=[0])
    with pytest.raises(MissingPathError, match="add --arms single_commas: they are run first"):
        study.plan(asked)
    run_folder(tmp_path / "conflict-1" / "single_commas-seed0", before=0, after=1)
    assert study.plan(asked)[1.0][-1].arm == arm


def test_rows_are_read_off_the_runs(tmp_path: Path) -> None:
    for single in SINGLES:
        run_folder(tmp_path / "conflict-1" / f"{single}-seed0", before=0.5, after=0.25)
        run_folder(tmp_path / "conflict-1" / f"{single}-seed1", before=0.5, after=0.25, step=2)
    run_folder(tmp_path / "conflict-1" / "gradvac-seed0", before=0.25, after=0.5)
    steps = [
        {"step": i, "grad_norm/commas": norm, "time/total": 2.5, "throughput/tokens_per_second": 10}
        for i, norm in ((1, 1.0), (2, 3.0))
    ]
    steps.append({"step": 3, "grad_norm/commas": None, "time/total": None})  # of a step without
    metrics = tmp_path / "conflict-1" / "gradvac-seed0" / "metrics.jsonl"
    metrics.write_text("".join(json.dumps(step) + "\n" for step in steps))
    run_folder(tmp_path / "conflict-1" / "bandit-seed0", before=0.25, after=0.5, step=2)  # cut
    run_folder(tmp_path / "merged-1" / "merged_sum-seed0", before=1.0, after=1.0, step=1)
    run_folder(tmp_path / "merged-1" / "merged_sum-seed1", before=1.0, after=1.0, step=1)  # of cut
    found = study_claims.rows_of(tmp_path)
    assert found[3]["means"] == {"grad_norm/commas": 2.0}
    assert found[3]["tokens"] == 50
    assert [(row["arm"], row["after"]["commas"], row["worst_gain"]) for row in found] == [
        *((single, 0.25, -0.25) for single in SINGLES),
        ("gradvac", 0.5, 0.25),
        ("merged_sum", 1.0, 0.5),  # above the policy that the single runs began with
    ]


def test_when_all_is_run_the_tables_are_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(study, "run", lambda *_: True)
    words = ["study.py", "--arms", "mixed", "--folder", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", words)
    assert study.main() == 0
    assert "### Conflict 0.5\n\n| arm | seeds |" in capsys.readouterr().out


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


def test_methods_that_joined_later_change_nothing_that_was_there() -> None:
    first = rows(mixed=[0.1, 0.2, 0.3], mgs=[0.2, 0.3, 0.41])
    later = rows(gradvac=[0.2, 0.3, 0.41], mopd=[0.1, 0.3, 0.2])
    assert study.tables([*first, *later]) == study.tables(first)
    assert study.tables(first, later=True) == ""
    added = study.tables([*first, *later], later=True).splitlines()
    assert added[0] == "### Conflict 1, methods added later"
    assert [line.split(" | ")[0] for line in added[4:]] == ["| mixed", "| gradvac", "| mopd"]
    assert {claim.arm for claim in CLAIMS} <= set(ARMS), "nor the claims"


def test_cells_of_several_machines_are_put_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study, "RESULTS", tmp_path / "rows.jsonl")
    before = rows(mgs=[0.3], mixed=[0.1, 0.2])
    study.RESULTS.write_text("".join(json.dumps(row) + "\n" for row in before))
    assert study.known_rows(tmp_path) == [*before[1:], before[0]], "in the order of the arms"
    new = [row | {"tokens": 7, "step_seconds": 2.0} for row in rows(mixed=[0.1, 0.2, 0.3])]
    monkeypatch.setattr(study_claims, "rows_of", lambda folder: new)
    assert study.known_rows(tmp_path) == [*new, before[0]]
    assert study.check(tmp_path)[0].startswith(
        "2 cells came to the same numbers, to the bit; 1 are"
    )
    assert study.check(tmp_path)[1] == 2
    new[1]["step_seconds"] = 3.0
    study.write_rows(study.RESULTS, study.known_rows(tmp_path))
    new[1]["tokens"] = 8
    with pytest.raises(SystemExit, match=r"mixed, 1 was run again .* \(tokens\)"):
        study.known_rows(tmp_path)


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
    assert {claim.number for claim in LATER_CLAIMS} == set(range(10, 15))
    assert {arm for claim in CLAIMS for arm in (claim.arm, claim.other)} <= set(ARMS)
    assert {claim.arm for claim in LATER_CLAIMS} == set(EVERY) - set(ARMS)
    text = study_claims.tables(rows(mixed=[0.1, 0.2, 0.3], mgs=[0.2, 0.3, 0.41]))
    assert "| 4 | 1 | `mgs` - `mixed` | mean | 3 | -0.1 to +0.2 | **+0.103" in text
    study_claims.draw(rows(mixed=[0.1, 0.2, 0.3], mgs=[0.2, 0.3, 0.41]), tmp_path / "i" / "s.png")
    assert (tmp_path / "i" / "s.png").read_bytes().startswith(b"\x89PNG")
