"""`reinforce_pp_baseline`: REINFORCE++ with a baseline (arXiv 2501.03262).

    a = r - mean_group      A = (a - mean_batch) / std_batch    over the batch's response tokens

Against `grpo` a group's deviation is replaced by the domain's: groups that hardly differ are not
blown up. Left out: the paper's KL term of k2 beside it (`algo.kl_estimator=k2` has it).
"""

import math
from collections.abc import Sequence

from mgsrl.algo.advantages import over_batch


@over_batch
def reinforce_pp_baseline(rewards_G: Sequence[float]) -> list[float]:
    """[G] differences from the group's mean: what is whitened."""
    mean = math.fsum(rewards_G) / len(rewards_G)
    return [reward - mean for reward in rewards_G]
