"""Surgery weights against golden values, torchjd and textbook PCGrad on explicit vectors."""

import json
import math
import time
from itertools import permutations, product
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mgsrl.errors import ConfigError
from mgsrl.surgery.pcgrad import pcgrad
from mgsrl.surgery.weights import (
    MATRICES_AT_ONCE,
    random_orders,
    surgery_coefficients,
    surgery_weights,
)
from tests.oracle import published_file


def textbook_pcgrad(gradients_DN: Tensor, order_DE: list[list[int]]) -> Tensor:
    """[D, N] projected gradients, written as in the paper: explicit vectors, plain loops."""
    projected = []
    for d, order in enumerate(order_DE):
        p = gradients_DN[d].clone()
        for e in order:
            g = gradients_DN[e]
            inner = torch.dot(p, g)
            if inner < 0 and torch.dot(g, g) > 0:
                p = p - inner / torch.dot(g, g) * g
        projected.append(p)
    return torch.stack(projected)


def gram(gradients: Tensor) -> Tensor:
    return gradients @ gradients.transpose(-1, -2)


def draw_gradients(seed: int, num_modules: int, num_domains: int, columns: int = 12) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    gradients = torch.randn(
        num_modules, num_domains, columns, generator=generator, dtype=torch.float64
    )
    scale = torch.rand(num_modules, num_domains, 1, generator=generator, dtype=torch.float64)
    return gradients * 10.0 ** (4 * scale - 2)


# ---------------------------------------------------------------- textbook


@given(seed=st.integers(0, 100_000), num_domains=st.integers(1, 6), num_modules=st.integers(1, 4))
@settings(max_examples=80, deadline=None)
def test_equals_textbook_pcgrad_on_explicit_vectors(
    seed: int, num_domains: int, num_modules: int
) -> None:
    gradients = draw_gradients(seed, num_modules, num_domains)
    orders = random_orders(num_modules, num_domains, torch.Generator().manual_seed(seed))
    coefficients = surgery_coefficients(gram(gradients), "pcgrad", orders)
    weights = surgery_weights(gram(gradients), "pcgrad", orders)
    for m in range(num_modules):
        expected = textbook_pcgrad(gradients[m], orders[m].tolist())
        scale = gradients[m].norm()
        assert (coefficients[m] @ gradients[m] - expected).norm() < 1e-10 * scale
        assert (weights[m] @ gradients[m] - expected.sum(0)).norm() < 1e-10 * scale


@given(seed=st.integers(0, 10_000), num_domains=st.integers(2, 4))
@settings(max_examples=20, deadline=None)
def test_all_orders_is_the_mean_over_every_combination_of_orders(
    seed: int, num_domains: int
) -> None:
    gradients = draw_gradients(seed, 1, num_domains)
    choices = [
        list(permutations([e for e in range(num_domains) if e != d])) for d in range(num_domains)
    ]
    updates = [
        textbook_pcgrad(gradients[0], [list(order) for order in combination]).sum(0)
        for combination in product(*choices)
    ]
    ours = surgery_weights(gram(gradients), orders="all")[0] @ gradients[0]
    torch.testing.assert_close(ours, torch.stack(updates).mean(0), rtol=1e-9, atol=1e-9)


def test_all_orders_of_many_domains_is_sampled_close_to_the_exact_mean() -> None:
    gradients = draw_gradients(3, 2, 6)
    ours = surgery_weights(gram(gradients), orders="all", seed=1)
    others = [[e for e in range(6) if e != d] for d in range(6)]
    exact = torch.stack(
        [
            torch.stack(
                [
                    textbook_pcgrad(gradients[m], [[rest[i] for i in order] for rest in others])
                    for order in permutations(range(5))
                ]
            ).mean(0)
            for m in range(2)
        ]
    ).sum(1)
    update = (ours.unsqueeze(1) @ gradients).squeeze(1)
    assert ((update - exact).norm(dim=-1) < 0.05 * exact.norm(dim=-1)).all()
    assert torch.equal(ours, surgery_weights(gram(gradients), orders="all", seed=1))


# ---------------------------------------------------------------- other implementations


def golden_cases() -> list[Any]:
    cases = json.loads(published_file("oracle/pcgrad_numerics.json").read_text())["cases"]
    return [pytest.param(case, id=case["name"]) for case in cases]


@pytest.mark.parametrize("case", golden_cases())
@pytest.mark.parametrize("orders", ["random", "all"])
def test_equals_the_golden_outcomes(case: dict[str, Any], orders: str) -> None:
    def flat(value: Any, shape: list[int]) -> Tensor:
        if value is None:
            return torch.zeros(torch.Size(shape).numel(), dtype=torch.float64)
        return torch.tensor(value, dtype=torch.float64).reshape(-1)

    shapes = case["param_shapes"]
    rows = [
        [flat(value, shape) for value, shape in zip(case["grads"][task], shapes)]
        for task in case["tasks"]
    ]
    per_tensor = [
        torch.stack([row[index] for row in rows]) for index in range(len(shapes))
    ]  # fmt: skip
    updates = [surgery_weights(gram(g)[None], orders=orders)[0] @ g for g in per_tensor]
    assert any(
        all(
            torch.allclose(update, flat(value, shape), atol=1e-9)
            for update, value, shape in zip(updates, outcome["final"], shapes, strict=True)
        )
        for outcome in case["mgs_layerwise_distinct_outcomes"]
    )
    whole = torch.cat(per_tensor, dim=1)
    flattened = surgery_weights(gram(whole)[None], orders=orders)[0] @ whole
    assert any(
        torch.allclose(flattened, torch.tensor(outcome, dtype=torch.float64), atol=1e-9)
        for outcome in case["torchjd_flat_global_distinct_outcomes"]
    )
    plain = surgery_weights(gram(whole)[None], "none")[0] @ whole
    expected = torch.tensor(case["plain_sum"], dtype=torch.float64)
    torch.testing.assert_close(plain, expected, rtol=0, atol=1e-12)


@given(seed=st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_two_domains_equal_torchjd(seed: int) -> None:
    aggregation = pytest.importorskip("torchjd.aggregation")
    gradients = draw_gradients(seed, 1, 2)
    theirs = aggregation.PCGradWeighting()(gram(gradients)[0])
    ours = surgery_weights(gram(gradients))[0]
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


# ---------------------------------------------------------------- properties of pcgrad


@given(seed=st.integers(0, 10_000), num_domains=st.integers(1, 5))
@settings(max_examples=30, deadline=None)
def test_scaling_all_gradients_changes_no_weight(seed: int, num_domains: int) -> None:
    gradients = draw_gradients(seed, 2, num_domains)
    for scale in (1e-9, 1e9):
        torch.testing.assert_close(
            surgery_weights(gram(gradients * scale)), surgery_weights(gram(gradients))
        )


@pytest.mark.parametrize("num_domains", [2, 3, 8])
def test_identical_domains_are_summed_and_opposite_ones_cancel(num_domains: int) -> None:
    gradient = draw_gradients(7, 1, 1)
    identical = gradient.expand(1, num_domains, -1)
    assert (surgery_weights(gram(identical)) == 1).all()
    opposite = torch.cat([gradient, -gradient], dim=1)
    update = surgery_weights(gram(opposite))[0] @ opposite[0]
    assert update.norm() < 1e-12 * gradient.norm()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_non_finite_entries_are_refused_with_their_module(bad: float) -> None:
    gramian = gram(draw_gradients(0, 4, 3))
    gramian[2, 0, 1] = bad
    for method in ("pcgrad", "none"):
        with pytest.raises(ValueError, match=r"modules \[2\]"):
            surgery_weights(gramian, method)


# ---------------------------------------------------------------- orders


def test_random_orders_depend_on_the_seed_alone() -> None:
    gramian = gram(draw_gradients(0, 20, 5))
    first = surgery_weights(gramian, seed=7)
    torch.manual_seed(123)
    torch.rand(3)
    assert torch.equal(first, surgery_weights(gramian, seed=7))
    assert not torch.equal(first, surgery_weights(gramian, seed=8))


def test_random_orders_are_uniform_permutations_of_the_others() -> None:
    orders = random_orders(6000, 4, torch.Generator().manual_seed(0))
    for d in range(4):
        others = [e for e in range(4) if e != d]
        counts = dict.fromkeys(permutations(others), 0)
        for order in orders[:, d].tolist():
            counts[tuple(order)] += 1
        assert all(850 < count < 1150 for count in counts.values())


@pytest.mark.parametrize(
    "orders",
    [
        torch.zeros(2, 3, 2, dtype=torch.int64),
        torch.zeros(2, 3, 3, dtype=torch.int64),
        torch.tensor([[[1, 2], [0, 2], [0, 1]]]),
        torch.tensor([[[1, 2], [0, 2], [0, 1]]] * 2, dtype=torch.int32),
        torch.tensor([[[0, 1], [0, 2], [0, 1]]] * 2),
    ],
)
def test_orders_that_are_no_orders_are_refused(orders: Tensor) -> None:
    with pytest.raises(ValueError, match="orders"):
        surgery_weights(gram(draw_gradients(0, 2, 3)), orders=orders)


def test_unknown_method_and_order_name_the_nearest() -> None:
    gramian = gram(draw_gradients(0, 1, 2))
    with pytest.raises(ConfigError, match="did you mean 'pcgrad'"):
        surgery_weights(gramian, "pcgard")
    with pytest.raises(ConfigError, match="did you mean 'random'"):
        surgery_weights(gramian, orders="randon")


@pytest.mark.parametrize("shape", [(3, 3), (2, 3, 2), (2, 0, 0)])
def test_impossible_gramians_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="gram_MDD should have shape"):
        surgery_weights(torch.zeros(shape))


@pytest.mark.parametrize(("num_modules", "num_domains"), [(1, 1), (3, 2), (3, 8), (92, 5), (92, 8)])
def test_all_orders_are_batches_on_one_thread(num_modules: int, num_domains: int) -> None:
    batches = []

    def counted(gram_MDD: torch.Tensor, orders_MDE: torch.Tensor) -> torch.Tensor:
        batches.append((len(gram_MDD), torch.get_num_threads()))
        return pcgrad(gram_MDD, orders_MDE)

    gradients = draw_gradients(0, num_modules, num_domains)
    expected = surgery_weights(gram(gradients), orders="all")
    threads = torch.get_num_threads()
    assert torch.equal(surgery_weights(gram(gradients), counted, orders="all"), expected)
    orders = math.factorial(num_domains - 1) if num_domains <= 5 else 256
    assert sum(size for size, _ in batches) == orders * num_modules
    assert max(size for size, _ in batches) <= max(MATRICES_AT_ONCE, num_modules)
    assert len(batches) <= 2 + orders * num_modules * 1.1 / MATRICES_AT_ONCE
    assert {count for _, count in batches} == {1}
    assert torch.get_num_threads() == threads


def by_matrix_products(gram_MDD: Tensor, orders_MDE: Tensor) -> Tensor:
    """`pcgrad` with the inner products of every projected gradient as a whole product of matrices,
    one position of all orders after the other."""
    norms_MD = gram_MDD.diagonal(dim1=-2, dim2=-1)
    coefficients = torch.eye(gram_MDD.shape[1], dtype=gram_MDD.dtype).repeat(len(gram_MDD), 1, 1)
    for other_MD in orders_MDE.unbind(-1):
        inner_MD = (coefficients @ gram_MDD).gather(-1, other_MD.unsqueeze(-1)).squeeze(-1)
        norm_MD = norms_MD.gather(-1, other_MD)
        step_MD = torch.where((inner_MD < 0) & (norm_MD > 0), inner_MD / norm_MD, 0.0)
        coefficients.scatter_add_(-1, other_MD.unsqueeze(-1), -step_MD.unsqueeze(-1))
    return coefficients


def sampled_orders(num_modules: int, num_domains: int, seed: int) -> Tensor:
    """int64 [256, M, D, D - 1] of the generator that `orders="all"` uses above 5 domains."""
    generator = torch.Generator().manual_seed(seed)
    shape = (256, num_modules, num_domains, num_domains - 1)
    places = torch.rand(shape, generator=generator, dtype=torch.float64).argsort(dim=-1)
    return places + (places >= torch.arange(num_domains).unsqueeze(-1)).long()


def test_256_orders_of_eight_domains_and_300_modules_cost_little() -> None:
    gramian = gram(draw_gradients(1, 300, 8, columns=64))

    def plainly() -> Tensor:
        orders = sampled_orders(300, 8, seed=5)
        return sum(by_matrix_products(gramian, own) for own in orders).sum(1) / 256

    def ours() -> Tensor:
        return surgery_weights(gramian, orders="all", seed=5)

    torch.testing.assert_close(ours(), plainly(), rtol=1e-12, atol=1e-12)
    seconds = {ours: math.inf, plainly: math.inf}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for _ in range(2):  # by turns: 0.09 s against 0.24 s, processor time of one core
        for function in seconds:
            start = time.thread_time()
            function()
            seconds[function] = min(seconds[function], time.thread_time() - start)
    torch.set_num_threads(threads)
    assert seconds[ours] < 0.75 * seconds[plainly]
