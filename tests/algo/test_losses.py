"""The GRPO loss: verl's goldens with gradients, and the invariants of global denominators."""

import json
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mgsrl.algo.importance import importance_weight
from mgsrl.algo.losses import aggregate, grpo_loss
from mgsrl.config.algo import AGGREGATIONS, AlgoConfig
from mgsrl.types import BatchTotals, MicroBatch, RowLayout
from tests.oracle import published_file

AGGREGATION_OF = {
    "token-mean": "token_mean",
    "seq-mean-token-mean": "sequence_mean",
    "seq-mean-token-sum-norm": "sequence_sum_norm",
}
PLAIN = AlgoConfig(kl_coef=0.0, importance_cap=None)


def make_batch(mask: Tensor, advantages: Tensor, rollout: Tensor | None = None) -> MicroBatch:
    ids = torch.zeros(0, dtype=torch.int64)
    rollout = mask * 0 if rollout is None else rollout
    return MicroBatch("math", ids, RowLayout((), (), ()), mask, rollout, advantages, 1.0)


def totals_of(mask: Tensor, limit: int | None = None) -> BatchTotals:
    sequences = int((mask.sum(-1) > 0).sum())
    return BatchTotals(int(mask.sum()), sequences, limit or mask.shape[1])


def random_parts(seed: int, num_sequences: int, length: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    lengths = torch.randint(0, length + 1, (num_sequences, 1), generator=generator)
    logp = -draw(num_sequences, length).abs()
    return {
        "logp": logp,
        "old": logp + 0.3 * draw(num_sequences, length),
        "ref": logp + 0.3 * draw(num_sequences, length),
        "rollout": logp + 0.3 * draw(num_sequences, length),
        "entropy": draw(num_sequences, length).abs(),
        "mask": (torch.arange(length) < lengths).double(),
        "advantages": draw(num_sequences),
    }


def run(
    parts: dict[str, Tensor], rows: slice, totals: BatchTotals, config: AlgoConfig
) -> tuple[float, Tensor, dict[str, Tensor]]:
    part = {name: value[rows] for name, value in parts.items()}
    logp = part["logp"].clone().requires_grad_()
    entropy = part["entropy"].clone()
    output = grpo_loss(
        logp,
        make_batch(part["mask"], part["advantages"], part["rollout"]),
        totals,
        config,
        old_logprobs_BL=part["old"],
        ref_logprobs_BL=part["ref"],
        entropy_BL=entropy,
    )
    output.loss.backward()
    assert logp.grad is not None
    return output.loss.item(), logp.grad, output.sums


# ---------------------------------------------------------------- goldens


def golden(section: str) -> list[Any]:
    data = json.loads(published_file("oracle/grpo_numerics_verl.json").read_text())
    if section == "policy_loss":
        cases = [c for c in data[section] if c["loss"].startswith("ppo_clip")]
        return [
            pytest.param(
                c, data["policy_inputs"], id=f"{c['loss'][:24]}-{c['agg']}-{c['clip_high']}"
            )
            for c in cases
            if c["agg"] in AGGREGATION_OF
        ]
    return [
        pytest.param(c, None, id=f"{c['agg']}-{c['mask_name']}")
        for c in data[section]
        if c["agg"] in AGGREGATION_OF
    ]


def computed(case: dict[str, Any], inputs: dict[str, Any]) -> tuple[float, Tensor, float]:
    """Our loss of a case as verl divides it, its gradient, and the share of tokens clipped."""
    tensors = {k: torch.tensor(v, dtype=torch.float64) for k, v in inputs.items()}
    mask, old = tensors["response_mask"], tensors["old_log_prob"]
    on_policy = "on-policy" in case["loss"]
    logp = (old if on_policy else tensors["log_prob"]).clone().requires_grad_()
    config = replace(
        PLAIN,
        clip_low=case["clip_low"],
        clip_high=case["clip_high"],
        dual_clip=case["dual_clip_c"] if case["dual_clip_c"] < 1e6 else None,
        aggregation=AGGREGATION_OF[case["agg"]],
    )
    totals = totals_of(mask)
    batch = make_batch(mask, tensors["advantages"][:, 0])
    output = grpo_loss(logp, batch, totals, config, old_logprobs_BL=None if on_policy else old)
    output.loss.backward()
    assert logp.grad is not None
    # This version of verl does not divide `seq-mean-token-sum-norm` by the number of sequences.
    scale = totals.num_sequences if config.aggregation == "sequence_sum_norm" else 1
    fraction = (output.sums["clipped"] / output.sums["num_tokens"]).item()
    return output.loss.item() * scale, logp.grad * scale, fraction


@pytest.mark.parametrize(("case", "inputs"), golden("policy_loss"))
def test_policy_loss_and_gradient_equal_verl(case: dict[str, Any], inputs: dict[str, Any]) -> None:
    value, gradient, fraction = computed(case, inputs)
    # verl adds 1e-8 to the lengths in `seq-mean-token-mean`.
    atol = 1e-8 if case["agg"] == "seq-mean-token-mean" else 1e-12
    assert value == pytest.approx(case["value"], abs=atol)
    theirs = torch.tensor(case["grad_log_prob"], dtype=torch.float64)
    torch.testing.assert_close(gradient, theirs, rtol=0, atol=atol)
    metrics = case["metrics"]
    clipped = metrics["actor/pg_clipfrac"] + metrics["actor/pg_clipfrac_lower"]
    assert fraction == pytest.approx(clipped, abs=1e-6)


@pytest.mark.parametrize(("case", "_"), golden("agg_loss"))
def test_aggregation_equals_verl(case: dict[str, Any], _: None) -> None:
    values = torch.tensor(case["loss_mat"], dtype=torch.float64)
    mask = torch.tensor(case["mask"], dtype=torch.float64)
    name, totals = AGGREGATION_OF[case["agg"]], totals_of(mask)
    scale = totals.num_sequences if name == "sequence_sum_norm" else 1
    ours = aggregate(values, mask > 0, totals, name).item() * scale
    assert ours == pytest.approx(case["value"], abs=1e-7)


# ---------------------------------------------------------------- invariants


@given(
    seed=st.integers(0, 10_000),
    cuts=st.lists(st.integers(0, 7), max_size=4),
    aggregation=st.sampled_from(AGGREGATIONS),
    kind=st.sampled_from(["k1", "k2", "k3"]),
    dual_clip=st.sampled_from([None, 3.0]),
    importance=st.sampled_from(
        [("token", "none"), ("token", "token"), ("sequence", "sequence"), ("sequence", "geometric")]
    ),
)
@settings(max_examples=100, deadline=None)
def test_any_split_into_micro_batches_adds_up_to_the_whole(
    seed: int,
    cuts: list[int],
    aggregation: str,
    kind: str,
    dual_clip: float | None,
    importance: tuple[str, str],
) -> None:
    parts = random_parts(seed, 7, 5)
    totals = totals_of(parts["mask"], limit=9)
    config = AlgoConfig(
        aggregation=aggregation, kl_coef=0.1, kl_estimator=kind, entropy_coef=0.01,
        dual_clip=dual_clip, importance_level=importance[0], importance_mask=importance[1],
    )  # fmt: skip
    loss, gradient, sums = run(parts, slice(None), totals, config)
    edges = [0, *sorted(cuts), 7]
    pieces = [run(parts, slice(a, b), totals, config) for a, b in pairwise(edges)]
    assert sum(piece[0] for piece in pieces) == pytest.approx(loss, abs=1e-12)
    torch.testing.assert_close(torch.cat([p[1] for p in pieces]), gradient, rtol=0, atol=1e-14)
    for name, value in sums.items():
        assert sum(p[2][name].item() for p in pieces) == pytest.approx(value.item(), abs=1e-9)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("garbage", [0.0, float("nan"), float("inf"), -1e30])
def test_a_zero_weight_micro_batch_adds_exactly_nothing(aggregation: str, garbage: float) -> None:
    parts = random_parts(0, 3, 4)
    for name in ("logp", "old", "ref", "rollout", "entropy"):
        parts[name] = torch.full_like(parts[name], garbage)
    parts["mask"] = torch.zeros_like(parts["mask"])
    config = AlgoConfig(aggregation=aggregation, kl_coef=0.1, entropy_coef=0.1, dual_clip=3.0)
    for totals in (BatchTotals(100, 10, 16), BatchTotals(0, 0, 16)):
        loss, gradient, sums = run(parts, slice(None), totals, config)
        assert loss == 0.0
        assert torch.equal(gradient, torch.zeros_like(gradient))
        assert all(value.item() == 0.0 for value in sums.values())


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_what_stands_outside_the_mask_changes_nothing(aggregation: str) -> None:
    parts = random_parts(3, 6, 5)
    totals = totals_of(parts["mask"])
    config = AlgoConfig(aggregation=aggregation, kl_coef=0.1, entropy_coef=0.1)
    loss, gradient, _ = run(parts, slice(None), totals, config)
    outside = parts["mask"] == 0
    for name in ("logp", "old", "ref", "rollout", "entropy"):
        parts[name] = parts[name].masked_fill(outside, float("nan"))
    dirty_loss, dirty_gradient, _ = run(parts, slice(None), totals, config)
    assert dirty_loss == loss
    assert torch.equal(dirty_gradient, gradient)


def test_first_update_has_the_policy_gradient_and_nothing_clipped() -> None:
    parts = random_parts(1, 4, 5)
    logp = parts["logp"].requires_grad_()
    batch, totals = make_batch(parts["mask"], parts["advantages"]), totals_of(parts["mask"])
    output = grpo_loss(logp, batch, totals, PLAIN)
    output.loss.backward()
    expected = -parts["advantages"].unsqueeze(-1) * parts["mask"] / totals.num_tokens
    torch.testing.assert_close(logp.grad, expected)
    assert output.sums["clipped"] == 0


def test_importance_weight_is_capped_detached_and_only_on_the_policy_term() -> None:
    logp = torch.tensor([[-1.0, -1.0, -1.0]], dtype=torch.float64, requires_grad=True)
    rollout = torch.tensor([[-1.0, -3.0, -0.5]], dtype=torch.float64)
    ref = torch.tensor([[-1.5, -1.5, -1.5]], dtype=torch.float64)
    mask = torch.ones(1, 3, dtype=torch.float64)
    batch = make_batch(mask, torch.tensor([2.0], dtype=torch.float64), rollout)
    config = AlgoConfig(importance_cap=2.0, kl_coef=0.5, kl_estimator="k2")
    output = grpo_loss(logp, batch, BatchTotals(3, 1, 3), config, ref_logprobs_BL=ref)
    output.loss.backward()
    weight = torch.tensor([[1.0, 2.0, torch.e**-0.5]], dtype=torch.float64)
    expected = (-2.0 * weight + 0.5 * 0.5) / 3
    torch.testing.assert_close(logp.grad, expected)
    assert output.sums["truncated"] == 1
    assert output.sums["mismatch"].item() == pytest.approx(2.5)


def test_a_huge_mismatch_is_capped_and_no_cap_means_no_weight() -> None:
    old, rollout = torch.tensor([[-1.0]]), torch.tensor([[-500.0]])
    mask = torch.tensor([[True]])
    assert importance_weight(old, rollout, mask, AlgoConfig()).weight_BL.item() == 2.0
    found = importance_weight(old, rollout, mask, PLAIN)
    assert (found.weight_BL.item(), found.truncated_BL.item()) == (1.0, False)


def test_bfloat16_log_probabilities_are_computed_in_float32() -> None:
    parts = {name: value.float() for name, value in random_parts(2, 4, 5).items()}
    batch, totals = make_batch(parts["mask"], parts["advantages"]), totals_of(parts["mask"])
    output = grpo_loss(parts["logp"].bfloat16(), batch, totals, PLAIN)
    assert output.loss.dtype == torch.float32


def test_metrics_without_entropy_and_reference() -> None:
    parts = random_parts(2, 4, 5)
    output = grpo_loss(
        parts["logp"],
        make_batch(parts["mask"], parts["advantages"]),
        totals_of(parts["mask"]),
        PLAIN,
    )
    estimate = -(parts["logp"] * parts["mask"]).sum().item()
    assert output.sums["entropy"].item() == pytest.approx(estimate)
    assert output.sums["kl"] == 0
    assert not any(value.requires_grad for value in output.sums.values())


def test_a_reference_without_kl_coefficient_is_measured_only() -> None:
    parts = random_parts(2, 4, 5)
    totals = totals_of(parts["mask"])
    config = replace(PLAIN, kl_coef=0.0)
    without = dict(parts, ref=parts["logp"])
    assert (
        run(parts, slice(None), totals, config)[0] == run(without, slice(None), totals, config)[0]
    )
    assert run(parts, slice(None), totals, config)[2]["kl"] > 0


@pytest.mark.parametrize(
    ("config", "name"),
    [(AlgoConfig(kl_coef=0.1), "ref_logprobs"), (replace(PLAIN, entropy_coef=0.1), "entropy_BL")],
)
def test_missing_tensors_are_named(config: AlgoConfig, name: str) -> None:
    parts = random_parts(2, 2, 3)
    with pytest.raises(ValueError, match=name):
        grpo_loss(
            parts["logp"],
            make_batch(parts["mask"], parts["advantages"]),
            totals_of(parts["mask"]),
            config,
        )


def test_unknown_aggregation_is_refused() -> None:
    with pytest.raises(ValueError, match="token_mean"):
        aggregate(torch.zeros(1, 1), torch.ones(1, 1) > 0, BatchTotals(1, 1, 1), "mean")
