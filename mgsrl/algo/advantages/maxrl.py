"""`maxrl`: `(r - mean) / (mean + 1e-6)` within a group (maximum likelihood RL, arXiv 2602.02710).

With 0/1 rewards the mean estimates the prompt's pass rate p, and dividing by it turns the gradient
of p into that of log p = - sum over k of (1 - p)^k / k, cut at k = n: hard prompts count as the
likelihood has them count. The 1e-6 is of the authors' code. Other rewards than 0/1 have no such
likelihood behind them; negative ones would turn the sign round and are refused.
"""

import math
from collections.abc import Sequence

from mgsrl.algo.advantages import EPS, nonnegative


@nonnegative
def maxrl(rewards_G: Sequence[float]) -> list[float]:
    """[G] differences from the mean, in units of the mean."""
    mean = math.fsum(rewards_G) / len(rewards_G)
    return [(reward - mean) / (mean + EPS) for reward in rewards_G]
