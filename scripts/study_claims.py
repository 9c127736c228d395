"""What was predicted of the study on `pocket_conflict`, claim by claim, against what came out.

A claim is a difference of two arms, paired by seed, in one measure at one position of the dial, and
the range that was predicted for it (`docs/study.md`). It holds if the 95 % interval of the
difference lies in that range, is refuted if it lies outside; else the seeds do not decide.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from study_arms import ARMS, POSITIONS

from mgsrl.report.compare import JSON
from mgsrl.statistics.seeds import Difference, difference, holm

MEAN, WORST = "mean", "worst domain"
SURE = 0.05
"""Corrected p below which a difference is printed in bold."""
NONE = math.inf
ALL = tuple(arm for arm in ARMS if not arm.startswith("single_"))
OTHERS = tuple(arm for arm in ALL if arm != "mixed")
SURGERY = ("global", "layer", "mgs", "parameter")
AVERAGED = tuple(f"{arm}_all" for arm in SURGERY)


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


CLAIMS = tuple(_claims())
Rows = Sequence[Mapping[str, Any]]


def rows_of(folder: Path) -> list[dict[str, Any]]:
    """One row per finished cell: held-out reward after the last step and its gain, by domain."""
    rows = []
    for conflict in POSITIONS:
        path = folder / f"conflict-{conflict:g}" / JSON
        if not path.is_file():
            continue
        found = json.loads(path.read_text())
        for name, arm in found["arms"].items():
            for seed in arm["seeds"]:
                values = {d: arm["domains"][d]["by_seed"].get(str(seed)) for d in found["domains"]}
                worst = arm["worst_gain"]["by_seed"].get(str(seed))
                if worst is not None and None not in values.values():
                    row = {"conflict": conflict, "arm": name, "seed": seed, "after": values}
                    rows.append({**row, "worst_gain": worst})
    return rows


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
    ends = [by_seed(rows, claim.conflict, arm, claim.measure) for arm in (claim.arm, claim.other)]
    return difference(*ends)


def verdict(claim: Claim, found: Difference) -> str:
    """See the module."""
    if math.isnan(found.low):
        return "no data"
    if claim.low <= found.low and found.high <= claim.high:
        return "holds"
    return "refuted" if found.high < claim.low or found.low > claim.high else "open"


def tables(rows: Rows) -> str:
    """Predictions with their verdicts counted, then every claim."""
    found = [contrast(rows, claim) for claim in CLAIMS]
    corrected = holm([each.p for each in found])
    verdicts = [verdict(claim, each) for claim, each in zip(CLAIMS, found, strict=True)]
    lines = ["| prediction | holds | open | refuted |", "|---|---|---|---|"]
    for number in dict.fromkeys(claim.number for claim in CLAIMS):
        own = [v for claim, v in zip(CLAIMS, verdicts, strict=True) if claim.number == number]
        counts = [str(own.count(name)) for name in ("holds", "open", "refuted")]
        lines.append(f"| {number} | {' | '.join(counts)} |")
    lines += ["", "| | conflict | difference | in the | seeds | predicted | came out | |"]
    lines += ["|---|---|---|---|---|---|---|---|"]
    for claim, each, p, word in zip(CLAIMS, found, corrected, verdicts, strict=True):
        text = f"{each.mean:+.3f} ({each.low:+.3f} to {each.high:+.3f})"
        text = "–" if math.isnan(each.low) else text
        cells = [
            *(str(claim.number), f"{claim.conflict:g}", claim.difference, claim.measure),
            *(str(each.n), claim.predicted, f"**{text}**" if p < SURE else text, word),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def draw(rows: Rows, path: Path) -> None:
    """Every arm minus `mixed`, at every position, in the mean and in the worst domain."""
    from mgsrl.report.style import drawing, panels

    with drawing():
        figure, axes = panels(6, columns=3, height=4.2, width=11)
        places = [(measure, conflict) for measure in (MEAN, WORST) for conflict in POSITIONS]
        for i, (axis, (measure, conflict)) in enumerate(zip(axes, places, strict=True)):
            axis.axvline(0, color="#888888", lw=1)
            for y, arm in enumerate(OTHERS):
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
            axis.set_ylim(len(OTHERS) - 0.4, -0.6)
            axis.set_yticks(range(len(OTHERS)), list(OTHERS) if i % 3 == 0 else [""] * len(OTHERS))
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=110, facecolor="white")
