"""`reinforce_pp`: REINFORCE++ (arXiv 2501.03262): rewards whitened over the domain's batch.

    A = (r - mean_batch) / std_batch        over the response tokens of the batch

There is no group: the baseline is the batch's. So a prompt whose responses all fail teaches to
avoid them, and what a hard prompt gets depends on the others; a batch of equal rewards gets 0. The
paper's batch is all there is; here it is a domain's, since others' rewards have other scales.

Left out: the paper's KL penalty inside the reward. `algo.kl_coef` is a term of the loss.
"""

from collections.abc import Sequence

from mgsrl.algo.advantages import across_groups


@across_groups
def reinforce_pp(rewards_G: Sequence[float]) -> Sequence[float]:
    """[G] the rewards: what is whitened."""
    return rewards_G
