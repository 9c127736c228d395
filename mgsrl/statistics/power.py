"""How many seeds a difference needs: the power of the paired t test.

Power is exact for normal differences (non-central t). The standard deviation that goes in is itself
estimated from a few seeds, so the answer is an order of magnitude rather than a number.
"""

import math

from scipy.special import ncfdtr, ncfdtrinc, stdtrit

from mgsrl.statistics.seeds import LEVEL

POWER = 0.8
MOST_SEEDS = 1000


def paired_power(n: int, effect: float, level: float = LEVEL) -> float:
    """The chance that a paired t test of `n` seeds finds a difference (at 1 - `level`, two-sided).

    Args:
        effect: the true difference over the standard deviation of the paired differences.
    """
    if n < 2:
        return 0.0
    # The square of a non-central t is a non-central F.
    return float(1 - ncfdtr(1, n - 1, n * effect**2, _limit(n, level)))


def seeds_needed(
    difference: float, sd: float, power: float = POWER, level: float = LEVEL
) -> int | None:
    """The fewest seeds whose power for `difference` is `power`; None above `MOST_SEEDS`, for no
    difference, or where `sd` (of the paired differences) is not known. None is known of differences
    that are all the same: their `sd` of 0 is that of too few seeds, or of too few prompts.

    >>> seeds_needed(0.5, 1.0), seeds_needed(1.0, 1.0)
    (34, 10)
    """
    if not (math.isfinite(difference) and _is_known(sd)) or difference == 0:
        return None
    effect = abs(difference) / sd
    if paired_power(MOST_SEEDS, effect, level) < power:
        return None
    low, high = 1, 2
    while paired_power(high, effect, level) < power:
        low, high = high, min(2 * high, MOST_SEEDS)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (
            (low, middle) if paired_power(middle, effect, level) >= power else (middle, high)
        )
    return high


def detectable(n: int, sd: float, power: float = POWER, level: float = LEVEL) -> float:
    """The smallest difference that `n` seeds find with `power`; NaN with fewer than two seeds, or
    where `sd` is not known."""
    if n < 2 or not _is_known(sd):
        return math.nan
    return sd * math.sqrt(ncfdtrinc(1, n - 1, 1 - power, _limit(n, level)) / n)


def _is_known(sd: float) -> bool:
    return math.isfinite(sd) and sd > 0


def _limit(n: int, level: float) -> float:
    """The t^2 above which the test of `n` pairs finds a difference."""
    return float(stdtrit(n - 1, (1 + level) / 2) ** 2)
