"""Piped output: no wrapping, no control codes, no bars; a terminal keeps them."""

import ast
import io
import subprocess
import sys
from pathlib import Path

import pytest
from rich.table import Table

from mgsrl.obs.console import Console
from mgsrl.obs.terminal import output, progress

PACKAGE = Path(__file__).parents[2] / "mgsrl"
LONG = "word " * 60 + "/a/path/" + "x" * 300


class Terminal(io.StringIO):
    def isatty(self):
        return True


def table():
    shown = Table("check", "found")
    shown.add_row("disk", LONG)
    return shown


def test_nothing_is_wrapped_without_a_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    file = io.StringIO()
    console = output(file)
    console.print(LONG)
    console.print(table())
    console.print("[red]colour[/red]")
    lines = file.getvalue().splitlines()
    assert lines[0] == LONG
    assert sum(LONG in line for line in lines) == 2
    assert "\x1b" not in file.getvalue()


def test_a_runs_lines_and_tables_are_not_wrapped_either(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    file = io.StringIO()
    with Console(True, 3, file=file) as console:
        console.note(LONG)
        console.show(table())
    assert sum(LONG in line for line in file.getvalue().splitlines()) == 2


def test_a_terminal_keeps_its_width(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("TERM", "xterm")
    file = Terminal()
    output(file).print(table())
    assert max(map(len, file.getvalue().splitlines())) < 100


def test_a_bar_is_for_a_terminal_alone(capsys):
    assert list(progress(range(3), "drawing", 3)) == [0, 1, 2]
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: p.stem)
def test_consoles_are_made_in_one_place(path):
    """Any other console would wrap at 80 characters in a pipe."""
    if path == PACKAGE / "obs" / "terminal.py":
        return
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            assert not names & {"rich.console.Console", "rich.progress.track", "rich.print"}
        if isinstance(node, ast.Import):
            assert "rich.console" not in {alias.name for alias in node.names}


def test_deepspeed_says_nothing_of_a_missing_gpu():
    code = (
        "from mgsrl.obs.terminal import quiet_libraries; quiet_libraries()\n"
        "import deepspeed\n"
        "from deepspeed.accelerator import get_accelerator; get_accelerator()\n"
        "from deepspeed.utils import logger; logger.warning('heard')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=200, check=True
    )
    shown = done.stdout + done.stderr
    assert "Setting accelerator" not in shown
    assert "heard" in shown
