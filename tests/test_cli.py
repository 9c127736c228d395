"""The command line as a user meets it: real processes, exit codes, one message per mistake."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mgsrl.cli import COMMANDS, main
from mgsrl.config.compose import list_choices


def mgsrl(*arguments: str, cwd: Path | None = None) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "mgsrl.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=cwd)


def test_help_lists_every_command() -> None:
    done = mgsrl("--help")
    assert done.returncode == 0
    for command in (
        "train",
        "plan",
        "report",
        "compare",
        "score",
        "eval",
        "data",
        "export",
        "merge",
        "doctor",
    ):
        assert f"    {command} " in done.stdout


def test_train_help_teaches() -> None:
    done = mgsrl("train", "--help")
    assert done.returncode == 0
    for name in [*list_choices("experiment"), *list_choices("strategy"), "+experiment=qwen_mgs"]:
        assert name in done.stdout


def test_print_config_is_the_resolved_configuration() -> None:
    done = mgsrl("train", "experiment=qwen_mixed", "seed=7", "--print-config")
    assert done.returncode == 0
    assert "dir: runs/qwen-mixed-seed7" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["trian"], ["train"]),
        (["train", "experiment=qwen"], ["qwen_mgs"]),
        (["train", "+experiment=qwen_mgs"], ["GPUs", "found"]),
        (["train", "policy.path=/nowhere"], ["policy.path", "found"]),
        (["train", "domains.chat.reward.path=/nowhere"], ["domains.chat.reward", "found"]),
        (
            ["train", "domains.math.source.kind=file", "domains.math.source.path=x.jsonl"],
            ["x.jsonl"],
        ),
        (["train", "algo.prompts_per_domain=5000"], ["fewer prompts", "found"]),
        (["train", "resume=/nowhere"], ["resume", "found"]),
        (["report", "/nowhere"], ["/nowhere"]),
        (["score", "maths", "a.jsonl", "b.jsonl"], ["math"]),
        (["export", "/nowhere", "out"], ["export", "found"]),
        (["merge", "/nowhere", "out", "--method", "linear"], ["RUN", "found"]),
    ],
)
def test_mistakes_exit_with_2_and_one_message(
    arguments: list[str], words: list[str], tmp_path: Path
) -> None:
    done = mgsrl(*arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr, done.stderr


def test_score_writes_one_row_per_row(tmp_path: Path) -> None:
    rows = [
        {"id": "a", "prompt": "2+2?", "response": "<response>\\boxed{4}</response>", "answer": "4"},
        {"id": "b", "prompt": "2+2?", "response": "<response>5</response>", "answer": "4"},
    ]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = mgsrl("score", "math", "in.jsonl", "out.jsonl", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    scored = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [(row["id"], row["reward"]) for row in scored] == [("a", 1.0), ("b", 0.0)]
    assert "mean reward 0.5" in done.stdout


def test_score_says_what_to_do_with_responses_without_tags(tmp_path: Path) -> None:
    row = {"prompt": "2+2?", "response": "It is 4.", "answer": "4"}
    (tmp_path / "in.jsonl").write_text(json.dumps(row) + "\n")
    done = mgsrl("score", "math", "in.jsonl", "out.jsonl", cwd=tmp_path)
    assert "mean reward 0.0" in done.stdout
    assert "--whole-response" in done.stdout
    done = mgsrl("score", "math", "in.jsonl", "out2.jsonl", "--whole-response", cwd=tmp_path)
    assert "mean reward 1.0" in done.stdout
    assert "--whole-response" not in done.stdout


def test_data_inspect_reports_every_domain() -> None:
    done = mgsrl("data", "inspect")
    assert done.returncode == 0, done.stderr
    for domain in ("math", "chat", "instruction_following"):
        assert f"pocket {domain} (train): 2000 of 2000 rows usable" in done.stdout


def test_a_part_that_leaves_does_not_end_a_command_as_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(COMMANDS["doctor"], "run", lambda options: sys.exit(0))
    with pytest.raises(RuntimeError, match=r"sys\.exit\(0\) was called"):
        main(["doctor"])
