"""Which methods see conflicts, and which see noise: the tables in docs/surgery.md.

    python scripts/conflict_noise.py

Two domains in 24 modules of one kind and 64 dimensions, 8 prompts a domain and step, for 60 steps.
The true gradients of a module stay, at a given cosine; every step has noise of its own, whose size
is told by the signal-to-noise ratio `|mu|^2 / tr(Sigma)`. The share is that of the modules in which
a method alters the pair's gradients, over the steps from the 21st on: with a true cosine of 0 these
are false projections, with a negative one what is missing to 100 % are missed ones. Behind it
stands by how much, the mean of `|p_d - g_d| / |g_d|`. The last rows have another run, of 120 steps:
how many a method takes to notice that the true cosine went from 0.5 to -0.5 (until it projects in
half of the modules, by the mean of 5 steps). `protect` guards the first domain.

`norm_balanced` projects nothing: the second table has how far its weights are off those of the
gradients without noise, the mean of `|w_d / w*_d - 1|`, where the true gradients are equally long
and where the second is three times as long; the noise is of the same size, and the ratio is that of
the first.

Left out: gradients that change from step to step, noise that is not normal, more domains.
"""

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from mgsrl.surgery import measure_reliability, surgery_decision, surgery_weights, whole_gramian
from mgsrl.surgery.protect import protecting_pairs

KIND, RUNS = 24, 4
DIMENSIONS, PROMPTS = 64, 8
STEPS, WARM_UP = 60, 20
METHODS = ("pcgrad", "protect", "gate=reliable", "pcgrad_smoothed", "gradvac")
LENGTHS = (1.0, 3.0)
RATIOS = (0.1, 0.3, 1.0, 3.0)
COSINES = (0.0, -0.1, -0.3, -0.7)
IN_CELL = KIND * RUNS
"""Modules of one cell of the table; all cells are computed at once, each run a kind of its own."""


def half_gradients(
    ratio_M: Tensor, cosine_M: Callable[[int], Tensor], steps: int, length: float = 1.0
) -> Iterator[Tensor]:
    """[M, 4, n] for each step: first halves of the two domains, then second ones. The second's true
    gradient is `length` times as long as the first's."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    first_MN = torch.nn.functional.normalize(normal(len(ratio_M), DIMENSIONS), dim=-1)
    other_MN = normal(len(ratio_M), DIMENSIONS)
    other_MN -= (other_MN * first_MN).sum(-1, keepdim=True) * first_MN
    other_MN = torch.nn.functional.normalize(other_MN, dim=-1)
    for step in range(steps):
        now_M1 = cosine_M(step).unsqueeze(-1)
        second_MN = length * (now_M1 * first_MN + (1 - now_M1**2).sqrt() * other_MN)
        mean_MDN = ratio_M.sqrt().view(-1, 1, 1) * torch.stack([first_MN, second_MN], 1)
        noise_MRN = normal(len(ratio_M), 4, DIMENSIONS) / math.sqrt(2 * DIMENSIONS)
        yield mean_MDN.repeat(1, 2, 1) / 2 + noise_MRN


def taken(method: str, halves: Iterator[Tensor]) -> Tensor:
    """[steps, M] `|p_d - g_d| / |g_d|`, the mean over the two domains; 0 where nothing is done."""
    found, memory = [], None
    for step, halves_MRN in enumerate(halves):
        gram_MRR = halves_MRN @ halves_MRN.mT
        gram_MDD, gate_MDD = whole_gramian(gram_MRR), None
        if method == "gate=reliable":
            kinds = [str(index // KIND) for index in range(len(gram_MRR))]
            sizes = [(PROMPTS // 2, PROMPTS // 2)] * 2
            gate_MDD = measure_reliability(gram_MRR, sizes, kinds).conflict_MDD
        if method == "protect":
            gate_MDD = protecting_pairs(("first", "second"), "first").expand(gram_MDD.shape)
        name = "pcgrad" if gate_MDD is not None else method
        decided = surgery_decision(gram_MDD, name, "random", step, gate_MDD, memory)
        memory = decided.memory
        norms_MD = gram_MDD.diagonal(dim1=1, dim2=2).sqrt()
        cross_MD = decided.coefficients_MDD.flip(-1).diagonal(dim1=1, dim2=2).abs()
        found.append((cross_MD * norms_MD.flip(-1) / norms_MD).mean(-1))
    return torch.stack(found)


def spread(values: Sequence[float]) -> Tensor:
    """[M] one value for each cell -> for each module of the cells."""
    return torch.tensor(values, dtype=torch.float64).repeat_interleave(IN_CELL)


def rates(method: str) -> tuple[Tensor, Tensor]:
    """([cosines, ratios] share of modules and steps that are altered, by how much)."""
    cells = [(ratio, cosine) for cosine in COSINES for ratio in RATIOS]
    ratio_M, cosine_M = (spread(values) for values in zip(*cells, strict=True))
    taken_SM = taken(method, half_gradients(ratio_M, lambda step: cosine_M, STEPS))[WARM_UP:]
    shape = (STEPS - WARM_UP, len(COSINES), len(RATIOS), IN_CELL)
    by_cell = taken_SM.view(shape)
    return (by_cell > 0).double().mean((0, 3)), by_cell.mean((0, 3))


def delays(method: str) -> list[int | None]:
    """For each ratio the steps until half of the modules are projected after the change."""
    ratio_M = spread(RATIOS)
    turned = half_gradients(
        ratio_M, lambda step: torch.full_like(ratio_M, 0.5 if step < STEPS else -0.5), 2 * STEPS
    )
    taken_SM = taken(method, turned)[STEPS:]
    shares_SR = (taken_SM > 0).double().view(STEPS, len(RATIOS), IN_CELL).mean(-1)
    late = (shares_SR.unfold(0, 5, 1).mean(-1) >= 0.5).T
    return [int(row.nonzero()[0]) + 1 if row.any() else None for row in late]


def weights_off(length: float) -> Tensor:
    """[ratios] how far the weights of `norm_balanced` are off those without noise."""
    ratio_M = spread(RATIOS)
    true_D = (1 + length) / 2 / torch.tensor([1.0, length], dtype=torch.float64)
    found = [
        surgery_weights(whole_gramian(halves_MRN @ halves_MRN.mT), "norm_balanced") / true_D - 1
        for halves_MRN in half_gradients(ratio_M, lambda _: 0 * ratio_M, STEPS, length)
    ]
    return torch.stack(found).abs().mean((0, 2)).view(len(RATIOS), IN_CELL).mean(-1)


def weights_table() -> list[str]:
    """The lines of the second table."""
    lines = ["| true lengths | " + " | ".join(f"{ratio:g}" for ratio in RATIOS) + " |"]
    lines.append("|---" * (len(RATIOS) + 1) + "|")
    for length in LENGTHS:
        cells = [f"{100 * off:.0f} %" for off in weights_off(length).tolist()]
        lines.append(f"| 1 to {length:g} | " + " | ".join(cells) + " |")
    return lines


def table() -> list[str]:
    """The lines of the first table."""
    lines = ["| true cosine | method | " + " | ".join(f"{ratio:g}" for ratio in RATIOS) + " |"]
    lines.append("|---" * (len(RATIOS) + 2) + "|")
    found = {method: rates(method) for method in METHODS}
    for row, cosine in enumerate(COSINES):
        for method, (shares, lengths) in found.items():
            pairs = zip(shares[row].tolist(), lengths[row].tolist(), strict=True)
            cells = [f"{100 * share:.0f} % ({length:.3f})" for share, length in pairs]
            lines.append(f"| {cosine:g} | `{method}` | " + " | ".join(cells) + " |")
    for method in METHODS:
        cells = ["never" if steps is None else str(steps) for steps in delays(method)]
        lines.append(f"| 0.5, then -0.5 | `{method}`: steps | " + " | ".join(cells) + " |")
    return lines


if __name__ == "__main__":
    print("\n".join([*table(), "", *weights_table()]))
