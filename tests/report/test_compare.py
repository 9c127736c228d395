import json
import math
import shutil
from pathlib import Path

import pytest

from mgsrl.errors import ConfigError
from mgsrl.obs.evaluation_log import read_evaluations
from mgsrl.report import compare_figures
from mgsrl.report.compare import compare_runs, differing_settings
from mgsrl.report.load import read_run_data
from mgsrl.report.strategies import Summary, by_strategy
from mgsrl.report.style import panels
from tests.report.synthetic import make_run


@pytest.fixture(scope="module")
def run_dirs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    return [
        make_run(root / f"{name}-{seed}", steps=4, seed=seed, strategy=name, layers=1)
        for name in ("mgs", "mixed")
        for seed in range(2)
    ]


def test_comparison_groups_seeds_and_warns_of_few(run_dirs, tmp_path):
    path = compare_runs(run_dirs, tmp_path / "out" / "compare.html")
    html = path.read_text()
    assert path == tmp_path / "out" / "compare.html"
    assert html.count("<svg") == 3
    assert "mgs (n=2)" in html
    assert "too few to tell a difference from luck" in html
    assert "other setting" not in html
    assert "http" not in html.replace("http://www.w3.org", "")


def test_mean_and_error_are_over_seeds(run_dirs):
    strategies = by_strategy([read_run_data(path) for path in run_dirs])
    assert [s.name for s in strategies] == ["mgs", "mixed"]
    after = strategies[0].after("math")
    a, b = after.values
    assert after.mean == pytest.approx((a + b) / 2)
    assert after.standard_error == pytest.approx(abs(a - b) / 2)
    assert strategies[0].average_gain(["math", "chat"]).n == 2


def test_one_seed_has_no_error():
    assert math.isnan(Summary([0.5]).standard_error)


def test_a_killed_run_does_not_count_in_the_scores(tmp_path, run_dirs):
    killed = make_run(tmp_path / "killed", steps=2, seed=9, strategy="mgs", finished=False)
    (mgs,) = by_strategy([read_run_data(path) for path in [*run_dirs[:2], killed]])
    assert mgs.after("math").n == 2
    html = compare_runs([*run_dirs, killed], tmp_path / "compare.html").read_text()
    assert "2 of 30 steps are logged." in html


def test_other_differences_between_runs_are_listed(tmp_path, run_dirs):
    other = make_run(tmp_path / "other", steps=4, seed=1, strategy="mixed")
    config = (other / "config.yaml").read_text()
    (other / "config.yaml").write_text(config.replace("kl_coef: 0.005", "kl_coef: 0.5"))
    runs = [read_run_data(path) for path in (run_dirs[0], other)]
    assert differing_settings(runs) == [("algo.kl_coef", ["0.005", "0.5"])]
    html = compare_runs([run_dirs[0], other], tmp_path / "compare.html").read_text()
    assert "The runs also differ in 1 other setting (listed below)." in html


def test_comparing_needs_two_different_folders(run_dirs):
    with pytest.raises(ConfigError, match="two or more different run folders"):
        compare_runs(run_dirs[:1])
    with pytest.raises(ConfigError, match="nothing to compare"):
        compare_runs([run_dirs[0], run_dirs[0]])


def shortened(run_dir: Path, to: Path, steps: int) -> Path:
    """The run as it would be, had it ended after `steps`."""
    shutil.copytree(run_dir, to)
    rows = (to / "metrics.jsonl").read_text().splitlines(keepends=True)
    (to / "metrics.jsonl").write_text("".join(rows[:steps]))
    return to


def evaluated(run_dir: Path, *steps: int) -> Path:
    """The run with held-out scores of 0.1 at step 0 and step / 100 later."""
    rows = [json.loads(line) for line in (run_dir / "evaluations.jsonl").open()]
    kept = [row | {"step": s, "mean": s / 100 or 0.1} for s in steps for row in rows[:3]]
    (run_dir / "evaluations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept))
    assert {r.step for r in read_evaluations(run_dir)} == set(steps)
    return run_dir


@pytest.fixture(scope="module")
def unequal(tmp_path_factory):
    """Runs of 30 and of 4 steps whose first 4 steps are the same."""
    root = tmp_path_factory.mktemp("unequal")
    long = make_run(root / "long", steps=30, layers=1)
    short = shortened(long, root / "short", 4)
    config = (short / "config.yaml").read_text()
    (short / "config.yaml").write_text(config.replace("name: mgs", "name: mixed"))
    return evaluated(long, 0, 2, 4, 30), evaluated(short, 0, 4)


@pytest.mark.parametrize("metric", ["reward/math", "surgery/conflict_rate"])
def test_equal_values_at_equal_steps_are_drawn_equal(unequal, metric):
    drawn = []
    for strategy in by_strategy([read_run_data(path) for path in unequal]):
        _, (axis,) = panels(1)
        compare_figures._seeds_and_mean(axis, strategy, metric, "#000000")
        drawn.append([[(x, y) for x, y in line.get_xydata() if x <= 4] for line in axis.lines])
    assert drawn[0] == drawn[1]
    raw = list(zip(range(1, 5), read_run_data(unequal[1]).series(metric)))
    assert raw in drawn[1]


def test_runs_of_unequal_length_are_compared_at_the_common_step(unequal, tmp_path):
    mgs, mixed = by_strategy([read_run_data(path) for path in unequal])
    assert mgs.common.lengths == (("long", 30), ("short", 4))
    for domain in ("math", "chat"):
        assert mgs.after(domain).mean == mixed.after(domain).mean == 0.04
        assert mgs.gain(domain).mean == pytest.approx(-0.06)
    assert mgs.average_gain(["math", "chat"]).mean == pytest.approx(-0.06)
    assert mgs.conflict_rate().mean == mixed.conflict_rate().mean
    assert mgs.step_seconds().mean == mixed.step_seconds().mean
    html = compare_runs(unequal, tmp_path / "compare.html").read_text()
    assert "different lengths (30 steps: long; 4 steps: short)" in html
    assert "Held-out scores are those at step 4" in html
    assert "Held-out reward after training (step 4)" in html


def test_without_a_common_evaluation_no_scores_are_set_side_by_side(unequal, tmp_path):
    long = evaluated(Path(shutil.copytree(unequal[0], tmp_path / "long")), 0, 30)
    mgs, mixed = by_strategy([read_run_data(path) for path in (long, unequal[1])])
    assert math.isnan(mgs.after("math").mean)
    assert math.isnan(mixed.gain("math").mean)
    html = compare_runs([long, unequal[1]], tmp_path / "compare.html").read_text()
    assert "After step 0 no step was evaluated in all runs" in html
    assert "Gain on held-out prompts" not in html
    assert "0.300" not in html


def test_equal_lengths_need_no_remark(run_dirs):
    assert by_strategy([read_run_data(path) for path in run_dirs])[0].common.remarks == []


def test_runs_of_one_seed_are_no_repetitions(run_dirs, tmp_path):
    again = Path(shutil.copytree(run_dirs[0], tmp_path / "again"))
    html = compare_runs([*run_dirs, again], tmp_path / "compare.html").read_text()
    assert "mgs: some runs have the same seed" in html
    assert "some runs have" not in compare_runs(run_dirs, tmp_path / "compare.html").read_text()
