"""KL estimators: verl's goldens, signs, and whose gradient each one is."""

import json
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mgsrl.algo.kl import kl_estimate
from tests.oracle import published_file

logprob = st.floats(-60.0, 0.0, width=32)


def golden_cases() -> list[Any]:
    cases = json.loads(published_file("oracle/grpo_numerics_verl.json").read_text())["kl"]
    return [pytest.param(c, id=c["kind"]) for c in cases if c["kind"] in ("k1", "k2", "k3")]


def computed(case: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    """The KL of every token, its mean and that one's gradient."""
    logp = torch.tensor(case["log_prob"], dtype=torch.float64, requires_grad=True)
    ref = torch.tensor(case["ref_log_prob"], dtype=torch.float64)
    mask = torch.tensor(case["mask"], dtype=torch.float64)
    kl = kl_estimate(logp, ref, case["kind"])
    mean = (kl * mask).sum() / mask.sum()
    mean.backward()
    assert logp.grad is not None
    return kl.detach(), mean.detach(), logp.grad


@pytest.mark.parametrize("case", golden_cases())
def test_equals_verl_in_float64(case: dict[str, Any]) -> None:
    for found, key in zip(
        computed(case), ("per_token", "token_mean", "grad_log_prob"), strict=True
    ):
        theirs = torch.tensor(case[key], dtype=torch.float64)
        torch.testing.assert_close(found, theirs, rtol=0, atol=1e-12)


@given(a=logprob, b=logprob, dtype=st.sampled_from([torch.float32, torch.float64]))
@settings(deadline=None)
def test_k2_and_k3_are_never_negative_and_finite(a: float, b: float, dtype: torch.dtype) -> None:
    for kind in ("k2", "k3"):
        value = kl_estimate(torch.tensor(a, dtype=dtype), torch.tensor(b, dtype=dtype), kind)
        assert value >= 0
        assert torch.isfinite(value)


@pytest.mark.parametrize("kind", ["k1", "k2", "k3"])
def test_equal_models_have_zero_kl_and_only_k1_still_has_a_gradient(kind: str) -> None:
    logp = torch.tensor([-0.3, -7.0], requires_grad=True)
    kl = kl_estimate(logp, logp.detach(), kind)
    kl.sum().backward()
    assert torch.equal(kl.detach(), torch.zeros(2))
    assert logp.grad is not None
    assert torch.equal(logp.grad, torch.ones(2) if kind == "k1" else torch.zeros(2))


def test_whose_gradient_each_estimator_is() -> None:
    """Exact expectations over a small vocabulary, as the module's docstring states them."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, generator=generator, dtype=torch.float64, requires_grad=True)
    ref = torch.randn(6, generator=generator, dtype=torch.float64).log_softmax(0)

    def expected_gradient(kind: str) -> torch.Tensor:
        logp = logits.log_softmax(0)
        loss = (logp.exp().detach() * kl_estimate(logp, ref, kind)).sum()
        return torch.autograd.grad(loss, logits)[0]

    logp = logits.log_softmax(0)
    reverse = (logp.exp() * (logp - ref)).sum()  # KL(policy || reference)
    forward = (ref.exp() * (ref - logp)).sum()  # KL(reference || policy)
    torch.testing.assert_close(expected_gradient("k1"), torch.zeros(6, dtype=torch.float64))
    torch.testing.assert_close(
        expected_gradient("k2"), torch.autograd.grad(reverse, logits, retain_graph=True)[0]
    )
    torch.testing.assert_close(expected_gradient("k3"), torch.autograd.grad(forward, logits)[0])


def test_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="k1, k2, k3"):
        kl_estimate(torch.zeros(1), torch.zeros(1), "k4")
