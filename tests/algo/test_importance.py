"""Importance weights and masks: verl's numbers with gradients, and what holds of any input."""

import json
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mgsrl.algo.importance import (
    effective_share,
    importance_weight,
    log_ratio_of,
    mismatch_kl,
)
from mgsrl.algo.losses import domain_stats, grpo_loss
from mgsrl.config.algo import IMPORTANCE_LEVELS, IMPORTANCE_MASKS, MASK_BOUNDS, AlgoConfig, own_algo
from mgsrl.config.compose import compose_config
from mgsrl.errors import ConfigError
from mgsrl.types import DomainStats
from tests.algo.test_losses import AGGREGATION_OF, PLAIN, make_batch, totals_of
from tests.oracle import published_file

DATA = json.loads(published_file("oracle/importance_verl.json").read_text())
CASES = [
    pytest.param(case, agg, id="-".join(f"{case[k]}" for k in NAMES) + f"-{agg}")
    for NAMES in [("input", "rollout_is", "rollout_is_threshold", "rollout_rs")]
    for case in DATA["cases"]
    for agg in case["losses"]
]
"""verl's k1 is minus the log-ratio, so its bounds (lower_upper) are ours of 1 / ratio."""


def tensor(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def computed(case: dict[str, Any], agg: str) -> tuple[Tensor, float, Tensor, DomainStats]:
    """Our weights of a case, loss and gradient as verl divides them, and the metrics."""
    given = {name: tensor(values) for name, values in DATA["inputs"][case["input"]].items()}
    mask, kept = given["response_mask"], tensor(case["mask"])
    config = AlgoConfig(kl_coef=0.0, aggregation=AGGREGATION_OF[agg], **case["ours"])
    config.validate()
    old, rollout = (given[name] * mask for name in ("old_log_prob", "rollout_log_prob"))
    found = importance_weight(old, rollout, mask > 0, config)

    logp = given["log_prob"].requires_grad_()
    batch = make_batch(mask, given["advantages"][:, 0], given["rollout_log_prob"])
    output = grpo_loss(logp, batch, totals_of(mask), config, old_logprobs_BL=given["old_log_prob"])
    output.loss.backward()
    assert logp.grad is not None
    # Rejected tokens leave verl's denominators and stay in ours; IcePop's stay in both.
    count = (lambda m: m.sum()) if agg == "token-mean" else (lambda m: m.any(-1).sum())
    scale = (count(mask) / count(kept)).item()
    stats = domain_stats({k: v.item() for k, v in output.sums.items()}, config)
    return found.weight_BL * mask, output.loss.item() * scale, logp.grad * scale, stats


@pytest.mark.parametrize(("case", "agg"), CASES)
def test_weights_loss_gradient_and_metrics_equal_verl(case: dict[str, Any], agg: str) -> None:
    weights, value, grad, stats = computed(case, agg)
    torch.testing.assert_close(weights, tensor(case["weights"]), rtol=1e-13, atol=1e-14)
    # verl adds 1e-8 to the lengths where it takes means over sequences.
    atol = 5e-8 if agg == "seq-mean-token-mean" else 1e-12
    theirs = case["losses"][agg]
    assert value == pytest.approx(theirs["value"], abs=atol)
    torch.testing.assert_close(grad, tensor(theirs["grad_log_prob"]), rtol=1e-12, atol=atol)

    # verl adds 1e-8 to counts and means.
    assert stats.mismatch_kl == pytest.approx(case["k3_kl"], rel=1e-8)
    if case["masked_fraction"] is not None:
        assert stats.masked_fraction == pytest.approx(case["masked_fraction"], abs=1e-8)
    elif case["eff_sample_size"] is not None:  # verl's is of the weights before rejection
        assert stats.importance_ess == pytest.approx(case["eff_sample_size"], rel=1e-7)


def test_the_cases_truncate_and_mask_on_both_sides() -> None:
    assert {case["ours"].get("importance_mask", "none") for case in DATA["cases"]} == {
        *IMPORTANCE_MASKS
    }
    shares = [case["masked_fraction"] for case in DATA["cases"] if case["masked_fraction"]]
    assert len(shares) == 8
    assert 0.1 < min(shares) < max(shares) < 0.7


# ---------------------------------------------------------------- any input

bounds = st.tuples(st.floats(0.05, 1), st.floats(1, 20))


def draws(seed: int, far: float) -> tuple[Tensor, Tensor, Tensor]:
    """(old, rollout, mask) of five sequences of 0-6 tokens, 0 outside the mask."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.arange(6) < torch.randint(0, 7, (5, 1), generator=generator)
    old, apart = (torch.randn(5, 6, generator=generator, dtype=torch.float64) for _ in range(2))
    return old * mask, (old + far * apart) * mask, mask


def configured(level: str, kind: str, cap: float | None, within: Any = None) -> AlgoConfig:
    low, high = within or (None, None)
    set_bounds = {} if kind == "none" else {"importance_low": low, "importance_high": high}
    return AlgoConfig(
        importance_level=level, importance_mask=kind, importance_cap=cap, **set_bounds
    )


@settings(deadline=None)
@given(
    seed=st.integers(0, 10**6),
    far=st.floats(0, 2),
    level=st.sampled_from(IMPORTANCE_LEVELS),
    kind=st.sampled_from(IMPORTANCE_MASKS),
    cap=st.floats(1, 5),
    within=bounds,
)
def test_weights_are_within_the_cap_and_zero_only_where_masked(
    seed: int, far: float, level: str, kind: str, cap: float, within: Any
) -> None:
    old, rollout, mask = draws(seed, far)
    config = configured(level, kind, cap, within)
    found = importance_weight(old, rollout, mask, config)
    assert (found.weight_BL <= cap).all()
    assert torch.equal(found.weight_BL == 0, found.masked_BL)
    assert not (found.truncated_BL & found.masked_BL).any()
    assert (found.weight_BL[found.truncated_BL] == cap).all()
    measured = log_ratio_of(kind, old - rollout, mask).exp()
    inside = (measured > within[0] * (1 + 1e-9)) & (measured < within[1] * (1 - 1e-9))
    outside = (measured < within[0] * (1 - 1e-9)) | (measured > within[1] * (1 + 1e-9))
    if kind != "none":
        assert not found.masked_BL[inside].any()
        assert found.masked_BL[outside].all()
    if kind in ("sequence", "geometric"):
        assert (found.masked_BL.all(-1) | ~found.masked_BL.any(-1)).all()


@settings(deadline=None)
@given(seed=st.integers(0, 10**6), far=st.floats(0, 2))
def test_without_cap_and_mask_it_is_plain_importance_sampling(seed: int, far: float) -> None:
    old, rollout, mask = draws(seed, far)
    ratio = (old - rollout).exp()
    tokens = importance_weight(old, rollout, mask, configured("token", "none", math.inf))
    assert torch.equal(tokens.weight_BL, ratio)
    whole = importance_weight(old, rollout, mask, configured("sequence", "none", math.inf))
    product = ratio.prod(-1, keepdim=True).expand_as(ratio)
    torch.testing.assert_close(whole.weight_BL, product, rtol=1e-12, atol=0)
    assert not (tokens.truncated_BL | whole.truncated_BL).any()
    off = importance_weight(old, rollout, mask, configured("token", "none", None))
    assert torch.equal(off.weight_BL, torch.ones_like(ratio))


@settings(deadline=None)
@given(seed=st.integers(0, 10**6), far=st.floats(0, 1), times=st.integers(2, 5), within=bounds)
def test_the_geometric_mask_does_not_see_the_length(
    seed: int, far: float, times: int, within: Any
) -> None:
    old, rollout, mask = draws(seed, far)
    longer = tuple(value.repeat(1, times) for value in (old, rollout, mask))
    of = [log_ratio_of("geometric", o - r, m)[:, :6] for o, r, m in ((old, rollout, mask), longer)]
    torch.testing.assert_close(*of)
    product = log_ratio_of("sequence", longer[0] - longer[1], longer[2])[:, :6]
    torch.testing.assert_close(product, times * log_ratio_of("sequence", old - rollout, mask))
    # Equal but for rounding, hence equal masks unless a mean stands on a bound.
    edges = tensor(within).log()
    if (of[0].unsqueeze(-1) - edges).abs().min() > 1e-9:
        config = configured("token", "geometric", 2.0, within)
        short, long = (importance_weight(*each, config) for each in ((old, rollout, mask), longer))
        assert torch.equal(long.masked_BL[:, :6], short.masked_BL)


@settings(deadline=None)
@given(seed=st.integers(0, 10**6), kind=st.sampled_from(IMPORTANCE_MASKS))
def test_where_the_engine_is_the_learner_nothing_is_weighed_or_masked(seed: int, kind: str) -> None:
    old, _, mask = draws(seed, 0.0)
    found = importance_weight(old, old, mask, configured("token", kind, 2.0))
    assert (found.weight_BL == 1).all()
    assert not (found.masked_BL | found.truncated_BL).any()
    assert not mismatch_kl(old, old).any()


def test_a_sequences_weight_is_unbiased_where_the_tokens_is_not() -> None:
    """Two tokens of a vocabulary of two: the mean of the reward over all that the engine says."""
    engine, learner = tensor([0.5, 0.5]), tensor([0.8, 0.2])
    second = {0: (tensor([0.3, 0.7]), tensor([0.6, 0.4])), 1: (tensor([0.9, 0.1]), engine)}
    ways = [(a, b) for a in (0, 1) for b in (0, 1)]
    said = tensor([engine[a] * second[a][0][b] for a, b in ways])
    rollout = tensor([[engine[a].log(), second[a][0][b].log()] for a, b in ways])
    old = tensor([[learner[a].log(), second[a][1][b].log()] for a, b in ways])
    reward = tensor([1.0, -2.0, 0.5, 3.0])
    expected = (old.sum(-1).exp() * reward).sum()
    mask = torch.ones(4, 2, dtype=torch.bool)
    means = {}
    for level in IMPORTANCE_LEVELS:
        found = importance_weight(old, rollout, mask, configured(level, "none", 1e9))
        means[level] = (said * found.weight_BL[:, 1] * reward).sum().item()
    assert means["sequence"] == pytest.approx(expected.item())
    assert abs(means["token"] - expected.item()) > 0.1


@settings(deadline=None)
@given(st.lists(st.floats(0.01, 10), min_size=1, max_size=20))
def test_the_effective_share_is_that_of_equal_weights(weights: list[float]) -> None:
    total, squares = sum(weights), sum(w**2 for w in weights)
    share = effective_share(total, squares, len(weights))
    assert 1 / len(weights) - 1e-9 <= share <= 1 + 1e-9
    assert effective_share(len(weights), len(weights), 2 * len(weights)) == 0.5  # half are masked
    assert effective_share(0.0, 0.0, 3) == 0.0
    assert math.isnan(effective_share(0.0, 0.0, 0))


def test_a_masked_token_stays_in_the_denominators_and_keeps_kl_and_entropy() -> None:
    mask = torch.ones(1, 2, dtype=torch.float64)
    logp = tensor([[-1.0, -1.0]]).requires_grad_()
    rollout, ref = tensor([[-1.0, -4.0]]), tensor([[-1.5, -1.5]])
    config = AlgoConfig(importance_mask="token", kl_coef=0.5, kl_estimator="k2")
    batch = make_batch(mask, tensor([2.0]), rollout)
    output = grpo_loss(logp, batch, totals_of(mask), config, ref_logprobs_BL=ref)
    output.loss.backward()
    torch.testing.assert_close(logp.grad, tensor([[-2.0 + 0.25, 0.25]]) / 2)
    assert output.sums["masked"] == 1
    assert output.sums["num_tokens"] == 2


def test_not_a_number_is_not_masked_away() -> None:
    old, rollout = torch.tensor([[-1.0]]), torch.tensor([[math.nan]])
    mask = torch.ones(1, 1, dtype=torch.bool)
    for kind in IMPORTANCE_MASKS:
        found = importance_weight(old, rollout, mask, configured("token", kind, 2.0))
        assert found.weight_BL.isnan().all()


def test_metrics_are_there_only_where_the_weight_is() -> None:
    mask = torch.ones(1, 2)
    batch, logp = make_batch(mask, torch.ones(1)), -torch.ones(1, 2)
    for config, has_weight, has_mask in (
        (PLAIN, False, False),
        (replace(PLAIN, importance_cap=2.0), True, False),
        (replace(PLAIN, importance_mask="geometric"), True, True),
    ):
        sums = grpo_loss(logp, batch, totals_of(mask), config).sums
        stats = domain_stats({k: v.item() for k, v in sums.items()}, config)
        assert math.isnan(stats.importance_ess) is not has_weight
        assert math.isnan(stats.masked_fraction) is not has_mask
        assert stats.mismatch_kl > 0


# ---------------------------------------------------------------- keys


MASK = {"importance_mask": "token"}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"importance_level": "word"}, r"importance_level"),
        ({"importance_mask": "both"}, r"importance_mask"),
        ({"importance_low": 0.5}, r"importance_low is a bound of a mask, and there is none"),
        (MASK | {"importance_low": 1.5}, r"importance_low"),
        (MASK | {"importance_high": 0.9}, r"importance_high is too small"),
        ({"importance_level": "sequence", "importance_cap": None}, "importance_level.*it is off"),
        (MASK | {"importance_level": "sequence"}, "importance_mask=token leaves out single tokens"),
        *(
            (MASK | {"loss": loss}, rf"(?s)importance_mask=token.*algo\.loss={loss}")
            for loss in ("gspo", "gmpo")
        ),
    ],
)
@pytest.mark.parametrize("key", ["algo", "domains.math.algo"])
def test_what_cannot_be_is_refused(values: dict[str, Any], said: str, key: str) -> None:
    start = "(?s)" if said.startswith("(?s)") else ""
    with pytest.raises(ConfigError, match=start + rf"{key}\." + said.removeprefix("(?s)")):
        AlgoConfig(**values).validate(key)


def test_a_domains_own_loss_is_held_against_the_mask_of_all() -> None:
    overrides = ["algo.importance_mask=token", "domains.math.algo.loss=gspo"]
    with pytest.raises(ConfigError, match=r"domains\.math\.algo\.importance_mask=token leaves out"):
        compose_config(overrides)


@pytest.mark.parametrize("kind", MASK_BOUNDS)
def test_bounds_are_the_papers_unless_they_are_set(kind: str) -> None:
    config = AlgoConfig(importance_mask=kind)
    config.validate()
    assert config.importance_bounds == MASK_BOUNDS[kind]
    assert replace(config, importance_low=0.0).importance_bounds == (0.0, MASK_BOUNDS[kind][1])


def test_a_domain_with_another_mask_has_its_bounds() -> None:
    shared = AlgoConfig(importance_mask="geometric", importance_high=1.01)
    own = own_algo(shared, {"importance_mask": "token"}, "domains.math.algo")
    assert own.importance_bounds == MASK_BOUNDS["token"]
    own_algo(shared, {"importance_mask": "none"}, "domains.math.algo").validate()
    assert own_algo(shared, {"kl_coef": 0.0}, "k").importance_bounds == (0.999, 1.01)
