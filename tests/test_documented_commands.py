"""Every command line of the pages: taken by the program, and run for real where that can be."""

import argparse
import glob
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import torch

from mgsrl.cli import _parser
from mgsrl.compare.cells import plan_cells
from mgsrl.compare.words import read_words
from mgsrl.config.compose import compose_config
from mgsrl.config.model_path import ASSETS, POCKET_POLICY, POCKET_REWARD_MODEL
from tests.documented import ROOT, commands, files_of
from tests.training.runs import SMALL, without_pictures

COMMANDS = list(dict.fromkeys(words for _, words in commands()))
LINES = {" ".join(words): words for words in COMMANDS}
OURS = [line for line, words in LINES.items() if words[0] == "mgsrl"]

TINY = [*SMALL, "train.num_steps=1"]
"""Added to a training run."""
QUICK = ["--engine", "transformers", "--limit", "1"]
"""Added to an evaluation. Its default engine has tests of its own."""
HUB = "reads the hub"
GPUS = "needs 8 GPUs"
NOT_RUN = {
    "mgsrl train +experiment=qwen_mgs": GPUS,
    "mgsrl train +experiment=qwen_mgs learner.world_size=8": "needs a cluster",
    "mgsrl doctor +experiment=qwen_mgs learner.world_size=8": "needs a cluster",
    "mgsrl train +experiment=qwen_mgs_1gpu": "needs a GPU",
    "mgsrl train +experiment=smollm2_mgs_gpu": "needs a GPU",
    "mgsrl train +experiment=smollm2_mgs": "needs SmolLM2's weights and its data sets",
    "mgsrl data prepare gsm8k": HUB,
    "mgsrl data prepare smollm2": "fetches 93 MB",
    "mgsrl eval --model runs/qwen-mgs-seed0": HUB,
    "mgsrl eval --model DIR --tasks alpaca_eval": f"{HUB} and asks a judge",
    "mgsrl train domains.math.weight=0.5 +domains=": "names a data set of the reader",
    "mgsrl train +experiment=pocket_conflict": "tests/scripts/test_conflict_trials.py runs it",
    "mgsrl train +experiment=pocket_mopd": "tests/training/test_teachers.py runs one",
    "mgsrl compare strategies=": "many runs; tests/compare/ runs two",
    "mgsrl train strategy=single": "a run of a strategy as any other; tests/training/ trains",
    "mgsrl train strategy=sequential strategy.domain_order=": "as the README's, in another order",
    "mgsrl train domains.math.algo.clip_high=": "tests/training/test_refill_run.py has another one",
    "mgsrl train strategy=mgs data.curriculum=bandit": "tests/training/test_adaptive_run.py",
    "mgsrl merge runs/math": "needs those runs; the README's line is run",
    "mgsrl compare +experiment=": "many runs; tests/compare/ runs two",
}
"""How a line begins -> why it is not run here; it is still parsed and composed."""
REFUSED = {
    "mgsrl doctor +experiment=qwen_mgs": "more GPUs than there are",
    "mgsrl doctor +experiment=smollm2_mgs_gpu": "more GPUs than there are",
}
"""Lines that end with 2 on a machine without GPUs -> what they say then."""
RUN: dict[str, list[str]] = {
    "mgsrl train": TINY,
    "mgsrl train strategy=sequential run.dir=/tmp/r": [*SMALL, "train.num_steps=3"],
    "mgsrl train domains.chat.reward.path=my_reward_model": [*TINY, "run.dir=runs/other-seed0"],
    "mgsrl eval": QUICK,
}
"""How a line begins -> what is added to it; the longest counts. Others run as they are."""
INSTEAD = {
    "run.dir=/tmp/r": "run.dir=runs/sequential-seed0",
    "gsm8k,ifeval=FILE.jsonl": "gsm8k=gsm8k_test.jsonl,ifeval=FILE.jsonl",
    "1000": "20",
    "5000": "20",
    "512": "40",
    "/data": "data",
    "Skywork/Skywork-Reward-V2-Llama-3.1-8B": "pocket",
}
"""Words that name a place or a size of the reader -> those of the test."""
OUTPUTS = ("OUT", "OUT.jsonl", "scores.jsonl", "if.jsonl", "IF.jsonl")
"""What several lines write, each as if it were the first."""
PROGRAMS = {
    "make": "the set-up, and this test suite",
    "pip": "installs",
    "source": "a shell's own command",
    "sbatch": "needs a Slurm cluster; tests/scripts/test_slurm.py runs the script",
    "kubectl": "needs a Kubernetes cluster; tests/scripts/test_launchers.py checks the manifest",
    "docker": "needs a docker daemon",
    "ray": "starts a Ray that stays; its options are checked",
    "python": "tests/scripts/ runs them",
    "accelerate": "its options are tested in reward_models/",
    "lm_eval": "is not among the dependencies",
}
"""Other programs of the pages -> why they are not run."""


def beginning(line: str, table: "dict[str, str] | dict[str, list[str]]") -> str | None:
    """The longest key of `table` that `line` begins with."""
    found = [key for key in table if line == key or line.startswith((f"{key} ", f"{key}+"))]
    found += [key for key in table if key[-1] in "=," and line.startswith(key)]
    found += [key for key in NOT_RUN if table is NOT_RUN and line.startswith(f"{key},")]
    return max(found, key=len, default=None)


def test_the_pages_are_read() -> None:
    assert len(OURS) >= 25
    assert {words[1] for words in COMMANDS if words[0] == "mgsrl"} >= {"train", "score", "eval"}
    for key in NOT_RUN:
        assert any(beginning(line, NOT_RUN) == key for line in OURS), f"nobody writes {key!r}"


@pytest.mark.parametrize("line", OURS)
def test_every_line_is_taken(line: str) -> None:
    words = list(LINES[line][1:])
    if "--help" in words:
        with pytest.raises(SystemExit) as caught:
            _parser().parse_args(words)
        assert caught.value.code == 0
        return
    options: argparse.Namespace = _parser().parse_args(words)
    if options.command == "compare":
        asked = read_words(options.overrides)
        assert asked.folders or plan_cells(Path("c"), asked.arms(), asked.common)
    elif getattr(options, "overrides", None) is not None:
        compose_config([word for word in options.overrides if word != "rewards"])  # of doctor


@pytest.mark.parametrize("line", [line for line in LINES if line not in OURS])
def test_other_programs_are_given_what_exists(line: str) -> None:
    program, *words = LINES[line]
    if program == "sbatch":  # its own options, then the script, then those of `mgsrl train`
        script = next(index for index, word in enumerate(words) if not word.startswith("-"))
        compose_config(words[script + 1 :])
    assert program in PROGRAMS, f"run it, or say in PROGRAMS why not: {line}"
    if program == "make":
        makefile = (ROOT / "Makefile").read_text()
        targets = [word for word in words if "=" not in word]
        assert all(re.search(rf"(?m)^{target}:", makefile) for target in targets)
    if program == "ray":
        from ray.scripts.scripts import cli

        cli.commands[words[0]].make_context(words[0], words[1:])
    for word in words:
        if word.startswith(("scripts/", "reward_models/", "docker/")):
            assert (ROOT / word).is_file(), word


ROW = {"prompt": "2 + 3?", "response": "<response>5</response>", "answer": "5"}
IFEVAL = {
    "key": 1,
    "prompt": "Write without commas.",
    "instruction_id_list": ["punctuation:no_comma"],
    "kwargs": [{}],
}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all that the lines name, and one finished run."""
    folder = tmp_path_factory.mktemp("documented")

    def lines(name: str, *rows: object) -> None:
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))

    for name in ("IN.jsonl", "rows.jsonl", "prompts.jsonl"):
        lines(name, ROW)
    for name in ("FILE.jsonl", "ifeval.jsonl", "IFEVAL.jsonl"):
        lines(name, IFEVAL)
    for name in ("gsm8k_test.jsonl", "GSM8K.jsonl"):
        lines(name, {"question": "2 + 3?", "answer": "It is 5.\n#### 5"})
    for name in ("SVAMP.jsonl", "svamp_test.jsonl"):
        lines(name, {"Body": "Tom has 2 pens.", "Question": "How many?", "Answer": "2"})
    _local_text(folder)
    for name, text in files_of(ROOT / "docs" / "own_domain.md").items():
        (folder / name).write_text(text)
    (folder / "mine.yaml").write_text(f"{(folder / 'stories.yaml').read_text()}seed: 1\n")
    table = [{"question": "Write about rivers."}, {"question": "Write about the sea."}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(table), folder / "chats.parquet")
    scored = pyarrow.Table.from_pylist([{"output": "<response>5</response>", "gold": "5"}])
    pyarrow.parquet.write_table(scored, folder / "rollouts.parquet")
    wild = pyarrow.Table.from_pylist([{"prompt": "Hello?", "id": "a"}])
    pyarrow.parquet.write_table(wild, folder / "wildchat-if_train.parquet")
    (folder / "models").mkdir()
    for name in ("DIR", "models/SmolLM2-135M-Instruct"):
        shutil.copytree(ASSETS / POCKET_POLICY, folder / name)
    os.symlink(ASSETS / POCKET_REWARD_MODEL, folder / "my_reward_model")
    (folder / "evals" / "base-model" / "samples").mkdir(parents=True)
    baseline = {"id": "1", "sample": 0, "messages": [], "response": "Five."}
    lines("evals/base-model/samples/chat.jsonl", baseline)
    run(folder, "mgsrl train")
    other = folder / "runs" / "pocket-mixed-seed0"
    shutil.copytree(folder / "runs" / "pocket-mgs-seed0", other)
    config = (other / "config.yaml").read_text()
    (other / "config.yaml").write_text(config.replace("name: mgs", "name: mixed"))
    os.symlink(folder / "runs" / "pocket-mgs-seed0", folder / "RUN_DIR")
    return folder


def _local_text(folder: Path) -> None:
    """The files of `domains=local_text`, where $MGSRL_DATA is ./data."""
    for room in ("math", "chat", "if"):
        (folder / "data" / room).mkdir(parents=True)
    math = json.dumps({"question": "2 + 3?", "answer": "#### 5"}) + "\n"
    (folder / "data/math/gsm8k_train.jsonl").write_text(math * 7010)
    (folder / "data/if/synthetic_if_train.jsonl").write_text(
        "".join(json.dumps({**IFEVAL, "key": n}) + "\n" for n in range(1810))
    )
    chats = [{"prompt": [{"role": "user", "content": f"Hello {n}?"}]} for n in range(7010)]
    table = pyarrow.Table.from_pylist(chats)
    pyarrow.parquet.write_table(table, folder / "data/chat/wildchat_if_train.parquet")


def run(folder: Path, line: str) -> str:
    """Run one line in `folder`; its output. Fails the test on another exit code than 0."""
    words = [INSTEAD.get(word, word) for word in LINES[line][1:]]
    words = [
        each for word in words for each in (sorted(glob.glob(word, root_dir=folder)) or [word])
    ]
    for word in {*words} & {*OUTPUTS}:
        (folder / word).unlink(missing_ok=True)
    added = beginning(line, RUN)
    if added and "--help" not in words:
        extra = RUN[added]
        words += extra[:2] if "--limit" in words and extra is QUICK else extra
    environment = without_pictures() if line.startswith("mgsrl train ") else os.environ
    done = subprocess.run(
        [sys.executable, "-m", "mgsrl.cli", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=280,
        env={**environment, "MGSRL_DATA": str(folder / "data"), "HF_HUB_OFFLINE": "1"},
    )
    refusal = None if torch.cuda.is_available() else REFUSED.get(line)
    expected = 0 if refusal is None else 2
    assert done.returncode == expected, f"{words}\n{done.stdout}\n{done.stderr}"
    assert refusal is None or refusal in done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    "line", [line for line in OURS if beginning(line, NOT_RUN) is None and line != "mgsrl train"]
)
def test_every_line_runs(workspace: Path, line: str) -> None:
    assert run(workspace, line).strip()
