"""scripts/reproduce.md: every command of the page, on small stand-ins of each data set.

Data are prepared, runs are composed, planned and given their rows, evaluations read theirs with
judge and baseline; the figures of the page are those of `mgsrl plan`. The slow tests also let a
policy of the bundled shape answer and train.
"""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from functools import cache
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest

from mgsrl.cli import _parser, main
from mgsrl.config import Config
from mgsrl.config.compose import compose_config
from mgsrl.config.typed import plain
from mgsrl.data.sources import load_rows
from mgsrl.report.comparable import check_comparable
from mgsrl.report.load import RunData
from mgsrl.rewards.factory import row_needs
from mgsrl.training.estimate import estimate
from mgsrl.training.plan import schedule_of
from tests.documented import ROOT
from tests.evaluate.judge_server import judge_server
from tests.scripts.reproduction import (
    DIR,
    JUDGE,
    LINES,
    ROWS,
    TABLE,
    TEXT,
    lines,
    planned,
    prepared,
)
from tests.training.runs import SMALL

H100_GIB = 79.1


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with prepared(tmp_path_factory.mktemp("reproduce")) as folder:
        yield folder


@cache
def configuration(words: tuple[str, ...]) -> Config:
    return compose_config([word for word in words if "=" in word])


def test_the_page_is_read() -> None:
    assert len(lines("mgsrl", "data", "prepare")) == 11
    assert len(lines("mgsrl", "train")) == 14
    assert len(lines("mgsrl", "eval")) == 5
    assert len(lines("mgsrl", "compare")) == len(lines(*TABLE)) == 3
    assert {words[0] for words in LINES} == {"mgsrl", "python", "sbatch"}
    known = {("train",), ("eval",), ("doctor",), ("compare",), ("data", "prepare")}
    known.add(("data", "inspect"))
    for words in lines("mgsrl"):
        assert words[1:2] in known or words[1:3] in known
        _parser().parse_args(words[1:])
    (doctor,) = lines("mgsrl", "doctor")  # ends with 2 on a machine without GPUs
    assert configuration(doctor).policy.path == "Qwen/Qwen2.5-7B"


@pytest.mark.parametrize("program", [("mgsrl", "compare"), TABLE], ids=" ".join)
def test_every_run_of_the_tables_is_compared_once(program: tuple[str, ...]) -> None:
    trained = {c.run.dir: c for c in map(configuration, lines("mgsrl", "train"))}
    compared: list[str] = []
    for words in lines(*program):
        globs = [word for word in words[2:] if "=" not in word]
        rows = [name for name in trained if any(fnmatch(name, glob) for glob in globs)]
        check_comparable([RunData(Path(name), plain(trained[name])) for name in rows])
        compared += rows
    more = ["runs/qwen-mgs-seed0", "runs/qwen_math-single-seed0"]  # needed by no row
    assert sorted([*compared, *more]) == sorted(trained)


def test_what_was_prepared(workspace: Path) -> None:
    counts = {
        str(path.relative_to(workspace / "data")): len(path.read_text().splitlines())
        for path in (workspace / "data").rglob("*.jsonl")
    }
    assert counts == {
        "simplerl.jsonl": ROWS - 1,  # one has no answer
        "heldout/simplerl.jsonl": ROWS - 1,
        **{f"{name}.jsonl": ROWS for name in ("wildchat_if", "heldout/wildchat_if", "nemotron_if")},
        **{
            f"eval/{name}.jsonl": ROWS
            for name in ("math500", "gsm8k", "aime24", "ifbench", "wildbench", "alpaca_eval")
        },
        "eval/creative_writing.jsonl": 3,
    }
    stories = (workspace / "data/eval/creative_writing.jsonl").read_text().splitlines()
    assert [json.loads(line)["prompt"] for line in stories] == [
        "A scene. Rain. 1000 words.",
        "A scene. Snow. 1000 words.",
        "A scene. Rain. 1000 words.",
    ]


def test_training_rows_are_looked_at(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (words,) = lines("mgsrl", "data", "inspect")
    assert main([*words[1:]]) == 0
    said = capsys.readouterr().out
    assert said.count(f"{ROWS}") >= 1
    assert "domains.instruction_following.source" in said


# --- the recipe -----------------------------------------------------------------------------------

PUBLISHED = {
    "policy.prompt_template": "prompted",
    "data.max_prompt_tokens": 896,
    "data.overlong": "truncate_left",
    "data.prompts_per_step": 64,
    "rollout.temperature": 0.7,
    "rollout.top_p": 1.0,
    "rollout.max_new_tokens": 4096,
    "rollout.dtype": "bfloat16",
    "algo.samples_per_prompt": 8,
    "algo.normalize_std": True,
    "algo.aggregation": "token_mean",
    "algo.clip_low": 0.2,
    "algo.clip_high": 0.2,
    "algo.dual_clip": 3.0,
    "algo.kl_coef": 0.001,
    "algo.kl_estimator": "k3",
    "algo.entropy_coef": 0.001,
    "algo.updates_per_batch": 1,
    "learner.dtype": "bfloat16",
    "learner.gradient_checkpointing": True,
    "learner.optimizer.lr": 1e-6,
    "learner.optimizer.beta1": 0.9,
    "learner.optimizer.beta2": 0.999,
    "learner.optimizer.eps": 1e-8,
    "learner.optimizer.schedule": "constant",
    "learner.optimizer.warmup_steps": 0,
    "learner.optimizer.weight_decay": 0.01,
    "learner.optimizer.max_grad_norm": 1.0,
    "train.num_steps": 2 * ((8_523 + 7_544) // 64),
    "checkpoint.keep_every": 120,
}
"""The paper's configuration file (`mgs_mixed_grpo_qwen_think.yaml`), in our words."""
MODELS = {"qwen": "Qwen/Qwen2.5-7B", "llama": "meta-llama/Llama-3.1-8B"}


@pytest.mark.parametrize("name", ["qwen_math_chat", "qwen_sequential", "llama_mgs"])
def test_the_experiments_have_the_published_values(name: str) -> None:
    config = configuration((f"+experiment={name}",))
    assert {key: attrgetter(key)(config) for key in PUBLISHED} == PUBLISHED
    assert config.policy.path == MODELS[name.partition("_")[0]]
    assert {domain.reward.missing_tag for domain in config.domains.values()} == {"whole_response"}
    chat = config.domains["chat"].reward
    found = (chat.options.path, chat.options.transform)
    assert found == ("Skywork/Skywork-Reward-V2-Llama-3.1-8B", "none")


def test_every_value_of_the_recipe_says_where_it_is_from() -> None:
    text = (ROOT / "configs/recipe/published.yaml").read_text()
    values = [line for line in text.splitlines() if re.match(r"[\s\w]+: [^#\s]", line)]
    assert len(values) > 30
    assert [line.strip() for line in values if "#" not in line] == ["device: cuda"]
    for mark in ("[y]", "[l]", "[m]", "[s]"):
        assert text.count(mark) >= 2


# --- runs -----------------------------------------------------------------------------------------

TRAINED = [*lines("mgsrl", "train"), *(w[5:] for w in lines("sbatch"))]


def test_every_run_has_a_folder_of_its_own() -> None:
    assert TEXT.count("seed=$seed") == 12
    folders = [configuration(words).run.dir for words in lines("mgsrl", "train")]
    assert len(set(folders)) == len(folders)
    assert DIR in folders


@pytest.mark.parametrize("words", TRAINED, ids=" ".join)
def test_every_run_is_composed_and_fits(words: tuple[str, ...]) -> None:
    config = configuration(words)
    found = estimate(config, 8, H100_GIB)
    assert found.gpus == 8
    assert found.learner.peak[1] < 0.85 * H100_GIB * 2**30
    schedule = schedule_of(config)
    for step in (0, 250, config.train.num_steps - 1):
        assert sum(schedule.phase(step).quotas.values()) == 64
    number = 3 if "domains=reproduce" in words else 1 if "strategy=single" in words else 2
    assert len(schedule.domains) == number


def test_the_runs_read_what_was_prepared(workspace: Path) -> None:
    config = compose_config(["+experiment=llama_mgs", "domains=reproduce"])
    read = {}
    for name, domain in config.domains.items():
        assert domain.heldout is not None
        needs = row_needs(domain.reward)
        parts = [
            load_rows(source, name, key=name, needs=needs)
            for source in (domain.source, domain.heldout)
        ]
        read[name] = tuple(map(len, parts))
        if domain.source.path == domain.heldout.path:
            assert not {row.id for row in parts[0]} & {row.id for row in parts[1]}
    assert read == {
        "math": (ROWS - 1, 250),
        "chat": (ROWS, ROWS),
        "instruction_following": (ROWS - 250, 250),
    }


def test_the_figures_are_those_of_the_plan(capsys: pytest.CaptureFixture[str]) -> None:
    rows = re.findall(r"(?m)^\| `mgsrl (plan [^`]+)` \| ([\d.]+) \| (\d+) \| ([\d.]+) \|$", TEXT)
    assert len(rows) == 4
    hours = {}
    for line, gib, seconds, total in rows:
        assert main([*line.split(), "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["fits"]
        time = found["time"]
        peak, step = found["learner_rank"]["peak_gib"], time["step_s"]
        assert (gib, seconds, total) == (f"{peak:.1f}", f"{step:.0f}", f"{time['run_hours']:.1f}")
        hours[line.removeprefix("plan ")] = time["run_hours"]
        if "qwen" in line:
            assert f"checkpoints of {time['checkpoint_bytes'] / 1e9:.0f} GB" in TEXT
    runs = [words[2] for words in lines("mgsrl", "train")][:12]  # of the loops
    taken = sum(
        next(h for name, h in hours.items() if name.partition("_")[0] == run.partition("_")[0])
        for run in runs
    )
    assert f"{3 * len(runs)} runs below are {round(3 * taken, -2):.0f} hours" in TEXT
    kept = compose_config(["+experiment=qwen_math_chat"]).checkpoint.most_kept(502)
    assert (kept, "up to seven checkpoints" in TEXT) == (7, True)


def test_what_differs_can_be_chosen() -> None:
    """The overrides of the last table's last column."""
    table = TEXT.partition("## 5.")[2]
    ends = [row.rsplit("|", 2)[1] for row in re.findall(r"(?m)^\| .*\|$", table)]
    overrides = [found for end in ends for found in re.findall(r"`([a-z_.]+=[^`]+)`", end)]
    assert len(overrides) >= 6
    for override in overrides:
        key, _, value = override.partition("=")
        value = {"N": "3", "...": "[{domains: [math]}, {domains: [chat]}]"}.get(value, value)
        config = compose_config(["+experiment=qwen_math_chat", f"{key}={value}"])
        assert config.policy.path == "Qwen/Qwen2.5-7B"


# --- evaluations ----------------------------------------------------------------------------------


def test_every_evaluation_reads_its_rows_judge_and_baseline(workspace: Path) -> None:
    seen: dict[str, Any] = {}
    for words in lines("mgsrl", "eval"):
        options, evaluation = planned(words)
        assert options.prompt_template == "prompted"
        for each in evaluation.plans:
            sampling = each.sampling
            found = (sampling.temperature, sampling.top_p, sampling.max_new_tokens)
            assert found == (0.7, 0.95, 8192)
            seen[each.task.name] = each
    assert {name: (len(each.rows), each.samples) for name, each in seen.items()} == {
        **dict.fromkeys(("math500", "gsm8k", "ifbench", "wildbench", "alpaca_eval"), (ROWS, 1)),
        "aime24": (ROWS, 4),
        "creative_writing": (3, 1),
    }
    assert seen["ifbench"].rows[0].reference["instruction_id_list"] == ["punctuation:no_comma"]
    judges = {name: each.judge.judge_mode for name, each in seen.items() if each.judge}
    assert judges == {
        "wildbench": "pairwise",
        "alpaca_eval": "pairwise",
        "creative_writing": "score",
    }
    assert set(seen["wildbench"].baselines.values()) == {"Hello."}
    assert seen["wildbench"].rows[0].reference["reference"] == "- Is it polite?"
    assert set(seen["alpaca_eval"].baselines.values()) == {"Oak."}


def judged(request: dict[str, Any]) -> str:
    text = request["messages"][-1]["content"]
    if "[[A++]]" in text:
        return "[[A+]]" if "[Answer B]\nHello." in text else "[[B+]]"
    if "[[tie]]" in text:
        return "[[tie]]"
    return "Plot and structure: 12\nOriginality: 8"


@pytest.mark.slow
def test_every_evaluation_is_made(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Real answers of the bundled model, a judge on loopback; all in one folder."""
    quick = ["--engine", "transformers", "--limit", "2", "--max-new-tokens", "12"]
    with judge_server(judged) as (address, _), pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_API_KEY", "none")
        for words in lines("mgsrl", "eval"):
            changed = [address if word == JUDGE else word for word in words[1:]]
            changed += ["--prompt-template", "chat"]  # the bundled model writes no tags
            assert main([*changed, *quick]) == 0, capsys.readouterr().err
    results = json.loads((workspace / "evals/qwen_math_chat-mgs-seed0/results.json").read_text())
    found = {name: each["metrics"] for name, each in results["tasks"].items()}
    assert len(found) == 7
    assert found["wildbench"]["judge_win_rate"]["value"] == 0.75
    assert found["creative_writing"]["judge_score"]["value"] == 10
    named = re.findall(r"(?m)^\| [^|]+ \| `(\w+(?:@\d)?)`[^|]* \| [^|]+ \|$", TEXT)
    assert len(named) == 6
    assert set(named) <= {metric for metrics in found.values() for metric in metrics}
    command = [sys.executable, *TABLE[1:], DIR, "--baseline", "mgs"]
    table = subprocess.run(command, cwd=workspace, capture_output=True, text=True, check=True)
    (row,) = re.findall(r"(?m)^\| mgs \|.*$", table.stdout)
    assert "| 50.0, n 1 |" in row  # both of WildBench and of Creative Writing
    assert "–" not in row


@pytest.mark.slow
def test_a_run_trains_on_the_prepared_rows(workspace: Path) -> None:
    """The experiment with a policy, a reward model and devices that are here."""
    (words, *_) = lines("mgsrl", "train")
    here = [
        *("policy.path=pocket", "policy.prompt_template=chat", "data.max_prompt_tokens=64"),
        *("domains.chat.reward.path=pocket", "domains.chat.reward.num_gpus=0"),
        *("domains.chat.reward.max_length=256", "rollout.dtype=float32", "rollout.num_workers=1"),
        *("learner.device=cpu", "learner.dtype=float32", "learner.world_size=1"),
        *("learner.offload_reference=false", "learner.gradient_checkpointing=false"),
        *("learner.tokens_per_micro_batch=null", "data.prompts_per_step=4"),
        *("train.num_steps=2", "domains.math.reward.num_workers=1"),
    ]
    command = [sys.executable, "-m", "mgsrl.cli", *words[1:], *SMALL, *here, "run.dir=runs/small"]
    done = subprocess.run(
        command, cwd=workspace, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [json.loads(line) for line in (workspace / "runs/small/metrics.jsonl").open()]
    assert [row["step"] for row in rows] == [1, 2]
    assert {"reward/math", "reward/chat"} <= rows[0].keys()
    assert "reward/instruction_following" not in rows[0]
