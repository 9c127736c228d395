"""`mgsrl score` as a user types it: as a run scores, who judged, nothing destroyed."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from mgsrl.cli import main
from mgsrl.config.compose import compose_config, config_to_yaml

CHAT = [
    {"prompt": "Name a fruit.", "response": "<response>An apple.</response>"},
    {"prompt": "Name a fruit.", "response": "<response>zzz zzz</response>"},
]
CONSTRAINTS = {
    "response": "<response>Sure!\nno commas, here</response>",
    "instruction_id_list": ["change_case:english_capital", "punctuation:no_comma"],
    "kwargs": [{}, {}],
}


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def rewards(path: Path) -> list[Any]:
    return [json.loads(line)["reward"] for line in path.read_text().splitlines()]


def run_folder(folder: Path, *overrides: str) -> Path:
    (folder / "checkpoints" / "step_1").mkdir(parents=True)
    (folder / "checkpoints" / "step_1" / "manifest.json").write_text("{}")
    (folder / "config.yaml").write_text(config_to_yaml(compose_config(overrides)))
    return folder


def test_chat_as_training_sees_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, output = write(tmp_path / "in.jsonl", *CHAT), tmp_path / "out.jsonl"
    assert main(["score", "chat", str(source), str(output)]) == 0
    text = capsys.readouterr().out
    assert "judged by the reward model pocket (its raw logit)" in text
    assert "--as RUN|EXPERIMENT" in text
    logits = rewards(output)
    assert any(value < 0 for value in logits)
    folder = run_folder(tmp_path / "run", "domains.chat.reward.format_bonus=0.5")
    for like in ("pocket_mgs", str(folder), str(folder / "checkpoints" / "step_1")):
        arguments = ["score", "chat", str(source), str(output), "--force", "--as", like]
        assert main(arguments) == 0
        assert rewards(output) == pytest.approx([1 / (1 + math.exp(-value)) for value in logits])
        text = capsys.readouterr().out
        assert "judged by the reward model pocket (its sigmoid)" in text
        assert ("in training: format_bonus" in text) is (like != "pocket_mgs")


def test_other_domains_as_a_run_sees_them(tmp_path: Path) -> None:
    source, output = write(tmp_path / "in.jsonl", CONSTRAINTS), tmp_path / "out.jsonl"
    command = ["score", "instruction_following", str(source), str(output), "--force"]
    assert main(command) == 0
    assert rewards(output) == [0.0]
    assert main([*command, "--loose"]) == 0
    assert rewards(output) == [0.5]
    key = "domains.instruction_following.reward"
    run = run_folder(tmp_path / "run", f"{key}.credit=all", f"{key}.strict=false")
    assert main([*command, "--as", str(run)]) == 0
    assert rewards(output) == [0.0]


@pytest.mark.parametrize("like", [None, "pocket_mgs"])
def test_official_verdicts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], like: str | None
) -> None:
    row = CONSTRAINTS | {"response": "<response>HELLO WORLD</response>"}
    source, output = write(tmp_path / "in.jsonl", row), tmp_path / "out.jsonl"
    command = ["score", "instruction_following", str(source), str(output), "--force"]
    command += ["--as", like] if like else []
    assert main(command) == 0
    assert rewards(output) == [1.0]
    assert main([*command, "--official"]) == 0
    assert rewards(output) == [0.5]  # the released checker takes it for Dutch
    assert "as the released checkers decide" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["chat", "--as", "pocket_mg"], ["no run and no experiment", "pocket_mgs"]),
        (["chat", "--as", "."], ["folder without config.yaml"]),
        (["chart", "--as", "pocket_mgs"], ["no domain 'chart'", "chat"]),
        (["math", "--loose"], ["--loose does nothing for math"]),
        (["math", "--official"], ["--official does nothing for math"]),
        (["math", "--reward-model", "pocket"], ["--reward-model does nothing"]),
        (["math", "--reward-model", "pocket", "--as", "pocket_mgs"], ["does nothing"]),
        (["math", "--columns", "respons=x"], ["'response'"]),
        (["math", "--answer-pattern", "("], ["answer_pattern"]),
        (["math", "--workers", "0"], ["--workers"]),
        (["math", "--workers", "100000"], ["--workers", "on this machine"]),
    ],
)
def test_mistakes(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    words: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "in.jsonl", {"response": "5", "answer": "5"})
    domain, *rest = arguments
    assert main(["score", domain, "in.jsonl", "out.jsonl", *rest]) == 2
    message = capsys.readouterr().err
    for word in words:
        assert word in message
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_a_function_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("def length(response, most): return len(response) / most\n")
    write(
        tmp_path / "in.jsonl", {"response": "<response>five!</response>", "prompt": "?", "most": 10}
    )
    assert main(["score", "mine.py:length", "in.jsonl", "out.jsonl"]) == 0
    assert json.loads((tmp_path / "out.jsonl").read_text())["reward"] == 0.5


def test_columns_and_force(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = {"run": {"text": "<response>5</response>"}, "gold": "2 + 3 = 5\n#### 5"}
    source, output = write(tmp_path / "in.jsonl", row), tmp_path / "out.jsonl"
    command = ["score", "math", str(source), str(output), "--columns", "response=run.text"]
    command += ["--columns", "answer=gold"]
    assert main(command) == 0
    assert rewards(output) == [1.0]
    assert "judged by math-verify" in capsys.readouterr().out
    before = output.read_bytes()
    assert main(command) == 2
    assert "--force" in capsys.readouterr().err
    assert output.read_bytes() == before
    assert main([*command, "--force"]) == 0
