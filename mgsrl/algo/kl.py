"""Per-token estimators of KL(policy || reference) from sampled tokens.

`http://joschu.net/blog/kl-approx.html` names them k1, k2 and k3. As *values* k1 and k3 are
unbiased when the tokens come from the policy. As *loss terms* they differ, since only the
estimator, not the sampling, is differentiated (arXiv 2506.09477). With d = log p - log p_ref:

    k1 = d                    gradient  grad log p            expectation 0: no pull at all
    k2 = d^2 / 2              gradient  d grad log p          that of KL(policy || reference)
    k3 = exp(-d) - 1 + d      gradient  (1 - exp(-d)) grad log p   that of KL(reference || policy)

k1 in the loss is offered because other libraries have it; it adds noise and regularises nothing.
"""

import torch
from torch import Tensor

from mgsrl.config.algo import KL_ESTIMATORS

LOG_RATIO_LIMIT = 20.0
"""Log-ratios are clamped to +-20 before `exp`, so that one odd token cannot overflow float32."""
K3_LIMIT = 10.0
"""k3 is clamped to [0, 10] as in the published recipe's trainer: a token that drifted further
(the policy about 11 times less likely than the reference) no longer pulls."""


def kl_estimate(logprobs: Tensor, ref_logprobs: Tensor, kind: str) -> Tensor:
    """Per-token KL estimate in nats, same shape as the inputs, differentiable in `logprobs`.

    Args:
        logprobs: log-probabilities of the sampled tokens under the policy.
        ref_logprobs: the same tokens under the frozen reference.
        kind: `k1` | `k2` | `k3`.

    Raises:
        ValueError: unknown `kind`.
    """
    log_ratio = logprobs - ref_logprobs
    if kind == "k1":
        return log_ratio
    if kind == "k2":
        return 0.5 * log_ratio.square()
    if kind == "k3":
        minus = torch.clamp(-log_ratio, -LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
        # expm1 keeps k3 ~ d^2/2 accurate where exp(d) - 1 - d would cancel to noise.
        return torch.clamp(torch.expm1(minus) - minus, 0.0, K3_LIMIT)
    raise ValueError(f"kind should be one of {', '.join(KL_ESTIMATORS)}, found {kind!r}")
