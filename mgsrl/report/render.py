"""jinja2 with everything escaped unless it was made here."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

MISSING = "–"


def render(template: str, context: Mapping[str, Any]) -> str:
    """Render a template of `mgsrl/report/templates/`."""
    environment = Environment(
        loader=PackageLoader("mgsrl.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": number,
        "signed": signed,
        "plus_minus": plus_minus,
        "percent": percent,
        "figure": figure,
    }
    return environment.get_template(template).render(**context)


def number(value: float | None, digits: int = 3) -> str:
    """Fixed digits; a dash for what is missing or not finite."""
    return signed(value, digits, plus="")


def signed(value: float | None, digits: int = 3, plus: str = "+") -> str:
    """Fixed digits with the sign."""
    if value is None or not math.isfinite(value):
        return MISSING
    return f"{value:{plus}.{digits}f}".replace("-", "−")


def plus_minus(error: float) -> str:
    """A standard error; nothing where it is not known."""
    return f"± {number(error)}" if math.isfinite(error) else ""


def percent(value: float | None, digits: int = 1) -> str:
    return MISSING if value is None or not math.isfinite(value) else f"{value:.{digits}%}"


def figure(svg: str) -> Markup:
    """An SVG made by `style.svg`; its text was escaped by matplotlib."""
    return Markup(svg)


def is_own_page(path: Path) -> bool:
    """Whether `path` is a page that this module rendered."""
    with path.open("rb") as file:
        return "· mgsrl</title>".encode() in file.read(2000)
