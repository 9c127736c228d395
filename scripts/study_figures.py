"""Why the study's arms come out as they do: lengths, tokens and conflicts of every run.

Means over the steps of a run, kept in its row of `docs/study.jsonl`; rows that were made before
these figures were kept have none, and a table says of how many runs it is.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from cell_rows import Row
from study_arms import EVERY, POSITIONS

from mgsrl.files.jsonl import is_number
from mgsrl.obs.metrics import read_metrics
from mgsrl.report.compare_text import interval
from mgsrl.report.render import MISSING
from mgsrl.statistics.seeds import estimate

NORM, RELIABILITY = "grad_norm/", "surgery/reliability/"
PROJECTED, COSINE = "surgery/projected_share/", "surgery/corrected_cosine/"
LENGTH = "response_length/"
NEGATIVE, SURE_NEGATIVE = "surgery/conflict_rate", "surgery/reliable_conflict_rate"
KEPT = (NORM, RELIABILITY, PROJECTED, COSINE, LENGTH)
DIGITS = 5


def figures_of(run_dir: Path) -> dict[str, Any]:
    """`means` over the steps by metric, and all generated `tokens`."""
    steps = read_metrics(run_dir)
    names = [n for n in dict.fromkeys(n for step in steps for n in step) if _is_kept(n)]
    means = {}
    for name in names:
        known = [step[name] for step in steps if _is_known(step.get(name))]
        if known:
            means[name] = round(fmean(known), DIGITS)
    rates = [(step.get("throughput/tokens_per_second"), step.get("time/total")) for step in steps]
    tokens = sum(
        rate * seconds for rate, seconds in rates if _is_known(rate) and _is_known(seconds)
    )
    return {"means": means, "tokens": round(tokens)}


def _is_known(value: Any) -> bool:
    return is_number(value) and math.isfinite(value)


def _is_kept(name: str) -> bool:
    return name.startswith(KEPT) or name in (NEGATIVE, SURE_NEGATIVE)


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """A line for each arm that trains domains at once, at each position, with means over seeds."""
    head = (
        "| conflict | arm | runs | longest gradient, times the shortest | tokens of the longest "
        "answers, times the shortest | products that are negative | that stand out "
        "| cosines without the noise | reliability | projected away | tokens per run |"
    )
    lines = [head, "|" + "---|" * 11]
    for position in POSITIONS:
        for arm in EVERY:
            of = [
                row
                for row in rows
                if (row["conflict"], row["arm"]) == (position, arm) and _pairs(row)
            ]
            if of:
                lines.append(f"| {position:g} | {arm} | {len(of)} | {' | '.join(_cells(of))} |")
    return "\n".join(lines) + "\n"


def _pairs(row: Mapping[str, Any]) -> dict[str, float]:
    return _family(row, COSINE)


def _family(row: Mapping[str, Any], prefix: str) -> dict[str, float]:
    """The means whose names begin so, by domain or pair."""
    found = row.get("means", {}).items()
    return {name.removeprefix(prefix): value for name, value in found if name.startswith(prefix)}


def _cells(rows: Sequence[Row]) -> list[str]:
    def over(prefix: str) -> str:
        each = [_family(row, prefix).values() for row in rows]
        return interval(
            estimate([max(values) / min(values) for values in each if values and min(values) > 0])
        )

    def spread(prefix: str) -> str:
        """From the least to the greatest domain or pair, each the mean over the seeds."""
        each = [_family(row, prefix) for row in rows]
        keys = dict.fromkeys(key for values in each for key in values)
        means = [fmean(values[key] for values in each if key in values) for key in keys]
        if not means:
            return MISSING
        ends = sorted({f"{value:+.2f}" for value in (min(means), max(means))}, key=float)
        return " to ".join(ends)

    def share(name: str) -> str:
        known = [row["means"][name] for row in rows if name in row["means"]]
        return f"{fmean(known):.0%}" if known else MISSING

    tokens = [row["tokens"] for row in rows if row.get("tokens")]
    return [
        over(NORM),
        over(LENGTH),
        share(NEGATIVE),
        share(SURE_NEGATIVE),
        spread(COSINE),
        spread(RELIABILITY),
        spread(PROJECTED),
        f"{fmean(tokens):,.0f}" if tokens else MISSING,
    ]
