"""Several runs in one HTML file: curves on top of each other, and means over seeds per strategy.

The seed is the unit of replication: `±` is the standard error over seeds, so a strategy with one
seed has none and the page says so. Runs of different lengths are compared at the steps that all of
them have. Runs that differ in more than seed and strategy are listed with the settings in which
they differ, because their difference is then no one thing's doing.
Left out: significance tests (a handful of seeds does not carry one).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mgsrl.config.typed import flattened
from mgsrl.errors import ConfigError
from mgsrl.files.jsonl import write_atomic
from mgsrl.report.extra import need_drawing
from mgsrl.report.load import RunData, read_run_data
from mgsrl.report.render import render
from mgsrl.report.strategies import StrategyRuns, by_strategy

FREE_SETTINGS = (
    "seed",
    "resume",
    "run",
    "strategy",
    "surgery",
    "trackers",
    "checkpoint",
    "cluster",
)
"""Settings that may differ between runs of one comparison without remark."""


def compare_runs(run_dirs: Sequence[Path], output: Path = Path("compare.html")) -> Path:
    """Write the comparison of `run_dirs` to `output` and return its path.

    Raises:
        ConfigError: fewer than two folders, or the same folder twice; or no matplotlib.
        MissingPathError: one of them is not a run folder.
    """
    need_drawing("The comparison")
    folders = list(dict.fromkeys(Path(folder).resolve() for folder in run_dirs))
    if len(folders) < 2 or len(folders) < len(run_dirs):
        raise ConfigError(
            "There is nothing to compare.",
            expected="two or more different run folders",
            found=", ".join(map(str, run_dirs)) or "none",
            todo="mgsrl compare runs/pocket-mgs-seed0 runs/pocket-mixed-seed0",
        )
    runs = [read_run_data(folder) for folder in folders]
    strategies = by_strategy(runs)
    domains = list(dict.fromkeys(domain for run in runs for domain in run.domains))
    write_atomic(output, render("compare.html.j2", _context(runs, strategies, domains)))
    return output


def differing_settings(runs: Sequence[RunData]) -> list[tuple[str, list[str]]]:
    """(key, value of every run) where the configurations differ outside `FREE_SETTINGS`."""
    flat = [flattened(run.config) for run in runs]
    keys = sorted({key for config in flat for key in config})
    return [
        (key, values)
        for key in keys
        if key.split(".")[0] not in FREE_SETTINGS
        and len(set(values := [str(config.get(key, "–")) for config in flat])) > 1
    ]


def _context(
    runs: Sequence[RunData], strategies: Sequence[StrategyRuns], domains: Sequence[str]
) -> dict[str, Any]:
    # matplotlib takes half a second to import: only when something is really drawn
    from mgsrl.report import compare_figures as figures
    from mgsrl.report.curves import WINDOW
    from mgsrl.report.style import colours, drawing

    colour = colours([strategy.name for strategy in strategies])
    with drawing():
        drawn = {
            "finals": figures.finals(strategies, domains, colour),
            "curves": figures.curves(strategies, domains, colour),
            "conflicts": figures.conflict_curves(strategies, colour),
        }
    return {
        "title": f"{len(runs)} runs compared",
        "common": strategies[0].common,
        "window": WINDOW,
        "runs": runs,
        "strategies": strategies,
        "domains": domains,
        "colours": colour,
        "figures": drawn,
        "differences": differing_settings(runs),
        "fewest_seeds": min(len(strategy.seeds) for strategy in strategies),
        "repeated": [s.name for s in strategies if len(s.seeds) < len(s.runs)],
    }
