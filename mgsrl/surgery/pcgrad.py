"""`pcgrad`: projecting conflicting gradients (arXiv 2001.06782), in Gramian space.

Textbook form, inside one module: `p_d = g_d`; for the other domains `e` in a given order, where
`<p_d, g_e> < 0` subtract `(<p_d, g_e> / <g_e, g_e>) g_e`, always the *original* `g_e`. Every
`p_d` stays a combination `g_d - sum_e step[d, e] g_e`, and `<p_d, g_e> = G[d, e] - sum over the
earlier f of step[d, f] G[f, e]`: the gradients themselves are never needed, and all modules and
domains advance together.
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
    # By infinity: a step of zero.
    divisors_MD = norms_MD.where(norms_MD > 0, torch.inf)
    # Places in the flat Gramians. Half of int64's traffic: these loops wait for memory.
    others_EMD = orders_MDE.movedim(-1, 0).to(torch.int32, memory_format=torch.contiguous_format)
    start_M1 = num_domains**2 * torch.arange(num_modules, dtype=torch.int32).unsqueeze(-1)
    own_MD = start_M1 + num_domains * torch.arange(num_domains, dtype=torch.int32)
    rows_EMD = start_M1 + num_domains * others_EMD
    steps_EMD = gram_MDD.new_empty(others_EMD.shape)
    for position, other_MD in enumerate(others_EMD):
        inner_MD = _at(gram_MDD, own_MD + other_MD)
        if position:
            earlier = slice(position)
            products = _at(gram_MDD, rows_EMD[earlier] + other_MD).mul_(steps_EMD[earlier])
            inner_MD -= products.sum(0)
        index_MD1 = orders_MDE[..., position, None]
        if may_project_MDD is not None:
            inner_MD *= may_project_MDD.gather(-1, index_MD1).squeeze(-1)
        divisor_MD = divisors_MD.gather(-1, index_MD1.squeeze(-1))
        torch.div(inner_MD.clamp_(max=0), divisor_MD, out=steps_EMD[position])
    coefficients_MDD = torch.eye(num_domains, dtype=gram_MDD.dtype).repeat(num_modules, 1, 1)
    return coefficients_MDD.scatter_(-1, orders_MDE, steps_EMD.movedim(0, -1).neg())


def _at(values: Tensor, places: Tensor) -> Tensor:
    """The elements at these places of the flattened values, in the shape of `places`."""
    return values.reshape(-1).index_select(0, places.reshape(-1)).reshape(places.shape)
