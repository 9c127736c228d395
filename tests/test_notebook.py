"""examples/quickstart.ipynb: its cells run in order, in an empty folder."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mgsrl.config.compose import compose_config
from tests.documented import ROOT

NOTEBOOK = json.loads((ROOT / "examples" / "quickstart.ipynb").read_text(encoding="utf-8"))
CELLS = ["".join(c["source"]) for c in NOTEBOOK["cells"] if c["cell_type"] == "code"]


def test_it_is_a_notebook_without_results() -> None:
    assert (NOTEBOOK["nbformat"], NOTEBOOK["metadata"]["kernelspec"]["name"]) == (4, "python3")
    code = [cell for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)


def test_its_overrides_are_taken() -> None:
    lists = [node for node in ast.walk(ast.parse(CELLS[0])) if isinstance(node, ast.List)]
    compose_config(ast.literal_eval(lists[0]))


@pytest.mark.slow
@pytest.mark.ray_cluster
@pytest.mark.timeout(400)
def test_every_cell_runs(tmp_path: Path) -> None:
    shown = []
    for cell in CELLS:  # what a notebook would show: the value of a last expression
        tree = ast.parse(cell)
        if isinstance(tree.body[-1], ast.Expr):
            last = ast.unparse(tree.body.pop())
            shown.append(f"{ast.unparse(tree)}\nprint(repr({last}))")
        else:
            shown.append(cell)
    (tmp_path / "cells.py").write_text("\n".join(shown))
    done = subprocess.run(
        [sys.executable, "cells.py"],
        cwd=tmp_path,
        env={**os.environ, "MPLBACKEND": "agg"},
        capture_output=True,
        text=True,
        timeout=380,
    )
    assert done.returncode == 0, done.stderr
    assert "tensor([0.5848, 3.8012, 3.8012])" in done.stdout  # docs/surgery.md works it out
    assert (tmp_path / "runs" / "notebook" / "report.html").is_file()
