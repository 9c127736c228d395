"""Several runs in one HTML file: curves on top of each other, and means over seeds per strategy.

The seed is the unit of replication: `±` is the standard error over seeds, so a strategy with one
seed has none and the page says so. Runs that differ in more than seed and strategy are listed
with the settings in which they differ, because their difference is then no one thing's doing.
Left out: significance tests (a handful of seeds does not carry one).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mgsrl.errors import ConfigError, explain
from mgsrl.obs.jsonl import write_atomic
from mgsrl.obs.metrics import standard_error
from mgsrl.report.load import RunData, load_run
from mgsrl.report.render import render
from mgsrl.report.tables import changes, finite_mean

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


@dataclass
class Summary:
    """Mean over seeds of one number, with its standard error (NaN with one seed)."""

    values: list[float]

    @property
    def n(self) -> int:
        """How many seeds have the number at all."""
        return sum(map(math.isfinite, self.values))

    @property
    def mean(self) -> float:
        return finite_mean(self.values)

    @property
    def standard_error(self) -> float:
        return standard_error([v for v in self.values if math.isfinite(v)])


@dataclass
class StrategyRuns:
    """All runs of one strategy; scores are those of runs that came to their end."""

    name: str
    runs: list[RunData] = field(default_factory=list)

    def after(self, domain: str) -> Summary:
        """Held-out reward of the last evaluation."""
        return Summary([c.after.mean if c.after else math.nan for c in self._changes(domain)])

    def gain(self, domain: str) -> Summary:
        """Last minus first held-out reward."""
        return Summary([c.difference for c in self._changes(domain)])

    def average_gain(self, domains: Sequence[str]) -> Summary:
        """Per run the mean gain over `domains`; NaN for a run that lacks one of them."""
        found = []
        for run in self._ended():
            gains = [c.difference for c in changes(run) if c.domain in domains]
            whole = len(gains) == len(domains) and all(map(math.isfinite, gains))
            found.append(finite_mean(gains) if whole else math.nan)
        return Summary(found)

    def conflict_rate(self) -> Summary:
        return Summary([finite_mean(run.series("surgery/conflict_rate")) for run in self.runs])

    def step_seconds(self) -> Summary:
        """The first step of a run warms up and is left out."""
        return Summary([finite_mean(run.series("time/total")[1:]) for run in self.runs])

    def _changes(self, domain: str) -> list[Any]:
        return [c for run in self._ended() for c in changes(run) if c.domain == domain]

    def _ended(self) -> list[RunData]:
        # A killed run's last evaluation is of fewer steps: averaging it in would compare lengths.
        return [r for r in self.runs if r.record.get("status", "finished") == "finished"]


def compare_runs(run_dirs: Sequence[Path], output: Path = Path("compare.html")) -> Path:
    """Write the comparison of `run_dirs` to `output` and return its path.

    Raises:
        ConfigError: fewer than two folders, or the same folder twice.
        MissingPathError: one of them is not a run folder.
    """
    folders = list(dict.fromkeys(Path(folder).resolve() for folder in run_dirs))
    if len(folders) < 2 or len(folders) < len(run_dirs):
        raise ConfigError(
            explain(
                "There is nothing to compare.",
                expected="two or more different run folders",
                found=", ".join(map(str, run_dirs)) or "none",
                todo="mgsrl compare runs/pocket-mgs-seed0 runs/pocket-mixed-seed0",
            )
        )
    runs = [load_run(folder) for folder in folders]
    strategies = by_strategy(runs)
    domains = list(dict.fromkeys(domain for run in runs for domain in run.domains))
    write_atomic(output, render("compare.html.j2", _context(runs, strategies, domains)))
    return output


def by_strategy(runs: Sequence[RunData]) -> list[StrategyRuns]:
    """Runs grouped by `strategy.name` (the folder's name where the configuration is missing)."""
    groups: dict[str, StrategyRuns] = {}
    for run in runs:
        name = str(run.setting("strategy.name", run.run_dir.name))
        groups.setdefault(name, StrategyRuns(name)).runs.append(run)
    return list(groups.values())


def differing_settings(runs: Sequence[RunData]) -> list[tuple[str, list[str]]]:
    """(key, value of every run) where the configurations differ outside `FREE_SETTINGS`."""
    flat = [_flatten(run.config) for run in runs]
    keys = sorted({key for config in flat for key in config})
    return [
        (key, values)
        for key in keys
        if key.split(".")[0] not in FREE_SETTINGS
        and len(set(values := [str(config.get(key, "–")) for config in flat])) > 1
    ]


def _flatten(node: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(node, dict):
        return {prefix: node}
    flat: dict[str, Any] = {}
    for key, value in node.items():
        flat |= _flatten(value, f"{prefix}.{key}" if prefix else str(key))
    return flat


def _context(
    runs: Sequence[RunData], strategies: Sequence[StrategyRuns], domains: Sequence[str]
) -> dict[str, Any]:
    # matplotlib takes half a second to import: only when something is really drawn
    from mgsrl.report import compare_figures as figures
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
        "runs": runs,
        "strategies": strategies,
        "domains": domains,
        "colours": colour,
        "figures": drawn,
        "differences": differing_settings(runs),
        "fewest_seeds": min(len(strategy.runs) for strategy in strategies),
    }
