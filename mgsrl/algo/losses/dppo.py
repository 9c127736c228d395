"""`dppo`: a trust region of the divergence, not of the ratio (DPPO, arXiv 2602.04879).

-M sg(min(r, ratio_cap)) A log p                                        sg: without a gradient

M is 0 where the policy has moved further than the threshold and A pushes it on, and 1 elsewhere:
for A > 0, p > p_old and D > clip_high; for A < 0, p < p_old and D > clip_low. The divergence D is
the paper's binary one, of "this token" against "any other", the probabilities being p and p_old:

    tv    |p - p_old|
    kl    p_old log(p_old / p) + (1 - p_old) log((1 - p_old) / (1 - p))

So a likely token cannot move far and an unlikely one may, which a clip of r has the wrong way
round. `clip_low` and `clip_high` are thresholds of D; verl's recipe has 0.15 for `tv` and 0.05 for
`kl`. r is cut for its variance only, since nothing else bounds that of an unlikely token (verl's
`clip_ratio_c`, 10,000 in its recipe).

The paper's trust region is around the policy that sampled; here, as in all losses, around `p_old`,
the learner's before the first update on the batch, and the engine's difference is in the importance
weight. Left out: the divergence of the likeliest k tokens, which needs the engine's distributions.
"""

import torch
from torch import Tensor

from mgsrl.algo.kl import LOG_RATIO_LIMIT
from mgsrl.algo.losses import silent_at_zero
from mgsrl.config.algo import AlgoConfig

SMALLEST = 1e-8
"""Of 1 - p, so that a token that is certain has a finite divergence."""


@silent_at_zero
def dppo(
    log_ratio_BL: Tensor, advantages_B1: Tensor, old_logprobs_BL: Tensor, config: AlgoConfig
) -> tuple[Tensor, Tensor]:
    """Per-token loss and where the trust region removed the gradient (bool)."""
    logprobs_BL = old_logprobs_BL + log_ratio_BL
    moved_BL = log_ratio_BL.detach()
    divergence_BL = BINARY[config.divergence](logprobs_BL.detach(), old_logprobs_BL)
    above_BL = (advantages_B1 > 0) & (moved_BL > 0) & (divergence_BL > config.clip_high)
    below_BL = (advantages_B1 < 0) & (moved_BL < 0) & (divergence_BL > config.clip_low)
    left_BL = above_BL | below_BL
    ratio_BL = moved_BL.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp().clamp(max=config.ratio_cap)
    loss_BL = -ratio_BL * advantages_B1 * logprobs_BL
    return loss_BL.masked_fill(left_BL, 0.0), left_BL


def binary_tv(logp_BL: Tensor, old_BL: Tensor) -> Tensor:
    """Total variation between (p_old, 1 - p_old) and (p, 1 - p)."""
    return (logp_BL.exp() - old_BL.exp()).abs()


def binary_kl(logp_BL: Tensor, old_BL: Tensor) -> Tensor:
    """KL of (p_old, 1 - p_old) to (p, 1 - p), in nats."""
    rest_BL, old_rest_BL = ((-torch.expm1(x)).clamp(min=SMALLEST) for x in (logp_BL, old_BL))
    return old_BL.exp() * (old_BL - logp_BL) + old_rest_BL * (old_rest_BL / rest_BL).log()


BINARY = {"tv": binary_tv, "kl": binary_kl}
