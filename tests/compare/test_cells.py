"""What a command line plans, and what of it is refused before anything runs."""

import os
import re
import shlex
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest

from mgsrl.cli import main
from mgsrl.compare.cells import (
    LONGEST_NAME,
    Arm,
    differing_keys,
    plan_cells,
    read_plan,
    standing,
    write_plan,
)
from mgsrl.compare.entries import compare_folder
from mgsrl.compare.slurm import write_submit_script
from mgsrl.compare.words import read_words
from mgsrl.config.compose import compose_config
from mgsrl.config.typed import plain
from mgsrl.errors import ConfigError, UserError
from tests.compare.test_runner import finished
from tests.documented import ROOT

THREE = (Arm("mgs", ("strategy=mgs",)), Arm("mixed", ("strategy=mixed",), (0, 1)))


def refused(*words: str) -> str:
    def plan() -> None:
        read = read_words(words)
        plan_cells(Path("c"), read.arms(), read.common)

    with pytest.raises(ConfigError) as caught:
        plan()
    return str(caught.value)


def test_words_are_sorted(tmp_path: Path) -> None:
    odd = tmp_path / "runs/lr=1"
    odd.mkdir(parents=True)
    words = read_words(
        [
            *(str(odd), "runs/a", "+experiment=pocket_mgs", "train.num_steps=5", "seeds=[4]"),
            *("strategies=[mgs,mixed]", "allow=[algo.kl_coef]", "compare.dir=~/c d"),
            *('axes.domains.math.source.path=["a, b.jsonl"]', "compare.baseline=mgs lr=1"),
        ]
    )
    assert words.folders == [odd, Path("runs/a")]
    assert words.common == ["+experiment=pocket_mgs", "train.num_steps=5"]
    assert (words.strategies, words.seeds, words.allow) == (["mgs", "mixed"], [4], ["algo.kl_coef"])
    assert (words.dir, words.baseline) == (os.path.expanduser("~/c d"), "mgs lr=1")
    assert read_words(['compare.baseline="mgs lr=1"']).baseline == "mgs lr=1"
    assert words.axes == {"domains.math.source.path": ["a, b.jsonl"]}
    assert not read_words(["runs/a", "allow=[seed]", "compare.dir=x"]).makes_runs
    assert read_words(["axes.strategy=[mgs,mixed]"]).strategies == ["mgs", "mixed"]


def test_axes_multiply_but_surgery_alone_does_nothing_to_a_sum() -> None:
    words = read_words(
        [
            *("strategies=[mgs,mixed]", "axes.surgery.granularity=[module,layer]"),
            *("axes.learner.optimizer.lr=[1e-4,2e-4]", "seeds=[7]"),
        ]
    )
    arms = words.arms()
    assert [arm.name for arm in arms] == [
        *("mgs granularity=module lr=0.0001", "mgs granularity=module lr=0.0002"),
        *("mgs granularity=layer lr=0.0001", "mgs granularity=layer lr=0.0002"),
        *("mixed lr=0.0001", "mixed lr=0.0002"),
    ]
    assert {arm.seeds for arm in arms} == {(7,)}
    cells = plan_cells(Path("c"), arms)
    assert cells[2].dir == Path("c/mgs-granularity-layer-lr-0.0001-seed7")
    assert cells[2].config.surgery.granularity == "layer"
    assert differing_keys(cells) == {
        *("strategy.name", "surgery.method", "surgery.granularity", "learner.optimizer.lr"),
    }


def test_arms_without_strategies_are_the_experiments_own() -> None:
    assert [arm.name for arm in read_words(["seeds=[0]"]).arms()] == ["mgs"]
    words = read_words(["axes.algo.kl_coef=[0,0.1]", "axes.surgery.order=[all]"])
    assert [arm.name for arm in words.arms()] == ["kl_coef=0 order=all", "kl_coef=0.1 order=all"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("strategies=mgs,mixed",), "strategies=[mgs,mixed]"),
        (("strategies=[mgs,mixd]",), "did you mean 'mixed'"),
        (("seeds=3",), "seeds=[3]"),
        (("seeds=[a]",), "whole numbers"),
        (("seeds=[-1]",), "whole numbers from 0"),
        ((f"seeds=[{2**63}]",), "A seed cannot be used"),
        (("seeds=[0]", "seeds=[1]"), "seeds once"),
        (("seeds=[1,1]",), "each seed once"),
        (("compare.dri=x",), "did you mean 'compare.dir'"),
        (("axes.train.num_step=[1,2]",), "did you mean 'num_steps'"),
        (("axes.seed=[1,2]",), "A comparison sets seed itself"),
        (("strategies=[mgs]", "run.dir=x"), "A comparison sets run.dir itself"),
        (("strategies=[mgs]", "resume=never"), "A comparison sets resume itself"),
        (("axes.algo.kl_coef=[0.1,1e-1]",), "cannot be told from others"),
        (("axes.surgery.method=[pcgrad]", "axes.surgery.order=[]"), "at least one value"),
    ],
)
def test_mistakes_are_told_before_anything_runs(words: tuple[str, ...], said: str) -> None:
    text = refused(*words)
    assert said in text
    assert "to do:" in text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("seeds=[0]",), "two or more different run folders"),
        (("axes.evaluate.temperature=[0.5,1]",), "measured differently"),
        (("axes.train.num_steps=[20,30]", "evaluate.every=25"), "evaluate.every=20"),
        (
            ("axes.domains.math.reward.format_bonus=[0,1]", "axes.evaluate.temperature=[0.5,1]"),
            "'allow=[domains.math.reward.format_bonus,evaluate.temperature]'",
        ),
        (("strategies=[mgs,mixed]", "compare.baseline=sequential"), "no arm of this comparison"),
        (("strategies=[mgs,mixed]", "allow=[kl_coef]"), "did you mean 'algo.kl_coef'"),
        (("strategies=[mgs,mixed]", "--jobs", "0"), "--jobs of at least 1"),
        (("runs/a", "runs/b", "--slurm"), "something to run"),
        ((), "two or more different run folders"),
    ],
)
def test_what_would_be_refused_in_the_end_is_refused_before(
    words: tuple[str, ...],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["compare", *words]) == 2
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_runs_that_are_there_must_be_comparable_with_those_that_are_planned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (there,) = plan_cells(Path("there"), [Arm("mgs", ("strategy=mgs",), (0,))], ["algo.kl_coef=0"])
    finished(there)
    words = ["compare", str(there.dir), "strategies=[mixed]", "--slurm", "compare.dir=c"]
    assert main(words) == 2
    assert "algo.kl_coef: 0.0 (mgs-seed0); 0.005 (mixed-seed0)" in capsys.readouterr().err
    assert not Path("c").exists()
    assert main([*words, "algo.kl_coef=0", "compare.baseline=mixt"]) == 2
    assert "compare.baseline is no arm" in capsys.readouterr().err
    assert main([*words, "algo.kl_coef=0", "compare.baseline=mgs"]) == 0


def test_many_seeds_and_long_names_are_read(tmp_path: Path) -> None:
    """A word longer than any folder's name may be; an arm whose folder's would be too long."""
    seeds = list(range(1000))
    assert read_words([f"seeds={seeds}".replace(" ", "")]).seeds == seeds
    names = [f"path={'x' * 90}/{name}" for name in ("one", "two")]
    overrides = [("strategy=mgs",), ("strategy=mixed",)]
    arms = [Arm(name, each, (0,)) for name, each in zip(names, overrides, strict=True)]
    places = [cell.dir.name for cell in plan_cells(tmp_path, arms)]
    assert len(set(places)) == 2
    assert max(map(len, places)) <= LONGEST_NAME + len("-seed0")


def test_values_that_one_folder_s_name_has_are_told_apart(tmp_path: Path) -> None:
    """Of names that have a folder of their own the folder stays what it was."""
    words = read_words(["strategies=[mgs]", "axes.policy.path=[a/b,a-b,c]", "~domains.chat"])
    assert (words.common, words.folders) == (["~domains.chat"], [])
    cells = plan_cells(tmp_path, words.arms(), ["train.num_steps=3"])
    names = sorted({cell.name.partition("-seed")[0] for cell in cells})
    assert len(names) == 3
    assert names[-1] == "mgs-path-c"
    assert all(re.fullmatch(r"mgs-path-a-b-\w{8}", name) for name in names[:2])


def test_runs_of_an_earlier_command_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder that is filled by several commands: its page has the cells of the last one."""
    monkeypatch.chdir(tmp_path)
    for name in ("mgs", "global_surgery", "mixed"):
        cells = plan_cells(Path("c"), [Arm(name, (f"strategy={name}",), (0, 1))])
        for cell in cells:
            finished(cell)
        write_plan(Path("c"), cells, {})
    assert main(["compare", "c"]) == 0
    text = Path("c/comparison.md").read_text()
    assert (
        "c has 4 more runs of an earlier command, not compared here (global_surgery-seed0," in text
    )
    assert main(["compare", "c", "c/mgs-seed0", "c/mgs-seed1", "compare.dir=c"]) == 0
    assert "c has 2 more runs" in Path("c/comparison.md").read_text()
    capsys.readouterr()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"cells": {', "cannot be read"),
        ('{"cells": []}', "no plan"),
        ('{"differing": [[1]]}', "no plan"),
        ('{"cells": {"a\\u0000b": {}}}', "no plan"),
        ("[" * 100_000, "cannot be read"),
        ('{"cells": {"mgs-seed0": 5}}', "no plan"),
        ('{"format": 99}', "newer version"),
    ],
)
def test_a_damaged_plan_is_told(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "cells.json").write_text(text)
    with pytest.raises(UserError, match=said):
        compare_folder(tmp_path)
    with pytest.raises(UserError, match=said):
        plan_cells(tmp_path, THREE)


def test_two_arms_that_do_the_same_are_one_too_many() -> None:
    arms = [Arm("one", ("strategy=mgs",)), Arm("other", ("surgery.granularity=module",))]
    with pytest.raises(ConfigError, match="Two arms are the same"):
        plan_cells(Path("c"), arms)


def test_cells_alternate_so_that_a_stopped_comparison_is_balanced(tmp_path: Path) -> None:
    cells = plan_cells(tmp_path / "c", THREE, ["train.num_steps=5"])
    assert [cell.name for cell in cells] == [
        *("mgs-seed0", "mixed-seed0", "mgs-seed1", "mixed-seed1", "mgs-seed2"),
    ]
    assert not (tmp_path / "c").exists()


def test_the_command_of_a_cell_makes_the_configuration_that_was_planned(tmp_path: Path) -> None:
    for cell in plan_cells(tmp_path / "a=b, c", THREE, ["train.num_steps=5"]):
        assert plain(compose_config(cell.command[2:])) == plain(cell.config)


def test_the_day_of_the_prompts_is_that_of_the_first_plan(tmp_path: Path) -> None:
    cells = plan_cells(tmp_path, THREE)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", str(cells[0].config.policy.date))
    cells[0].config.policy.date = "2001-02-03"
    write_plan(tmp_path, cells[:1], {})
    again = plan_cells(tmp_path, THREE)
    assert {cell.config.policy.date for cell in again} == {"2001-02-03"}
    own = plan_cells(tmp_path, THREE, ['policy.date="2026-01-01"'])
    assert {cell.config.policy.date for cell in own} == {"2026-01-01"}


def test_a_folder_tells_how_far_its_cell_is(tmp_path: Path) -> None:
    cell = plan_cells(tmp_path, THREE, ["train.num_steps=3"])[0]
    assert standing(cell).state == "new"
    finished(cell)
    assert (standing(cell).state, standing(cell).steps) == ("finished", 3)
    longer = plan_cells(tmp_path, THREE, ["train.num_steps=5"])[0]
    assert (standing(longer).state, standing(longer).steps) == ("begun", 3)
    with (cell.dir / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "rew')
    assert standing(longer).steps == 3
    (cell.dir / "run.json").write_text("{")
    assert standing(cell).state == "begun"


def test_another_comparison_in_the_folder_is_refused(tmp_path: Path) -> None:
    arms = THREE[:1]
    finished(plan_cells(tmp_path, arms, ["train.num_steps=3"])[0])
    plan_cells(tmp_path, arms, ["train.num_steps=3", "trackers.wandb=disabled"])
    for other in (
        "algo.kl_coef=0.7",
        "evaluate.every=1",
        "evaluate.top_p=0.5",
        "train.num_steps=2",
    ):
        with pytest.raises(ConfigError, match="of another comparison") as caught:
            plan_cells(tmp_path, arms, ["train.num_steps=3", other])
        assert other.partition("=")[0] in str(caught.value)


def test_slurm_arrays_make_the_same_runs(tmp_path: Path) -> None:
    """The script is run with a stand-in for sbatch; what the job's script adds to the words of a
    task is added here."""
    cells = plan_cells(tmp_path / "c", THREE, ["train.num_steps=3"])
    finished(cells[0])
    script, count = write_submit_script(cells, tmp_path / "c")
    assert count == 4
    (tmp_path / "sbatch").write_text(f'#!/usr/bin/env bash\nprintf "%q " "$@" >>{tmp_path}/told\n'
                                     f'echo >>{tmp_path}/told\n')  # fmt: skip
    (tmp_path / "sbatch").chmod(stat.S_IRWXU)
    path = f"{tmp_path}:{os.environ['PATH']}"
    subprocess.run(
        ["bash", str(script), "--time=1:00"], check=True, env=os.environ | {"PATH": path}
    )
    made = {}
    for line in (tmp_path / "told").read_text().splitlines():
        words = shlex.split(line)
        job = next(i for i, word in enumerate(words) if word.endswith("train.sbatch"))
        assert "--time=1:00" in words[:job]
        seeds = next(w for w in words if w.startswith("--array=")).removeprefix("--array=")
        for seed in seeds.split(","):
            task = [f"{w}-seed{seed}" if w.startswith("run.dir=") else w for w in words[job + 1 :]]
            config = compose_config([*task, f"seed={seed}"])
            made[config.run.dir] = plain(config)
    assert made == {str(cell.dir): plain(cell.config) for cell in cells[1:]}
    assert set(read_plan(tmp_path / "c")["cells"]) == {cell.name for cell in cells}


def test_slurm_refuses_a_folder_that_its_script_cannot_extend(tmp_path: Path) -> None:
    cells = plan_cells(tmp_path / "a b", THREE)
    with pytest.raises(ConfigError, match="cannot use this folder"):
        write_submit_script(cells, tmp_path / "a b")


def test_the_example_of_the_page_plans_what_it_says() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/compare.md").read_text(), re.S)
    names: dict[str, Any] = {}
    exec(code.partition("\nrun_cells(")[0], names)
    assert "run_cells" in code
    assert [cell.name for cell in names["cells"]] == [
        *("mgs-seed0", "mgs-all-orders-seed0", "math-first-seed0"),
        *("mgs-seed1", "mgs-all-orders-seed1", "math-first-seed1", "mgs-seed2"),
        *("math-first-seed2", "mgs-seed3"),
    ]
