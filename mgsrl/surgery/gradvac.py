"""`gradvac`: Gradient Vaccine (arXiv 2010.05874), in Gramian space.

PCGrad asks of two gradients not to point against each other; GradVac asks of them to be as similar
as they usually are. Algorithm 1, inside one module: `p_d = g_d`; for the other domains `e` in a
given order, with `phi = cos(p_d, g_e)` and the target `phi^` of the pair, where `phi < phi^`

    p_d += |p_d| (phi^ sqrt(1 - phi^2) - phi sqrt(1 - phi^^2)) / (|g_e| sqrt(1 - phi^^2)) g_e

after which `cos(p_d, g_e) = phi^` (the law of sines), and in any case

    phi^ <- (1 - beta) phi^ + beta phi

from 0 on, where the step is PCGrad's. Every `p_d` stays a combination `sum_f C[d, f] g_f`, so

    <p_d, g_e> = sum_f C[d, f] G[f, e]        |p_d|^2 = sum_ef C[d, e] G[e, f] C[d, f]

and the Gramian is all that is needed. `phi` is of the gradient that the earlier domains of the
order have altered, as in the paper; so `phi^[d, e]` and `phi^[e, d]` may differ. Under
`surgery.order=all` weights and targets are means over the orders.
"""

import torch
from torch import Tensor

from mgsrl.config.surgery import GradVacConfig
from mgsrl.surgery.memory import PairMemory

HIGHEST = 1 - 1e-6
"""Of |phi^|: the step towards a target of 1 is infinite."""
EMPTIED = 1e-12
"""Share of a gradient's squared norm below which what projections left of it is rounding, and has
no cosine."""


def gradvac(
    gram_MDD: Tensor,
    orders_MDE: Tensor,
    memory: PairMemory,
    settings: GradVacConfig,
    may_project_MDD: Tensor | None = None,
) -> tuple[Tensor, PairMemory]:
    """Coefficients of the vaccinated gradients, `p[m, d] = sum_e C[m, d, e] g[m, e]`, and targets.

    Args:
        gram_MDD: float64 [M, D, D] inner products of the domains' gradients per module.
        orders_MDE: int64 [M, D, D - 1], for each module and domain the other domains in order.
        memory: `target`, `phi^[d, e]`.
        settings: `beta`.
        may_project_MDD: bool [M, D, D], the pairs that may be altered; all without it. The targets
            of the others go on, too.

    Returns:
        float64 [M, D, D], and the memory after this update. A pair of which one gradient is zero in
        a module alters nothing there, and keeps its target.
    """
    num_modules, num_domains, _ = gram_MDD.shape
    target_MDD = memory.get("target", torch.zeros_like(gram_MDD)).clone()
    norms_MD = gram_MDD.diagonal(dim1=-2, dim2=-1).clamp(min=0).sqrt()
    coefficients_MDD = torch.eye(num_domains, dtype=gram_MDD.dtype).repeat(num_modules, 1, 1)
    for other_MD1 in orders_MDE.split(1, dim=-1):
        inner_MDD = coefficients_MDD @ gram_MDD
        square_MD = (inner_MDD * coefficients_MDD).sum(-1)
        square_MD = square_MD.where(square_MD > EMPTIED * norms_MD**2, 0.0)
        own_MD, their_MD = square_MD.sqrt(), norms_MD.gather(-1, other_MD1.squeeze(-1))
        size_MD = own_MD * their_MD
        has_MD = size_MD > 0
        inner_MD = inner_MDD.gather(-1, other_MD1).squeeze(-1)
        cosine_MD = (inner_MD / size_MD.where(has_MD, 1.0)).clamp(-1.0, 1.0)
        target_MD = target_MDD.gather(-1, other_MD1).squeeze(-1)
        alters_MD = has_MD & (cosine_MD < target_MD)
        if may_project_MDD is not None:
            alters_MD &= may_project_MDD.gather(-1, other_MD1).squeeze(-1)
        step_MD = own_MD * _slope(cosine_MD, target_MD) / their_MD.where(has_MD, 1.0)
        step_MD = step_MD.where(alters_MD, 0.0)
        coefficients_MDD.scatter_(-1, other_MD1, step_MD.unsqueeze(-1))
        moved_MD = (1 - settings.beta) * target_MD + settings.beta * cosine_MD
        target_MDD.scatter_(-1, other_MD1, moved_MD.where(has_MD, target_MD).unsqueeze(-1))
    return coefficients_MDD, {"target": target_MDD}


def _slope(cosine: Tensor, target: Tensor) -> Tensor:
    """What of `g_e / |g_e|` brings a vector of length 1 from one cosine to another, higher one."""
    target = target.clamp(-HIGHEST, HIGHEST)
    width = (1 - target**2).sqrt()
    return (target * (1 - cosine**2).sqrt() - cosine * width) / width
