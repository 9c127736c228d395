"""The rules of the house, read off the syntax trees of the package.

Layers: a module imports only from lower layers or from its own room. `algo/` and `surgery/` are
pure tensors. Only what begins a run and what plans one in `training/`, `api.py`, the command line
and `config/` know the whole configuration.
Files and functions stay short enough to read. Rooms that do not exist are skipped.
"""

import ast
import re
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "mgsrl"
FILES = sorted(
    path for path in PACKAGE.rglob("*.py") if "assets" not in path.relative_to(PACKAGE).parts
)

LAYERS = {
    **dict.fromkeys(["types", "errors", "plugins", "files", "config", "compiled"], 0),
    **dict.fromkeys(["algo", "surgery", "statistics", "obs", "cluster", "constraints"], 1),
    **dict.fromkeys(["data", "rewards", "sync"], 2),
    **dict.fromkeys(["rollout", "learner", "scoring", "tasks"], 3),
    **dict.fromkeys(["evaluate", "report"], 4),
    "probe": 5,
    "training": 5,  # above the other two: a run evaluates and writes its report
    **dict.fromkeys(["api", "compare"], 6),
    **dict.fromkeys(["commands", "testing"], 7),
    **dict.fromkeys(["cli", "__main__"], 8),
}
PURE_ROOMS = ("algo", "surgery", "statistics")
NOT_PURE = ("ray", "vllm", "deepspeed", "hydra", "torch.distributed")
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
DOCSTRING_FROM_LINES = 20
FILE_EXCEPTIONS: dict[str, int] = {}
"""Path inside the package -> its own limit, with the reason beside it."""
FUNCTION_EXCEPTIONS: dict[str, int] = {}
"""`path::name` -> its own limit, with the reason beside it."""
SEES_WHOLE_CONFIG = (
    *(
        f"training/{name}.py"
        for name in (
            *("launch", "machine", "joined", "places", "plan", "build"),
            *("estimate", "fitting", "forecast", "planned"),
        )
    ),
    "__init__.py",
    "api.py",
    "commands/",
    "compare/",
    "config/",
)
FORBIDDEN_WORDS = {
    r"/work/": "a path of one machine",
    r"/root/": "a path of one machine",
    r"/home/(?!user\b|ray\b)\w+": "a path of one machine",
}


def relative(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def room_of(path: Path) -> str:
    return relative(path).split("/")[0].removesuffix(".py")


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imports_of(path: Path) -> Iterator[tuple[int, str]]:
    """Line and absolute dotted name of everything imported, inside functions too."""
    package = ("mgsrl", *path.relative_to(PACKAGE).parent.parts)
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                yield node.lineno, f"{module}.{alias.name}"


def is_in(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def functions_of(path: Path) -> Iterator[tuple[str, int]]:
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            yield node.name, node.end_lineno - node.lineno + 1


def in_rooms(*rooms: str) -> list[Path]:
    return [path for path in FILES if room_of(path) in rooms]


files = pytest.mark.parametrize("path", FILES, ids=relative)


def test_every_room_has_a_layer() -> None:
    rooms = {room_of(path) for path in FILES} - {"__init__"}
    unknown = {room for room in rooms if room not in LAYERS}
    assert not unknown, f"give these a layer (here and in the contributing page): {unknown}"


@files
def test_imports_come_from_lower_layers_or_the_own_room(path: Path) -> None:
    room = room_of(path)
    if room not in LAYERS:
        pytest.skip("a room without a layer")
    wrong = []
    for line, name in imports_of(path):
        parts = name.split(".")
        if parts[0] != "mgsrl" or len(parts) < 2 or parts[1] not in LAYERS or parts[1] == room:
            continue
        # Layer 0 is one vocabulary: its members may use each other.
        if LAYERS[parts[1]] < LAYERS[room] or LAYERS[room] == LAYERS[parts[1]] == 0:
            continue
        wrong.append(f"line {line}: {name}")
    assert not wrong, f"{relative(path)} imports from its own or a higher layer: {wrong}"


def test_no_module_imports_itself_through_others() -> None:
    """Inside one room the layers say nothing; imports inside functions count."""
    names = {
        ".".join(["mgsrl", *path.relative_to(PACKAGE).with_suffix("").parts]).removesuffix(
            ".__init__"
        ): path
        for path in FILES
    }
    graph = {
        name: {
            found
            for _, imported in imports_of(path)
            if (found := imported if imported in names else imported.rpartition(".")[0]) in names
        }
        - {name}
        for name, path in names.items()
    }
    TopologicalSorter(graph).prepare()  # CycleError: names the circle


@pytest.mark.parametrize("path", in_rooms(*PURE_ROOMS), ids=relative)
def test_algorithms_are_pure_tensors(path: Path) -> None:
    wrong = [
        f"line {line}: {name}"
        for line, name in imports_of(path)
        if any(is_in(name, package) for package in NOT_PURE)
    ]
    uses = [
        f"line {node.lineno}: {ast.unparse(node)}"
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Attribute) and ast.unparse(node) == "torch.distributed"
    ]
    assert not wrong + uses, f"{relative(path)} should not know about distribution: {wrong + uses}"


@files
def test_only_the_builder_sees_the_whole_configuration(path: Path) -> None:
    if relative(path).startswith(SEES_WHOLE_CONFIG):
        pytest.skip("may see it")
    whole = {"mgsrl.config.Config", "mgsrl.config.root", "mgsrl.config.root.Config"}
    wrong = [f"line {line}: {name}" for line, name in imports_of(path) if name in whole]
    assert not wrong, f"{relative(path)} should take its own group or plain values: {wrong}"


@files
def test_files_and_functions_are_short(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    limit = FILE_EXCEPTIONS.get(relative(path), MAX_FILE_LINES)
    assert lines <= limit, f"{relative(path)} has {lines} lines, the limit is {limit}"
    for name, length in functions_of(path):
        limit = FUNCTION_EXCEPTIONS.get(f"{relative(path)}::{name}", MAX_FUNCTION_LINES)
        assert length <= limit, f"{relative(path)}::{name} has {length} lines, limit {limit}"


@files
def test_modules_say_what_they_do(path: Path) -> None:
    if len(path.read_text(encoding="utf-8").splitlines()) <= DOCSTRING_FROM_LINES:
        pytest.skip("too short to need one")
    assert ast.get_docstring(tree_of(path)), f"{relative(path)} needs a module docstring"


@files
def test_no_path_of_one_machine(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    found = [f"{w!r}: {why}" for w, why in FORBIDDEN_WORDS.items() if re.search(w, text)]
    assert not found, f"{relative(path)} names {found}"


@pytest.mark.parametrize("exceptions", [FILE_EXCEPTIONS, FUNCTION_EXCEPTIONS])
def test_exceptions_are_still_needed(exceptions: dict[str, int]) -> None:
    known = {relative(path) for path in FILES}
    gone = [name for name in exceptions if name.split("::")[0] not in known]
    assert not gone, f"remove these exceptions: {gone}"


def test_the_legend_lists_every_shape_suffix() -> None:
    used = {
        letter
        for path in FILES
        for suffix in re.findall(r"\b[a-z]\w*_([A-Z]{1,5})\b", path.read_text(encoding="utf-8"))
        for letter in suffix
    }
    listed = set(re.findall(r"\b_([A-Z]) ", ast.get_docstring(tree_of(PACKAGE / "types.py")) or ""))
    names_of_peft = {"A"}
    assert used - names_of_peft == listed


def test_internals_of_deepspeed_stand_in_one_place() -> None:
    wrong = []
    for path in FILES:
        if relative(path) in ("learner/layout.py", "learner/offload.py"):
            continue
        for node in ast.walk(tree_of(path)):
            name = node.attr if isinstance(node, ast.Attribute) else ""
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                name = node.value
            if re.fullmatch(r"ds_(?!config)\w+|\w*(bit16|fp16|fp32)_(partition|group)\w*", name):
                wrong.append(f"{relative(path)}, line {node.lineno}: {name}")
    assert not wrong, f"learner/layout.py is the place that knows DeepSpeed's internals: {wrong}"
