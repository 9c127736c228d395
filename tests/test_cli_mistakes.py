"""Mistakes at the start, in whole processes: one message and exit code 2, nothing loaded."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

OFFLINE = {"HF_ENDPOINT": "http://127.0.0.1:9"}  # nothing listens there


def mgsrl(*arguments: str, cwd: Path, **env: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "mgsrl.cli", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=120, cwd=cwd, env={**os.environ, **env}
    )


@pytest.mark.parametrize(
    ("arguments", "env", "words"),
    [
        (["train", "seed=1.5"], {}, ["seed", "whole number"]),
        (["train", "+train.num_step=5"], {}, ["train.num_step", "num_steps"]),
        (["train", "rollout.num_workers=1000"], {}, ["rollout.num_workers"]),
        (["train", "rollout.temperature=2.5"], {}, ["rollout.temperature", "2.0"]),
        (["train", "learner.tokens_per_micro_batch=255"], {},
         ["learner.tokens_per_micro_batch", "256 or more", "data.max_prompt_tokens=192", "255"]),
        (["train", "learner.tokens_per_micro_batch=300", "domains.chat.max_new_tokens=128"], {},
         ["learner.tokens_per_micro_batch", "320 or more"]),
        (["train"], {"RAY_TMPDIR": "/tmp/" + "x" * 100}, ["RAY_TMPDIR", "export"]),
        (["train", "domains.math.weight=0", "domains.chat.weight=0",
          "domains.instruction_following.weight=0"], {}, ["weight"]),
        (["train", "policy.path=modles/X"], OFFLINE, ["policy.path", "modles/X"]),
        (["eval", "--model", "modles/X", "--tasks", "gsm8k"], OFFLINE, ["--model", "modles/X"]),
        (["eval", "--model", "pocket", "--tasks", "gsm8k", "--temperature", "3"], {}, ["2.0"]),
        (["data", "inspect", "--no-lengths", "domains.math.source.kind=hub",
          "domains.math.source.path=no/set"], OFFLINE, ["domains.math.source.path", "no/set"]),
        (["data", "inspect", "--no-lengths", "domains.math.source.kind=file",
          "domains.math.source.path=empty.jsonl"], {}, ["usable row", "domains.math.source"]),
        (["doctor", "+experiment=qwen_mgs"], {"CUDA_VISIBLE_DEVICES": ""}, ["GPUs"]),
        (["doctor", "+experiment=qwen"], {}, ["qwen_mgs"]),
        (["doctor", "reward"], {}, ["`rewards`", "mgsrl doctor --help"]),
        (["train", "--seed", "1"], {}, ["--seed", "seed=VALUE", "mgsrl train --help"]),
        (["train", "--train.num_steps=3"], {}, ["write train.num_steps=3"]),
        (["data", "inspect", "--seed=1"], {}, ["`mgsrl data inspect`", "seed=1"]),
        (["score", "math", "a", "b", "--official-"], {}, ["--official-", "mgsrl score --help"]),
        (["report", "a", "b"], {}, ["does not take b", "mgsrl report --help"]),
        (["train", "run_dir=/tmp/r"], {}, ["did you mean 'run.dir'"]),
        (["train", "train-num-steps=3"], {}, ["did you mean 'train.num_steps'"]),
        (["eval", "--model", "./none", "--tasks", "gsm8k"], {}, ["a run folder"]),
        (["data", "inspect", "--no-lengths", "domains=local_text"], {"MGSRL_DATA": "sets"},
         ["sets/math/gsm8k_train.jsonl", "$MGSRL_DATA", "(now: sets)"]),
        (["export", "runs/r/checkpoints/step_3", "out"], {}, ["no such folder"]),
        (["merge", "pocket", "pocket", "out", "--method", "linear", "--weights", "1"], {},
         ["2 numbers, one for each RUN"]),
        (["merge", "pocket", "modles/X", "out", "--method", "linear"], OFFLINE,
         ["RUN", "modles/X", "found"]),
    ],
    ids=lambda value: "_".join(value)[:60] if isinstance(value, list) else "",
)  # fmt: skip
def test_a_mistake_is_one_message_within_seconds(
    arguments: list[str], env: dict[str, str], words: list[str], tmp_path: Path
) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    begin = time.monotonic()
    done = mgsrl(*arguments, cwd=tmp_path, **env)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("  to do:") == 1, done.stderr
    for word in words:
        assert word in done.stderr, done.stderr
    assert time.monotonic() - begin < 60  # seconds on a quiet machine; imports take most of it


def test_doctor_takes_a_configuration(tmp_path: Path) -> None:
    done = mgsrl("doctor", "strategy=mixed", "rollout.engine=transformers", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "can start here" in done.stdout
