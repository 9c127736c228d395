"""`ppo`: the clipped surrogate (arXiv 1707.06347), with DAPO's two bounds and dual clip if wanted.

max(-A r, -A clip(r, 1 - clip_low, 1 + clip_high))      for A < 0 at most -A dual_clip
"""

import torch
from torch import Tensor

from mgsrl.algo.kl import LOG_RATIO_LIMIT
from mgsrl.algo.losses import silent_at_zero
from mgsrl.config.algo import AlgoConfig


@silent_at_zero
def ppo(log_ratio_BL: Tensor, advantages_B1: Tensor, config: AlgoConfig) -> tuple[Tensor, Tensor]:
    """Per-token loss and where a clip removed the gradient (bool)."""
    ratio_BL = torch.clamp(log_ratio_BL, -LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()
    plain_BL = -advantages_B1 * ratio_BL
    bounded_BL = -advantages_B1 * ratio_BL.clamp(1.0 - config.clip_low, 1.0 + config.clip_high)
    loss_BL = torch.maximum(plain_BL, bounded_BL)
    clipped_BL = bounded_BL > plain_BL
    if config.dual_clip is not None:
        ceiling_BL = -advantages_B1 * config.dual_clip
        dual_BL = (advantages_B1 < 0) & (loss_BL > ceiling_BL)
        loss_BL = torch.where(dual_BL, ceiling_BL, loss_BL)
        clipped_BL = clipped_BL | dual_BL
    return loss_BL, clipped_BL
