"""Is a conflict real, or noise? Split-half reliability of the domains' gradients, per module.

Every domain's prompts are dealt into two halves; `a` and `b` are the gradients of the halves, the
domain's gradient is `g = a + b` with mean `mu` and covariance `Sigma` over draws of the prompts.
With `n_a` and `n_b` prompts the contrast

    delta = sqrt(n_b / n_a) a - sqrt(n_a / n_b) b

has mean zero and covariance `Sigma`: a draw of the noise of `g` alone. From the Gramian of the 2 D
half-batch gradients follow, whatever the noise's distribution:

    signal       <a, b> n^2 / (n_a n_b) has mean |mu|^2; over |g|^2 it is the reliability
                 (Spearman-Brown's formula when the halves are equal)
    cosine       <g_d, g_e> / sqrt(signal_d signal_e): corrected for attenuation (Spearman 1904)
    variance     V = <g_d, delta_e>^2 + <delta_d, g_e>^2 - <delta_d, delta_e>^2 has as mean the
                 variance of <g_d, g_e>, because different domains' prompts are independent

One module's V has few degrees of freedom. Relative to `|g_d|^2 |g_e|^2` it is averaged over all
modules of a kind (all attention blocks, ...), and is never taken smaller than the average of
`<delta_d, delta_e>^2`, the part that is there without any signal. A conflict stands out when

    z = <g_d, g_e> / sqrt(V) < -t(1 - level; 2 K degrees of freedom, K modules of the kind)

so at most about `level` of the pairs without a true conflict are projected (1/2 without the gate).
`docs/surgery.md` has the derivation, `tests/surgery/test_reliability.py` the rates measured.
Left out: more than two parts, averages over steps (each step stands for itself, so resuming is
exact).
"""

import math
from collections.abc import Sequence
from statistics import NormalDist

import torch
from torch import Tensor

from mgsrl.surgery.report import conflict_rate
from mgsrl.types import Reliability


def whole_gramian(gram_MRR: Tensor) -> Tensor:
    """[M, D, D] of the domains from [M, 2 D, 2 D] of their halves (all first, then all second)."""
    num_domains = gram_MRR.shape[-1] // 2
    gram_MDD = gram_MRR.unflatten(2, (2, num_domains)).unflatten(1, (2, num_domains)).sum((1, 3))
    gram_MDD.diagonal(dim1=1, dim2=2).clamp_(min=0)  # halves that cancel: below 0 by rounding
    return gram_MDD


def measure_reliability(
    gram_MRR: Tensor,
    half_sizes: Sequence[tuple[int, int]],
    kinds: Sequence[str],
    level: float = 0.05,
) -> Reliability:
    """What the halves say about every domain and pair of domains.

    Args:
        gram_MRR: [M, 2 D, 2 D] inner products of the half-batch gradients; rows 0..D-1 are the
            first halves, D..2 D-1 the second ones.
        half_sizes: prompts in the first and second half, by domain.
        kinds: [M] the kind of every module; the noise is averaged over a kind.
        level: accepted share of false conflicts.

    Returns:
        All NaN, and no conflict, for a domain with an empty half: its noise is unknown.

    Raises:
        ValueError: shapes that do not fit.
    """
    num_domains, rows = len(half_sizes), 2 * len(half_sizes)
    if list(gram_MRR.shape) != [len(kinds), rows, rows]:
        raise ValueError(
            f"gram_MRR should be [{len(kinds)}, {rows}, {rows}] for {len(kinds)} kinds and "
            f"{num_domains} domains, found {list(gram_MRR.shape)}"
        )
    gram_MRR = gram_MRR.detach().to("cpu", torch.float64)
    change_RR, scale_D = _contrasts(half_sizes)
    both_MRR = change_RR @ gram_MRR @ change_RR.T  # of g (first D) and delta (last D)
    g, delta = slice(0, num_domains), slice(num_domains, rows)
    gram_MDD = both_MRR[:, g, g]
    norm_MD = gram_MDD.diagonal(dim1=1, dim2=2)
    signal_MD = scale_D * gram_MRR[:, g, delta].diagonal(dim1=1, dim2=2)
    size_MDD = (norm_MD.unsqueeze(2) * norm_MD.unsqueeze(1)).sqrt()
    relative = both_MRR / size_MDD.where(size_MDD > 0, math.nan).repeat(1, 2, 2)
    z_MDD, conflict_MDD = _stand_out(
        relative[:, g, g], relative[:, g, delta], relative[:, delta, delta], kinds, level
    )
    return Reliability(
        reliability_MD=signal_MD / norm_MD.where(norm_MD > 0, math.nan),
        corrected_cosine_MDD=_corrected(gram_MDD, signal_MD),
        z_MDD=z_MDD,
        conflict_MDD=conflict_MDD,
        total_reliability_D=signal_MD.sum(0) / norm_MD.sum(0),
        total_corrected_cosine_DD=_corrected(gram_MDD.sum(0), signal_MD.sum(0)),
    )


def _stand_out(
    cosine_MDD: Tensor, mixed_MDD: Tensor, noise_MDD: Tensor, kinds: Sequence[str], level: float
) -> tuple[Tensor, Tensor]:
    """(z, whether the conflict stands out), each kind with its own standard error.

    The arguments are `<g, g>`, `<g, delta>` and `<delta, delta>` over `|g_d| |g_e|`.
    """
    noise_MDD = noise_MDD**2
    variance_MDD = mixed_MDD**2 + mixed_MDD.transpose(1, 2) ** 2 - noise_MDD
    z_MDD = torch.full_like(cosine_MDD, math.nan)
    conflict_MDD = torch.zeros_like(cosine_MDD, dtype=torch.bool)
    for kind in dict.fromkeys(kinds):
        members = torch.tensor([m for m, other in enumerate(kinds) if other == kind])
        pooled_DD = torch.maximum(
            variance_MDD[members].nanmean(0), noise_MDD[members].nanmean(0)
        ).clamp(min=torch.finfo(torch.float64).tiny)
        counts_DD = torch.isfinite(variance_MDD[members]).sum(0)
        limit_DD = torch.tensor(
            [[t_quantile(1 - level, 2 * max(n, 1)) for n in row] for row in counts_DD.tolist()]
        )
        z_MDD[members] = cosine_MDD[members] / pooled_DD.sqrt()
        conflict_MDD[members] = z_MDD[members] < -limit_DD
    conflict_MDD.diagonal(dim1=1, dim2=2).zero_()
    return z_MDD, conflict_MDD


def reliability_scalars(domains: Sequence[str], found: Reliability) -> dict[str, float]:
    """`surgery/reliability/<d>`, `surgery/corrected_cosine/<a>-<b>` (both over the whole model) and
    `surgery/reliable_conflict_rate`: the share of (module, pair) that stands out of the noise."""
    scalars = {
        f"surgery/reliability/{domain}": value
        for domain, value in zip(domains, found.total_reliability_D.tolist())
    }
    for a, first in enumerate(domains):
        for b in range(a + 1, len(domains)):
            value = found.total_corrected_cosine_DD[a, b].item()
            scalars[f"surgery/corrected_cosine/{first}-{domains[b]}"] = value
    if len(domains) > 1:
        scalars["surgery/reliable_conflict_rate"] = conflict_rate(found.conflict_MDD)
    return scalars


def t_quantile(p: float, degrees: int) -> float:
    """Student's t by the Cornish-Fisher expansion to second order (Abramowitz & Stegun 26.7.5);
    5 % low at two degrees of freedom and level 0.05, below 0.5 % from six on."""
    z = NormalDist().inv_cdf(p)
    first = (z**3 + z) / (4 * degrees)
    return z + first + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)


def _contrasts(half_sizes: Sequence[tuple[int, int]]) -> tuple[Tensor, Tensor]:
    """([2 D, 2 D] map from (a, b) to (g, delta), [D] factor from <a, b> to the signal)."""
    sizes_D2 = torch.tensor(half_sizes, dtype=torch.float64).reshape(-1, 2)
    first_D, second_D = sizes_D2.where((sizes_D2 > 0).all(1, keepdim=True), math.nan).T
    eye_DD = torch.eye(len(sizes_D2), dtype=torch.float64)
    ratio_D = (second_D / first_D).sqrt()
    # Zero times NaN is NaN: an unknown noise may spoil its own domain's row only.
    left_DD = torch.where(eye_DD > 0, ratio_D, 0.0)
    right_DD = torch.where(eye_DD > 0, -1 / ratio_D, 0.0)
    change_RR = torch.cat([torch.cat([eye_DD, eye_DD], 1), torch.cat([left_DD, right_DD], 1)])
    return change_RR, (first_D + second_D) ** 2 / (first_D * second_D)


def _corrected(gram: Tensor, signal: Tensor) -> Tensor:
    """Cosines [..., D, D] of the means; NaN where a domain shows no signal, 1 on the diagonal."""
    signal = signal.where(signal > 0, math.nan)
    cosine = gram / (signal.unsqueeze(-1) * signal.unsqueeze(-2)).sqrt()
    eye = torch.eye(signal.shape[-1], dtype=torch.bool)
    return torch.where(eye, torch.ones_like(cosine), cosine)
