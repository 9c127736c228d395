"""Made prompts: deterministic, readable by our own loader, safe for held-out constraints."""

import json
from pathlib import Path
from typing import Any

import pytest

from mgsrl.cli import main
from mgsrl.config import SourceConfig
from mgsrl.constraints import REGISTRY
from mgsrl.constraints.sample import family
from mgsrl.data.plain_prompts import PLAIN_PROMPTS
from mgsrl.data.sources import load_rows
from tests.rewards.loaded import needs_of


def make(output: Path, *options: str, rows: int = 100) -> list[dict[str, Any]]:
    arguments = ["data", "synthesize", "instruction_following", "--output", str(output)]
    assert main([*arguments, "--num-rows", str(rows), "--force", *options]) == 0
    return [json.loads(line) for line in output.read_text().splitlines()]


def test_rows_load_and_state_what_they_ask_for(tmp_path: Path) -> None:
    path = tmp_path / "new" / "if.jsonl"
    path.parent.mkdir()
    made = make(path, rows=300)
    source = SourceConfig(kind="file", path=str(path))
    loaded = load_rows(source, "if", key="k", needs=needs_of("constraints"))
    assert len(loaded) == len(made) == 300
    assert len({row.messages[-1]["content"] for row in loaded}) == 300
    assert {len(row["instruction_id_list"]) for row in made} == {1, 2, 3}
    for row in made:
        request = row["prompt"].split("\n\n")[0]
        assert request in PLAIN_PROMPTS
        for kwargs in row["kwargs"]:
            assert kwargs.get("prompt_to_repeat", request) == request
            assert None not in kwargs.values()
    assert [path.name for path in path.parent.iterdir()] == ["if.jsonl"]  # nothing half-written


def test_same_seed_same_file_and_more_rows_begin_the_same(tmp_path: Path) -> None:
    first = make(tmp_path / "a.jsonl", "--seed", "5", rows=70)
    assert make(tmp_path / "b.jsonl", "--seed", "5", rows=70) == first
    assert make(tmp_path / "c.jsonl", "--seed", "5", rows=90)[:70] == first
    assert make(tmp_path / "d.jsonl", "--seed", "6", rows=70) != first


def test_held_out_constraints_need_to_be_asked_for(tmp_path: Path) -> None:
    def families(*options: str) -> set[str]:
        made = make(tmp_path / "f.jsonl", *options, rows=300)
        return {family(REGISTRY[id_]) for row in made for id_ in row["instruction_id_list"]}

    assert families() == {"ifeval", "ifevalg"}
    assert families("--families", "ifeval") == {"ifeval"}
    assert families("--families", "ifbench") == {"ifbench"}  # one per prompt


def test_own_prompts_with_columns_and_histories(tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.csv"
    prompts.write_text("question\nWhy is the sky blue?\n")
    options = ("--columns", "prompt=question", "--constraints-per-prompt", "2")
    made = make(tmp_path / "q.jsonl", "--prompts", str(prompts), *options, rows=5)
    assert all(row["prompt"].startswith("Why is the sky blue?\n\n") for row in made)
    assert all(len(row["kwargs"]) == 2 for row in made)
    prompts = tmp_path / "chats.jsonl"
    chat = [
        {"role": "user", "content": "Hello!"},
        {"role": "assistant", "content": "Hi."},
        {"role": "user", "content": "Name a tree."},
    ]
    prompts.write_text(json.dumps({"messages": chat}))
    options = ("--only", "punctuation:no_comma", "--constraints-per-prompt", "1")
    (row,) = make(tmp_path / "m.jsonl", "--prompts", str(prompts), *options, rows=1)
    assert row["messages"][:2] == chat[:2]
    assert row["messages"][2]["content"].startswith("Name a tree.\n\nIn your entire response")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--prompts", "missing.jsonl"], ["missing.jsonl", "--prompts"]),
        (["--families", "ifbank"], ["did you mean 'ifbench'"]),
        (["--only", "punctuation:no_coma"], ["did you mean 'punctuation:no_comma'"]),
        (
            ["--only", "punctuation:no_comma", "--constraints-per-prompt", "1"],
            ["500 different rows", f"{len(PLAIN_PROMPTS)} from"],
        ),
        (["--output", "rows.txt"], [".jsonl"]),
    ],
)
def test_mistakes_end_with_2_and_no_file(
    options: list[str],
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["data", "synthesize", "instruction_following", "--output", "rows.jsonl"]
    assert main([*arguments, "--num-rows", "500", *options]) == 2
    error = capsys.readouterr().err
    assert all(word in error for word in words)
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_column_is_explained_in_terms_of_the_option(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = tmp_path / "q.jsonl"
    prompts.write_text('{"question": "Why?"}')
    output = ["--output", str(tmp_path / "o.jsonl"), "--num-rows", "1", "--prompts", str(prompts)]
    assert main(["data", "synthesize", "instruction_following", *output]) == 2
    assert "--columns prompt=NAME" in capsys.readouterr().err


@pytest.mark.parametrize("counts", ["0", "3-1", "1-", "x", "1-x"])
def test_odd_numbers_of_constraints_are_refused(counts: str, tmp_path: Path) -> None:
    options = ["--output", str(tmp_path / "o.jsonl"), "--num-rows", "1"]
    options += ["--constraints-per-prompt", counts]
    with pytest.raises(SystemExit) as stopped:
        main(["data", "synthesize", "instruction_following", *options])
    assert stopped.value.code == 2
