"""`gmpo`: the geometric mean of a sequence's clipped ratios (Geometric-Mean Policy Optimization,
arXiv 2507.20673).

c = min(log r, clip_high) for A > 0,  max(log r, -clip_low) for A < 0
-A exp(mean over the sequence's tokens of c)

The bounds are those of the log-ratio, so r is clipped at exp(-clip_low) and exp(clip_high), each
token by itself and before the mean; the paper's are exp(-0.4) and exp(0.4). Every token of a
sequence has the sequence's loss, so `algo.aggregation=sequence_mean` is the paper's mean over
sequences (verl's `geo_mean` takes no other); `token_mean` counts a sequence as often as it has
tokens.

The importance weight of the engine is outside, per token: a sequence is weighed by the arithmetic
mean of its tokens' weights, in verl by the geometric one.
"""

from torch import Tensor

from mgsrl.algo.kl import LOG_RATIO_LIMIT
from mgsrl.algo.losses import silent_at_zero
from mgsrl.config.algo import AlgoConfig


@silent_at_zero
def gmpo(
    log_ratio_BL: Tensor, advantages_B1: Tensor, mask_BL: Tensor, config: AlgoConfig
) -> tuple[Tensor, Tensor]:
    """The sequence's loss at every token, and where the clip removed the gradient (bool)."""
    log_ratio_BL = log_ratio_BL.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    above_BL = (advantages_B1 > 0) & (log_ratio_BL > config.clip_high)
    below_BL = (advantages_B1 < 0) & (log_ratio_BL < -config.clip_low)
    clipped_BL = log_ratio_BL.masked_fill(above_BL, config.clip_high)
    clipped_BL = clipped_BL.masked_fill(below_BL, -config.clip_low)
    length_B1 = mask_BL.sum(-1, keepdim=True).clamp(min=1)
    mean_B1 = clipped_BL.sum(-1, keepdim=True) / length_B1
    return (-advantages_B1 * mean_B1.exp()).expand_as(log_ratio_BL), above_BL | below_BL
