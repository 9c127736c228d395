"""Merging, by properties, against the papers written as loops, and against peft."""

from collections.abc import Callable
from itertools import permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft.utils import merge_utils
from torch import Tensor
from torch.testing import assert_close

from mgsrl.algo.merging import (
    METHODS,
    dare,
    linear,
    merged_tensor,
    ram,
    task_arithmetic,
    ties,
)
from mgsrl.config import merging as config
from mgsrl.config.merging import merge_settings

seeds = st.integers(0, 2**32 - 1)
shapes = st.lists(st.integers(1, 5), min_size=0, max_size=3)
counts = st.integers(1, 4)
quick = settings(max_examples=40, deadline=None)


def tensors(seed: int, count: int, shape: list[int]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for _ in range(count)]


def weights_of(seed: int, count: int) -> list[float]:
    return (0.1 + torch.rand(count, generator=torch.Generator().manual_seed(seed))).tolist()


# ---------------------------------------------------------------- the papers, element by element


def elementwise(
    rule: Callable[[list[float], list[float]], float], vectors: list[Tensor], weights: list[float]
) -> Tensor:
    columns = zip(*(vector.flatten().tolist() for vector in vectors), strict=True)
    merged = [rule(list(column), weights) for column in columns]
    return torch.tensor(merged).reshape(vectors[0].shape)


def textbook_ties(vectors: list[Tensor], weights: list[float], density: float) -> Tensor:
    trimmed = []
    for vector in vectors:
        flat = vector.flatten().tolist()
        kept = sorted(range(len(flat)), key=lambda i: -abs(flat[i]))[: int(density * len(flat))]
        trimmed.append(torch.tensor([x if i in kept else 0.0 for i, x in enumerate(flat)]))

    def rule(column: list[float], weights: list[float]) -> float:
        sign = 1 if sum(column) >= 0 else -1
        agreeing = [w * x for w, x in zip(weights, column, strict=True) if x * sign > 0]
        return sum(agreeing) / len(agreeing) if agreeing else 0.0

    return elementwise(rule, trimmed, weights).reshape(vectors[0].shape)


def textbook_ram(vectors: list[Tensor], weights: list[float], threshold: float) -> Tensor:
    def rule(column: list[float], weights: list[float]) -> float:
        changed = [w * x for w, x in zip(weights, column, strict=True) if abs(x) > threshold]
        if not changed:
            return 0.0
        return changed[0] if len(changed) == 1 else sum(changed) / len(changed)

    return elementwise(rule, vectors, weights)


@quick
@given(seeds, counts, shapes, st.sampled_from([0.2, 0.5, 0.9, 1.0]))
def test_ties_is_the_papers(seed: int, count: int, shape: list[int], density: float) -> None:
    vectors, weights = tensors(seed, count, shape), weights_of(seed, count)
    assert_close(ties(vectors, weights, density), textbook_ties(vectors, weights, density))


@quick
@given(seeds, counts, shapes, st.sampled_from([0.0, 0.3, 1.0]))
def test_ram_is_the_papers(seed: int, count: int, shape: list[int], threshold: float) -> None:
    vectors, weights = tensors(seed, count, shape), weights_of(seed, count)
    assert_close(ram(vectors, weights, threshold), textbook_ram(vectors, weights, threshold))


@quick
@given(seeds, counts, shapes)
def test_sums_are_peft_s(seed: int, count: int, shape: list[int]) -> None:
    vectors, weights = tensors(seed, count, shape), weights_of(seed, count)
    theirs = merge_utils.task_arithmetic(vectors, torch.tensor(weights))
    assert_close(task_arithmetic(vectors, weights), theirs)
    assert_close(linear(vectors, weights), theirs / sum(weights))


def test_ram_by_hand() -> None:
    """Both changed the first, one alone the next two, nobody the last."""
    vectors = [torch.tensor([0.4, 0.6, 0.0, 1e-6]), torch.tensor([-0.2, 0.0, -0.5, 0.0])]
    assert_close(ram(vectors, [1, 1], 1e-5), torch.tensor([0.1, 0.6, -0.5, 0.0]))


def test_ties_by_hand() -> None:
    """The smaller half of each goes; of what is left the sign of the sum wins."""
    vectors = [torch.tensor([0.9, -0.8, 0.1, 0.2]), torch.tensor([-0.7, -0.6, 0.5, 0.1])]
    assert_close(ties(vectors, [1, 1], 0.5), torch.tensor([0.9, -0.7, 0.0, 0.0]))


# ---------------------------------------------------------------- what always holds

LOSSLESS = {"density": 1.0, "seed": 0.0, "threshold": 0.0}
"""Options under which a method drops nothing."""


def lossless(method: str, count: int, weights: list[float]) -> config.MergeSettings:
    options = {name: LOSSLESS[name] for name in config.METHODS[method]}
    return merge_settings(method, count, weights, **options)


every_method = pytest.mark.parametrize("method", config.METHODS)


def test_every_method_is_here() -> None:
    assert {"linear", *METHODS} == config.METHODS.keys()


@every_method
@quick
@given(seeds, shapes)
def test_one_model_with_weight_1_is_itself(method: str, seed: int, shape: list[int]) -> None:
    base, model = tensors(seed, 2, shape)
    assert_close(merged_tensor(lossless(method, 1, [1.0]), [model], base, "w"), model)


@every_method
@quick
@given(seeds, counts, shapes)
def test_equal_models_merge_to_themselves(
    method: str, seed: int, count: int, shape: list[int]
) -> None:
    base, model = tensors(seed, 2, shape)
    weight = 1 / count if method in ("task_arithmetic", "dare") else 1.0
    settled = lossless(method, count, [weight] * count)
    assert_close(merged_tensor(settled, [model] * count, base, "w"), model)


@every_method
@quick
@given(seeds, counts, shapes)
def test_untrained_models_merge_to_the_base(
    method: str, seed: int, count: int, shape: list[int]
) -> None:
    (base,) = tensors(seed, 1, shape)
    settled = merge_settings(method, count, weights_of(seed, count))
    assert_close(merged_tensor(settled, [base] * count, base, "w"), base)


@pytest.mark.parametrize("method", sorted(config.METHODS.keys() - {"dare"}))
@quick
@given(seeds, shapes)
def test_the_order_of_models_does_not_matter(method: str, seed: int, shape: list[int]) -> None:
    """That of dare decides which mask a model gets."""
    base, *models = tensors(seed, 4, shape)
    weights = weights_of(seed, 3)
    results = []
    for order in permutations(range(3)):
        settled = merge_settings(method, 3, [weights[i] for i in order])
        results.append(merged_tensor(settled, [models[i] for i in order], base, "w"))
    for result in results[1:]:
        assert_close(result, results[0])


@quick
@given(seeds, shapes)
def test_ties_keeps_what_nobody_contests(seed: int, shape: list[int]) -> None:
    """With density 1 and vectors of one sign it is their mean; a lone vector stays as it is."""
    vectors = [vector.abs() for vector in tensors(seed, 3, shape)]
    assert_close(ties(vectors, [1, 1, 1], 1.0), linear(vectors, [1, 1, 1]))
    assert_close(ties(vectors[:1], [1], 1.0), vectors[0])


@quick
@given(seeds, st.sampled_from([0.1, 0.5, 0.9]))
def test_dare_keeps_rescaled_elements_or_none(seed: int, density: float) -> None:
    (vector,) = tensors(seed, 1, [50])
    thinned = dare([vector], [1.0], density, seed)
    kept = thinned != 0
    assert_close(thinned[kept], vector[kept] / density)


def test_dare_keeps_the_share_and_the_sum_on_average() -> None:
    vector = torch.ones(200_000)
    thinned = dare([vector], [1.0], 0.1, 3)
    assert (thinned != 0).float().mean().item() == pytest.approx(0.1, abs=0.01)
    assert thinned.mean().item() == pytest.approx(1.0, abs=0.05)


def test_dare_draws_from_its_seed_and_the_name_alone() -> None:
    base, model = tensors(1, 2, [100])
    settled = merge_settings("dare", 1, seed=4)
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    first = merged_tensor(settled, [model], base, "a")
    assert torch.equal(torch.rand(3), expected)  # the global generator was left alone
    assert torch.equal(first, merged_tensor(settled, [model], base, "a"))
    for other in (("b", 4), ("a", 5)):
        again = merge_settings("dare", 1, seed=other[1])
        assert not torch.equal(first, merged_tensor(again, [model], base, other[0]))


def test_narrow_types_are_merged_in_float32() -> None:
    """In bfloat16 the base would swallow the difference of the two models."""
    base = torch.tensor([1.0], dtype=torch.bfloat16)
    models = [base.float() + 1e-3, base.float() + 3e-3]
    merged = merged_tensor(merge_settings("linear", 2), models, base, "w")
    assert merged.dtype == torch.float32
    assert_close(merged, torch.tensor([1.002]))
