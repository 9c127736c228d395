"""Comparisons of runs that lack something or are damaged: what is said, what is not counted."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest

from mgsrl.cli import main
from mgsrl.errors import ConfigError
from mgsrl.report.compare import Entry, comparison, default_folder
from mgsrl.report.compare_text import markdown
from tests.report.synthetic import DOMAINS, make_runs

DEEP = "[" * 100_000


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    return make_runs(tmp_path / "runs", steps=4)


def rows_of(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / "evaluations.jsonl").open()]


def write(run_dir: Path, rows: list[dict[str, Any]], name: str = "evaluations.jsonl") -> None:
    (run_dir / name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def compared(*runs: Path, **options: Any) -> Any:
    return comparison([Entry(run) for run in runs], **options)


def test_a_run_without_its_last_evaluation_is_named(runs: list[Path]) -> None:
    """Everything is compared where it still has one, which no number would show."""
    for run in runs:
        write(run, rows_of(run) + [row | {"step": 2} for row in rows_of(run) if row["step"] == 4])
    write(runs[1], [row for row in rows_of(runs[1]) if row["step"] != 4])
    found = compared(*runs)
    assert found.common.last == 2
    assert "Held-out scores are those at step 2: mgs-1 has no later evaluation." in found.remarks


def test_without_a_common_start_scores_are_compared_and_gains_are_not(runs: list[Path]) -> None:
    write(runs[1], [row for row in rows_of(runs[1]) if row["step"] != 0])
    found = compared(*runs)
    assert (found.common.first, found.common.last) == (None, 4)
    assert found.arms[0].average.n == 2
    assert found.arms[0].worst.n == 0
    assert any("Gains are not known" in remark for remark in found.remarks)


def test_a_baseline_without_a_domain_s_scores_is_named(runs: list[Path]) -> None:
    for run in runs[2:]:
        write(run, [r for r in rows_of(run) if (r["domain"], r["step"]) != ("chat", 4)])
    sentence = compared(*runs).arms[0].sentence
    assert "no finished seed of mixed has scores of all domains" in sentence


def test_a_run_without_steps_narrows_nothing(runs: list[Path]) -> None:
    (runs[0] / "metrics.jsonl").write_text('{"step": null}\n')
    found = compared(*runs)
    assert found.common.training == 4
    assert found.arms[0].conflict_rate.n == 1
    assert any("Without any training step (mgs-0)" in remark for remark in found.remarks)


def test_what_a_killed_run_took_is_not_known(runs: list[Path]) -> None:
    for run in runs:
        record = json.loads((run / "run.json").read_text())
        record["placement"]["gpus"] = 8
        record["sessions"][0]["seconds"] = 1800
        if run == runs[0]:
            killed = {"started": record["sessions"][0]["started"], "first_step": 0}
            record["sessions"].insert(0, killed)
        (run / "run.json").write_text(json.dumps(record))
    found = compared(*runs)
    assert (found.arms[0].cost.seconds.n, found.arms[1].cost.seconds.n) == (1, 2)
    assert (found.arms[0].cost.gpu_hours.n, found.arms[1].cost.gpu_hours.mean) == (1, 4.0)
    assert any("Killed and gone on: mgs-0." in remark for remark in found.remarks)


@pytest.mark.parametrize("seed", ["true", "'0'", "0.5"])
def test_a_seed_is_a_whole_number(runs: list[Path], seed: str) -> None:
    text = (runs[0] / "config.yaml").read_text()
    assert text.startswith("seed: 0\n")
    (runs[0] / "config.yaml").write_text(text.replace("seed: 0", f"seed: {seed}", 1))
    found = comparison([Entry(run) for run in runs], allow=["seed"])
    assert [seed for arm in found.arms for seed in arm.arm.seeds if seed >= 0] == [1, 0, 1]


def test_other_plans_values_are_no_axis(runs: list[Path]) -> None:
    """What one plan varies does not excuse another's fixed value."""
    for run, value in zip(runs, (0.005, 0.1, 0.5, 0.5), strict=True):
        text = (run / "config.yaml").read_text()
        (run / "config.yaml").write_text(text.replace("kl_coef: 0.005", f"kl_coef: {value}"))
    planned = [Entry(run, f"mgs {i}", axes={"algo.kl_coef"}) for i, run in enumerate(runs[:2])]
    others = [Entry(run, "mixed", axes=()) for run in runs[2:]]
    with pytest.raises(ConfigError, match=r"algo.kl_coef: .*0\.5"):
        comparison([*planned, *others], declared={"algo.kl_coef"})
    for run in runs[2:]:
        text = (run / "config.yaml").read_text()
        (run / "config.yaml").write_text(text.replace("kl_coef: 0.5", "kl_coef: 0.1"))
    found = comparison([*planned, *others], declared={"algo.kl_coef"})
    assert [each.key for each in found.declared] == ["algo.kl_coef"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("run.json", DEEP),
        ("run.json", '{"sessions": [{"started": "x"}]}'),
        ("run.json", '{"sessions": [{"seconds": 1' + "0" * 400 + "}]}"),
        ("run.json", '{"sessions": [{"command": [1, null]}]}'),
        ("run.json", '{"status": "finished", "placement": {"gpus": "two", "learner_ranks": 1}}'),
        ("run.json", '{"status": "finished", "placement": {"rollout_workers": 3}}'),
        ("run.json", '{"status": "finished", "engines": {"learner": "cuda"}}'),
        ("config.yaml", "[" * 5000),
        ("checkpoints/best.json", '{"scores": [1]}'),
        ("checkpoints/best.json", DEEP),
        ("checkpoints/step_4/state.json", DEEP),
        ("evaluations.jsonl", '{"step": 4, "domain": "math", "mean": true}\n'),
        ("evaluations.jsonl", '{"step": 4, "domain": "math", "mean": 1' + "0" * 400 + "}\n"),
        ("metrics.jsonl", '{"step": 1, "reward/math": 1' + "0" * 400 + "}\n"),
    ],
)
def test_a_damaged_file_ends_no_comparison(
    runs: list[Path], name: str, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = runs[0] / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    assert main(["compare", *map(str, runs), f"compare.dir={runs[0].parent}/page"]) in (0, 2)
    said = capsys.readouterr()
    assert "Traceback" not in said.out + said.err


def test_a_comparison_of_other_runs_is_not_replaced(
    runs: list[Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = runs[0].parents[1]
    monkeypatch.chdir(root)
    shutil.copytree(runs[0].parent, root / "more")
    words = [[f"{folder}/mgs-0", f"{folder}/mixed-0"] for folder in ("runs", "more", "runs")]
    for given in words:
        assert main(["compare", *given]) == 0
    pages = sorted(path.parent.name for path in Path("runs").glob("compare-*/comparison.html"))
    assert pages[0] == "compare-mgs-mixed"
    assert len(pages) == 2
    found = compared(*map(Path, words[0]))
    assert default_folder(found, [Path(word) for word in words[0]]).name == "compare-mgs-mixed"
    capsys.readouterr()


def test_unequal_terms_are_marked_wherever_arms_are(runs: list[Path]) -> None:
    text = (runs[2] / "config.yaml").read_text()
    (runs[2] / "config.yaml").write_text(text.replace("kl_coef: 0.005", "kl_coef: 0.5"))
    found = compared(*runs, allow=["algo.kl_coef"])
    lines = markdown(found).splitlines()
    assert "- Not on equal terms, by request: the runs differ in algo.kl_coef." in lines
    tables = [line for line in lines if line.startswith("| mixed") and "†" in line]
    assert len(tables) == 3, "two arms, one of them the baseline, in two tables"


def test_domains_break_no_line_of_the_text(runs: list[Path]) -> None:
    for run in runs[:1]:
        rows = [row | {"num_samples": 7, "domain": f"{row['domain']}\nX"} for row in rows_of(run)]
        write(run, rows)
    for line in markdown(compared(*runs)).splitlines():
        assert line[:1] in ("", "#", ">", "-", "|") or line[0].isalpha()
        assert not line.startswith("X")


def test_scores_are_finite_or_absent(runs: list[Path]) -> None:
    write(runs[0], [row | {"mean": None} for row in rows_of(runs[0])])
    found = compared(*runs)
    assert all(math.isfinite(found.arms[0].after[d].mean) for d in DOMAINS)
    assert found.arms[0].average.n == 1
