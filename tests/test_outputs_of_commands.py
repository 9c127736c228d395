"""Every command that writes: its input stays as it is, what exists is replaced only by force."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from mgsrl.cli import COMMANDS, _parser, main
from tests.report import synthetic

ROW = {"id": 1, "prompt": "2 + 3?", "response": "<response>5</response>", "answer": "5"}
WRITES_NOTHING = {"doctor", "plan", "data inspect"}
"""Commands without an output."""
OWN_FOLDER = {"train"}
"""Its output is a run folder, which it holds, resumes or sets aside (`training/folder.py`)."""


def rows(folder: Path) -> Path:
    path = folder / "in.jsonl"
    path.write_text(json.dumps(ROW) + "\n")
    return path


def score(folder: Path, output: Path) -> list[str]:
    return ["score", "math", str(rows(folder)), str(output)]


def synthesize(folder: Path, output: Path) -> list[str]:
    command = ["data", "synthesize", "instruction_following", "--num-rows", "1"]
    return [*command, "--prompts", str(rows(folder)), "--output", str(output)]


def prepare(folder: Path, output: Path) -> list[str]:
    """Reads and writes `gsm8k.jsonl` when its output folder is the input's."""
    source = folder / "gsm8k.jsonl"
    source.write_text(json.dumps({"question": "2 + 3?", "answer": "#### 5"}) + "\n")
    return ["data", "prepare", "gsm8k", "--from", str(source), "--output", str(output.parent)]


FILE_WRITERS: dict[str, tuple[Callable[[Path, Path], list[str]], str, str]] = {
    "score": (score, "in.jsonl", "out.jsonl"),
    "data synthesize": (synthesize, "in.jsonl", "out.jsonl"),
    "data prepare": (prepare, "gsm8k.jsonl", "gsm8k.jsonl"),
}
"""Command -> how it is called, the file that it reads, the file that it writes."""
FOLDER_WRITERS = {"export", "merge", "eval", "report", "compare"}
"""Tested for their own kinds of folder: the report below, the export in
`training/test_end_to_end.py`, the merged model in `training/test_merge.py`, the evaluation in
`evaluate/test_eval.py`, the comparison in `report/test_compare.py`."""


def names_of(parser: argparse.ArgumentParser, prefix: str = "") -> list[str]:
    actions = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    if not actions:
        return [prefix]
    choices = actions[0].choices
    return [name for key in choices for name in names_of(choices[key], f"{prefix} {key}".strip())]


def test_every_command_is_tested_here() -> None:
    known = {*FILE_WRITERS, *FOLDER_WRITERS, *OWN_FOLDER, *WRITES_NOTHING}
    assert set(names_of(_parser())) <= known, "say here what the new command writes"
    assert len(COMMANDS) >= 8


@pytest.mark.parametrize("name", FILE_WRITERS)
def test_what_exists_is_kept_without_force(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    call, _, written = FILE_WRITERS[name]
    output = tmp_path / "out" / written
    output.parent.mkdir()
    command = call(tmp_path, output)
    output.write_text("precious")
    assert main(command) == 2
    assert "--force" in capsys.readouterr().err
    assert output.read_text() == "precious"
    assert [entry.name for entry in output.parent.iterdir()] == [written]
    assert main([*command, "--force"]) == 0
    assert "precious" not in output.read_text()


@pytest.mark.parametrize("force", [(), ("--force",)])
@pytest.mark.parametrize("name", [name for name, each in FILE_WRITERS.items() if each[1]])
def test_the_input_is_never_written(
    tmp_path: Path, name: str, force: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    call, source, _ = FILE_WRITERS[name]
    command = call(tmp_path, tmp_path / source)
    before = (tmp_path / source).read_bytes()
    assert main([*command, *force]) == 2
    assert "which is read" in capsys.readouterr().err
    assert (tmp_path / source).read_bytes() == before


@pytest.mark.parametrize("name", FILE_WRITERS)
def test_folders_are_not_invented(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    call, _, written = FILE_WRITERS[name]
    assert main(call(tmp_path, Path("/no-such-folder/deeper") / written)) == 2
    assert "no-such-folder" in capsys.readouterr().err
    assert not Path("/no-such-folder").exists()


def test_a_report_replaces_its_own_page_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = synthetic.make_run(tmp_path / "run", steps=3)
    page = run / "report.html"
    for _ in range(2):
        assert main(["report", str(run)]) == 0
    page.write_text("<html>my notes</html>")
    assert main(["report", str(run)]) == 2
    assert "--force" in capsys.readouterr().err
    assert page.read_text() == "<html>my notes</html>"
    assert main(["report", str(run), "--force"]) == 0
    assert "my notes" not in page.read_text()
