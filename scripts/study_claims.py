"""What was predicted of the study on `pocket_conflict`, claim by claim, against what came out.

A claim is a difference of two arms, paired by seed, in one measure at one position of the dial, and
the range that was predicted for it (`docs/study.md`). It holds if the 95 % interval of the
difference lies in that range, is refuted if it lies outside; else the seeds do not decide.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cell_inputs import run_of
from cell_rows import SURE, Row, heldout, is_finished
from study_arms import ARMS, EVERY, MERGED, POSITIONS, SINGLES, STEPS, place, seeds_of
from study_figures import figures_of

from mgsrl.statistics.seeds import Difference, difference, holm

MEAN, WORST = "mean", "worst domain"
NONE = math.inf
ALL = tuple(arm for arm in ARMS if not arm.startswith("single_"))
OTHERS = tuple(arm for arm in ALL if arm != "mixed")
SURGERY = ("global", "layer", "mgs", "parameter")
AVERAGED = tuple(f"{arm}_all" for arm in SURGERY)
DRAWN = tuple(arm for arm in EVERY if arm != "mixed" and arm not in SINGLES)
LINEAR = 0.03
TICKS = (-1, -0.2, -0.03, 0, 0.03, 0.2)
"""Of the picture, in standard deviations of the start policy's responses."""


@dataclass(frozen=True)
class Claim:
    """`low <= arm - other <= high`, in `measure`, at `conflict`."""

    number: int
    """Of the prediction."""
    conflict: float
    arm: str
    other: str
    measure: str
    low: float
    high: float

    @property
    def difference(self) -> str:
        return f"`{self.arm}` - `{self.other}`"

    @property
    def predicted(self) -> str:
        if self.low == -NONE:
            return f"at most {self.high:g}"
        if self.high == NONE:
            return f"at least {self.low:g}"
        return f"{self.low:+g} to {self.high:+g}"


def _claims() -> Iterator[Claim]:
    for arm in OTHERS:
        yield Claim(1, 0.0, arm, "mixed", MEAN, -0.1, 0.1)
    for arm in (*SURGERY, *AVERAGED):
        yield Claim(2, 0.5, arm, "mixed", MEAN, -0.15, 0.0)
    yield Claim(2, 0.5, "parameter", "global", MEAN, -NONE, 0.0)
    yield Claim(2, 0.5, "mgs_gated", "mgs", MEAN, 0.0, NONE)
    yield Claim(2, 0.5, "global_gated", "global", MEAN, 0.0, NONE)
    for arm in ("sequential", "sequential_backwards"):
        yield Claim(3, 1.0, arm, "mixed", WORST, -1.0, -0.3)
    for arm in ("sequential", "sequential_backwards"):
        yield Claim(3, 1.0, f"{arm}_refresh", arm, WORST, -0.2, 0.2)
    for arm in (*SURGERY, *AVERAGED):
        yield Claim(4, 1.0, arm, "mixed", MEAN, -0.1, 0.2)
    for arm in (*SURGERY, *AVERAGED):
        yield Claim(4, 1.0, arm, "mixed", WORST, 0.0, 0.3)
    for conflict in POSITIONS:
        yield Claim(5, conflict, "mgs", "global", MEAN, -0.1, 0.1)
    yield Claim(6, 1.0, "mgs_gated", "mgs", MEAN, -0.1, 0.1)
    for conflict in (0.0, 0.5):
        yield Claim(6, conflict, "mgs_gated", "mixed", MEAN, -0.05, 0.05)
    for conflict in POSITIONS:
        for arm in SURGERY:
            yield Claim(7, conflict, f"{arm}_all", arm, MEAN, -0.05, 0.05)
    for conflict in POSITIONS:
        yield Claim(8, conflict, "normalized_advantage", "mixed", MEAN, -0.1, 0.1)
    yield Claim(9, 1.0, "mgda", "mixed", WORST, 0.1, 0.4)
    yield Claim(9, 1.0, "mgda", "mixed", MEAN, -NONE, 0.0)


def _later_claims() -> Iterator[Claim]:
    for conflict in POSITIONS:
        for arm in ("norm_balanced", "gradvac", "pcgrad_smoothed", "bandit"):
            yield Claim(10, conflict, arm, "mixed", MEAN, -0.05, 0.05)
    yield Claim(11, 1.0, "norm_balanced", "mixed", WORST, 0.0, 0.1)
    for arm in ("gradvac", "pcgrad_smoothed"):
        yield Claim(11, 1.0, arm, "mixed", WORST, -0.03, 0.05)
    yield Claim(11, 1.0, "bandit", "mixed", WORST, -0.1, 0.1)
    yield Claim(12, 0.0, "sequential_return", "mixed", MEAN, -0.05, 0.05)
    for conflict in (0.5, 1.0):
        yield Claim(12, conflict, "sequential_return", "mixed", MEAN, -0.5, -0.1)
    yield Claim(12, 1.0, "sequential_return", "sequential", WORST, -0.3, 0.05)
    for arm, *ranges in (
        ("merged_mean", (-0.05, 0.05), (-0.7, -0.3), (-0.6, -0.3)),
        ("merged_sum", (0.2, 0.65), (-0.1, 0.4), (-0.9, -0.4)),
        ("merged_ties", (-1.2, -0.3), (-0.7, 0.0), (-0.7, -0.2)),
    ):
        for conflict, (low, high) in zip(POSITIONS, ranges, strict=True):
            yield Claim(13, conflict, arm, "mixed", MEAN, low, high)
    for conflict, (low, high) in zip(
        POSITIONS, ((-0.4, 0.05), (-0.7, -0.3), (-0.6, -0.3)), strict=True
    ):
        yield Claim(14, conflict, "mopd", "mixed", MEAN, low, high)
        yield Claim(14, conflict, "mopd", "merged_mean", MEAN, -0.3, 0.15)


CLAIMS = tuple(_claims())
LATER_CLAIMS = tuple(_later_claims())
"""Of methods that joined later, written when the results of the first arms were known."""
Rows = Sequence[Mapping[str, Any]]


def rows_of(folder: Path) -> list[Row]:
    """One row per finished cell: held-out reward after the last step by domain, the least gain of
    a domain, and what the steps of one that was trained were (`study_figures.py`)."""
    cells = [(c, arm, seed) for c in POSITIONS for arm in EVERY for seed in seeds_of(arm)]
    return [row for cell in cells if (row := _row(folder, *cell)) is not None]


def _row(folder: Path, conflict: float, arm: str, seed: int) -> Row | None:
    run_dir, begun = run_of(place(folder, conflict, arm), arm, seed), None
    step = STEPS
    if arm in MERGED:  # began as the policy that whole single runs began with
        singles = [run_of(place(folder, conflict, name), name, seed) for name in SINGLES]
        if not all(heldout(single, STEPS) for single in singles):
            return None
        begun, step = singles[0], 1
    before, after = heldout(begun or run_dir, 0), heldout(run_dir, step)
    if not is_finished(run_dir) or not after or set(before) != set(after):
        return None
    worst = min(after[domain] - before[domain] for domain in after)
    figures = {} if arm in MERGED else figures_of(run_dir)
    cell = {"conflict": conflict, "arm": arm, "seed": seed}
    return {**cell, "after": after, "worst_gain": worst, **figures}


def by_seed(rows: Rows, conflict: float, arm: str, measure: str) -> dict[int, float]:
    """A measure of an arm at a position."""
    return {
        row["seed"]: row["worst_gain"] if measure == WORST else _mean(row["after"])
        for row in rows
        if (row["conflict"], row["arm"]) == (conflict, arm)
    }


def _mean(values: Mapping[str, float]) -> float:
    return sum(values.values()) / len(values)


def contrast(rows: Rows, claim: Claim) -> Difference:
    """What came out of a claim's difference."""
    own, other = (
        by_seed(rows, claim.conflict, arm, claim.measure) for arm in (claim.arm, claim.other)
    )
    return difference(own, other)


def verdict(claim: Claim, found: Difference) -> str:
    """See the module."""
    if math.isnan(found.low):
        return "no data"
    if claim.low <= found.low and found.high <= claim.high:
        return "holds"
    return "refuted" if found.high < claim.low or found.low > claim.high else "open"


def tables(rows: Rows, claims: Sequence[Claim] = CLAIMS) -> str:
    """Predictions with their verdicts counted, then every claim; p values are corrected for the
    number of `claims`."""
    found = [contrast(rows, claim) for claim in claims]
    corrected = holm([each.p for each in found])
    verdicts = [verdict(claim, each) for claim, each in zip(claims, found, strict=True)]
    lines = ["| prediction | holds | open | refuted |", "|---|---|---|---|"]
    for number in dict.fromkeys(claim.number for claim in claims):
        own = [v for claim, v in zip(claims, verdicts, strict=True) if claim.number == number]
        counts = [str(own.count(name)) for name in ("holds", "open", "refuted")]
        lines.append(f"| {number} | {' | '.join(counts)} |")
    lines += ["", "| | conflict | difference | in the | seeds | predicted | came out | |"]
    lines += ["|---|---|---|---|---|---|---|---|"]
    for claim, each, p, word in zip(claims, found, corrected, verdicts, strict=True):
        text = f"{each.mean:+.3f} ({each.low:+.3f} to {each.high:+.3f})"
        text = "–" if math.isnan(each.low) else text
        cells = [
            *(str(claim.number), f"{claim.conflict:g}", claim.difference, claim.measure),
            *(str(each.n), claim.predicted, f"**{text}**" if p < SURE else text, word),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def draw(rows: Rows, path: Path) -> None:
    """Every arm minus `mixed`, at every position, in the mean and in the worst domain; beyond
    `LINEAR` the axis is logarithmic, for some arms differ by a hundredth and some by a half."""
    from mgsrl.report.style import drawing, panels

    with drawing():
        figure, axes = panels(6, columns=3, height=5.6, width=11)
        places = [(measure, conflict) for measure in (MEAN, WORST) for conflict in POSITIONS]
        for i, (axis, (measure, conflict)) in enumerate(zip(axes, places, strict=True)):
            axis.axvline(0, color="#888888", lw=1)
            for y, arm in enumerate(DRAWN):
                found = contrast(rows, Claim(0, conflict, arm, "mixed", measure, -NONE, NONE))
                if not found.n:
                    continue
                apart, half = found.low > 0 or found.high < 0, (found.high - found.low) / 2
                error = None if math.isnan(half) else half  # of a single seed
                axis.errorbar(
                    found.mean, y, xerr=error, fmt="D", ms=5, capsize=3,
                    color="#3d85c6" if apart else "#8c8c8c", mfc=None if apart else "none",
                )  # fmt: skip
            axis.set(title=f"conflict {conflict:g}", xlabel=f"{measure}, minus mixed")
            axis.set_xscale("symlog", linthresh=LINEAR, linscale=1)
            axis.set_xticks(TICKS, [f"{tick:g}" for tick in TICKS])
            axis.minorticks_off()
            axis.grid(axis="x", color="#e5e5e5", lw=0.6)
            axis.set_ylim(len(DRAWN) - 0.4, -0.6)
            axis.set_yticks(range(len(DRAWN)), list(DRAWN) if i % 3 == 0 else [""] * len(DRAWN))
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=110, facecolor="white")
