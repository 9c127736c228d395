"""The page of an evaluation: scores stand at their points, the tables fit the page."""

import json
import re

import pytest

from mgsrl.report.evaluation import build_evaluation_report

SCORES = {"gsm8k": 0.25, "svamp": 0.5, "ifeval": 0.0, "ifbench": 1.0}


def task(value):
    low, high = max(0.0, value - 0.2), min(1.0, value + 0.3)
    return {
        "metrics": {"avg@1": {"value": value, "low": low, "high": high, "n": 12}},
        "responses": 12,
        "temperature": 0.0,
        "max_new_tokens": 48,
        "mean_tokens": 20.0,
        "truncated": 0.1,
        "prompts_cut": 0,
        "abstained": 0,
        "unscored": 0,
        "seconds": 3.0,
        "tokens_per_second": 80.0,
        "source": "/a/long/path/to/the/file/with/the/rows/of/this/task.jsonl",
        "citation": "Somebody et al., 2021",
    }


def page(folder, model="/models/pocket"):
    results = {
        "model": {"path": model},
        "engine": "vllm",
        "prompt_template": "chat",
        "seed": 0,
        "hardware": {"cpu": "a CPU", "gpus": []},
        "versions": {"mgsrl": "0.1.0"},
        "tasks": {name: task(value) for name, value in SCORES.items()},
    }
    (folder / "results.json").write_text(json.dumps(results))
    return build_evaluation_report(folder).read_text()


@pytest.fixture(scope="module")
def html(tmp_path_factory):
    return page(tmp_path_factory.mktemp("evaluation"))


@pytest.mark.parametrize(
    ("model", "title"),
    [("/models/pocket", "pocket"), ("/runs/mgs-seed0/checkpoints/step_30", "mgs-seed0, step_30")],
)
def test_the_title_names_the_run_of_a_checkpoint(model, title, tmp_path):
    assert f"Evaluation of {title}</" in page(tmp_path, model)


def test_every_score_is_written_at_its_point(html):
    svg = html[html.index("<svg") : html.index("</svg>")]
    points = {float(x) for x in re.findall(r'<use xlink:href="#\w+" x="([\d.]+)"', svg)}
    labels = re.findall(r'text-anchor: middle[^>]* x="([\d.]+)"[^>]*>([\d.]+%)<', svg)
    found = {text: float(x) for x, text in labels}
    found = {text: found[text] for text in {f"{value:.1%}" for value in SCORES.values()}}
    assert len(found) == len(SCORES)
    for text, x in found.items():
        assert min(abs(x - point) for point in points) < 0.5, text


def test_long_paths_do_not_widen_the_table_of_numbers(html):
    tables = re.findall(r"<table.*?</table>", html, flags=re.DOTALL)
    numbers = next(table for table in tables if "mean tokens" in table)
    assert "task.jsonl" not in numbers
    assert 'class="narrow"' in numbers
    assert html.count("task.jsonl (Somebody et al., 2021)") == len(SCORES)
