"""The docs site without building it: what the menu names exists, and every link leads somewhere.

`make docs` builds it with all links checked; this is what can be said without its libraries.
"""

import pkgutil
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts.site_pages import OUTSIDE, site_text
from tests.documented import PAGES, ROOT

CONFIG = yaml.load((ROOT / "mkdocs.yml").read_text(), Loader=yaml.BaseLoader)
DOCS = ROOT / "docs"
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
NAMED = re.compile(
    r"`((?:docs|scripts|configs|tests|examples|reward_models|docker)/[\w/.-]+\.\w+)`"
)


def menu(entries: Any = CONFIG["nav"]) -> Iterator[str]:
    for entry in entries:
        (target,) = entry.values()
        yield from [target] if isinstance(target, str) else menu(target)


def prose(text: str) -> str:
    """`text` without its code blocks."""
    return re.sub(r"(?ms)^```.*?^```", "", text)


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub and the site make them."""
    titles = re.findall(r"(?m)^#+ (.+)$", prose(text))
    return {re.sub(r"[\s]+", "-", re.sub(r"[^\w\s-]", "", t.lower()).strip()) for t in titles}


def test_the_menu_has_every_page_once() -> None:
    pages = {page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")} | set(OUTSIDE)
    listed = list(menu())
    assert len(set(listed)) == len(listed)
    assert set(listed) == pages, "add the page to `nav` of mkdocs.yml"
    assert all((ROOT / file).is_file() for file in OUTSIDE.values())
    assert CONFIG["hooks"] == ["scripts/site_pages.py"]


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = prose(page.read_text(encoding="utf-8"))
    for target in LINK.findall(text):
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        other = (page.parent / path).resolve() if path else page
        assert other.is_file(), f"{page.name}: {target}"
        if anchor:
            assert anchor in anchors(other.read_text(encoding="utf-8")), f"{page.name}: {target}"
    for named in NAMED.findall(text):
        assert (ROOT / named).exists() or "NAME" in named or "TASK" in named, f"{page}: {named}"


def test_names_of_pages_become_links() -> None:
    text = "See `docs/data.md`, `CONTRIBUTING.md`, ![x](docs/images/p.png), `mgsrl/types.py`."
    assert site_text(text) == (
        "See [`docs/data.md`](data.md), [`CONTRIBUTING.md`](contributing.md), "
        "![x](images/p.png), `mgsrl/types.py`."
    )


def test_what_the_python_api_names_is_there() -> None:
    names = re.findall(r"(?m)^::: ([\w.]+)$", (DOCS / "api.md").read_text())
    assert len(names) >= 5
    for name in names:
        assert pkgutil.resolve_name(name), name


def test_the_libraries_of_the_site_are_pinned_and_apart() -> None:
    """`make setup` installs none of them."""
    pins = dict(
        line.split("==")
        for line in (ROOT / "requirements-docs.lock").read_text().splitlines()
        if not line.startswith("#")
    )
    assert {"mkdocs-material", "mkdocstrings", "mkdocstrings-python"} <= set(pins)
    assert "mkdocs" not in (ROOT / "requirements.lock").read_text()


def test_make_docs_is_strict() -> None:
    command = ["make", "--dry-run", "docs", "VENV=/nowhere"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "mkdocs build --strict" in done.stdout
    assert "requirements.lock" not in done.stdout  # not the set-up of 4 GB
