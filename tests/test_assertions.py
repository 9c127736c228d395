"""Assertions of the tests that cannot fail, or pass for another reason than the one they name.

Held here: an assertion of a constant, a tuple, a generator or a lambda; of a method that is not
called; a length of at least 0; a comparison with itself; `or True`; `pytest.raises(Exception)`; a
`zip` whose lengths may differ around assertions, which then compares nothing when one side is
empty.

Left out: loops over what may be empty for other reasons (only running the test can tell).
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
UNCALLED = {"exists", "is_file", "is_dir", "any", "all", "isnan", "startswith", "endswith"}


def faults(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and reason of every one."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assert):
            yield from ((node.lineno, reason) for reason in _of_assertion(node.test))
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.raises":
            if ast.unparse(node.args[0]) in ("Exception", "BaseException"):
                yield node.lineno, "any error will do"
        elif isinstance(node, ast.For):
            inner = [*ast.walk(node)]
            if any(isinstance(each, ast.Assert) for each in inner) and _loose_zip(node.iter):
                yield node.lineno, "zip without strict=True"


def _of_assertion(test: ast.expr) -> Iterator[str]:
    if isinstance(test, ast.Constant | ast.Tuple | ast.GeneratorExp | ast.Lambda):
        yield "always true or always false"
    if isinstance(test, ast.Attribute) and test.attr in UNCALLED:
        yield "a method that is not called"
    for node in ast.walk(test):
        if isinstance(node, ast.BoolOp) and isinstance(node.op, ast.Or):
            if any(isinstance(each, ast.Constant) and each.value for each in node.values):
                yield "or True"
        elif isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            for left, operator, right in zip(sides, node.ops, sides[1:], strict=False):
                at_least_0 = isinstance(operator, ast.GtE) and ast.unparse(right) == "0"
                if at_least_0 and ast.unparse(left).startswith("len("):
                    yield "no length is negative"
                if ast.dump(left) == ast.dump(right) and not _calls(left):
                    yield "compared with itself"


def _calls(node: ast.AST) -> bool:
    """Calling twice may give two values: that is a test of its own."""
    return any(isinstance(each, ast.Call) for each in ast.walk(node))


def _loose_zip(iterable: ast.expr) -> bool:
    return any(
        isinstance(node, ast.Call)
        and ast.unparse(node.func) == "zip"
        and not any(keyword.arg == "strict" for keyword in node.keywords)
        for node in ast.walk(iterable)
    )


def test_no_assertion_is_of_these_kinds() -> None:
    files = [*(ROOT / "tests").rglob("*.py")]
    assert len(files) > 100
    found = [
        f"{path.relative_to(ROOT)}:{line}: {reason}"
        for path in files
        for line, reason in faults(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert found == []


@pytest.mark.parametrize(
    "line",
    [
        "assert True",
        "assert (a == b, 'not equal')",
        "assert (x for x in y)",
        "assert path.is_file",
        "assert a == b or True",
        "assert len(rows) >= 0",
        "assert a.b == a.b",
        "with pytest.raises(Exception): f()",
        "for a, b in zip(x, f()): assert a == b",
        "for i, (a, b) in enumerate(zip(x, f())): assert a == b",
    ],
)
def test_each_kind_is_found(line: str) -> None:
    assert len([*faults(ast.parse(line))]) == 1


@pytest.mark.parametrize(
    "line",
    [
        "assert f() == f()",
        "assert len(rows) >= 1",
        "assert a or b == {}",
        "with pytest.raises(ValueError, match='x'): f()",
        "for a, b in zip(x, f(), strict=True): assert a == b",
    ],
)
def test_others_are_let_through(line: str) -> None:
    assert not [*faults(ast.parse(line))]
