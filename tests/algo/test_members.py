"""Every estimator and every policy loss keeps the contract that users' own are held to."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mgsrl.algo.advantages import check_advantages
from mgsrl.algo.losses import check_loss as check_loss_at_start
from mgsrl.algo.losses import only_advantages_teach, policy_loss, silent_at_zero
from mgsrl.algo.losses.ppo import ppo
from mgsrl.config.algo import ADVANTAGES, LOSSES, AlgoConfig
from mgsrl.errors import ConfigError, ContractError
from mgsrl.testing import advantage as testing_advantage
from mgsrl.testing import check_advantage, check_loss
from mgsrl.testing import loss as testing_loss

PROMISES: dict[str, tuple[str, ...]] = {
    "grpo": ("zero_sum", "shift", "scale"),
    "rloo": ("zero_sum", "shift"),
    "maxrl": ("zero_sum", "scale"),
    "reinforce_pp": ("shift", "scale"),
    "reinforce_pp_baseline": ("shift", "scale"),
    "gdpo": ("shift", "scale"),
    "best_of_group": ("shift", "scale"),
}
"""Beside what every estimator keeps."""


@pytest.mark.parametrize("name", ADVANTAGES.members)
def test_every_estimator_keeps_the_contract(name: str) -> None:
    check_advantage(name, also=PROMISES[name])
    check_advantage(name, AlgoConfig(normalize_std=False))


DETACHED = ("cispo", "dppo")
"""Losses with a factor that carries no gradient."""
VARIANTS: dict[str, tuple[dict[str, Any], ...]] = {
    "ppo": ({"dual_clip": 3.0},),
    "dppo": ({"divergence": "kl"}, {"ratio_cap": 1.0}),
    "sapo": ({"tau_positive": 5.0, "tau_negative": 0.2},),
}


@pytest.mark.parametrize("name", LOSSES.members)
def test_every_policy_loss_keeps_the_contract(name: str) -> None:
    bounds = ({"clip_low": 0.01, "clip_high": 0.02}, {"clip_low": 1.0, "clip_high": 3.0})
    for keys in ({}, *bounds, *VARIANTS.get(name, ())):
        config = AlgoConfig(loss=name, **keys)
        config.validate()
        check_loss(name, config, without=("gradient",) if name in DETACHED else ())


@pytest.mark.parametrize("name", LOSSES.members)
def test_every_policy_loss_is_silent_without_an_advantage_and_tried_at_start(name: str) -> None:
    assert only_advantages_teach(AlgoConfig(loss=name, kl_coef=0.0))
    check_loss_at_start(AlgoConfig(loss=name))
    if name in DETACHED:
        with pytest.raises(ContractError, match="finite differences"):
            check_loss(name)


# ---------------------------------------------------------------- parts that somebody brings


def leave_one_out(rewards_G: list[float]) -> list[float]:
    total, count = sum(rewards_G), len(rewards_G)
    return [reward - (total - reward) / (count - 1) for reward in rewards_G]


def of_sequences(log_ratio_BL: Tensor, advantages_B1: Tensor, mask_BL: Tensor) -> Tensor:
    """A ratio of whole sequences, as GSPO has it."""
    length_B1 = mask_BL.sum(-1, keepdim=True).clamp(min=1)
    ratio_B1 = (log_ratio_BL.sum(-1, keepdim=True) / length_B1).clamp(-20, 20).exp()
    return (-advantages_B1 * ratio_B1).expand_as(log_ratio_BL)


def of_clipped_weights(log_ratio_BL: Tensor, advantages_B1: Tensor, config: AlgoConfig) -> Any:
    """A detached weight before the log-probability, as CISPO has it."""
    weight_BL = log_ratio_BL.detach().clamp(-20, 20).exp()
    cut_BL = weight_BL > 1 + config.clip_high
    weight_BL = weight_BL.clamp(max=1 + config.clip_high)
    return -advantages_B1 * weight_BL * log_ratio_BL, cut_BL


def test_parts_of_other_families_keep_it_too() -> None:
    check_advantage(leave_one_out, also=("zero_sum", "shift"))
    check_loss(of_sequences)
    check_loss(of_clipped_weights, without=("gradient",))
    with pytest.raises(ContractError, match="finite differences"):
        check_loss(of_clipped_weights)


BROKEN_ADVANTAGES: dict[str, Any] = {
    "repeatable": lambda rewards, calls=[]: calls.append(0) or [len(calls) + r for r in rewards],
    "untouched": lambda rewards: [rewards.pop() for _ in range(len(rewards))],
    "permutation": lambda rewards: list(range(len(rewards))),
    "order": lambda rewards: [-reward for reward in rewards],
    "zero_sum": lambda rewards: rewards,
    "shift": lambda rewards: rewards,
    "scale": lambda rewards: rewards,
}


@pytest.mark.parametrize("name", BROKEN_ADVANTAGES)
def test_every_property_of_estimators_can_fail(name: str) -> None:
    import random

    function = BROKEN_ADVANTAGES[name]
    subject = testing_advantage._Subject(function, name, AlgoConfig())
    with pytest.raises(ContractError):
        testing_advantage._PROPERTIES[name](subject, random.Random(0))


BROKEN_LOSSES: dict[str, Any] = {
    "finite": lambda log_ratio, advantages_B1: -advantages_B1 * log_ratio.exp(),
    "masked": lambda log_ratio, advantages_B1, mask_BL: log_ratio / mask_BL,
    "split": lambda log_ratio, advantages_B1: log_ratio * advantages_B1.mean(),
    "padding": lambda log_ratio, advantages_B1: log_ratio * log_ratio.shape[1],
    "sums": lambda log_ratio, advantages_B1: (log_ratio, torch.full_like(log_ratio, 2.0)),
    "gradient": lambda log_ratio, advantages_B1: log_ratio * log_ratio.detach(),
    "first_update": lambda log_ratio, advantages_B1: 2 * log_ratio,
    "zero_mask": lambda log_ratio, advantages_B1, mask_BL: log_ratio / mask_BL.sum(),
    "silent": silent_at_zero(lambda log_ratio, advantages_B1: (advantages_B1 + 1) * log_ratio),
}


@pytest.mark.parametrize("name", BROKEN_LOSSES)
def test_every_property_of_losses_can_fail(name: str) -> None:
    subject = testing_loss._Subject(BROKEN_LOSSES[name], name, AlgoConfig(kl_coef=0.0))
    with pytest.raises(ContractError):
        testing_loss._PROPERTIES[name](subject, testing_loss._draw(0))


def test_only_a_loss_that_says_so_is_silent_without_an_advantage() -> None:
    config = AlgoConfig(kl_coef=0.0)
    assert only_advantages_teach(config)
    assert not only_advantages_teach(AlgoConfig(kl_coef=0.1))
    assert not only_advantages_teach(AlgoConfig(kl_coef=0.0, entropy_coef=0.1))
    assert not only_advantages_teach(config, policy_loss(of_sequences))


def test_a_loss_without_a_gradient_is_told() -> None:
    with pytest.raises(ContractError, match="depends on the policy"):
        check_loss(lambda log_ratio: torch.zeros_like(log_ratio))


MINE = """
import torch
def loss(log_ratio, advantages_B1):
    return -advantages_B1 * log_ratio
def narrow(log_ratio):
    return log_ratio[:, :1]
def asks(log_ratio, entropy_BL):
    return log_ratio
def advantage(rewards):
    return rewards
def few(rewards):
    return rewards[:1]
def infinite(rewards, config, rollouts_G):
    return [float("inf") for rollout in rollouts_G]
"""


@pytest.mark.parametrize(
    ("key", "name", "said"),
    [
        ("loss", "narrow", r"found \[2, 1\]"),
        ("loss", "asks", "advantages_B1, mask_BL, config"),
        ("loss", "lost", "did you mean 'loss'"),
        ("advantage", "few", "a finite number for each of"),
        ("advantage", "infinite", "found .inf, inf, inf"),
        ("advantage", "loss", r"loss\(log_ratio, advantages_B1\)"),
    ],
)
def test_what_somebody_brings_is_tried_before_a_run(
    tmp_path: Path, key: str, name: str, said: str
) -> None:
    file = tmp_path / "mine.py"
    file.write_text(MINE)
    check = {"loss": check_loss_at_start, "advantage": check_advantages}[key]
    check(AlgoConfig(**{key: f"{file}:{key}"}))
    with pytest.raises(ConfigError, match=said):
        check(AlgoConfig(**{key: f"{file}:{name}"}))


@pytest.mark.parametrize("key", ["loss", "advantage"])
def test_an_unknown_name_is_refused_with_the_configuration(key: str) -> None:
    with pytest.raises(ConfigError, match=rf"(?s)algo\.{key} names no .*valid: .*(ppo|grpo)"):
        AlgoConfig(**{key: "vpo"}).validate()


def test_the_gradient_of_a_clipped_token_is_gone() -> None:
    log_ratio_BL = torch.tensor([[0.0, 1.0]], requires_grad=True)
    loss_BL, clipped_BL = ppo(log_ratio_BL, torch.ones(1, 1), AlgoConfig())
    loss_BL.sum().backward()
    assert clipped_BL.tolist() == [[False, True]]
    assert log_ratio_BL.grad is not None
    assert log_ratio_BL.grad.tolist() == [[-1.0, 0.0]]
