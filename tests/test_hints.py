"""What messages and help tell the user to write works."""

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from mgsrl.commands import data, doctor, train
from mgsrl.config.compose import compose_config
from mgsrl.errors import ConfigError, explain
from tests.hints import hints, wrong_hint

PACKAGE = Path(__file__).resolve().parents[1] / "mgsrl"


def written_hints() -> Iterator[tuple[str, str]]:
    """(place, text) of every `todo=` of the package, `{...}` where a value is filled in."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.keyword) and node.arg == "todo":
                texts = [part for part in ast.walk(node.value) if _is_text(part)]
                for text in texts:
                    place = f"{path.relative_to(PACKAGE)}:{node.value.lineno}"
                    yield place, _template(text)


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.JoinedStr) or (
        isinstance(node, ast.Constant) and isinstance(node.value, str)
    )


def _template(node: ast.AST) -> str:
    if isinstance(node, ast.JoinedStr):
        return "".join(_template(part) for part in node.values)
    return str(node.value) if isinstance(node, ast.Constant) else "VALUE"


WRITTEN = list(written_hints())


def test_hints_are_found() -> None:
    found = [hint for _, text in WRITTEN for hint in hints(text)]
    assert ("learner.offload_optimizer", "false") in found
    assert len(found) > 20


@pytest.mark.parametrize(("place", "text"), WRITTEN, ids=[place for place, _ in WRITTEN])
def test_every_written_hint_is_taken(place: str, text: str) -> None:
    assert wrong_hint(text) is None


@pytest.mark.parametrize(
    "todo",
    ["set train.num_step=5", "set seed=x", "strategy=mgx", "see domains.math.sourc", "'a=1'"],
)
def test_a_hint_that_does_not_work_is_noticed(todo: str) -> None:
    assert wrong_hint(todo, strict=True) is not None
    if not todo.startswith("'"):
        with pytest.raises(AssertionError, match="does not work"):
            explain("p", expected="e", found="f", todo=todo)


@pytest.mark.parametrize(
    "todo",
    [
        "set seed=0 or more",
        "write 'strategy.domain_order=[math,chat]'",
        "'run.dir=\"/a=b, c\"' in quotes",
        "join one with cluster.address=HOST:PORT",
        "see run.json; set HF_HUB_OFFLINE=1; docker run --shm-size=4g",
    ],
)
def test_a_hint_that_works_passes(todo: str) -> None:
    assert wrong_hint(todo) is None


def examples(*texts: str) -> list[str]:
    lines = re.sub(r"\\\n\s*", " ", "\n".join(texts)).splitlines()
    return [line.strip() for line in lines if line.strip().startswith("mgsrl ")]


@pytest.mark.parametrize("line", examples(train.EPILOG, doctor.EPILOG, data.INSPECT_EPILOG))
def test_the_examples_of_the_help_compose(line: str) -> None:
    command = line.split("   ")[0]
    overrides = [word for word in shlex.split(command) if "=" in word and not word.startswith("-")]
    compose_config(overrides)


@pytest.mark.parametrize("wrong", ['\'run.dir="a\\"b"\'', "run.dir=plain", "'seed=[1, 2]'"])
def test_hints_are_read_as_a_shell_reads_them(wrong: str) -> None:
    (pair,) = hints(wrong)
    assert "=".join(pair) == shlex.split(wrong)[0]


def test_messages_of_overrides_are_checked_too() -> None:
    with pytest.raises(ConfigError, match=r"'run\.dir=\"/tmp/a=b\"'"):
        compose_config(["run.dir=/tmp/a=b"])
