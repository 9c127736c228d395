"""A hook of `mkdocs build`: the pages from outside docs/, and links where a page names another.

On the repository's pages a file is named in a code span (`docs/data.md`), which the site turns into
a link. Left out: rewriting anything else, so that the pages read the same in both places.
"""

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
OUTSIDE = {
    "index.md": "README.md",
    "reward_models.md": "reward_models/README.md",
    "reproduce.md": "scripts/reproduce.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
}
"""Page of the site -> file of the repository."""
_PAGES = {file: page for page, file in OUTSIDE.items()}
_NAMED = re.compile(
    r"(?<![\[`])`((?:docs/\w+|README|CONTRIBUTING|reward_models/README|scripts/reproduce)\.md)`"
)


def site_text(text: str) -> str:
    """A page's Markdown as the site takes it: paths as they are below docs/, names as links."""
    text = re.sub(r"\]\(docs/", "](", text)
    return _NAMED.sub(lambda m: f"[`{m[1]}`]({_PAGES.get(m[1], m[1].removeprefix('docs/'))})", text)


def on_files(files: Any, *, config: Any) -> Any:
    """Add the pages from outside docs/."""
    from mkdocs.structure.files import File

    for page, file in OUTSIDE.items():
        text = (ROOT / file).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by mkdocs with every page before it is rendered."""
    return site_text(markdown)
