"""`sapo`: a soft gate in the place of a clip (Soft Adaptive Policy Optimization, arXiv 2511.20347).

-A sigmoid(tau (r - 1)) 4 / tau        tau = tau_positive for A > 0, tau_negative otherwise

The gradient is that of the plain ratio at r = 1 and fades on both sides, the faster the larger
tau; the paper's are 1.0 and 1.05. Nothing is clipped: `clip_low` and `clip_high` are not read, and
`clip_fraction` is 0. The paper takes the mean over sequences of their token means
(`algo.aggregation=sequence_mean`; verl's `sapo` takes no other).
"""

import torch
from torch import Tensor

from mgsrl.algo.kl import LOG_RATIO_LIMIT
from mgsrl.algo.losses import silent_at_zero
from mgsrl.config.algo import AlgoConfig


@silent_at_zero
def sapo(log_ratio_BL: Tensor, advantages_B1: Tensor, config: AlgoConfig) -> Tensor:
    """Per-token loss."""
    ratio_BL = log_ratio_BL.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()
    positive = advantages_B1.new_tensor(config.tau_positive)
    tau_B1 = torch.where(advantages_B1 > 0, positive, config.tau_negative)
    gate_BL = torch.sigmoid(tau_B1 * (ratio_BL - 1.0)) * (4.0 / tau_B1)
    return -advantages_B1 * gate_BL
