"""Whole runs on the bundled model with real Ray, DeepSpeed and reward workers.

The light `transformers` engine keeps them fast; the last tests run the same on vLLM.
"""

import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mgsrl.errors import ConfigError
from mgsrl.files.jsonl import rewrite
from mgsrl.obs.evaluation_log import read_evaluations
from mgsrl.obs.run_record import finish_run_record, status_of
from mgsrl.training.export import export_model
from scripts.resume_trials import ROOT, differences
from tests.capabilities import of_run
from tests.obs.glossary import undocumented
from tests.training import golden, runs

DOMAINS = ("math", "chat", "instruction_following")

pytestmark = [pytest.mark.ray_cluster, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def six_steps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run of six steps."""
    folder = tmp_path_factory.mktemp("runs") / "six"
    # a third of the norm is an even share: with this limit the alarm is sure to be heard
    runs.train(folder, *golden.OVERRIDES, pictures=True)
    return folder


def test_a_run_leaves_everything_that_was_promised(six_steps: Path) -> None:
    names = {path.name for path in six_steps.iterdir()}
    assert names >= {
        "config.yaml",
        "run.json",
        "metrics.jsonl",
        "evaluations.jsonl",
        "rollouts",
        "surgery",
        "checkpoints",
        "report.html",
    }
    rows = [json.loads(line) for line in (six_steps / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert all(len(row.keys() - {"step", "timestamp"}) == 85 for row in rows)  # as the page says
    for row in rows:
        stages = [v for k, v in row.items() if k.startswith("time/") and k != "time/total"]
        assert sum(stages) == pytest.approx(row["time/total"], rel=1e-6)
        assert row["weights/version"] == row["step"]
        assert row["sync/canary_error"] < 1e-3
        for domain in DOMAINS:
            assert row[f"abstained/{domain}"] == 0
            assert row[f"mismatch/{domain}"] < 1e-3
        for kind in ("attention", "mlp", "norms", "embeddings", "final_norm"):
            assert 0 <= row[f"surgery/conflict_rate/{kind}"] <= 1
    assert {path.stem for path in (six_steps / "surgery").iterdir()} == {
        "heat_map",
        *(f"{part}_{step:06d}" for part in ("step", "kinds", "domains") for step in range(1, 7)),
    }
    evaluated = [json.loads(line) for line in (six_steps / "evaluations.jsonl").open()]
    assert [(row["step"], row["domain"]) for row in evaluated] == [
        (step, domain) for step in (0, 6) for domain in DOMAINS
    ]
    record = json.loads((six_steps / "run.json").read_text())
    assert record["status"] == "finished"
    assert {"starting Ray", "sending the first weights"} <= record["sessions"][0]["start_up"].keys()
    assert "report:" in six_steps.with_suffix(".log").read_text().splitlines()[-1]


def test_the_first_steps_are_the_golden_ones(six_steps: Path) -> None:
    """Losses, gradient norms and Gramians of the first five steps are what they once were.

    A change that is meant to move them writes them anew, and says in its commit why they moved:
    `python -m tests.training.golden` (half a minute; it prints by how much).
    """
    expected = json.loads(golden.FILE.read_text())
    found = golden.read(six_steps)
    assert found["pairs"] == expected["pairs"]
    distances = golden.distances(found, expected)
    assert len(distances) == 3 * golden.STEPS
    assert {what: far for what, far in distances.items() if not far < golden.TOLERANCE} == {}


def test_every_metric_of_a_real_run_is_in_the_glossary(six_steps: Path) -> None:
    logged = {key for row in runs.metrics(six_steps) for key in row} - {"step"}
    assert len(logged) > 40
    assert undocumented(logged) == set()
    log = six_steps.with_suffix(".log").read_text()
    assert re.search(r"step 6/6 .* live \d+% cut \d+% clip 0% \| loss \S+ grad \S+ lr \S+ ", log)


def test_the_console_says_when_a_domain_comes_to_dominate(six_steps: Path) -> None:
    expected, active = [], set()
    for row in runs.metrics(six_steps):
        norms = {name: row[f"grad_norm/{name}"] for name in DOMAINS}
        dominant = {name for name in DOMAINS if norms[name] > 0.34 * sum(norms.values())}
        expected += [(name, row["step"]) for name in DOMAINS if name in dominant - active]
        active = dominant
    log = six_steps.with_suffix(".log").read_text()
    found = re.findall(r"the gradient of (\w+) has \d+% of the norm at step (\d+)", log)
    assert [(name, int(step)) for name, step in found] == expected
    assert expected


IN_A_NOTEBOOK = """
import asyncio, sys, mgsrl

async def cell(folder, arguments):
    run = mgsrl.train([*arguments, f"run.dir={folder}", "train.num_steps=3"])
    config = run.config
    config.train.num_steps = 6
    assert mgsrl.train(config) == run and len(mgsrl.load_run(folder).metrics) == 6

asyncio.run(cell(sys.argv[1], sys.argv[2:]))
"""


@of_run("whole run", "resumed run, to the bit")
def test_six_steps_equal_three_and_three_from_python_to_the_bit(
    six_steps: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "three"
    command = [sys.executable, "-c", IN_A_NOTEBOOK, str(folder), *runs.SMALL]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    assert runs.metrics(folder) == runs.metrics(six_steps)
    assert runs.trained(folder) == runs.trained(six_steps)


def test_the_export_is_a_plain_model_with_the_trained_weights(
    six_steps: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    output = export_model(six_steps, tmp_path / "exported")
    model = AutoModelForCausalLM.from_pretrained(output)
    assert AutoTokenizer.from_pretrained(output).chat_template
    shards = load_file(six_steps / "checkpoints/step_6/learner/rank_0.safetensors")
    masters = {key.split("|")[0]: v for key, v in shards.items() if key.endswith("|master")}
    for name, value in model.named_parameters():
        assert torch.equal(value.float().flatten(), masters[name]), name
    with pytest.raises(ConfigError, match="--force"):
        export_model(six_steps, output)
    (output / "generation_config.json").unlink()
    export_model(six_steps, output, force=True)
    assert (output / "generation_config.json").is_file()
    (tmp_path / "thesis.tex").write_text("years")
    for other in (tmp_path, six_steps, six_steps / "checkpoints", six_steps.parent):
        with pytest.raises(ConfigError, match="OUTPUT"):
            export_model(six_steps, other, force=True)
    assert (tmp_path / "thesis.tex").is_file()


def test_a_finished_run_says_so_and_another_configuration_is_refused(six_steps: Path) -> None:
    output = runs.train(six_steps, "train.num_steps=6")
    assert "is finished (6 steps)" in output
    process = runs.start(six_steps, "train.num_steps=6", "strategy=mixed")
    assert process.wait(timeout=60) == 2
    assert "surgery.method: 'pcgrad' -> 'none'" in six_steps.with_suffix(".log").read_text()


@pytest.mark.slow
def test_a_run_that_was_stopped_in_its_last_evaluation_makes_it(
    six_steps: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "cut"
    shutil.copytree(six_steps, folder)
    evaluations = read_evaluations(six_steps)
    assert max(result.step for result in evaluations) == 6
    rewrite(folder / "evaluations.jsonl", lambda row: row["step"] < 6)
    finish_run_record(folder, status="interrupted", last_step=6)
    output = runs.train(folder, "train.num_steps=6")
    assert "is finished" not in output
    assert read_evaluations(folder) == evaluations
    assert runs.metrics(folder) == runs.metrics(six_steps)
    assert status_of(folder) == "finished"


@of_run("killed workers are replaced")
def test_killed_workers_lose_nothing(six_steps: Path, tmp_path: Path) -> None:
    folder = tmp_path / "killed"
    process = runs.start(folder, "train.num_steps=6")
    for step, name in ((1, "RolloutWorker"), (3, "RewardWorker")):
        runs.wait_for(lambda step=step: runs.steps_done(folder) >= step, f"step {step}")
        runs.actor(process, name).kill()
    assert process.wait(timeout=240) == 0, folder.with_suffix(".log").read_text()
    rows = runs.metrics(folder)
    for role in ("rollout", "reward"):
        assert sum(row.pop(f"restarts/{role}") for row in rows) == 1
    assert rows == [
        {key: value for key, value in row.items() if not key.startswith("restarts/")}
        for row in runs.metrics(six_steps)
    ]
    output = folder.with_suffix(".log").read_text()
    assert "rollout worker 0 is replaced (1 of at most 3 times within 100 steps)" in output
    assert output.count("is replaced") == 2


SHARED = ("placement=colocated", "learner.offload_during_rollout=true", "train.num_steps=6")


@pytest.mark.slow
@of_run("engines share the learners' GPUs (turns only: run on CPUs)")
def test_engines_that_sleep_while_learners_work_change_nothing(
    six_steps: Path, tmp_path: Path
) -> None:
    """To the bit, though an engine dies in whatever turn it is; a checkpoint every step."""
    folder = tmp_path / "colocated"
    process = runs.start(folder, *SHARED)
    runs.wait_for(lambda: runs.steps_done(folder) >= 2, "step 2")
    runs.actor(process, "RolloutWorker").kill()
    assert process.wait(timeout=300) == 0, folder.with_suffix(".log").read_text()
    rows, expected = runs.metrics(folder), runs.metrics(six_steps)
    assert sum(row.pop("restarts/rollout") for row in rows) == 1
    assert rows == [{k: v for k, v in row.items() if k != "restarts/rollout"} for row in expected]
    evaluations = [(run / "evaluations.jsonl").read_text() for run in (folder, six_steps)]
    assert evaluations[0] == evaluations[1]
    assert runs.trained(folder) == runs.trained(six_steps)
    record = json.loads((folder / "run.json").read_text())
    assert record["placement"]["placement"] == "colocated"
    assert record["placement"]["gpus"] == 0
    assert record["engines"]["transfer"] == "object_store"


@pytest.mark.slow
def test_a_driver_that_is_killed_within_a_step_loses_no_bit(
    six_steps: Path, tmp_path: Path
) -> None:
    """The slice of `scripts/resume_trials.py` that every run of the tests makes."""
    folder = tmp_path / "killed"
    command = [sys.executable, str(ROOT / "scripts/killed_train.py"), "--at", "begin step"]
    arguments = ["--step", "4", f"run.dir={folder}", *runs.SMALL, *golden.OVERRIDES]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=240)
    assert done.returncode == -signal.SIGKILL, done.stdout + done.stderr
    assert runs.steps_done(folder) == 3
    assert "resumed after step 3" in runs.train(folder, *golden.OVERRIDES, pictures=True)
    assert differences(six_steps, folder) == []


@pytest.mark.slow
def test_one_rank_then_two_then_one_and_three_zero_stages_give_the_same_curve(
    six_steps: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "elastic"
    shutil.copytree(six_steps, folder)
    start, layout = "checkpoints/step_2", ("learner.world_size=2", "learner.zero_stage=3")
    two = ("train.num_steps=4", *golden.OVERRIDES[1:], f"resume={folder / start}", *layout)
    assert "learner.world_size: 1 -> 2 [equal up to rounding]" in runs.train(folder, *two)
    assert json.loads((folder / "run.json").read_text())["sessions"][-1]["changed"]
    runs.train(folder, *golden.OVERRIDES, "learner.zero_stage=0")
    assert differences(six_steps, folder, exact=False) == []


@of_run("a killed learner's run goes on by itself")
@pytest.mark.slow
def test_after_a_learners_death_the_run_goes_on_from_its_checkpoint(
    six_steps: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "learner"
    process = runs.start(folder, "train.num_steps=6", "checkpoint.every=2")
    runs.wait_for(lambda: (folder / "checkpoints/step_2").exists(), "checkpoint 2")
    runs.actor(process, "LearnerWorker").kill()
    assert process.wait(timeout=300) == 0
    output = folder.with_suffix(".log").read_text()
    assert "LearnerDiedError: A learner died during" in output
    assert "restart 1 of at most 3 within 100 steps: from step" in output
    record = json.loads((folder / "run.json").read_text())
    assert record["status"] == "finished"
    (session,) = record["sessions"]
    (restart,) = session["restarts"]
    assert restart["from_step"] in (2, 4)
    assert restart["from_step"] <= restart["step"] < 6
    assert runs.metrics(folder) == runs.metrics(six_steps)
    assert runs.trained(folder) == runs.trained(six_steps)
    evaluations = [(run / "evaluations.jsonl").read_text() for run in (folder, six_steps)]
    assert evaluations[0] == evaluations[1]


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGTERM,
        pytest.param(signal.SIGINT, marks=pytest.mark.slow),
        pytest.param(signal.SIGKILL, marks=pytest.mark.slow),
    ],
)
def test_a_stopped_run_leaves_nothing_running(number: signal.Signals, tmp_path: Path) -> None:
    folder = tmp_path / "stopped"
    process = runs.start(folder, "train.num_steps=50")
    runs.wait_for(lambda: runs.steps_done(folder) >= 1, "step 1")
    family = runs.descendants(process)
    assert family
    process.send_signal(number)
    code = process.wait(timeout=60)
    assert code == (-9 if number == signal.SIGKILL else 1)
    # Nobody can clean up after SIGKILL: two of Ray's own helpers look for it for a minute.
    runs.none_left(family, limit_s=120 if number == signal.SIGKILL else 30)
    assert number == signal.SIGKILL or not list(folder.rglob(".*tmp*"))


@of_run("whole run", zero=3)
@pytest.mark.slow
def test_two_ranks_and_zero_3_train_like_one(six_steps: Path, tmp_path: Path) -> None:
    folder = tmp_path / "two"
    runs.train(folder, "train.num_steps=1", "learner.world_size=2", "learner.zero_stage=3")
    one, two = runs.metrics(six_steps)[0], runs.metrics(folder)[0]
    for key, value in one.items():
        if not key.startswith("packing/"):  # how the ranks divide the work
            assert two[key] == pytest.approx(value, rel=1e-4, abs=1e-5), key


@pytest.mark.slow
def test_a_single_domain_trains_alone(tmp_path: Path) -> None:
    folder = tmp_path / "single"
    runs.train(folder, "train.num_steps=2", "strategy=single", "algo.whiten_per_domain=true")
    rows = runs.metrics(folder)
    trained = [[name for name in DOMAINS if f"reward/{name}" in row] for row in rows]
    assert trained == [["math"]] * 2
    assert all(row["grad_norm"] > 0 and not row["skipped"] for row in rows)


@pytest.mark.slow
def test_mixed_is_mgs_without_projection(six_steps: Path, tmp_path: Path) -> None:
    """Before the first update the two see the same rollouts, rewards and gradients."""
    folder = tmp_path / "mixed"
    runs.train(folder, "train.num_steps=1", "strategy=mixed")
    mgs, mixed = runs.metrics(six_steps)[0], runs.metrics(folder)[0]
    for name in DOMAINS:
        for key in (f"reward/{name}", f"loss/{name}", f"grad_norm/{name}"):
            assert mgs[key] == mixed[key]
        assert mixed[f"surgery/projected_share/{name}"] == 0
    assert mgs["surgery/conflict_rate"] == mixed["surgery/conflict_rate"] > 0


@of_run("whole run", "killed workers are replaced", "an engine per domain", engine="vllm")
@pytest.mark.vllm
@pytest.mark.slow
def test_dedicated_vllm_workers_survive_a_kill(tmp_path: Path) -> None:
    """One vLLM engine per domain, of two; one is killed while the run goes on."""
    folder = tmp_path / "dedicated"
    overrides = ("rollout.engine=vllm", "rollout.assignment=dedicated", "train.num_steps=5")
    overrides += ("~domains.chat",)
    process = runs.start(folder, *overrides)
    runs.wait_for(lambda: runs.steps_done(folder) >= 2, "step 2", limit_s=300)
    runs.actor(process, "RolloutWorker").kill()
    assert process.wait(timeout=400) == 0, folder.with_suffix(".log").read_text()
    rows = runs.metrics(folder)
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5]
    assert all(row["sync/canary_error"] < 1e-4 for row in rows)
    for name in ("math", "instruction_following"):
        assert all(row[f"mismatch/{name}"] < 1e-4 for row in rows)


@of_run("engines share the learners' GPUs (turns only: run on CPUs)", engine="vllm")
@pytest.mark.vllm
@pytest.mark.slow
def test_a_vllm_that_sleeps_while_learners_work_changes_nothing(tmp_path: Path) -> None:
    for name, overrides in (("apart", ("train.num_steps=2",)), ("shared", SHARED)):
        arguments = (*overrides, "rollout.engine=vllm", "train.num_steps=2")
        runs.train(tmp_path / name, *arguments, limit_s=280)
    assert runs.metrics(tmp_path / "shared") == runs.metrics(tmp_path / "apart")
