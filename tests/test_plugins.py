"""Parts that users bring: found, refused with one message, written down with their hash."""

import hashlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mgsrl.errors import ConfigError
from mgsrl.plugins import Part, Registry, check_signature, plugin_files, tried

PARTS = Registry("part", "mgsrl.test_parts", {"path": "pathlib:Path"})
GOOD = "from beside import TWO\n\nclass Holder:\n    def double(x):\n        return TWO * x\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working directory, with modules of a user; nothing of it stays imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    package = tmp_path / f"lab_{tmp_path.name.replace('-', '_')}"
    package.mkdir()
    (package / "parts.py").write_text("def half(x):\n    return x / 2\n")
    (tmp_path / "beside.py").write_text("TWO = 2\n")
    (tmp_path / "mine.py").write_text(GOOD)
    (tmp_path / "broken.py").write_text("x = 1\nraise KeyError('no key')\n")
    (tmp_path / "needs.py").write_text("import no_such_library\n")
    (tmp_path / "ends.py").write_text("raise SystemExit(5)\n")
    (tmp_path / "unclosed.py").write_text("x = (\n")
    yield package
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_our_own_members_by_name() -> None:
    assert PARTS.load("path", "a.key") is Path
    assert PARTS.names() == ["path"]


def test_a_file_and_what_lies_beside_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = PARTS.load("mine.py:Holder.double", "a.key")
    assert found(4) == 8
    located = PARTS.located("mine.py:Holder.double")
    monkeypatch.chdir("/")
    assert PARTS.load(located, "a.key") is found


def test_modules_of_one_name_beside_two_files_are_not_mixed_up(folder: Path) -> None:
    assert PARTS.load("mine.py:TWO", "a.key") == 2
    other = folder / "mine.py"
    other.write_text("import json\n" + GOOD)
    (folder / "json.py").write_text("")
    assert PARTS.load(f"{other}:TWO", "a.key") == 2  # it has none of its own
    again = folder / "again.py"
    again.write_text(GOOD)
    (folder / "beside.py").write_text("TWO = 3\n")
    with pytest.raises(ConfigError, match="rename one of the two"):
        PARTS.load(f"{again}:TWO", "a.key")


def test_a_module_in_the_working_directory(folder: Path) -> None:
    reference = f"{folder.name}.parts:half"
    assert PARTS.load(reference, "a.key")(4) == 2
    assert PARTS.located(reference) == reference
    written = plugin_files()[reference]
    content = (folder / "parts.py").read_bytes()
    assert written["file"] == str(folder / "parts.py")
    assert written["sha256"] == hashlib.sha256(content).hexdigest()


def test_an_installed_package_offers_one(folder: Path) -> None:
    info = folder.parent / "lab-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: lab\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[mgsrl.test_parts]\nhalf = {folder.name}.parts:half\n")
    sys.path.append(str(folder.parent))
    assert PARTS.load("half", "a.key")(4) == 2
    assert PARTS.names() == ["path", "half"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("pth", "did you mean 'path'"),
        ("no_such_lab.parts:half", r"none in /.*installed packages"),
        ("nowhere.py:half", r"the file nowhere\.py"),
        ("mine.py:Holde", "did you mean 'Holder'"),
        ("mine.py:Holder.triple", r"'triple' in mine\.py \(/.*mine\.py\)"),
        (":half", "module:attribute, or file.py:attribute"),
        ("mine.py:", "module:attribute, or file.py:attribute"),
        ("broken.py:x", r"KeyError: 'no key' \(.*broken\.py, line 2\)"),
        ("needs.py:x", "No module named 'no_such_library'"),
        ("json.no_such:x", "the module 'json.no_such'"),
        ("__main__:x", r"put x into a file: file\.py:x"),
        ("ends.py:x", r"SystemExit: 5 \(.*ends\.py, line 1\)"),
        ("unclosed.py:x", r"SyntaxError: [^\n]*\(unclosed\.py, line 1\)\n"),
    ],
)
def test_one_message_for_what_cannot_be_loaded(folder: Path, name: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        PARTS.load(name, "a.key")
    text = str(caught.value)
    assert text.startswith("a.key ")
    assert re.search(said, text), text


def test_a_signature_is_looked_at_before_any_call() -> None:
    check_signature(lambda gram, orders: gram, (1, 2), "a.key", "method(gram, orders)")
    for wrong in (lambda gram: gram, 3):
        with pytest.raises(ConfigError, match=r"method\(gram, orders\)"):
            check_signature(wrong, (1, 2), "a.key", "method(gram, orders)")


def test_a_function_is_given_what_it_names() -> None:
    offered = {"seed": 3, "orders": "abc"}
    for function, expected in (
        (lambda gram: (gram,), (1,)),
        (lambda whatever, seed: (whatever, seed), (1, 3)),
        (lambda gram, *, orders="x", own=7: (gram, orders, own), (1, "abc", 7)),
        (lambda gram, **rest: (gram, rest), (1, offered)),
    ):
        assert Part(function, list(offered), "a.key")(1, **offered) == expected
    assert Part.of(PARTS, "path", [], "a.key")("/a") == Path("/a")
    assert Part.of(PARTS, "path", [], "a.key").name == "path"


@pytest.mark.parametrize(
    "wrong", [3, lambda: 0, lambda gram, beta: 0, lambda seed: 0, lambda gram, seed, /: 0]
)
def test_a_function_that_asks_for_more_is_refused(wrong: object) -> None:
    with pytest.raises(ConfigError, match="of those of seed, orders that it names"):
        Part(wrong, ["seed", "orders"], "a.key")


def test_what_a_users_part_raises_is_told_with_its_line() -> None:
    with (
        pytest.raises(
            ConfigError, match=r"(?s)a\.key=it does not work.*KeyError: 'no key'.*line \d+"
        ),
        tried("a.key", "it", "a number"),
    ):
        raise KeyError("no key")


def test_plain_names_are_checked_without_an_import(folder: Path) -> None:
    PARTS.check_name("nowhere.py:half", "a.key")
    PARTS.check_name("path", "a.key")
    with pytest.raises(ConfigError, match="did you mean 'path'"):
        PARTS.check_name("pth", "a.key")
