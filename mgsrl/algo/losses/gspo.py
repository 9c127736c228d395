"""`gspo`: one ratio of the whole sequence (Group Sequence Policy Optimization, arXiv 2507.18071).

s = exp(mean over the sequence's tokens of log r)                                (equation 7)
max(-A s, -A clip(s, 1 - clip_low, 1 + clip_high))                               (equation 5)

Every token of a sequence has the sequence's loss, so `algo.aggregation=sequence_mean` is the
paper's mean over sequences (verl's `gspo` takes no other); `token_mean` counts a sequence as often
as it has tokens. s stays much nearer to 1 than r: the paper's bounds are 3e-4 and 4e-4.

The importance weight of the engine is outside, per token: a sequence is weighed by the mean of its
tokens' weights, where verl weighs each token's share of the gradient by its own. Left out: the
form that takes an advantage per token (GSPO-token); with one per sequence it has the same gradient.
"""

import torch
from torch import Tensor

from mgsrl.algo.kl import LOG_RATIO_LIMIT
from mgsrl.algo.losses import silent_at_zero
from mgsrl.config.algo import AlgoConfig


@silent_at_zero
def gspo(
    log_ratio_BL: Tensor, advantages_B1: Tensor, mask_BL: Tensor, config: AlgoConfig
) -> tuple[Tensor, Tensor]:
    """The sequence's loss at every token, and where the clip removed the gradient (bool)."""
    length_B1 = mask_BL.sum(-1, keepdim=True).clamp(min=1)
    mean_B1 = log_ratio_BL.sum(-1, keepdim=True) / length_B1
    ratio_B1 = mean_B1.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()
    plain_B1 = -advantages_B1 * ratio_B1
    bounded_B1 = -advantages_B1 * ratio_B1.clamp(1.0 - config.clip_low, 1.0 + config.clip_high)
    loss_B1 = torch.maximum(plain_B1, bounded_B1)
    return loss_B1.expand_as(log_ratio_BL), (bounded_B1 > plain_B1).expand_as(log_ratio_BL)
