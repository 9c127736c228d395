"""The command lines of the pages: in code blocks, fenced or indented, continued ones joined."""

import re
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    page
    for page in (
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        ROOT / "reward_models" / "README.md",
        *sorted((ROOT / "docs").glob("*.md")),
    )
    if page.is_file()
]
PROGRAMS = (
    "mgsrl",
    "make",
    "pip",
    "python",
    "sbatch",
    "accelerate",
    "lm_eval",
    "source",
    "kubectl",
    "docker",
    "ray",
)
_DATA = ("json", "yaml", "mermaid", "python", "toml")


def commands(pages: Iterable[Path] = PAGES) -> Iterator[tuple[str, tuple[str, ...]]]:
    """(page, words) of every command line, each once a page, as a shell would hand it over."""
    for page in pages:
        seen = set()
        for line in _code(page.read_text(encoding="utf-8")):
            words = line.split()
            if words and words[0] in PROGRAMS and "(" not in words[0]:
                command = tuple(shlex.split(line, comments=True))
                if command not in seen:
                    seen.add(command)
                    yield str(page.relative_to(ROOT)), command


def _code(text: str) -> Iterator[str]:
    """Logical lines of code blocks; those of data and of Python are passed over."""
    fence, begun = "", ""
    for line in text.splitlines():
        if match := re.match(r"```(\w*)", line):
            fence = "" if fence else match[1] or "sh"
            continue
        code = fence not in _DATA if fence else line.startswith("    ")
        if not code:
            begun = ""
            continue
        begun += line.strip()
        if begun.endswith("\\"):
            begun = begun[:-1]
            continue
        yield begun
        begun = ""


def files_of(page: Path) -> dict[str, str]:
    """The files that a page shows: `**What it is**, `NAME`: ...`, then a fenced block."""
    shown = re.finditer(
        r"^\*\*[^*\n]+\*\*, `(?P<name>[\w.]+)`.*?^```\w*\n(?P<text>.*?)^```",
        page.read_text(encoding="utf-8"),
        re.MULTILINE | re.DOTALL,
    )
    return {match["name"]: match["text"] for match in shown}
