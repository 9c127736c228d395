"""What the surgery saw and did in one update, computed from the Gramian alone."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mgsrl.surgery.modules import module_place
from mgsrl.types import SurgeryReport


def surgery_report(
    domains: Sequence[str],
    modules: Sequence[str],
    gram_MDD: Tensor,
    weights_MD: Tensor,
    coefficients_MDD: Tensor | None = None,
) -> SurgeryReport:
    """The record of one update.

    Args:
        domains: names, in the order of the tensors' dimension D.
        modules: names, in the order of their dimension M.
        gram_MDD: [M, D, D] inner products (already summed over ranks).
        weights_MD: [M, D] from `surgery_weights`.
        coefficients_MDD: [M, D, D] from `surgery_coefficients`. Without them, and where they only
            weigh the gradients (a weight below 1 takes nothing away in favour of another domain),
            there is no `surgery/projected_share/<d>`.

    The scalars, over the whole model unless said otherwise:
        `surgery/conflict_rate`: share of (module, pair of domains) with a negative inner product;
            neither this nor the next for a single domain.
        `surgery/conflict_rate/<kind>`: the same over the modules of one kind (`module_place`).
        `surgery/cosine/<a>-<b>`: cosine of the two domains' gradients; 0 when one is zero.
        `surgery/projected_share/<d>`: `1 - |p_d|^2 / |g_d|^2`, the share of the squared norm of
            domain d's gradient that projections took away (0 for a zero gradient).
        `grad_norm/<d>`: norm of the domain's gradient.
        `surgery/effective_dimension`: of the whole model's Gramian.

    Raises:
        ValueError: shapes that do not fit the names.
    """
    _check_shapes(len(modules), len(domains), gram_MDD, weights_MD, coefficients_MDD)
    gram_MDD = gram_MDD.detach().to(device="cpu", dtype=torch.float64)
    weights_MD = weights_MD.detach().to(device="cpu", dtype=torch.float64)
    total_DD = gram_MDD.sum(0)
    norms_D = total_DD.diagonal().clamp(min=0).sqrt()
    cosine_DD = cosines(total_DD)
    pairs = [(a, b) for a in range(len(domains)) for b in range(a + 1, len(domains))]
    kinds = tuple(module_place(module)[0] for module in modules)
    by_kind = _by_kind(gram_MDD, kinds)
    scalars = _conflict_rates(gram_MDD, by_kind) if pairs else {}
    for a, b in pairs:
        scalars[f"surgery/cosine/{domains[a]}-{domains[b]}"] = cosine_DD[a, b].item()
    projected_MD = None
    if coefficients_MDD is not None and not _only_weigh(coefficients_MDD):
        projected_MD, shares = _projected(gram_MDD, coefficients_MDD)
        scalars |= {f"surgery/projected_share/{d}": share for d, share in zip(domains, shares)}
    scalars |= {f"grad_norm/{d}": norm for d, norm in zip(domains, norms_D.tolist())}
    scalars["surgery/effective_dimension"] = effective_dimension(total_DD).item()
    return SurgeryReport(
        tuple(domains),
        tuple(modules),
        gram_MDD,
        weights_MD,
        scalars,
        kinds,
        {kind: effective_dimension(g_MDD.sum(0)).item() for kind, g_MDD in by_kind.items()},
        projected_MD,
    )


def _by_kind(gram_MDD: Tensor, kinds: Sequence[str]) -> dict[str, Tensor]:
    """The Gramians of each kind's modules."""
    own = {kind: [m for m, other in enumerate(kinds) if other == kind] for kind in set(kinds)}
    return {kind: gram_MDD[own[kind]] for kind in dict.fromkeys(kinds)}


def _only_weigh(coefficients_MDD: Tensor) -> bool:
    own_MD = coefficients_MDD.diagonal(dim1=-2, dim2=-1)
    return torch.equal(coefficients_MDD, torch.diag_embed(own_MD)) and not bool((own_MD == 1).all())


def _projected(gram_MDD: Tensor, coefficients_MDD: Tensor) -> tuple[Tensor, list[float]]:
    """(`projected_MD`, each domain's share over all modules)."""
    kept_MD = kept_norms(gram_MDD, coefficients_MDD)
    norms_MD = gram_MDD.diagonal(dim1=-2, dim2=-1)
    shares: list[float] = removed_share(kept_MD.sum(0), norms_MD.sum(0)).tolist()
    return removed_share(kept_MD, norms_MD), shares


def _check_shapes(num_modules: int, num_domains: int, *tensors: Tensor | None) -> None:
    shape = (num_modules, num_domains, num_domains)
    names = ("gram_MDD", "weights_MD", "coefficients_MDD")
    for name, tensor, expected in zip(names, tensors, (shape, shape[:2], shape)):
        if tensor is not None and tuple(tensor.shape) != expected:
            raise ValueError(f"{name} should be {list(expected)}, found {list(tensor.shape)}")


def cosines(gram: Tensor) -> Tensor:
    """Cosines [..., D, D] from Gramians [..., D, D]; 0 where a gradient is zero."""
    norms = gram.diagonal(dim1=-2, dim2=-1).clamp(min=0).sqrt()
    scale = norms.unsqueeze(-1) * norms.unsqueeze(-2)
    return torch.where(scale > 0, gram / scale.where(scale > 0, 1.0), 0.0).clamp(-1.0, 1.0)


def effective_dimension(gram: Tensor) -> Tensor:
    """[...] the participation ratio of Gramians [..., D, D]: `(tr G)^2 / tr(G^2)`.

    In how many directions the domains' gradients go: with the eigenvalues l it is
    `(sum l)^2 / sum l^2`, D for orthogonal gradients of equal norm, 1 when all are parallel or one
    outweighs the rest; 0 without a gradient.
    """
    gram = gram.double()
    trace = gram.diagonal(dim1=-2, dim2=-1).sum(-1)
    square = (gram * gram).sum((-2, -1))
    return torch.where(square > 0, trace**2 / square.where(square > 0, 1.0), 0.0)


def _conflict_rates(gram_MDD: Tensor, by_kind: Mapping[str, Tensor]) -> dict[str, float]:
    own = {f"surgery/conflict_rate/{kind}": conflict_rate(g < 0) for kind, g in by_kind.items()}
    return {"surgery/conflict_rate": conflict_rate(gram_MDD < 0), **own}


def conflict_rate(conflict_MDD: Tensor) -> float:
    """Share of (module, unordered pair of domains) that a bool [M, D, D] marks as in conflict; D is
    2 or more."""
    num_domains = conflict_MDD.shape[-1]
    above_DD = torch.ones(num_domains, num_domains, dtype=torch.bool).triu(diagonal=1)
    return conflict_MDD[:, above_DD].double().mean().item()


def kept_norms(gram_MDD: Tensor, coefficients_MDD: Tensor) -> Tensor:
    """[M, D] squared norms of the projected gradients, `|p_d|^2`."""
    coefficients_MDD = coefficients_MDD.to(gram_MDD)
    return ((coefficients_MDD @ gram_MDD) * coefficients_MDD).sum(-1)


def removed_share(kept: Tensor, norms: Tensor) -> Tensor:
    """`1 - kept / norms` of squared norms, inside [0, 1]; 0 where the gradient is zero."""
    share = 1.0 - kept / norms.where(norms > 0, 1.0)
    return torch.where(norms > 0, share, 0.0).clamp(0.0, 1.0)
