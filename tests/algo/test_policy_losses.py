"""The policy losses beside `ppo`: verl's numbers with gradients, and what each paper promises."""

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from mgsrl.algo.losses import LossOutput, grpo_loss, policy_loss
from mgsrl.algo.losses.cispo import cispo
from mgsrl.algo.losses.dppo import binary_kl, binary_tv, dppo
from mgsrl.algo.losses.gmpo import gmpo
from mgsrl.algo.losses.gspo import gspo
from mgsrl.algo.losses.sapo import sapo
from mgsrl.config.algo import LOSSES, READ_BY, AlgoConfig
from mgsrl.errors import ConfigError
from tests.algo.test_losses import AGGREGATION_OF, PLAIN, make_batch, totals_of
from tests.oracle import published_file

DATA = json.loads(published_file("oracle/policy_losses_verl.json").read_text())
KEY_OF = {
    "clip_ratio_low": "clip_low",
    "clip_ratio_high": "clip_high",
    "clip_ratio_c": "ratio_cap",
    "tau_pos": "tau_positive",
    "tau_neg": "tau_negative",
}
CLIP_FRACTION_IS_OURS = ("gspo", "cispo", "dppo")
"""Of whose metric verl's is the same number; `gmpo`'s there counts both bounds for either sign."""


def verl_cases() -> list[Any]:
    return [
        pytest.param(case, id="-".join((case["verl"], case["input"], case["agg"])))
        for case in DATA["cases"]
    ]


def computed(case: dict[str, Any]) -> tuple[LossOutput, Tensor, dict[str, Tensor]]:
    """Our loss of a case, its gradient, and the case's input."""
    given = DATA["inputs"][case["input"]].items()
    tensors = {name: torch.tensor(values, dtype=torch.float64) for name, values in given}
    logp = tensors["log_prob"].requires_grad_()
    config = replace(
        PLAIN,
        loss=case["loss"],
        aggregation=AGGREGATION_OF[case["agg"]],
        divergence="kl" if case["verl"] == "dppo_kl" else "tv",
        **{KEY_OF[key]: value for key, value in case["config"].items()},
    )
    config.validate()
    output = grpo_loss(
        logp,
        make_batch(tensors["response_mask"], tensors["advantages"]),
        totals_of(tensors["response_mask"]),
        config,
        old_logprobs_BL=tensors["old_log_prob"],
    )
    output.loss.backward()
    assert logp.grad is not None
    return output, logp.grad, tensors


@pytest.mark.parametrize("case", verl_cases())
def test_value_and_gradient_equal_verl(case: dict[str, Any]) -> None:
    output, gradient, tensors = computed(case)
    # verl adds 1e-8 to the lengths where it takes means over sequences.
    atol = 2e-9 if case["agg"] == "seq-mean-token-mean" else 1e-12
    assert output.loss.item() == pytest.approx(case["value"], abs=atol)
    theirs = torch.tensor(case["grad_log_prob"], dtype=torch.float64)
    torch.testing.assert_close(gradient, theirs, rtol=1e-12, atol=atol)
    # verl's `dppo` also counts tokens without an advantage, which have no gradient to remove.
    if case["loss"] in CLIP_FRACTION_IS_OURS and tensors["advantages"].all():
        fraction = (output.sums["clipped"] / output.sums["num_tokens"]).item()
        assert fraction == pytest.approx(case["clipfrac"], abs=1e-6)


def test_every_loss_is_compared_with_verl_where_it_clips_and_where_not() -> None:
    assert {case["loss"] for case in DATA["cases"]} == LOSSES.members.keys() - {"ppo"}
    for loss in LOSSES.members.keys() - {"ppo", "sapo"}:
        counts = [
            computed(case)[0].sums["clipped"].item()
            for case in DATA["cases"]
            if case["loss"] == loss
        ]
        assert min(counts) == 0 < max(counts)


# ---------------------------------------------------------------- what the papers promise


def gradient_of(loss: Any, log_ratio: list[float], advantage: float, **given: Any) -> list[float]:
    """With respect to the log-ratios of one sequence, negated: how far each token is pushed up."""
    log_ratio_BL = torch.tensor([log_ratio], dtype=torch.float64, requires_grad=True)
    advantages_B1 = torch.full((1, 1), advantage, dtype=torch.float64)
    found = loss(log_ratio_BL, advantages_B1, **given)
    (found[0] if isinstance(found, tuple) else found).sum().backward()
    assert log_ratio_BL.grad is not None
    return (-log_ratio_BL.grad[0]).tolist()


@pytest.mark.parametrize("advantage", [2.0, -2.0])
def test_gspo_treats_all_tokens_of_a_sequence_alike(advantage: float) -> None:
    mask_BL = torch.ones(1, 3, dtype=torch.bool)
    config = AlgoConfig(clip_low=0.2, clip_high=0.2)
    inside = gradient_of(gspo, [3.0, -3.0, 0.3], advantage, mask_BL=mask_BL, config=config)
    assert inside == pytest.approx([advantage * torch.e**0.1] * 3)
    away = [0.9, 0.0, 0.0] if advantage > 0 else [-0.9, 0.0, 0.0]
    assert gradient_of(gspo, away, advantage, mask_BL=mask_BL, config=config) == [0.0] * 3
    back = [-each for each in away]
    assert all(gradient_of(gspo, back, advantage, mask_BL=mask_BL, config=config))


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_gmpo_clips_log_ratios_token_by_token_before_the_mean(sign: float) -> None:
    mask_BL = torch.tensor([[True, True, False]])
    config = AlgoConfig(clip_low=0.4, clip_high=0.4)
    log_ratio = [sign * 5.0, sign * 0.1, 0.0]
    first, second, _ = gradient_of(gmpo, log_ratio, sign, mask_BL=mask_BL, config=config)
    assert first == 0.0  # pushed further out
    # Every one of 3 places has the sequence's loss; the mean is over 2 tokens.
    assert second == pytest.approx(sign * 3 / 2 * torch.e ** (sign * 0.25))
    first, _, _ = gradient_of(gmpo, log_ratio, -sign, mask_BL=mask_BL, config=config)
    assert first != 0.0  # pulled back


def test_cispo_drops_no_token_and_cuts_its_weight() -> None:
    given = {"old_logprobs_BL": torch.full((1, 3), -7.0), "config": AlgoConfig(clip_low=1.0)}
    pushed = gradient_of(cispo, [3.0, 0.1, -3.0], 2.0, **given)
    assert pushed == pytest.approx([2.4, 2 * torch.e**0.1, 2 * torch.e**-3.0])


def test_sapo_is_the_policy_gradient_at_first_and_fades_smoothly() -> None:
    config = AlgoConfig(tau_positive=1.0, tau_negative=3.0)
    log_ratio = [0.0, 0.5, 1.0, 2.0]
    up = gradient_of(sapo, log_ratio, 1.0, config=config)
    down = [-each for each in gradient_of(sapo, log_ratio, -1.0, config=config)]
    assert up[0] == down[0] == pytest.approx(1.0)
    # 4 s (1 - s) r with s = sigmoid(tau (r - 1)), the derivative that the paper writes.
    r = torch.tensor(log_ratio, dtype=torch.float64).exp()
    for found, tau in ((up, 1.0), (down, 3.0)):
        gate = torch.sigmoid(tau * (r - 1))
        assert found == pytest.approx((4 * gate * (1 - gate) * r).tolist())
    assert down[3] < up[3] < up[1]


@pytest.mark.parametrize("divergence", ["tv", "kl"])
def test_dppo_holds_likely_tokens_and_lets_unlikely_ones_move(divergence: str) -> None:
    config = AlgoConfig(divergence=divergence, clip_low=0.05, clip_high=0.05)
    old_logprobs_BL = torch.tensor([[0.5, 0.001]], dtype=torch.float64).log()
    given = {"old_logprobs_BL": old_logprobs_BL, "config": config}
    log_ratio = torch.tensor([0.9 / 0.5, 0.004 / 0.001]).log().tolist()  # ppo would stop both
    likely, unlikely = gradient_of(dppo, log_ratio, 1.0, **given)
    assert (likely, unlikely) == (0.0, pytest.approx(4.0))
    assert gradient_of(dppo, log_ratio, -1.0, **given)[0] == pytest.approx(-1.8)  # back again


def test_dppo_cuts_the_ratio_of_an_unlikely_token() -> None:
    given = {"old_logprobs_BL": torch.tensor([[-20.0]]), "config": AlgoConfig(ratio_cap=5.0)}
    assert gradient_of(dppo, [18.0], 1.0, **given) == [5.0]


def test_the_binary_divergences_are_those_of_two_outcomes() -> None:
    p = torch.tensor([1e-6, 0.2, 0.999, 0.5], dtype=torch.float64)
    old = torch.tensor([0.3, 0.1, 0.99, 0.5], dtype=torch.float64)
    both, both_old = torch.stack([p, 1 - p], -1), torch.stack([old, 1 - old], -1)
    tv = (both - both_old).abs().sum(-1) / 2
    torch.testing.assert_close(binary_tv(p.log(), old.log()), tv)
    kl = torch.distributions.kl_divergence(
        torch.distributions.Categorical(both_old), torch.distributions.Categorical(both)
    )
    torch.testing.assert_close(binary_kl(p.log(), old.log()), kl)
    certain = torch.tensor([0.0, -1.0])
    assert binary_kl(certain, certain.flip(0)).isfinite().all()


# ---------------------------------------------------------------- arguments and keys


def test_a_loss_may_ask_for_the_old_log_probabilities() -> None:
    asked = []

    def recorded(log_ratio_BL: Tensor, old_logprobs_BL: Tensor) -> Tensor:
        asked.append(old_logprobs_BL)
        return log_ratio_BL

    mask = torch.tensor([[1.0, 1.0, 0.0]])
    logp, old = torch.tensor([[-1.0, -2.0, -3.0]]), torch.tensor([[-4.0, -5.0, torch.nan]])
    logp.requires_grad_()
    for given in (None, old):
        batch, part = make_batch(mask, torch.ones(1)), policy_loss(recorded)
        grpo_loss(logp, batch, totals_of(mask), PLAIN, part, old_logprobs_BL=given)
    assert [each.tolist() for each in asked] == [[[-1.0, -2.0, 0.0]], [[-4.0, -5.0, 0.0]]]
    assert not any(each.requires_grad for each in asked)


OTHER_VALUES = {
    "dual_clip": 3.0,
    "divergence": "kl",
    "ratio_cap": 5.0,
    "tau_positive": 2.0,
    "tau_negative": 2.0,
}


@pytest.mark.parametrize("loss", LOSSES.members)
@pytest.mark.parametrize("key", READ_BY)
def test_a_key_that_only_another_loss_reads_is_refused(key: str, loss: str) -> None:
    config = AlgoConfig(loss=loss, **{key: OTHER_VALUES[key]})
    if loss == READ_BY[key]:
        config.validate()
        return
    said = rf"(?s)algo\.{key} is read by algo\.loss={READ_BY[key]} only.*found:.*algo\.loss={loss}"
    with pytest.raises(ConfigError, match=said):
        config.validate()


@pytest.mark.parametrize("key", READ_BY)
def test_a_loss_of_the_users_own_may_read_any_key(key: str) -> None:
    AlgoConfig(loss="mine.py:loss", **{key: OTHER_VALUES[key]}).validate()


@pytest.mark.parametrize(
    ("key", "value"),
    [("divergence", "js"), ("ratio_cap", 0.5), ("tau_positive", 0.0), ("tau_negative", -1.0)],
)
def test_values_that_cannot_be_are_named(key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"algo\.{key}"):
        AlgoConfig(loss=READ_BY[key], **{key: value}).validate()
