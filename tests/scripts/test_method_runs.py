"""The runs of every method: none is left out, what a table says of them, and of what is missing."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

import cell_inputs
import method_runs
from method_list import DOMAINS, FAMILIES, METHODS, SEEDS, STEPS

from mgsrl.compare.cells import Cell, differing_keys
from mgsrl.config.algo import ADVANTAGES, IMPORTANCE_LEVELS, IMPORTANCE_MASKS, LOSSES
from mgsrl.config.curriculum import CURRICULA
from mgsrl.config.surgery import SURGERY_METHODS
from mgsrl.errors import MissingPathError

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def cells() -> list[Cell]:
    return method_runs.plan(Path("methods"), list(METHODS), [0], [])


def test_every_method_is_a_line(cells: list[Cell]) -> None:
    configs = [cell.config for cell in cells]
    assert {c.train.num_steps for c in configs} == {STEPS}
    assert {tuple(c.domains) for c in configs} == {DOMAINS}
    assert {c.surgery.method for c in configs} == set(SURGERY_METHODS.members)
    assert {c.algo.advantage for c in configs} == set(ADVANTAGES.members)
    assert {c.algo.loss for c in configs} == set(LOSSES.members)
    assert {c.data.curriculum.kind for c in configs} == set(CURRICULA.members)
    assert {c.algo.importance_mask for c in configs} == set(IMPORTANCE_MASKS)
    assert {c.algo.importance_level for c in configs} == set(IMPORTANCE_LEVELS)
    chosen = {word for words in METHODS.values() for word in words}
    for strategy in (path.stem for path in (ROOT / "configs" / "strategy").glob("*.yaml")):
        assert strategy == "mgs" or f"strategy={strategy}" in chosen
    # the last that are planned are made of others of the same seed
    mopd = next(cell for cell in cells if cell.arm == "mopd")
    teachers = [mopd.config.algos[domain].teacher for domain in DOMAINS]
    assert teachers == [f"methods/single_{domain}-seed0" for domain in DOMAINS]
    assert {cell.arm for cell in cells[-2:]} == {"mopd", "mopd_with_rewards"}


def test_a_line_differs_from_its_baseline_in_the_method_alone(cells: list[Cell]) -> None:
    """Losses and composite rewards would else be compared with something easier."""
    of_method = {cell.arm: cell for cell in cells}
    for family in FAMILIES:
        for name in family.methods:
            differing = differing_keys([of_method[name], of_method[family.baseline]])
            assert "algo.updates_per_batch" not in differing, name
            assert not any("format_bonus" in key for key in differing), name
            assert differing or name == family.baseline


def test_what_is_made_of_runs_that_are_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingPathError, match="add --arms single_chat single_instruction"):
        method_runs.plan(tmp_path, ["mopd", "single_math"], [1], [])


def row(
    method: str, seed: int, reward: float, seconds: float, machine: str = "a"
) -> dict[str, Any]:
    after = {domain: reward + i / 10 for i, domain in enumerate(DOMAINS)}
    cell = {"method": method, "seed": seed, "after": after}
    return {**cell, "step_seconds": seconds, "machine": machine}


def test_the_tables() -> None:
    rows = [row("mgs", 0, 0.2, 2.0), row("mgs", 1, 0.3, 2.0), row("gradvac", 0, 0.3, 3.0)]
    rows += [row("upgrad", 0, 0.3, 3.0, "b"), row("upgrad", 1, 0.3, 3.0)]
    text = method_runs.tables(rows)
    assert text.startswith(f"5 of {len(METHODS) * len(SEEDS)} runs.\nMachines: a; b.\nNot run: ")
    assert "gradvac (seed 1), pcgrad_smoothed, mgda" in text
    assert "gradvac (seed 0)" not in text
    table = text.split("### Surgery\n")[1].split("###")[0].splitlines()
    assert table[1].startswith("| method | sets | math | chat | instruction_following | mean, ag")
    assert table[3] == (
        "| mgs |  | 0.25 (0.20, 0.30) | 0.35 (0.30, 0.40) | 0.45 (0.40, 0.50) | – "
        "| 2.00 (2.00, 2.00) | – |"
    )
    lines = {line.split(" | ")[0]: line for line in table[3:]}
    assert lines["| gradvac"] == (
        "| gradvac | `surgery.method=gradvac` | 0.30 (0.30, –) | 0.40 (0.40, –) | 0.50 (0.50, –) "
        "| +0.10 (+0.10, –) | 3.00 (3.00, –) | 1.50 (1.50, –) |"
    )
    assert lines["| upgrad"].endswith(
        "| +0.05 (+0.10, +0.00) | 3.00 (3.00, 3.00) | 1.50 (–, 1.50) |"
    )
    assert "| mgda" not in lines
    assert "### Advantages" not in text


def run_folder(folder: Path, *, status: str = "finished", steps: int = STEPS) -> None:
    folder.mkdir(parents=True)
    hardware = {"cpu": "some", "cores": 2}
    (folder / "run.json").write_text(json.dumps({"status": status, "hardware": hardware}))
    result = dict.fromkeys(
        ("standard_error", "n", "num_samples", "mean_length", "format_ok", "abstained"), 0
    )
    evaluations = [
        {"step": step, "domain": domain, "mean": step / 100, **result}
        for step in (0, steps)
        for domain in DOMAINS
    ]
    metrics = [{"step": step, "time/total": 9.0 if step < 4 else 2.0} for step in range(1, 9)]
    for name, rows in (("evaluations", evaluations), ("metrics", metrics)):
        text = "".join(json.dumps(each) + "\n" for each in rows)
        (folder / f"{name}.jsonl").write_text(text)


def test_a_trial_run_is_no_teacher(tmp_path: Path) -> None:
    singles = [f"single_{domain}" for domain in DOMAINS]
    for single in singles:
        run_folder(tmp_path / f"{single}-seed0", steps=2 if single == "single_chat" else STEPS)
    with pytest.raises(MissingPathError, match="add --arms single_chat: they are run first"):
        method_runs.plan(tmp_path, ["mopd"], [0], [])
    mopd = method_runs.plan(tmp_path, ["mopd", "single_chat"], [0], [])[-1]
    assert not cell_inputs.ready(mopd, tmp_path, singles)
    (trial,) = method_runs.plan(tmp_path, ["mopd"], [0], ["train.num_steps=2"])
    assert cell_inputs.ready(trial, tmp_path, singles)
    assert not cell_inputs.ready(trial, tmp_path, singles, STEPS)


def test_rows_are_those_of_whole_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(method_runs, "RESULTS", tmp_path / "methods.jsonl")
    run_folder(tmp_path / "mgs-seed0")
    run_folder(tmp_path / "mgs-seed1", status="running")
    run_folder(tmp_path / "mixed-seed1", steps=2)
    after = dict.fromkeys(DOMAINS, 0.3)
    expected = {"method": "mgs", "seed": 0, "after": after}
    expected |= {"step_seconds": 2.0, "machine": "some, 2 cores"}
    assert method_runs.known_rows(tmp_path) == [expected]
    elsewhere = row("mixed", 0, 0.1, 1.0)
    method_runs.RESULTS.write_text(json.dumps(elsewhere) + "\n")
    assert method_runs.known_rows(tmp_path) == [expected, elsewhere]
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- results -->\nold\n<!-- end of results -->\nafter\n")
    monkeypatch.setattr(method_runs, "PAGE", page)
    method_runs.write_docs(tmp_path)
    assert "2 of " in page.read_text()
    assert method_runs.RESULTS.read_text().count("\n") == 2
