"""`cispo`: no token is left out, its weight is clipped (CISPO of MiniMax-M1, arXiv 2506.13585).

-sg(clip(r, 1 - clip_low, 1 + clip_high)) A log p                      sg: without a gradient

All tokens keep the gradient of their log-probability, so `clip_fraction` counts those whose weight
was cut. The paper has an upper bound only, which is `algo.clip_low=1` here (`clip_ratio_low=10` in
verl's recipe), and publishes no number for it; it takes the mean over tokens
(`algo.aggregation=token_mean`).
"""

from torch import Tensor

from mgsrl.algo.kl import LOG_RATIO_LIMIT
from mgsrl.algo.losses import silent_at_zero
from mgsrl.config.algo import AlgoConfig


@silent_at_zero
def cispo(
    log_ratio_BL: Tensor, advantages_B1: Tensor, old_logprobs_BL: Tensor, config: AlgoConfig
) -> tuple[Tensor, Tensor]:
    """Per-token loss and where the weight was cut (bool)."""
    ratio_BL = log_ratio_BL.detach().clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()
    weight_BL = ratio_BL.clamp(1.0 - config.clip_low, 1.0 + config.clip_high)
    cut_BL = (advantages_B1 != 0) & (weight_BL != ratio_BL)
    logprobs_BL = old_logprobs_BL + log_ratio_BL
    return -weight_BL * advantages_B1 * logprobs_BL, cut_BL
