"""What a handful of seeds says: means with intervals, differences paired by seed, corrections.

Two seeds are the least for an interval; of one there is a mean only, and nothing about luck. Seeds
are paired because runs of one seed share prompts, order and initial state: what these do to both
cancels. Left out: tests between more than two arms at once, and scores per prompt (the prompts
are the same in all runs; they are no repetitions of the training).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from scipy.special import stdtr, stdtrit

LEVEL = 0.95
MOST_FLIPPED = 16
"""Pairs up to which all sign flips are counted (65,536); more are not."""
ALIKE = 1e-12
"""Differences, and sums of them, that are closer than this, relatively, are equal but for
rounding."""


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds with its interval (Student's t)."""

    n: int
    mean: float
    """NaN without values."""
    low: float
    """Ends of the interval; NaN with fewer than two values."""
    high: float
    sd: float
    """Standard deviation (n - 1) over seeds; NaN with fewer than two values."""


@dataclass(frozen=True)
class Difference(Estimate):
    """The mean of differences paired by seed, and how surprising it is if there is none."""

    p: float
    """Two-sided, paired t test; NaN with fewer than two pairs, and where all differences are the
    same but not 0: without a spread there is nothing to measure them by."""
    p_flip: float
    """Two-sided, exact: the share of all ways to flip signs that give as large a mean. It assumes
    no distribution, but is never below `2 / 2**n`. NaN with fewer than two pairs or many."""


def estimate(values: Sequence[float], level: float = LEVEL) -> Estimate:
    """Mean and interval of the finite ones of `values`.

    >>> e = estimate([0.52, 0.55, 0.58])
    >>> f"{e.mean:.2f} {e.low:.3f} {e.high:.3f}"
    '0.55 0.475 0.625'
    """
    known = np.array([v for v in values if math.isfinite(v)])
    if len(known) == 0:
        return Estimate(0, math.nan, math.nan, math.nan, math.nan)
    mean = float(known.mean())
    if len(known) == 1:
        return Estimate(1, mean, math.nan, math.nan, math.nan)
    sd = float(known.std(ddof=1))
    half = float(stdtrit(len(known) - 1, (1 + level) / 2)) * sd / math.sqrt(len(known))
    return Estimate(len(known), mean, mean - half, mean + half, sd)


def difference(
    values: Mapping[int, float], others: Mapping[int, float], level: float = LEVEL
) -> Difference:
    """`values` minus `others`, of the seeds that both have a finite value for.

    Args:
        values, others: by seed.
    """
    pairs = [(values[seed], others[seed]) for seed in values if seed in others]
    found = [a - b for a, b in pairs if math.isfinite(a - b)]
    e = estimate(found, level)
    rounding = ALIKE * max((abs(v) for pair in pairs for v in pair if math.isfinite(v)), default=0)
    if found and max(found) - min(found) <= rounding:
        same = 0.0 if abs(e.mean) <= rounding else e.mean
        found = [same] * len(found)
        end = same if len(found) > 1 and same == 0 else math.nan
        e = Estimate(len(found), same, end, end, 0.0 if len(found) > 1 else math.nan)
    return Difference(e.n, e.mean, e.low, e.high, e.sd, paired_t_p(e), sign_flip_p(found))


def paired_t_p(e: Estimate) -> float:
    """Two-sided p of the mean of differences being 0; where all of them are the same, 1 of 0 and
    NaN of all else."""
    if e.n < 2:
        return math.nan
    if e.sd == 0:
        return 1.0 if e.mean == 0 else math.nan
    return 2 * float(stdtr(e.n - 1, -abs(e.mean) / (e.sd / math.sqrt(e.n))))


def sign_flip_p(differences: Sequence[float]) -> float:
    """The exact two-sided p of a permutation test that flips the signs of paired differences."""
    n = len(differences)
    if not 2 <= n <= MOST_FLIPPED:
        return math.nan
    values = np.asarray(differences, dtype=float)
    signs = np.array(list(product((1.0, -1.0), repeat=n)))
    sums = np.abs(signs @ values)
    return float(np.mean(sums >= abs(values.sum()) - ALIKE * np.abs(values).sum()))


def holm(p_values: Sequence[float]) -> list[float]:
    """p values corrected for their number (Holm 1979): the chance that any of them is below 0.05
    without a difference stays 0.05. NaN stays NaN and does not count.

    >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03, 0.005])]
    [0.03, 0.06, 0.06, 0.02]
    """
    known = sorted((p, i) for i, p in enumerate(p_values) if not math.isnan(p))
    corrected, largest = [math.nan] * len(p_values), 0.0
    for rank, (p, i) in enumerate(known):
        largest = max(largest, min(1.0, (len(known) - rank) * p))
        corrected[i] = largest
    return corrected
