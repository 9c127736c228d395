"""One look for all figures: colours, axes, and SVG that follows the page's light or dark theme."""

import io
import math
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import matplotlib as mpl
from markupsafe import escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

# Mid-tones of the Okabe-Ito palette (safe for colour-blind readers), legible on white and black.
DOMAIN_COLOURS = (
    *("#3d85c6", "#d98014", "#2a9d78", "#b5559d", "#c9503c", "#8b7bd8", "#8a8d3a", "#5aa9bf"),
)
PAIR_COLOURS = ("#7a6ff0", "#d0587e", "#4fa3a5", "#a58a3f", "#8c8c8c", "#c06fd0")
STAGE_COLOURS = {
    "rollout": "#4e79a7",
    "reward": "#f0a04b",
    "logprob": "#8f7fc4",
    "backward": "#59a14f",
    "probe": "#b07aa1",
    "surgery": "#e15759",
    "step": "#76b7b2",
    "sync": "#edc948",
    "other": "#9d9d9d",
}
WIDTH = 9.6
"""Inches; every figure of a page has the same width, so that text has one size on it."""
INK = "#010203"
"""Stands for the page's text colour; replaced by `currentColor` in the SVG."""

_INK_KEYS = (
    *("text.color", "axes.edgecolor", "axes.labelcolor", "axes.titlecolor"),
    *("xtick.color", "ytick.color", "grid.color"),
)
RC = {
    "svg.fonttype": "none",  # text stays text: small, sharp, searchable
    "svg.hashsalt": "mgsrl",  # the same run gives the same file
    "text.parse_math": False,  # names may have dollars in them
    "font.size": 9.5,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.13,
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.9,
    **dict.fromkeys(_INK_KEYS, INK),
}


def colours(names: Sequence[str]) -> dict[str, str]:
    """The same colour for the same domain in every figure."""
    return {name: DOMAIN_COLOURS[i % len(DOMAIN_COLOURS)] for i, name in enumerate(names)}


@contextmanager
def drawing() -> Iterator[None]:
    """Draw inside this block to get the common look, whatever the user's own settings are."""
    with mpl.rc_context(), warnings.catch_warnings():
        # Text stays text, so it is the reader's fonts that must have the characters of a name.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        mpl.rcdefaults()
        mpl.rcParams.update(RC)
        yield


def panels(
    count: int, *, columns: int | None = None, height: float = 2.5, width: float = WIDTH
) -> tuple[Figure, list[Axes]]:
    """A figure with `count` equal panels, each `height` inches high; by default of page width.

    `columns` may be more than `count`, which keeps single panels narrow; default at most 3.
    """
    columns = columns or max(1, min(3, count))
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(width, height * rows), layout="constrained")
    axes = [figure.add_subplot(rows, columns, i + 1) for i in range(count)]
    return figure, axes


def log_axis(axis: Axes) -> None:
    """Logarithmic, with plain numbers (matplotlib's own labels are formulas)."""
    axis.set_yscale("log")
    axis.yaxis.set_major_formatter(_PlainLog())
    axis.yaxis.set_minor_formatter(_PlainLog())  # shown where few powers of ten are in sight


class _PlainLog(LogFormatter):
    """Plain numbers where matplotlib would have a label."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        return f"{x:g}" if super().__call__(x, pos) else ""


def as_label(name: str) -> str:
    """A name for a legend, which leaves out what begins with an underscore."""
    return f" {name}" if name.startswith("_") else name


def svg(figure: Figure, label: str) -> str:
    """An inline SVG element that scales with the page and follows its colours.

    `label` is what a screen reader says.
    """
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    # pt sizes would fix the width; the viewBox alone lets CSS scale it
    head, _, body = text.partition(">")
    head = re.sub(r'\s(width|height)="[^"]*"', "", head)
    return f'{head} role="img" aria-label="{escape(label)}">{body}'
