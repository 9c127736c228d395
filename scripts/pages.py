"""What scripts write into pages of the docs."""

from pathlib import Path


def write_between(page: Path, marks: tuple[str, str], text: str) -> None:
    """Put `text` in the place of what `page` has between two marks, which stay."""
    before, rest = page.read_text().split(marks[0])
    _, after = rest.split(marks[1])
    page.write_text(f"{before}{marks[0]}{text}{marks[1]}{after}")
