"""What is done before a commit and for it is what `make test` does, on both versions of Python."""

import shlex
import tomllib
from typing import Any

import pytest
import yaml

from tests.documented import ROOT

LOCK = (ROOT / "requirements.lock").read_text()


def load(path: str) -> Any:
    return yaml.load((ROOT / path).read_text(), Loader=yaml.BaseLoader)


def test_the_hooks_are_the_pinned_tools_of_make_lint() -> None:
    hooks = [hook for repo in load(".pre-commit-config.yaml")["repos"] for hook in repo["hooks"]]
    commands = [shlex.split(hook["entry"]) for hook in hooks]
    makefile = (ROOT / "Makefile").read_text()
    for program, *words in commands:
        folder, _, name = program.rpartition("/")
        assert folder == ".venv/bin"
        assert f"\n{name}==" in LOCK
        assert " ".join([f"$(BIN)/{name}", *words[:1]]) in makefile
    assert [command[0].rpartition("/")[2] for command in commands] == ["ruff", "ruff", "mypy"]


def test_ci_runs_every_version_that_the_package_admits() -> None:
    jobs = load(".github/workflows/ci.yml")["jobs"]
    versions = jobs["test"]["strategy"]["matrix"]["python-version"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == f">={versions[0]},<3.{int(versions[-1][2:]) + 1}"
    makefile = (ROOT / "Makefile").read_text()
    for version in versions:
        assert f"({version.replace('.', ', ')})" in makefile
    (step,) = [step for step in jobs["test"]["steps"] if step.get("run") == "bash .ci/run"]
    assert step["env"]["PYTHON"] == "python${{ matrix.python-version }}"
    assert jobs["docs"]["steps"][-1]["run"] == "make docs"


@pytest.mark.parametrize("path", sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml")))
def test_the_forms_are_forms(path: Any) -> None:
    form = load(str(path.relative_to(ROOT)))
    if path.name == "config.yml":
        return
    assert form["name"]
    assert form["description"]
    ids = [item["id"] for item in form["body"]]
    assert len(set(ids)) == len(ids)
    assert all(item["attributes"]["label"] for item in form["body"])
