"""Student's t distribution for whole degrees of freedom, also off centre (for power).

Left out: fractions of degrees of freedom (Welch), which comparisons paired by seed do not need.
"""

import math
from collections.abc import Callable
from functools import cache

import numpy as np

NODES = 200
"""Of the Gauss-Legendre rule over the spread of the estimated standard deviation."""
WIDTHS = 9.0
"""How many of its own standard deviations that integral reaches to either side."""


def two_sided_p(t: float, df: int) -> float:
    """Probability that |T| is at least `|t|`.

    The finite series in the angle atan(t / sqrt(df)): Abramowitz and Stegun (1964), 26.7.3 and .4.

    >>> round(two_sided_p(12.7062, 1), 4), round(two_sided_p(2.2281, 10), 4)
    (0.05, 0.05)
    """
    _check(df)
    if math.isinf(t):
        return 0.0
    theta = math.atan(abs(t) / math.sqrt(df))
    cos2, odd = math.cos(theta) ** 2, df % 2
    term = math.cos(theta) if odd else 1.0
    total = term if df > 1 else 0.0
    for k in range(3 if odd else 2, df - 1, 2):
        term *= cos2 * ((k - 1) / k)
        total += term
    inside = math.sin(theta) * total
    if odd:
        inside = (theta + inside) * 2 / math.pi
    return min(1.0, max(0.0, 1.0 - inside))


@cache
def critical_t(df: int, level: float = 0.95) -> float:
    """The t that |T| exceeds with probability `1 - level`.

    >>> round(critical_t(4), 4), round(critical_t(9, 0.99), 4)
    (2.7764, 3.2498)
    """
    _check(df)
    if not 0 < level < 1:
        raise ValueError(f"a level should be between 0 and 1, found {level}")
    return root(lambda t: 1 - level - two_sided_p(t, df), 0.0, 1.0)


def shifted_cdf(t: float, df: int, shift: float) -> float:
    """Probability that a T whose numerator has mean `shift` (the non-central t) is at most `t`.

    T = (Z + shift) / S with S^2 = chi^2 / df, so this is the mean over S of Phi(t S - shift).
    """
    _check(df)
    spread = math.sqrt(1 / (2 * df))
    low, high = max(0.0, 1 - WIDTHS * spread), 1 + WIDTHS * spread
    x, weight = _nodes()
    s = (high - low) / 2 * x + (high + low) / 2
    log_density = (df - 1) * np.log(s) - df * s**2 / 2
    constant = math.log(2) + df / 2 * math.log(df / 2) - math.lgamma(df / 2)
    density = np.exp(log_density + constant) * weight * (high - low) / 2
    normal = np.array([0.5 * math.erfc((shift - t * each) / math.sqrt(2)) for each in s])
    return float(density @ normal / density.sum())


def root(rises: Callable[[float], float], low: float, high: float) -> float:
    """Where an increasing function crosses 0: at least `low`, beyond `high` if it must."""
    while rises(high) < 0:
        low, high = high, high * 2
    for _ in range(60):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        if rises(middle) < 0:
            low = middle
        else:
            high = middle
    return (low + high) / 2


@cache
def _nodes() -> tuple[np.ndarray, np.ndarray]:
    return np.polynomial.legendre.leggauss(NODES)


def _check(df: int) -> None:
    if df < 1:
        raise ValueError(f"degrees of freedom should be at least 1, found {df}")
