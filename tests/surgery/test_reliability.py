"""Reliability and gate on synthetic gradients whose true conflict and noise are known."""

import math
import statistics

import pytest
import torch

from mgsrl.surgery import (
    gramian,
    measure_reliability,
    reliability_scalars,
    surgery_coefficients,
    whole_gramian,
)
from mgsrl.surgery.reliability import t_quantile

KIND = 24  # modules of one kind
DIMENSIONS = 64


def half_gradients(
    signal_to_noise: float,
    cosine: float,
    sizes: tuple[int, int] = (4, 4),
    num_modules: int = KIND,
    seed: int = 0,
    dimensions: int = DIMENSIONS,
) -> torch.Tensor:
    """[M, 4, n]: first halves of two domains, then second ones.

    Prompts are independent, with unit noise per domain in all: |mu|^2 = `signal_to_noise`.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    first = torch.nn.functional.normalize(normal(num_modules, dimensions), dim=-1)
    other = normal(num_modules, dimensions)
    other -= (other * first).sum(-1, keepdim=True) * first
    other = torch.nn.functional.normalize(other, dim=-1)
    directions = (first, cosine * first + math.sqrt(1 - cosine**2) * other)
    prompts = sum(sizes)
    halves = []
    for size in sizes:
        for direction in directions:
            mean = math.sqrt(signal_to_noise) * direction * size / prompts
            noise = normal(num_modules, size, dimensions).sum(1)
            halves.append(mean + noise / math.sqrt(prompts * dimensions))
    return torch.stack(halves, 1)


def measured(gradients_MRn: torch.Tensor, sizes: tuple[int, int] = (4, 4), level: float = 0.05):
    gram_MRR = gradients_MRn @ gradients_MRn.transpose(1, 2)
    return measure_reliability(gram_MRR, [sizes] * 2, ["mlp"] * len(gradients_MRn), level)


def projected_rate(signal_to_noise: float, cosine: float, **options: int) -> float:
    """Share of modules in which the two domains are projected on each other."""
    shares = [
        measured(half_gradients(signal_to_noise, cosine, seed=seed, **options))
        .conflict_MDD[:, 0, 1]
        .double()
        .mean()
        .item()
        for seed in range(40)
    ]
    return statistics.fmean(shares)


def test_halves_add_up_to_the_whole() -> None:
    halves_MRn = half_gradients(1.0, -0.5)
    whole_MDn = halves_MRn[:, :2] + halves_MRn[:, 2:]
    torch.testing.assert_close(
        whole_gramian(halves_MRn @ halves_MRn.transpose(1, 2)),
        whole_MDn @ whole_MDn.transpose(1, 2),
    )


def test_order_of_rows_is_first_halves_then_second() -> None:
    rows = torch.tensor([[1.0, 0, 0, 0], [0, 2.0, 0, 0], [0, 0, 3.0, 0], [0, 0, 0, 4.0]])
    gram_MRR = gramian([(0, rows)], 1)
    assert whole_gramian(gram_MRR).tolist() == [[[10.0, 0.0], [0.0, 20.0]]]


def test_equal_halves_give_spearman_browns_formula() -> None:
    halves = half_gradients(2.0, 0.0)
    a, b = halves[:, 0], halves[:, 2]
    half = 2 * (a * b).sum(-1) / ((a * a).sum(-1) + (b * b).sum(-1))
    torch.testing.assert_close(measured(halves).reliability_MD[:, 0], 2 * half / (1 + half))


@pytest.mark.parametrize("sizes", [(4, 4), (1, 3), (5, 2)])
def test_signal_and_noise_are_estimated_without_bias(sizes: tuple[int, int]) -> None:
    """E<a, b> n^2 / (n_a n_b) = |mu|^2, and V has the variance of <g_d, g_e> as its mean."""
    signal_to_noise, cosine = 1.5, -0.4
    halves = half_gradients(signal_to_noise, cosine, sizes, num_modules=20_000, dimensions=16)
    found = measured(halves, sizes)
    whole = halves[:, :2] + halves[:, 2:]
    norms = (whole * whole).sum(-1)
    assert (found.reliability_MD * norms).mean() == pytest.approx(signal_to_noise, rel=0.02)
    inner = (whole[:, 0] * whole[:, 1]).sum(-1)
    expected = (2 * signal_to_noise + 1) / 16  # mu_d' S mu_d + mu_e' S mu_e + tr(S S), S = I / n
    assert inner.var() == pytest.approx(expected, rel=0.05)
    sizes_MD = norms.sqrt().prod(1)
    # z is x over the pooled standard error of x / (|g_d| |g_e|).
    pooled = (inner / sizes_MD / found.z_MDD[:, 0, 1]) ** 2
    assert pooled.std() < 1e-9
    assert pooled.mean() == pytest.approx((inner / sizes_MD).var().item(), rel=0.15)


def test_corrected_cosine_finds_the_true_one() -> None:
    """The raw cosine is pulled to zero by noise; the corrected one of the whole model is not."""
    halves = half_gradients(0.5, -0.6, num_modules=2000)
    found = measured(halves)
    whole = halves[:, :2] + halves[:, 2:]
    total = (whole[:, 0] * whole[:, 1]).sum() / whole.square().sum((0, 2)).prod().sqrt()
    assert total > -0.3
    assert found.total_corrected_cosine_DD[0, 1] == pytest.approx(-0.6, abs=0.05)
    assert found.total_reliability_D.tolist() == pytest.approx([1 / 3, 1 / 3], abs=0.03)


@pytest.mark.parametrize("signal_to_noise", [0.0, 0.1, 1.0, 10.0])
@pytest.mark.parametrize("num_modules", [1, 4, KIND])
def test_false_projections_stay_near_the_level(signal_to_noise: float, num_modules: int) -> None:
    """Orthogonal true gradients: the ungated method projects every second time."""
    rate = projected_rate(signal_to_noise, 0.0, num_modules=num_modules)
    assert rate < 0.05 + 3 * math.sqrt(0.05 * 0.95 / (40 * num_modules))


def test_missed_projections_fall_with_the_signal() -> None:
    found = [projected_rate(snr, -0.7) for snr in (0.0, 0.3, 1.0, 3.0, 10.0)]
    assert found == sorted(found)
    assert found[0] < 0.05
    assert found[2] > 0.8
    assert found[4] > 0.99


def test_domains_that_agree_are_never_in_conflict() -> None:
    assert projected_rate(3.0, 0.5) == 0.0


def test_a_higher_level_finds_more() -> None:
    halves = half_gradients(0.5, -0.5)
    counts = [measured(halves, level=level).conflict_MDD.sum().item() for level in (0.01, 0.1, 0.4)]
    assert counts == sorted(counts)
    assert counts[0] < counts[-1]


def test_gate_projects_only_what_stands_out() -> None:
    halves = half_gradients(1.0, -0.5)
    found = measured(halves)
    gram_MDD = whole_gramian(halves @ halves.transpose(1, 2))
    gated = surgery_coefficients(gram_MDD, may_project_MDD=found.conflict_MDD)
    free = surgery_coefficients(gram_MDD)
    stands_out = found.conflict_MDD[:, 0, 1]
    assert 0 < stands_out.sum() < KIND
    assert torch.equal(gated[stands_out], free[stands_out])
    eye = torch.eye(2, dtype=torch.float64)
    assert torch.equal(gated[~stands_out], eye.expand(int((~stands_out).sum()), 2, 2))


def test_conflicts_are_symmetric_and_never_with_oneself() -> None:
    conflict = measured(half_gradients(3.0, -0.7)).conflict_MDD
    assert conflict.any()
    assert torch.equal(conflict, conflict.transpose(1, 2))
    assert not conflict.diagonal(dim1=1, dim2=2).any()


def test_a_domain_with_an_empty_half_is_unknown() -> None:
    halves = half_gradients(3.0, -0.9)
    halves[:, 3] = 0
    gram_MRR = halves @ halves.transpose(1, 2)
    found = measure_reliability(gram_MRR, [(4, 4), (1, 0)], ["mlp"] * KIND)
    assert torch.isfinite(found.reliability_MD[:, 0]).all()
    assert found.reliability_MD[:, 1].isnan().all()
    assert not found.conflict_MDD.any()
    scalars = reliability_scalars(["math", "chat"], found)
    assert math.isfinite(scalars["surgery/reliability/math"])
    assert math.isnan(scalars["surgery/corrected_cosine/math-chat"])
    assert scalars["surgery/reliable_conflict_rate"] == 0.0


def test_zero_gradients_are_unknown_and_spoil_no_other_module() -> None:
    halves = half_gradients(3.0, -0.7)
    whole = measured(halves[1:])
    halves[0] = 0
    found = measured(halves)
    assert found.reliability_MD[0].isnan().all()
    assert not found.conflict_MDD[0].any()
    torch.testing.assert_close(found.z_MDD[1:], whole.z_MDD)


def test_kinds_are_pooled_apart() -> None:
    quiet, loud = half_gradients(100.0, -0.5), half_gradients(0.1, -0.5)
    halves = torch.cat([quiet, loud])
    gram_MRR = halves @ halves.transpose(1, 2)
    kinds = ["attention"] * KIND + ["mlp"] * KIND
    found = measure_reliability(gram_MRR, [(4, 4)] * 2, kinds)
    torch.testing.assert_close(found.z_MDD[:KIND], measured(quiet).z_MDD)
    torch.testing.assert_close(found.z_MDD[KIND:], measured(loud).z_MDD)


def test_shapes_are_checked() -> None:
    with pytest.raises(ValueError, match="should be"):
        measure_reliability(torch.zeros(2, 4, 4), [(1, 1)], ["mlp", "mlp"])


@pytest.mark.parametrize(
    ("degrees", "exact"), [(2, 2.9200), (6, 1.9432), (12, 1.7823), (60, 1.6706), (10_000, 1.6450)]
)
def test_t_quantile(degrees: int, exact: float) -> None:
    assert t_quantile(0.95, degrees) == pytest.approx(exact, rel=0.06 if degrees == 2 else 0.005)
