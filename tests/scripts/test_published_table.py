"""The published table: its numbers by hand, what it says of gaps, and what it refuses.

All results are written by `mgsrl eval`'s own code, of responses whose scores stand here.
"""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from glob import glob
from pathlib import Path
from typing import Any

import pytest

from mgsrl.config.compose import compose_config, config_to_yaml
from mgsrl.evaluate.plan import EvalSettings
from mgsrl.evaluate.runner import Evaluation
from mgsrl.evaluate.tasks import parse_tasks
from tests.documented import ROOT
from tests.evaluate.graded import write_results
from tests.scripts.reproduction import DIR, TABLE, TEXT, lines, planned, prepared

sys.path.insert(0, str(ROOT / "scripts"))

import published_table

GOOD = {
    "runs/qwen_math_chat-mixed-seed0": 10,
    "runs/qwen_math_chat-mixed-seed1": 12,
    DIR: 12,
    "runs/qwen_math_chat-mgs-seed1": 16,
}
"""Run -> how many of 20 prompts have good responses."""


def test_the_page_s_table_is_made_of_what_its_evaluations_write(tmp_path: Path) -> None:
    """Two arms, two seeds, every command of the loop."""
    with prepared(tmp_path):
        for run, good in GOOD.items():
            if run != DIR:
                shutil.copytree(DIR, run)
            for words in lines("mgsrl", "eval"):
                own = tuple(run if word == DIR else word for word in words)
                _, evaluation = planned(own, "--limit", "20")
                write_results(evaluation, {task.name: good for task in evaluation.settings.tasks})
        (command, *_) = lines(*TABLE)
        runs = [run for word in command[2:] for run in sorted(glob(word))]
        assert sorted(runs) == sorted(GOOD)
        made = subprocess.run(
            [sys.executable, command[1], *runs],
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        ).stdout
    titles = re.findall(r"(?m)^\| ([^|]+) \| `\w+(?:@\d)?`", TEXT)
    scores, changes = tables(made)
    assert list(scores["mgs"]) == [title for each in titles for title in each.split(", ")] + [
        "average"
    ]
    # 50 and 60 %: 55, and w = 0.55 is 10; all of three stories have 12 points, times 5
    assert means(scores["mixed"]) == [55.0, 55.0, 55.0, 55.0, 10.0, 55.0, 60.0, 49.3]
    assert means(scores["mgs"]) == [70.0, 70.0, 70.0, 70.0, 40.0, 70.0, 60.0, 64.3]
    assert means(changes["mgs"]) == [15.0, 15.0, 15.0, 15.0, 30.0, 15.0, 0.0, 15.0]
    assert not notes(made)


def tables(text: str) -> list[dict[str, dict[str, str]]]:
    """Of each: arm -> column -> cell."""
    found: list[dict[str, dict[str, str]]] = []
    for block in re.findall(r"(?m)(?:^\|.*\|\n)+", text):
        head, _, *rows = [re.split(r" *\| *", line)[1:-1] for line in block.splitlines()]
        found.append({row[0]: dict(zip(head[1:], row[1:], strict=True)) for row in rows})
    return found


def means(row: Mapping[str, str]) -> list[float]:
    return [float(cell.split(" ")[0].strip("*,")) for cell in row.values()]


def notes(text: str) -> list[str]:
    return re.findall(r"(?m)^- (.*)$", text)


# --- by hand --------------------------------------------------------------------------------------

PROMPTS = 20
AGAINST_B = ("--baseline", "b-sequential")


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, row in (("math", {"answer": "1"}), ("stories", {})):
        rows = [json.dumps({"prompt": f"{n}?", **row}) + "\n" for n in range(PROMPTS)]
        Path(f"{name}.jsonl").write_text("".join(rows))


def evaluated(name: str, model: str = "model", step: int | None = None, **others: Any) -> Path:
    """`evals/NAME`, where so many of the prompts of each task are good.

    Args:
        others: a number by task, or settings.
    """
    files = {"math500": "math", "gsm8k": "math", "creative_writing": "stories"}
    good = {task: others.pop(task) for task in files if task in others}
    settings = EvalSettings(
        tasks=parse_tasks(",".join(f"{task}={files[task]}.jsonl" for task in good)),
        output=Path("evals") / name,
        model={"path": model} | ({} if step is None else {"step": step}),
        positions=8192,
        judge_url="http://localhost:1/v1",
        judge_model="judge",
        **others,
    )
    write_results(Evaluation(settings), good)
    return settings.output


def run(name: str, step: int = 60, *overrides: str, **good: int) -> Path:
    """A run's folder with its configuration alone, and its evaluation."""
    folder = Path("runs") / name
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(config_to_yaml(compose_config(list(overrides))))
    evaluated(name, str(folder.resolve() / "checkpoints" / f"step_{step}"), step, **good)
    return folder


def made(capsys: pytest.CaptureFixture[str], *words: str | Path) -> str:
    assert published_table.main([*map(str, words)]) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def test_means_intervals_and_differences_by_hand(capsys: pytest.CaptureFixture[str]) -> None:
    """t of 0.975 is 4.303 with 2 degrees of freedom, 12.706 with 1."""
    for seed, (mixed, mgs) in enumerate([(10, 12), (11, 12), (12, 15)]):
        evaluated(f"a-mixed-seed{seed}", math500=mixed, creative_writing=10)
        stories = {"creative_writing": 14 + 2 * seed} if seed < 2 else {}
        evaluated(f"a-mgs-seed{seed}", math500=mgs, **stories)
    text = made(capsys, *sorted(Path("evals").iterdir()), "--json", "table.json")
    scores, changes = tables(text)
    assert list(scores) == ["mixed", "mgs"]
    assert scores["mixed"]["MATH-500"] == "55.0 (42.6 to 67.4), n 3"  # 50, 55, 60: sd 5
    assert scores["mgs"]["MATH-500"] == "65.0 (43.5 to 86.5), n 3"  # 60, 60, 75: sd 8.66
    assert changes["mgs"]["MATH-500"] == "+10.0 (−2.4 to +22.4), n 3"  # 10, 5, 15
    # 8 or 12 points, times 5
    assert scores["mixed"]["Creative Writing v3"] == "50.0 (50.0 to 50.0), n 3"
    assert scores["mgs"]["Creative Writing v3"] == "55.0 (42.3 to 67.7), n 2"  # 54, 56
    assert changes["mgs"]["Creative Writing v3"] == "+5.0 (−7.7 to +17.7), n 2"
    # of the pairs that have both: 57 - 50 and 58 - 52.5
    assert scores["mgs"]["average"] == "57.5 (51.1 to 63.9), n 2"
    assert changes["mgs"]["average"] == "+6.2 (−3.3 to +15.8), n 2"
    assert scores["mgs"]["GSM8K"] == changes["mgs"]["GSM8K"] == "–"
    assert "GSM8K, not evaluated: all" in notes(text)
    assert "Creative Writing v3, not evaluated: mgs seed 2" in notes(text)
    assert "The average is of MATH-500, Creative Writing v3." in text
    stored = json.loads(Path("table.json").read_text())
    assert stored["average_of"] == ["math500", "creative_writing"]
    assert stored["arms"]["mgs"]["scores"]["math500"]["by_seed"] == {"0": 60, "1": 60, "2": 75}
    assert stored["arms"]["mgs"]["against_baseline"]["math500"]["n"] == 3
    assert stored["arms"]["mixed"]["against_baseline"] == {}
    assert stored["notes"] == notes(text)


def test_arms_and_seeds_are_those_of_the_runs(capsys: pytest.CaptureFixture[str]) -> None:
    """Any folder's name, two arms of one strategy, an untrained model, a seed that is missing."""
    runs = [
        run("first", 60, "strategy=mixed", "seed=3", math500=10),
        run("b-sequential-seed3", 60, "strategy=sequential", "seed=3", math500=12),
        run("c-sequential-seed3", 40, "strategy=sequential", "seed=3", math500=14),
        run("c-sequential-seed4", 60, "strategy=sequential", "seed=4", math500=16),
    ]
    base = evaluated("Qwen--Qwen2.5-7B", math500=2)
    text = made(capsys, *runs, base)
    scores, changes = tables(text)
    column = {arm: row["MATH-500"] for arm, row in scores.items()}
    assert column == {
        "mixed": "50.0, n 1",
        "b-sequential": "60.0, n 1",
        "c-sequential": "75.0 (11.5 to 138.5), n 2",
        "Qwen--Qwen2.5-7B": "10.0, n 1",
    }
    assert changes["c-sequential"]["MATH-500"] == "+20.0, n 1"
    assert changes["Qwen--Qwen2.5-7B"]["MATH-500"] == "–"  # no pair
    assert "No evaluation: mixed seed 4, b-sequential seed 4" in notes(text)
    assert "Trained for 40 steps: c-sequential-seed3" in notes(text)
    assert sum(line.startswith("Trained for") for line in notes(text)) == 2
    shutil.rmtree("runs")  # or they are on another machine: the names have to do
    copied = [f"evals/{each.name}" for each in runs[1:]]
    (scores, changes) = tables(made(capsys, *copied, *AGAINST_B))
    assert list(scores) == ["b-sequential", "c-sequential"]
    assert changes["c-sequential"]["MATH-500"] == "+10.0, n 1"
    others = notes(made(capsys, "evals/b-sequential-seed3", "evals/c-sequential-seed4", *AGAINST_B))
    assert "No evaluation: b-sequential seed 4, c-sequential seed 3" in others


def test_runs_on_unequal_terms_are_said_to_be(capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        run("a-mixed-seed0", 60, "strategy=mixed", math500=10),
        run("a-mgs-seed0", 60, "strategy=mgs", "learner.optimizer.lr=0.5", math500=10),
    ]
    (line,) = [line for line in notes(made(capsys, *words)) if "comparable" in line]
    assert "learner.optimizer.lr" in line


def test_what_a_judge_left_out_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    folder = evaluated("a-mixed-seed0", creative_writing=10)
    file = folder / "results.json"
    results = json.loads(file.read_text())
    results["tasks"]["creative_writing"]["metrics"]["judge_score"]["n"] = 18
    results["tasks"]["math500"] = results["tasks"]["creative_writing"]  # of an older plan
    file.write_text(json.dumps(results))
    text = made(capsys, file)
    assert "Creative Writing v3, scored in 18 of 20 prompts: mixed seed 0" in notes(text)
    assert "MATH-500, no avg@1 among judge_score: mixed seed 0" in notes(text)
    assert len(tables(text)) == 1  # nothing to compare with


# --- refused --------------------------------------------------------------------------------------


def refused(capsys: pytest.CaptureFixture[str], *words: str | Path) -> str:
    assert published_table.main([*map(str, words)]) == 2
    printed = capsys.readouterr()
    assert not printed.out
    assert [line.split(":")[0].strip() for line in printed.err.splitlines()[1:4]] == [
        "expected",
        "found",
        "to do",
    ]
    return printed.err


def test_a_run_without_results_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    Path("runs/a-mixed-seed0").mkdir(parents=True)
    said = refused(capsys, "runs/a-mixed-seed0")
    assert "evals/a-mixed-seed0/results.json" in said
    assert "mgsrl eval --model runs/a-mixed-seed0" in said


def test_runs_of_one_name_with_other_strategies_are_two_arms(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = [
        run("a/try-seed0", 60, "strategy=mgs", math500=1),
        run("b/try-seed1", 60, "strategy=mixed", math500=0),
    ]
    for word in words:
        source = Path("evals") / word.parent.name / word.name
        shutil.move(source, Path("evals") / f"{word.parent.name}-{word.name}")
    given = [Path("evals") / f"{word.parent.name}-{word.name}" for word in words]
    assert set(tables(made(capsys, *given))[0]) == {"mgs", "mixed"}


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", "[" * 100_000, '{"model": {"path": "m"}, "tasks": []}']
)
def test_damaged_results_are_refused(capsys: pytest.CaptureFixture[str], text: str) -> None:
    file = evaluated("a-mixed-seed0", math500=1) / "results.json"
    file.write_text(text)
    assert "results.json is damaged" in refused(capsys, file.parent)


def test_no_such_baseline(capsys: pytest.CaptureFixture[str]) -> None:
    folder = evaluated("a-mgs-seed0", math500=1)
    assert "found:    mixed" in refused(capsys, folder)
    assert "did you mean 'mgs'" in refused(capsys, folder, "--baseline", "mgz")


def test_a_seed_twice_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """Two checkpoints of one run are no two seeds."""
    path = "runs/a-mixed-seed0/checkpoints/step_{}"
    names = {"a-mixed-seed0": 60, "a-mixed-seed0-step_40": 40}
    words = [evaluated(name, path.format(n), n, math500=1) for name, n in names.items()]
    said = refused(capsys, *words)
    assert "mixed seed 0 is there more than once" in said
    assert "evals/a-mixed-seed0, evals/a-mixed-seed0-step_40" in said


@pytest.mark.parametrize(
    ("other", "key", "values"),
    [
        ({"limits": {"math500": 10}}, "prompts", ("20", "10")),
        ({"temperature": 0.7}, "temperature", ("0.0", "0.7")),
        ({"prompt_template": "prompted"}, "prompt_template", ("chat", "prompted")),
    ],
)
def test_other_measures_are_refused(
    capsys: pytest.CaptureFixture[str], other: dict[str, Any], key: str, values: tuple[str, str]
) -> None:
    words = [
        evaluated("a-mixed-seed0", math500=1, gsm8k=1),
        evaluated("a-mgs-seed0", math500=1, **other),
    ]
    said = refused(capsys, *words)
    assert f"MATH-500 was not measured alike: {key} differs" in said
    for value, name in zip(values, ("a-mixed-seed0", "a-mgs-seed0"), strict=True):
        assert re.search(rf"{value}\W* \({name}\)", said)


def test_other_judges_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    words = [evaluated("a-mixed-seed0", creative_writing=1)]
    words.append(evaluated("a-mgs-seed0", creative_writing=1))
    file = words[1] / "results.json"
    file.write_text(file.read_text().replace('"judge_model": "judge"', '"judge_model": "other"'))
    assert "Creative Writing v3 was not measured alike: judge_model" in refused(capsys, *words)


def test_results_are_not_written_over(capsys: pytest.CaptureFixture[str]) -> None:
    folder = evaluated("a-mixed-seed0", math500=1)
    before = (folder / "results.json").read_text()
    refused(capsys, folder, "--json", folder / "results.json")
    assert (folder / "results.json").read_text() == before
