"""The glossary of metrics, as the tests ask it."""

import re
from pathlib import Path

GLOSSARY = Path(__file__).parents[2] / "docs" / "metrics.md"


def documented() -> dict[str, re.Pattern[str]]:
    """Metric as written in docs/metrics.md -> pattern of the names it stands for."""
    names = re.findall(r"^\| `([^`]+)` \|", GLOSSARY.read_text(), flags=re.MULTILINE)
    return {name: re.compile(re.sub(r"<\w+>", r"[\\w.-]+", name)) for name in names}


def undocumented(metrics: "set[str]") -> set[str]:
    """Those of `metrics` that no line of the glossary describes."""
    patterns = documented().values()
    return {m for m in metrics if not any(pattern.fullmatch(m) for pattern in patterns)}
