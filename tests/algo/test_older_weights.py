"""Rollouts of older weights: the importance weight makes their gradient the current policy's.

One token of a vocabulary of `V`, so that expectations are sums: a batch holds every token once, and
its advantage carries the probability with which the old weights sample it.
"""

from dataclasses import replace

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mgsrl.algo.losses import grpo_loss
from tests.algo.test_losses import PLAIN, make_batch, totals_of

V = 6
UNCAPPED = replace(PLAIN, importance_cap=1e9)
seeds = st.integers(0, 10**6)


def policies(seed: int, far: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logits that sampled, those before the first update, those now, and advantages."""
    generator = torch.Generator().manual_seed(seed)
    draws = torch.randn(4, V, generator=generator, dtype=torch.float64)
    sampled = draws[0]
    proximal = sampled + far * draws[1]
    return sampled, proximal, proximal + 0.02 * draws[2], draws[3]


def gradient(
    sampled_V: Tensor,
    logits_V: Tensor,
    advantages_V: Tensor,
    cap: float | None,
    old_V: Tensor | None,
) -> Tensor:
    """Of the loss's expectation under `sampled_V`, with respect to the logits."""
    logits_V = logits_V.clone().requires_grad_()
    engine_V1 = sampled_V.log_softmax(-1).unsqueeze(-1)
    mask_V1 = torch.ones(V, 1, dtype=torch.float64)
    scaled_V = advantages_V * engine_V1.squeeze(-1).exp() * V
    output = grpo_loss(
        logits_V.log_softmax(-1).unsqueeze(-1),
        make_batch(mask_V1, scaled_V, engine_V1),
        totals_of(mask_V1),
        replace(UNCAPPED, importance_cap=cap),
        old_logprobs_BL=None if old_V is None else old_V.log_softmax(-1).unsqueeze(-1),
    )
    (found,) = torch.autograd.grad(output.loss, logits_V)
    return found


def on_policy(logits_V: Tensor, advantages_V: Tensor) -> Tensor:
    """The gradient of minus the expected advantage of the policy itself."""
    logits_V = logits_V.clone().requires_grad_()
    (found,) = torch.autograd.grad(-(logits_V.softmax(-1) * advantages_V).sum(), logits_V)
    return found


@settings(deadline=None)
@given(seed=seeds, far=st.floats(0, 2))
def test_the_first_update_has_the_gradient_of_the_current_policy(seed: int, far: float) -> None:
    sampled, proximal, _, advantages = policies(seed, far)
    expected = on_policy(proximal, advantages)
    torch.testing.assert_close(gradient(sampled, proximal, advantages, 1e9, None), expected)


@settings(deadline=None)
@given(seed=seeds, far=st.floats(0, 2))
def test_later_updates_clip_around_the_first_not_around_the_sampler(seed: int, far: float) -> None:
    """The current policy stays within the clip of the one before the first update, however far
    both are from the weights that sampled: nothing is clipped."""
    sampled, proximal, current, advantages = policies(seed, far)
    found = gradient(sampled, current, advantages, 1e9, proximal)
    torch.testing.assert_close(found, on_policy(current, advantages))


@settings(deadline=None)
@given(seed=seeds, cap=st.floats(1, 3))
def test_the_cap_takes_from_rare_tokens_only(seed: int, cap: float) -> None:
    """Capped, it is the gradient for advantages that are scaled down by what was cut."""
    sampled, proximal, _, advantages = policies(seed, 1.0)
    ratio = (proximal.log_softmax(-1) - sampled.log_softmax(-1)).exp()
    cut = advantages * ratio.clamp(max=cap) / ratio
    logp = proximal.clone().requires_grad_()
    weighted = logp.log_softmax(-1) * (proximal.softmax(-1) * cut)
    (expected,) = torch.autograd.grad(-weighted.sum(), logp)
    torch.testing.assert_close(gradient(sampled, proximal, advantages, cap, None), expected)


def test_without_the_weight_the_gradient_is_another_one() -> None:
    sampled, proximal, _, advantages = policies(0, 1.0)
    found, expected = (
        gradient(sampled, proximal, advantages, None, None),
        on_policy(proximal, advantages),
    )
    assert (found - expected).norm() > 0.1 * expected.norm()
