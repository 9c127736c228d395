"""Importance weights between the engine that sampled and the learner: truncated, or masked.

With rho = p_learner / p_engine of a token (the learner's before the first update on the batch),
and for a sequence y of T trained tokens

    rho(y) = the product of its tokens' rho        geo(y) = rho(y)^(1/T)

a token has, without a gradient, the weight

    w = min(R, importance_cap) where importance_low <= M <= importance_high, else 0

`importance_level` says what R is: `token` rho, `sequence` rho(y). Without a cap w is 1 for 0.
`importance_mask` says what M is: `token` rho, `sequence` rho(y), `geometric` geo(y); `none` keeps
all. By the names of the papers:

    TIS      truncated, of tokens or of sequences (Yao et al. 2025)
    IcePop   a mask of tokens on both sides (Ling Team, arXiv 2510.18855): [0.5, 5]
    MIS      the weight of a sequence, and a mask of it (Liu, Li et al. 2025): [0.5, 2] in verl
    Geo-RS   a mask of sequences by geo(y), which does not grow with their length: [0.999, 1.001]

Token by token w is biased, for it leaves out how likely what came before has become; rho(y) is not,
but its variance grows with the length, and masks of it leave out long sequences first.

What is masked is of weight 0 and stays in every denominator, as in IcePop and MIS (whose mask is a
factor of the weight): the denominators are those of the batch, known before any log-probability is,
so a mask in one domain changes nothing in another's gradient, and the domains' gradients still add
up to that of one loss. verl does so with IcePop; its rejection masks leave the denominators, which
scales the whole gradient by trained / kept (tokens or sequences). KL and entropy keep all tokens.

Left out: verl's masks by sums, means and maxima of k2 and k3 (one threshold of another scale each),
several masks at once, and weights normalised to a mean of 1 (they tie every micro-batch to the
whole batch).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mgsrl.algo.kl import LOG_RATIO_LIMIT
from mgsrl.config.algo import AlgoConfig


@dataclass(frozen=True, slots=True)
class Importance:
    """[B, L], detached; of no meaning outside the response."""

    weight_BL: Tensor
    truncated_BL: Tensor
    """bool, where the cap cut the weight of what is kept."""
    masked_BL: Tensor
    """bool, where the mask made it 0."""


def importance_weight(
    old_logprobs_BL: Tensor, rollout_logprobs_BL: Tensor, mask_BL: Tensor, config: AlgoConfig
) -> Importance:
    """The weights that `config` asks for.

    Args:
        old_logprobs_BL: the learner's before the first update on the batch, 0 outside the response.
        rollout_logprobs_BL: the engine's, 0 outside the response.
        mask_BL: bool, the response tokens that are trained on.
    """
    log_ratio_BL = (old_logprobs_BL - rollout_logprobs_BL).detach()
    weight_BL = torch.ones_like(log_ratio_BL)
    truncated_BL = masked_BL = torch.zeros_like(mask_BL)
    if config.importance_cap is not None:
        ratio_BL = log_ratio_of(config.importance_level, log_ratio_BL, mask_BL).exp()
        weight_BL = ratio_BL.clamp(max=config.importance_cap)
        truncated_BL = ratio_BL > config.importance_cap
    if config.importance_mask != "none":
        low, high = config.importance_bounds
        measured_BL = log_ratio_of(config.importance_mask, log_ratio_BL, mask_BL)
        # In the log, where float32 tells 0.999 from 1; what is NaN stays so, and is seen.
        masked_BL = (measured_BL < _log(low)) | (measured_BL > _log(high))
        weight_BL = weight_BL.masked_fill(masked_BL, 0.0)
        truncated_BL = truncated_BL & ~masked_BL
    return Importance(weight_BL, truncated_BL, masked_BL)


def log_ratio_of(what: str, log_ratio_BL: Tensor, mask_BL: Tensor) -> Tensor:
    """[B, L] log of rho, rho(y) or geo(y), for `token`, `sequence` or `geometric`.

    Args:
        log_ratio_BL: of the tokens, 0 outside the response.
    """
    if what == "token":
        return log_ratio_BL
    of_sequence_B1 = log_ratio_BL.sum(-1, keepdim=True)
    if what == "geometric":
        of_sequence_B1 = of_sequence_B1 / mask_BL.sum(-1, keepdim=True).clamp(min=1)
    return of_sequence_B1.expand_as(log_ratio_BL)


def mismatch_kl(old_logprobs_BL: Tensor, rollout_logprobs_BL: Tensor) -> Tensor:
    """Per token, rho - 1 - log rho: k3 of KL(engine || learner) in nats, never below 0.

    Its mean over the engine's samples is unbiased for a token's divergence, averaged over the
    contexts that the engine came to (log rho clamped to +-20).
    """
    log_ratio_BL = (old_logprobs_BL - rollout_logprobs_BL).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    return torch.expm1(log_ratio_BL) - log_ratio_BL


def effective_share(total: float, squares: float, count: float) -> float:
    """Effective sample size over sample size, (sum w)^2 / (n sum w^2), 0 to 1; NaN of nothing.

    Args:
        total: sum of the weights.
        squares: sum of their squares.
        count: n, what is masked included.
    """
    if not count:
        return math.nan
    return total**2 / (count * squares) if squares else 0.0


def _log(bound: float) -> float:
    return math.log(bound) if bound > 0 else -math.inf
