import json
import math
import re
import shutil
from pathlib import Path

import pytest

from mgsrl.cli import main
from mgsrl.errors import ConfigError
from mgsrl.files.jsonl import jsonable
from mgsrl.obs.evaluation_log import read_evaluations
from mgsrl.obs.run_record import finish_run_record, read_run_record
from mgsrl.report import compare_figures
from mgsrl.report.comparable import check_comparable
from mgsrl.report.compare import Entry, comparison, write_comparison
from mgsrl.report.compare_text import markdown
from mgsrl.report.comparison import ArmSummary, Comparison, _tokens
from mgsrl.report.load import read_run_data
from mgsrl.report.strategies import ArmRuns, by_arm
from mgsrl.report.style import panels
from mgsrl.statistics.seeds import difference, estimate
from tests.report.synthetic import DOMAINS, make_run, make_runs


@pytest.fixture(scope="module")
def run_dirs(tmp_path_factory):
    return make_runs(tmp_path_factory.mktemp("runs"), steps=4)


def compared(*run_dirs: Path, **options) -> Comparison:
    return comparison([Entry(path) for path in run_dirs], **options)


def page(found: Comparison, folder: Path) -> str:
    return write_comparison(found, folder).read_text()


def arms(*run_dirs: Path) -> list[ArmRuns]:
    runs = [read_run_data(path) for path in run_dirs]
    return by_arm([(run.setting("strategy.name"), run) for run in runs])


def changed(run_dir: Path, to: Path, old: str, new: str) -> Path:
    """A copy of the run with another text in its configuration."""
    shutil.copytree(run_dir, to)
    text = (to / "config.yaml").read_text()
    assert old in text
    (to / "config.yaml").write_text(text.replace(old, new))
    return to


def scored(run_dir: Path, **means: float) -> Path:
    """The run with these held-out means at its last evaluation."""
    rows = [json.loads(line) for line in (run_dir / "evaluations.jsonl").open()]
    last = max(row["step"] for row in rows)
    for row in rows:
        if row["step"] == last and row["domain"] in means:
            row["mean"] = means[row["domain"]]
    (run_dir / "evaluations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return run_dir


def test_the_page_is_one_file_and_warns_of_few_seeds(run_dirs, tmp_path):
    found = compared(*run_dirs)
    html = page(found, tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("comparison.html", "comparison.json", "comparison.md"),
    }
    assert html.count("<svg") == 4
    assert "mgs (n=2)" in html
    assert "Too few seeds to tell a difference from luck (mgs: 2, mixed: 2)" in html
    assert "Not on equal terms" not in html
    assert "http" not in html.replace("http://www.w3.org", "")
    for each in found.arms:
        assert each.sentence in html
        assert each.sentence in (tmp_path / "out/comparison.md").read_text()


def test_every_number_is_that_of_its_seeds(run_dirs):
    found = compared(*run_dirs)
    read = jsonable(found.as_json())
    scores = {
        (path.name, r.domain): r.mean
        for path in run_dirs
        for r in read_evaluations(path)
        if r.step == 4
    }
    for arm in ("mgs", "mixed"):
        for domain in DOMAINS:
            values = [scores[f"{arm}-{seed}", domain] for seed in (0, 1)]
            after = read["arms"][arm]["domains"][domain]["after"]
            e = estimate(values)
            assert (after["n"], after["mean"]) == (2, pytest.approx(e.mean))
            assert (after["low"], after["high"]) == (pytest.approx(e.low), pytest.approx(e.high))
    average = {
        arm: {s: sum(scores[f"{arm}-{s}", d] for d in DOMAINS) / 3 for s in (0, 1)}
        for arm in ("mgs", "mixed")
    }
    contrast = read["arms"]["mgs"]["against_baseline"]["average"]
    expected = difference(average["mgs"], average["mixed"])
    assert contrast["mean"] == pytest.approx(expected.mean)
    assert contrast["p"] == pytest.approx(expected.p)
    assert contrast["p_corrected"] == pytest.approx(expected.p)  # one arm: one test
    assert read["arms"]["mgs"]["against_baseline"]["worst"]["tests"] == len(DOMAINS) + 1
    assert read["baseline"] == "mixed"
    assert read["arms"]["mixed"]["against_baseline"] == {}
    rows = [json.loads(line) for line in (run_dirs[0] / "metrics.jsonl").open()]
    tokens = sum(r["throughput/tokens_per_second"] * r["time/total"] for r in rows)
    assert next(iter(found.arms[0].arm.by_seed(_tokens).values())) == pytest.approx(tokens)
    assert read["arms"]["mgs"]["cost"]["gpu_hours"]["mean"] == 0


def test_gpu_hours_are_those_of_reward_models_too(run_dirs, tmp_path):
    """As the record says; one of an older version knows nothing of reward models."""
    own, older = (Path(shutil.copytree(run_dirs[0], tmp_path / name)) for name in ("own", "older"))
    for folder, gpus in ((own, {"gpus": 6.5}), (older, {})):
        record = read_run_record(folder)
        record["engines"]["learner"] = "deepspeed zero 2, cuda"
        record["placement"] |= gpus | {"learner_ranks": 4}
        record["sessions"][-1]["seconds"] = 1800.0
        (folder / "run.json").write_text(json.dumps(record))
    assert compared(own, run_dirs[2]).arms[0].cost.gpu_hours.mean == 3.25
    assert compared(older, run_dirs[2]).arms[0].cost.gpu_hours.mean == 2
    rewarded = changed(older, tmp_path / "rewarded", "num_gpus: 0.0", "num_gpus: 0.5")
    assert compared(rewarded, run_dirs[2]).arms[0].cost.gpu_hours.n == 0


@pytest.fixture
def three(run_dirs, tmp_path):
    """mgs and mixed with seeds 0, 1 and 2, whose scores a test can set."""
    return {
        (arm, seed): changed(
            run_dirs[0 if arm == "mgs" else 2],
            tmp_path / f"{arm}-{seed}",
            "seed: 0",
            f"seed: {seed}",
        )
        for arm in ("mgs", "mixed")
        for seed in range(3)
    }


@pytest.mark.parametrize(
    ("by", "said"),
    [
        ((0.2, 0.21, 0.19), "mgs is better than mixed in the average over domains: +0.200"),
        ((-0.2, -0.21, -0.19), "mgs is worse than mixed in the average over domains: −0.200"),
        ((0.02, -0.03, 0.04), "not distinguishable from mixed at these 3 seeds"),
        ((0.0, 0.0, 0.0), "equal averages over domains at each of 3 seeds"),
        ((0.1, 0.1, 0.1), "+0.100 in the average over domains, at each of 3 seeds the same"),
    ],
)
def test_a_sentence_says_what_the_data_allow(three, by, said):
    for (arm, seed), path in three.items():
        scored(path, **dict.fromkeys(DOMAINS, 0.5 + (by[seed] if arm == "mgs" else 0.0)))
    mgs, mixed = compared(*three.values()).arms
    assert said in mgs.sentence
    assert mixed.sentence == "mixed is what the others are compared with."
    if "not distinguishable" in said:
        assert "+0.010 (95 % −0.080 to +0.100)" in mgs.sentence
        assert re.search(r"about 10\d seeds would be needed to find it", mgs.sentence)


def test_many_tests_are_corrected_for(three, tmp_path):
    """A difference that stands out alone does not beside four others."""
    for (arm, seed), path in three.items():
        shift = (0.10, 0.14, 0.09)[seed] if arm == "mgs" else 0.0
        scored(path, **dict.fromkeys(DOMAINS, 0.5 + shift))
    entries = [Entry(path, arm) for (arm, _), path in three.items()]
    alone = comparison(entries).arms[0]
    assert alone.contrasts["average"].stands_out
    for number, copy in enumerate("abcd"):
        for seed in range(3):
            path = shutil.copytree(three["mixed", seed], tmp_path / f"{copy}-{seed}")
            scored(Path(path), math=0.5 + 0.01 * (-1) ** seed * (number + 1))
            entries.append(Entry(Path(path), copy))
    many = comparison(entries).arms[0]
    assert many.contrasts["average"].difference == alone.contrasts["average"].difference
    assert many.contrasts["average"].tests == 5
    assert not many.contrasts["average"].stands_out
    assert "alone" in many.sentence
    assert "not distinguishable" in many.sentence


def test_a_run_that_is_not_there_is_a_gap(run_dirs, tmp_path):
    entries = [Entry(path, path.name[:-2]) for path in run_dirs]
    entries.append(Entry(tmp_path / "mgs-2", "mgs", "failed: no memory"))
    entries.append(Entry(tmp_path / "sequential-0", "sequential", "not begun"))
    found = comparison(entries)
    text = markdown(found)
    assert [each.name for each in found.arms] == ["mgs", "mixed", "sequential"]
    assert found.arms[0].average.n == 2
    assert "sequential: no finished run of it is there, so nothing can be said." in text
    assert "mgs-2 (failed: no memory)" in text
    gap = jsonable(found.as_json())["arms"]["sequential"]["domains"]["math"]["after"]
    assert gap == {"n": 0, "mean": None, "low": None, "high": None, "sd": None}


def test_of_nothing_but_gaps_there_is_a_page_too(tmp_path):
    entries = [Entry(tmp_path / name, name, "not begun") for name in ("mgs", "mixed")]
    html = page(comparison(entries), tmp_path)
    assert html.count("nothing can be said") == 2


@pytest.mark.parametrize(
    ("status", "words"),
    [
        ("running", "still going on or killed after 2 steps"),
        ("failed", "failed after 2 steps: no memory"),
    ],
)
def test_a_run_that_is_not_finished_counts_nowhere(tmp_path, run_dirs, status, words):
    """Its costs and curves are those of other steps; beside finished runs it is a gap."""
    begun = make_run(tmp_path / "begun", steps=2, seed=9, strategy="mgs", finished=False)
    if status != "running":
        finish_run_record(begun, status=status, last_step=2, error="no memory")
    whole, found = compared(*run_dirs), compared(*run_dirs, begun)
    arm, same = found.arms[0], whole.arms[0]
    assert arm.average.n == 2
    assert arm.arm.seeds == [0, 1]
    assert arm.cost == same.cost
    assert arm.conflict_rate == same.conflict_rate
    assert arm.curve("reward/math") == same.curve("reward/math")
    assert list(arm.curve("reward/math")) == [1, 2, 3, 4]
    assert arm.arm.absent == {"begun": words}
    assert f"Not finished, and nowhere counted: begun ({words})." in found.remarks
    assert "(mgs: 2, mixed: 2)" in " ".join(found.remarks)
    assert f"| mgs | – | not finished: begun ({words}) |" in markdown(found)


def test_runs_of_which_none_is_finished_are_compared_with_a_remark(tmp_path):
    folders = [tmp_path / name for name in ("mgs", "mixed")]
    for folder in folders:
        make_run(folder, steps=2, strategy=folder.name, layers=1, finished=False)
    found = compared(*folders)
    assert [len(each.arm.runs) for each in found.arms] == [1, 1]
    assert any("None of the runs is finished" in remark for remark in found.remarks)


def test_a_run_whose_evaluations_are_lost_hides_no_others(tmp_path, run_dirs):
    lost = Path(shutil.copytree(run_dirs[3], tmp_path / "lost"))
    (lost / "evaluations.jsonl").unlink()
    found = compared(*run_dirs[:3], lost)
    assert found.common.last == 4
    assert [each.average.n for each in found.arms] == [2, 1]
    assert "Without any evaluation (lost): held-out scores are the other runs'." in found.remarks


def test_one_arm_is_compared_with_nothing(run_dirs):
    (only,) = compared(*run_dirs[:2]).arms
    assert only.sentence == "mgs is the only arm, so it is compared with nothing."


def test_one_seed_has_no_interval(run_dirs):
    mgs, _ = compared(run_dirs[0], run_dirs[2]).arms
    assert math.isnan(mgs.average.low)
    assert "One seed cannot tell a difference from luck." in mgs.sentence


def test_other_settings_are_refused_or_marked(tmp_path, run_dirs):
    other = changed(run_dirs[2], tmp_path / "other", "kl_coef: 0.005", "kl_coef: 0.5")
    with pytest.raises(ConfigError, match="not comparable") as caught:
        compared(run_dirs[0], other)
    assert "algo.kl_coef: 0.005 (mgs-0); 0.5 (other)" in str(caught.value)
    assert "allow=[algo.kl_coef]" in str(caught.value)
    found = compared(run_dirs[0], other, allow=["algo"])
    assert [each.name for each in found.arms] == ["mgs", "mixed"]  # nothing to tell apart
    html = page(found, tmp_path / "out")
    assert "Not on equal terms, by request" in html
    assert html.count("†") >= 2
    assert "by request" in (tmp_path / "out/comparison.md").read_text()


def test_what_is_allowed_to_differ_is_another_arm(tmp_path, run_dirs):
    other = changed(run_dirs[1], tmp_path / "other", "kl_coef: 0.005", "kl_coef: 0.5")
    found = compared(run_dirs[0], other, allow=["algo.kl_coef"])
    assert [each.name for each in found.arms] == ["mgs kl_coef=0.005", "mgs kl_coef=0.5"]


def test_a_key_that_an_older_version_did_not_have_counts_as_its_default(tmp_path, run_dirs):
    older = changed(run_dirs[2], tmp_path / "older", "  dead_group_weight: 1.0\n", "")
    assert not compared(run_dirs[0], older).allowed
    other = changed(run_dirs[0], tmp_path / "other", "group_weight: 1.0", "group_weight: 0.5")
    with pytest.raises(ConfigError, match=r"group_weight: 0\.5 \(other\); 1\.0 \(older\)"):
        compared(other, older)


def test_values_are_compared_whole_however_long(tmp_path, run_dirs):
    one, other = (
        changed(run_dirs[i], tmp_path / name, "  path: pocket", f"  path: /{70 * 'x'}/{name}")
        for i, name in ((0, "one"), (2, "two"))
    )
    with pytest.raises(ConfigError, match=r"policy\.path: \.\.\.x+/one \(one\); \.\.\.x+/two"):
        compared(one, other)


def test_a_refusal_for_many_keys_says_what_would_allow_all_of_them(tmp_path, run_dirs):
    torn = Path(shutil.copytree(run_dirs[2], tmp_path / "torn"))
    (torn / "config.yaml").write_text((torn / "config.yaml").read_text()[:200])
    with pytest.raises(ConfigError, match=r"and \d+ more") as caught:
        compared(run_dirs[0], torn)
    (allowed,) = re.findall(r"'allow=\[(.*)\]'", str(caught.value))
    assert compared(run_dirs[0], torn, allow=allowed.split(",")).allowed


def test_folders_of_one_name_are_told_apart(tmp_path, run_dirs):
    (tmp_path / "a").mkdir()
    one = Path(shutil.copytree(run_dirs[0], tmp_path / "a/run"))
    other = changed(run_dirs[2], tmp_path / "b/run", "kl_coef: 0.005", "kl_coef: 0.5")
    with pytest.raises(ConfigError, match=r"0\.005 \(a/run\); 0\.5 \(b/run\)"):
        compared(one, other)
    gone = [Entry(tmp_path / name / "gone", "mgs", "not begun") for name in "ab"]
    found = comparison([Entry(one), Entry(run_dirs[2]), *gone])
    assert found.arms[0].arm.absent == {"a/gone": "not begun", "b/gone": "not begun"}


def test_arms_of_one_name_with_other_settings_are_not_one_arm(tmp_path, run_dirs):
    """Two plans, or an edited run, may call different things the same."""
    root = run_dirs[0].parent
    other = changed(run_dirs[1], tmp_path / "other/mgs-1", "order: random", "order: all")
    entries = [Entry(run_dirs[0], "mgs"), Entry(other, "mgs"), Entry(run_dirs[2], "mixed")]
    entries += [Entry(other.parent / "mgs-2", "mgs", "lost"), Entry(root / "mgs-3", "mgs", "lost")]
    found = comparison(entries)
    assert [each.name for each in found.arms] == ["mgs order=random", "mgs order=all", "mixed"]
    assert [list(each.arm.absent) for each in found.arms] == [["mgs-3"], ["mgs-2"], []]


def test_a_teacher_for_each_seed_makes_one_arm(tmp_path, run_dirs):
    other = changed(run_dirs[1], tmp_path / "mgs-1", "teacher: ''", "teacher: runs/math-seed1")
    found = compared(run_dirs[0], other, run_dirs[2], declared={"algo.teacher"})
    assert [each.name for each in found.arms] == ["mgs", "mixed"]
    again = changed(run_dirs[1], tmp_path / "mgs-2", "teacher: ''", "teacher: runs/math-seed2")
    alone = compared(other, again, run_dirs[2], declared={"algo.teacher"})
    assert len(alone.arms) == 3, "two teachers of one seed, and no other seed"
    both = compared(run_dirs[0], other, again, run_dirs[2], declared={"algo.teacher"})
    assert [each.name for each in both.arms] == ["mgs", "mixed"]
    assert any("mgs: some runs have the same seed" in remark for remark in both.remarks)


def test_teachers_that_seeds_share_are_arms(tmp_path, run_dirs):
    taught = [
        changed(run, tmp_path / f"{run.name}-{name}", "teacher: ''", f"teacher: runs/{name}")
        for name in "ab"
        for run in run_dirs[:2]
    ]
    found = compared(*taught, run_dirs[2], declared={"algo.teacher"})
    names = [each.name for each in found.arms]
    assert names == ["mgs teacher=runs/a", "mgs teacher=runs/b", "mixed"]


def test_of_many_settings_a_name_has_some(tmp_path, run_dirs):
    other = Path(shutil.copytree(run_dirs[1], tmp_path / "other"))
    text = re.sub(r"(?m)^  (clip\w*|dual_clip|\w*coef): [\d.]+$", r"  \1: 0.77",
                  (other / "config.yaml").read_text())  # fmt: skip
    (other / "config.yaml").write_text(text)
    found = compared(run_dirs[0], other, run_dirs[2], allow=["algo"])
    assert len(found.allowed) > 4
    one, two = (each.name for each in found.arms[:2])
    assert re.fullmatch(rf"mgs( \w+=\S+){{4}} and {len(found.allowed) - 4} more #\w{{4}}", one)
    assert one != two


def test_strategies_of_one_name_are_told_apart(tmp_path, run_dirs):
    other = changed(run_dirs[1], tmp_path / "other", "order: random", "order: all")
    found = compared(run_dirs[0], other, run_dirs[2])
    assert [each.name for each in found.arms] == ["mgs order=random", "mgs order=all", "mixed"]


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ("num_steps: 30", "num_steps: 40", "train.num_steps"),
        ("every: 0", "every: 5", "evaluate.every"),
        ("max_prompt_tokens: ", "max_prompt_tokens: 1", "data.max_prompt_tokens"),
        ("  path: pocket", "  path: other", "policy.path"),
    ],
)
def test_data_steps_and_evaluation_must_be_the_same(tmp_path, run_dirs, old, new, key):
    if key == "evaluate.every":
        old, new = "evaluate:\n  every: 0", "evaluate:\n  every: 5"
    other = changed(run_dirs[2], tmp_path / "other", old, new)
    with pytest.raises(ConfigError, match=re.escape(key)):
        compared(run_dirs[0], other)


def test_axes_may_differ_but_not_the_measure(tmp_path, run_dirs):
    kl = changed(run_dirs[2], tmp_path / "kl", "kl_coef: 0.005", "kl_coef: 0.5")
    runs = [read_run_data(path) for path in (run_dirs[0], kl)]
    verdict = check_comparable(runs, declared={"algo.kl_coef"})
    assert [each.key for each in verdict.declared] == ["algo.kl_coef"]
    assert verdict.allowed == []
    hot = changed(run_dirs[2], tmp_path / "hot", "evaluate:\n  every: 0", "evaluate:\n  every: 5")
    runs = [read_run_data(path) for path in (run_dirs[0], hot)]
    with pytest.raises(ConfigError, match="not comparable"):
        check_comparable(runs, declared={"evaluate.every"})


def test_what_is_behind_equal_paths_is_compared(tmp_path, run_dirs):
    copies = [Path(shutil.copytree(run_dirs[i], tmp_path / str(i))) for i in (0, 2)]
    for number, copy in enumerate(copies):
        state = {
            "mixture": {"math": {"digest": f"{number}abc"}, "chat": {"digest": "same"}},
            "policy": {"weights": "same"},
        }
        (copy / "checkpoints/step_4").mkdir(parents=True)
        (copy / "checkpoints/step_4/state.json").write_text(json.dumps(state))
    with pytest.raises(ConfigError, match=r"domains\.math\.source: prompts 0abc \(0\)"):
        compared(*copies)
    found = compared(*copies, allow=["domains.math.source"])
    assert [each.key for each in found.allowed] == ["domains.math.source"]


def test_allowing_what_is_no_key_is_a_mistake(run_dirs):
    with pytest.raises(ConfigError, match=r"did you mean 'algo\.kl_coef'"):
        compared(*run_dirs, allow=["kl_coef"])


def test_the_baseline_is_one_of_the_arms(run_dirs):
    assert compared(*run_dirs, baseline="mgs").arms[1].contrasts
    named = [Entry(path, f"{path.name[:-2]} lr=1") for path in run_dirs]
    assert comparison(named).baseline == "mixed lr=1"
    with pytest.raises(ConfigError, match="did you mean 'mixed'"):
        compared(*run_dirs, baseline="mixd")


def test_comparing_needs_two_different_folders(run_dirs):
    with pytest.raises(ConfigError, match="two or more different run folders"):
        compared(run_dirs[0])
    with pytest.raises(ConfigError, match=r"every run once\n.*mgs-0, .*mgs-0\n"):
        compared(run_dirs[0], run_dirs[0], run_dirs[2])


def test_a_page_of_someone_else_is_kept(run_dirs, tmp_path, capsys):
    words = ["compare", str(run_dirs[0]), str(run_dirs[2]), f"compare.dir={tmp_path}"]
    (tmp_path / "comparison.html").write_text("my notes")
    assert main(words) == 2
    assert "--force" in capsys.readouterr().err
    assert (tmp_path / "comparison.html").read_text() == "my notes"
    assert main([*words, "--force"]) == 0
    assert main(words) == 0  # its own page is replaced
    told = capsys.readouterr().out
    assert f"comparison: {tmp_path / 'comparison.html'}" in told
    assert "One seed cannot tell" in told
    assert main([*words[:3], "compare.dir=/proc/no"]) == 2
    assert "compare.dir cannot be written" in capsys.readouterr().err


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
    found = compared(*unequal)
    colour = dict.fromkeys((each.name for each in found.arms), "#000000")
    _, (axis,) = panels(1)
    compare_figures._curves(axis, found, metric, colour, dots=True)
    drawn = [[(x, y) for x, y in line.get_xydata() if x <= 4] for line in axis.lines]
    assert drawn[0] == drawn[1]  # the batches
    assert drawn[2] == drawn[3]  # the lines
    raw = list(zip(range(1, 5), read_run_data(unequal[1]).series(metric), strict=False))
    assert drawn[1] == raw


def test_runs_of_unequal_length_are_compared_at_the_common_step(unequal):
    mgs, mixed = arms(*unequal)
    assert mgs.common.lengths == (("long", 30), ("short", 4))
    for domain in ("math", "chat"):
        assert mgs.heldout(domain) == mixed.heldout(domain) == {0: 0.04}
        assert mgs.gain(domain)[0] == pytest.approx(-0.06)
        assert mgs.forgotten(domain)[0] == pytest.approx(0.06)
    assert mgs.worst(["math", "chat"])[0] == pytest.approx(-0.06)
    for metric in ("surgery/conflict_rate", "time/total"):
        assert mgs.over_steps(metric, 2) == mixed.over_steps(metric, 2)
    text = markdown(compared(*unequal))
    assert "different lengths (30 steps: long; 4 steps: short)" in text
    assert "Held-out scores are those at step 4" in text
    assert "Held-out reward after step 4" in text
    assert "0.300" not in text


def test_without_a_common_evaluation_no_scores_are_set_side_by_side(unequal, tmp_path):
    long = evaluated(Path(shutil.copytree(unequal[0], tmp_path / "long")), 0, 30)
    found = compared(long, unequal[1])
    mgs, mixed = found.arms
    assert math.isnan(mgs.after["math"].mean)
    assert math.isnan(mixed.gain["math"].mean)
    assert "After step 0 no step was evaluated in all runs" in found.remarks[1]
    assert "share no evaluation after the first, so nothing can be said" in mgs.sentence


def test_a_run_without_scores_takes_them_from_no_other(run_dirs, tmp_path):
    lost, damaged = (Path(shutil.copytree(run_dirs[0], tmp_path / n)) for n in ("lost", "damaged"))
    (lost / "evaluations.jsonl").unlink()
    with (damaged / "evaluations.jsonl").open("a") as file:
        file.write('{"step": 4, "domain": "math", "mean": "0.5"}\n')
    found = compared(*run_dirs[1:], lost, damaged)
    assert found.arms[0].average.n == 1
    assert "Without any evaluation (lost, damaged)" in found.remarks[1]
    torn = evaluated(Path(shutil.copytree(run_dirs[0], tmp_path / "torn")), 0)
    remarks = compared(torn, *run_dirs[1:]).remarks
    assert "After step 0 no step was evaluated in all runs (not in torn)" in remarks[0]


def test_a_cut_run_whose_record_is_damaged_is_a_gap(run_dirs, tmp_path):
    """Of a whole one all that counts is there (the next test)."""
    cut = make_run(tmp_path / "cut", steps=2, seed=9, strategy="mgs", finished=False)
    (cut / "run.json").write_text("{")
    found = compared(cut, *run_dirs)
    words = "no readable run.json, and 2 of 30 steps are logged"
    assert [each.arm.absent for each in found.arms if each.arm.absent] == [{"cut": words}]


def test_scores_of_other_numbers_of_responses_are_said(run_dirs, tmp_path):
    other = Path(shutil.copytree(run_dirs[0], tmp_path / "other"))
    rows = [json.loads(line) for line in (other / "evaluations.jsonl").open()]
    lines = [json.dumps(row | {"num_samples": 7}) + "\n" for row in rows]
    (other / "evaluations.jsonl").write_text("".join(lines))
    remarks = "\n".join(compared(other, *run_dirs[1:]).remarks)
    assert "held-out scores of math are not of the same responses: 7 in other;" in remarks
    assert "of the same responses" not in "\n".join(compared(*run_dirs).remarks)


@pytest.mark.parametrize("damage", ['{"sessions": [5]}', '{"git": 5}', "[]", '{"sessions": [{"se'])
def test_a_damaged_record_is_said_and_not_fatal(run_dirs, tmp_path, damage):
    copy = changed(run_dirs[0], tmp_path / "copy", "num_steps: 30", "num_steps: 4")
    (copy / "run.json").write_text(damage)
    found = compared(copy, run_dirs[2], allow=["train.num_steps"])
    assert found.runs[0][1].missing[0].startswith("run.json cannot be read")
    assert found.as_json()["arms"]["mgs"]["cost"]["seconds"]["n"] == 0


def test_names_cannot_break_the_page(run_dirs, tmp_path):
    odd = 'a"b <i>$x|\n_'
    renamed = [
        changed(path, tmp_path / path.name, "name: mgs", f"name: {json.dumps(name)}")
        for path, name in zip(run_dirs[:2], (odd, "_x"), strict=True)
    ]
    entries = [Entry(path, name) for path, name in zip(renamed, (odd, "_x"), strict=True)]
    html = page(comparison([*entries, *map(Entry, run_dirs[2:])], baseline=odd), tmp_path / "out")
    assert "<i>" not in html
    assert "to a&#34;b &lt;i&gt;$x" in html  # what a screen reader says of a figure
    assert re.search(r"<text[^>]*> ?_x \(n=1\)</text>", html)  # in a legend
    text = (tmp_path / "out/comparison.md").read_text()
    assert r"| a\"b <i>$x\| _ |".replace('\\"', '"') in text


def test_of_folders_without_domains_there_is_a_page_too(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.jsonl").write_text(
            '{"step": 1, "surgery/conflict_rate": 0.4}\n'
        )
    found = compared(tmp_path / "one", tmp_path / "two")
    assert "nothing can be said" in page(found, tmp_path / "out")
    assert "Nobody knows whether one, two can be compared" in " ".join(found.remarks)


def test_equal_lengths_need_no_remark(run_dirs):
    assert arms(*run_dirs)[0].common.remarks == []


def test_held_out_rewards_over_time_have_a_matrix_for_each_arm(run_dirs, tmp_path):
    copies = [Path(shutil.copytree(path, tmp_path / path.name)) for path in run_dirs]
    found = compared(*[evaluated(path, 0, 2, 3, 4) for path in copies])
    html = page(found, tmp_path / "out")
    assert html.count('<table class="matrix">') == 2
    assert "± –" not in html
    assert html.count("<svg") == 5
    assert found.arms[0].heldout_curve("math")[3].mean == pytest.approx(0.03)
    assert found.arms[0].forgotten["math"].mean == pytest.approx(0.06)


def test_a_metric_that_some_steps_lack_has_no_line_there(run_dirs, tmp_path):
    copy = Path(shutil.copytree(run_dirs[0], tmp_path / "copy"))
    rows = [json.loads(line) for line in (copy / "metrics.jsonl").open()]
    for row in rows[2:]:
        del row["reward/math"], row["surgery/conflict_rate"]  # a step of one domain has no pair
    (copy / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (arm,) = arms(copy)
    summary = ArmSummary(arm, ["math"])
    assert list(summary.curve("reward/math")) == [1, 2]
    assert list(summary.curve("surgery/conflict_rate")) == [1, 2]
    assert summary.conflict_rate.mean == pytest.approx(
        sum(row["surgery/conflict_rate"] for row in rows[:2]) / 2
    )


def test_what_the_page_draws_over_time_is_in_the_json(run_dirs, tmp_path):
    (tmp_path / "runs").mkdir()
    copies = [Path(shutil.copytree(path, tmp_path / "runs" / path.name)) for path in run_dirs]
    found = compared(*[evaluated(path, 0, 2, 3, 4) for path in copies])
    mgs = jsonable(found.as_json())["arms"]["mgs"]
    assert mgs["domains"]["math"]["over_time"]["3"]["mean"] == pytest.approx(0.03)
    shares = [f"surgery/projected_share/{d}" for d in DOMAINS]
    assert {"surgery/conflict_rate", *shares, *(f"reward/{d}" for d in DOMAINS)} <= set(
        mgs["curves"]
    )
    for name, written in mgs["curves"].items():
        curve = found.arms[0].curve(name)
        assert (written["n"], written["steps"]) == (2, list(curve)), name
        for column in ("mean", "low", "high"):
            expected = [getattr(e, column) for e in curve.values()]
            assert written[column] == pytest.approx(expected, rel=1e-3), name
    one = jsonable(compared(copies[0], copies[2]).as_json())["arms"]["mgs"]["curves"]
    assert one["reward/math"]["low"] == [None] * 4


def test_a_long_curve_is_written_with_some_of_its_points(monkeypatch, unequal):
    monkeypatch.setattr("mgsrl.report.comparison.MOST_POINTS", 4)
    curves = compared(*unequal).as_json()["arms"]["mgs"]["curves"]
    assert curves["reward/math"]["steps"] == [1, 11, 20, 30]


def test_the_text_has_the_matrix_and_names_the_worst_domain(run_dirs, tmp_path):
    copies = [Path(shutil.copytree(path, tmp_path / path.name)) for path in run_dirs]
    for path in copies:
        evaluated(path, 0, 2, 3, 4)
    scored(copies[0], math=0.3, chat=0.2)
    scored(copies[1], math=0.3, chat=0.2)
    scored(copies[2], math=0.3)
    scored(copies[3], chat=0.3, instruction_following=0.2)
    found = compared(*copies)
    text = markdown(found)
    assert "| mgs | 0 | 2 | 3 | 4 |" in text
    assert "| math | 0.100 ± 0.000 | 0.020 ± 0.000 | 0.030 ± 0.000 | **0.300 ± 0.000** |" in text
    mgs, mixed = found.arms
    assert mgs.worst_domains == {"instruction_following": 2}
    assert mixed.worst_domains == {"chat": 1, "instruction_following": 1, "math": 1}
    assert mgs.contrasts["worst"]
    html = page(found, tmp_path / "out")
    assert '<span class="error">instruction_following</span>' in html
    assert "−0.060 (−0.060 to −0.060), instruction_following |" in text
    assert "chat 1, instruction_following 1, math 1" in html
    assert found.as_json()["arms"]["mgs"]["worst_gain"]["domains"] == mgs.worst_domains


def test_runs_of_one_seed_are_no_repetitions(run_dirs, tmp_path):
    again = Path(shutil.copytree(run_dirs[0], tmp_path / "again"))
    found = compared(*run_dirs, again)
    assert any("mgs: some runs have the same seed" in remark for remark in found.remarks)
    assert found.arms[0].average.n == 2
    assert found.arms[0].arm.heldout("math") == compared(*run_dirs).arms[0].arm.heldout("math")
    assert not any("same seed" in remark for remark in compared(*run_dirs).remarks)
    curves = [found.arms[0].curve("reward/math"), compared(*run_dirs).arms[0].curve("reward/math")]
    assert curves[0] == curves[1]


def test_runs_without_a_known_seed_are_paired_with_none(run_dirs, tmp_path):
    copies = [Path(shutil.copytree(run_dirs[i], tmp_path / str(i))) for i in (0, 2)]
    for copy in copies:
        (copy / "config.yaml").unlink()
    found = comparison([Entry(copies[0], "mgs"), Entry(copies[1], "mixed")])
    assert found.arms[0].contrasts["average"].difference.n == 0
    assert "no seed in common" in found.arms[0].sentence


def test_a_score_that_is_lost_is_said(tmp_path, run_dirs):
    """Its seed counts nowhere in the differences, which the page would not say."""
    other = tmp_path / "mgs-1"
    shutil.copytree(run_dirs[1], other)
    scored(other, math=math.nan)
    found = compared(run_dirs[0], other, *run_dirs[2:])
    assert "Without a score after step 4 (mgs-1: math): not counted." in found.remarks
    assert not any("Without a score" in remark for remark in compared(*run_dirs).remarks)
