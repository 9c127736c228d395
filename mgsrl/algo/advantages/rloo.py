"""`rloo`: leave-one-out (arXiv 2402.14740): `r_i - mean of the others' r_j`.

The baseline of a response has no part in it, so the policy gradient is unbiased, which it is not
with the mean of all. It is `n / (n - 1)` times Dr. GRPO's.
"""

import math
from collections.abc import Sequence


def rloo(rewards_G: Sequence[float]) -> list[float]:
    """[G] differences from the mean of the others."""
    total, others = math.fsum(rewards_G), len(rewards_G) - 1
    return [reward - (total - reward) / others for reward in rewards_G]
