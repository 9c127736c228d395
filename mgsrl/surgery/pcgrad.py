"""`pcgrad`: projecting conflicting gradients (arXiv 2001.06782), in Gramian space.

Textbook form, inside one module: `p_d = g_d`; for the other domains `e` in a given order, where
`<p_d, g_e> < 0` subtract `(<p_d, g_e> / <g_e, g_e>) g_e`, always the *original* `g_e`. Every
`p_d` stays a combination `sum_e C[d, e] g_e`, and `<p_d, g_e> = sum_f C[d, f] G[f, e]`: the
gradients themselves are never needed, and all modules and domains advance together.
"""

import torch
from torch import Tensor


def pcgrad(gram_MDD: Tensor, orders_MDE: Tensor, may_project_MDD: Tensor | None = None) -> Tensor:
    """Coefficients of the projected gradients, `p[m, d] = sum_e C[m, d, e] g[m, e]`.

    Args:
        gram_MDD: float64 [M, D, D] inner products of the domains' gradients per module.
        orders_MDE: int64 [M, D, D - 1], for each module and domain the other domains in the
            order of projection.
        may_project_MDD: bool [M, D, D], the pairs that may be projected; all without it.

    Returns:
        float64 [M, D, D]. A domain with zero gradient in a module is projected on by nobody;
        inner products of exactly zero are no conflict.
    """
    num_modules, num_domains, _ = gram_MDD.shape
    norms_MD = gram_MDD.diagonal(dim1=-2, dim2=-1)
    coefficients_MDD = torch.eye(num_domains, dtype=gram_MDD.dtype).repeat(num_modules, 1, 1)
    for position in range(num_domains - 1):
        other_MD = orders_MDE[:, :, position]
        inner_MD = (coefficients_MDD @ gram_MDD).gather(-1, other_MD.unsqueeze(-1)).squeeze(-1)
        norm_MD = norms_MD.gather(-1, other_MD)
        conflict_MD = (inner_MD < 0) & (norm_MD > 0)
        if may_project_MDD is not None:
            conflict_MD &= may_project_MDD.gather(-1, other_MD.unsqueeze(-1)).squeeze(-1)
        step_MD = torch.where(conflict_MD, inner_MD / norm_MD.where(conflict_MD, 1.0), 0.0)
        coefficients_MDD.scatter_add_(-1, other_MD.unsqueeze(-1), -step_MD.unsqueeze(-1))
    return coefficients_MDD
