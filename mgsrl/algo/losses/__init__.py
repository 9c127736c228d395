"""The loss of one micro-batch, normalised by denominators of the whole batch.

Per response token, with r = exp(logp - logp_old) and w = min(exp(logp_old - logp_engine), cap)
(`importance.py` has its other forms):

    loss = w * policy_loss(log r, A) + kl_coef * KL(policy, reference) - entropy_coef * entropy

`w` corrects for the rollout engine sampling from other probabilities than the learner's (truncated
importance sampling): slightly others by its kernels, and those of older weights where rollouts are
ahead. `logp_old` is the learner's before the first update on the batch, not the engine's: the
decoupled objective (arXiv 2110.00641, used as in AReaL, arXiv 2505.24298), in which the clip bounds
what this batch's updates do and nothing else. `w` carries no gradient and touches the policy term
only. Because the denominators are global (`BatchTotals`), the loss of a batch is the plain sum
over its micro-batches, whatever their size, rank or domain: the sum of the domains' gradients is
the gradient of the mixed loss.

With a teacher (`config.teacher`; on-policy distillation, MOPD, arXiv 2606.30406) every token has an
advantage of its own, [B, L] in the place of [B, 1]:

    reward_coef * A + teacher_coef * (log p_teacher - logp_old)

The second term's expected gradient is that of the reverse KL, token by token: what follows a token
does not count. `logp_old` stands in it because the responses are the policy's own.

A policy loss is a function of `log_ratio_BL` (0 outside the response; its gradient is that of the
log-probability) to the loss of every token, [B, L], to be minimised, and where a clip removed the
gradient (bool [B, L], for the metrics; it may be left out). By the names of its parameters it asks
for

    advantages_B1    of the sequences
    mask_BL          bool, the response tokens that are trained on
    old_logprobs_BL  before the first update on the batch (0 outside the response), where the ratio
                     alone does not say it all: `log_ratio_BL` added, it is the log-probability
    config           `AlgoConfig`

It stands in a file of its own here, by its name in `config.algo.LOSSES`, or in yours:
`algo.loss=mine.py:function`. One that is `silent_at_zero` spares the backward pass of responses
whose advantage is 0; of others nothing is assumed.

Left out: per-micro-batch means (they make the update depend on the micro-batch size).
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mgsrl.algo.importance import Importance, effective_share, importance_weight, mismatch_kl
from mgsrl.algo.kl import kl_estimate
from mgsrl.config.algo import AGGREGATIONS, LOSSES, AlgoConfig
from mgsrl.plugins import Part, tried
from mgsrl.types import BatchTotals, DomainStats, MicroBatch

KEY = "algo.loss"
OFFERED = ("advantages_B1", "mask_BL", "config", "old_logprobs_BL")
PolicyLoss = Callable[..., Tensor | tuple[Tensor, Tensor]]


def policy_loss(loss: str | PolicyLoss) -> Part:
    """The policy loss of that name, or the function itself.

    Raises:
        ConfigError: there is none, or it asks for arguments that nobody has.
    """
    return Part.of(LOSSES, loss, OFFERED, KEY)


def silent_at_zero(loss: PolicyLoss) -> PolicyLoss:
    """Say of a policy loss that it and its gradient are 0 of tokens whose advantage is 0."""
    loss.silent_at_zero = True  # type: ignore[attr-defined]
    return loss


def only_advantages_teach(config: AlgoConfig, part: Part | None = None) -> bool:
    """Whether a response with an advantage of exactly 0 adds nothing to the gradient.

    Args:
        part: of `policy_loss`; None finds `config.loss`.
    """
    regularised = config.kl_coef > 0 or config.entropy_coef > 0 or bool(config.teacher)
    loss = (part or policy_loss(config.loss)).function
    return not regularised and getattr(loss, "silent_at_zero", False) is True


def check_loss(config: AlgoConfig) -> None:
    """Find the policy loss and try it; for use at start-up. Raises ConfigError."""
    part = policy_loss(config.loss)
    with tried(KEY, config.loss, "a loss [B, L] (and a bool [B, L]) for log-ratios [B, L]"):
        log_ratio_BL = torch.linspace(-1, 1, 6).reshape(2, 3).requires_grad_()
        mask_BL = torch.tensor([[True, True, False], [False, True, True]])
        log_ratio_BL, old_BL = (_masked(x, mask_BL) for x in (log_ratio_BL, -torch.ones(2, 3)))
        loss_BL, _ = _tokens(part, log_ratio_BL, torch.ones(2, 1), mask_BL, old_BL, config)
        if not loss_BL.isfinite().all():
            raise ValueError(f"not finite: {loss_BL.tolist()}")
        loss_BL.sum().backward()


@dataclass(frozen=True, slots=True)
class LossOutput:
    """One micro-batch's part of the global loss, and what the metrics are made of."""

    loss: Tensor
    """Scalar. Summed over all micro-batches, ranks and domains it is the mixed loss."""
    sums: dict[str, Tensor]
    """Detached float64 scalars, sums over the trained response tokens: `loss`, `kl`, `entropy`,
    `mismatch`, `mismatch_kl`, `teacher` (nats), `clipped`, `truncated`, `masked` (counts), `weight`
    and `weight_squared` (of the importance weights), `num_tokens`, `num_sequences`."""


def domain_stats(sums: Mapping[str, float], config: AlgoConfig) -> DomainStats:
    """The metrics of `sums` as `LossOutput` has them, added up over a domain's micro-batches."""
    tokens = max(sums["num_tokens"], 1.0)
    return DomainStats(
        loss=sums["loss"] / tokens,
        kl=sums["kl"] / tokens if config.kl_coef > 0 else math.nan,
        entropy=sums["entropy"] / tokens,
        mismatch=sums["mismatch"] / tokens,
        mismatch_kl=sums["mismatch_kl"] / tokens,
        clip_fraction=sums["clipped"] / tokens,
        truncated_fraction=sums["truncated"] / tokens,
        teacher_kl=sums["teacher"] / tokens if config.teacher else math.nan,
        importance_ess=(
            effective_share(sums["weight"], sums["weight_squared"], sums["num_tokens"])
            if config.importance_on
            else math.nan
        ),
        masked_fraction=(sums["masked"] / tokens if config.importance_mask != "none" else math.nan),
        num_tokens=round(sums["num_tokens"]),
        num_sequences=round(sums["num_sequences"]),
    )


def grpo_loss(
    logprobs_BL: Tensor,
    batch: MicroBatch,
    totals: BatchTotals,
    config: AlgoConfig,
    part: Part | None = None,
    *,
    old_logprobs_BL: Tensor | None = None,
    ref_logprobs_BL: Tensor | None = None,
    teacher_logprobs_BL: Tensor | None = None,
    entropy_BL: Tensor | None = None,
) -> LossOutput:
    """The loss of one micro-batch, and what its metrics are made of.

    Args:
        logprobs_BL: of the tokens under the policy being trained; outside the response mask they
            are ignored, even NaN.
        batch: masks, advantages and the engine's log-probabilities. With an all-zero mask the
            loss is exactly 0 and so is its gradient, while the autograd graph stays connected
            (under ZeRO-3 such a backward must still run).
        totals: the denominators of the whole batch of one update.
        config: KL, entropy, importance weight, aggregation, and weights beside a teacher.
        part: of `policy_loss`; None finds `config.loss`.
        old_logprobs_BL: the policy's before the first update on this batch; None: `logprobs_BL`'s.
        ref_logprobs_BL: the frozen reference's; needed when `config.kl_coef > 0`.
        teacher_logprobs_BL: needed with a `config.teacher`.
        entropy_BL: of the next-token distributions; needed when `config.entropy_coef > 0`. The
            metric is the estimate `-logp` without it.

    Raises ValueError when a tensor that the configuration needs is missing.
    """
    _check_inputs(config, ref_logprobs_BL, teacher_logprobs_BL, entropy_BL)
    mask_BL = batch.response_mask_BL > 0
    logp_BL = _masked(logprobs_BL, mask_BL)
    old_BL = (logp_BL if old_logprobs_BL is None else _masked(old_logprobs_BL, mask_BL)).detach()
    rollout_BL = _masked(batch.rollout_logprobs_BL, mask_BL)

    advantages_B1 = batch.advantages_B.to(logp_BL).unsqueeze(-1)
    apart_BL = _apart(teacher_logprobs_BL, old_BL, mask_BL)
    if config.teacher:
        advantages_B1 = config.reward_coef * advantages_B1 + config.teacher_coef * apart_BL
    part, log_ratio_BL = part or policy_loss(config.loss), logp_BL - old_BL
    loss_BL, clipped_BL = _tokens(part, log_ratio_BL, advantages_B1, mask_BL, old_BL, config)
    importance = importance_weight(old_BL, rollout_BL, mask_BL, config)
    kl_BL = _kl(logp_BL, ref_logprobs_BL, mask_BL, config)
    entropy_BL = -logp_BL if entropy_BL is None else _masked(entropy_BL, mask_BL)
    loss_BL = _regularised(loss_BL * importance.weight_BL, kl_BL, entropy_BL, config)
    sums = _sums(
        mask_BL,
        loss=loss_BL,
        kl=kl_BL,
        entropy=entropy_BL,
        mismatch=(old_BL - rollout_BL).abs(),
        mismatch_kl=mismatch_kl(old_BL, rollout_BL),
        clipped=clipped_BL,
        teacher=-apart_BL,
        **_weights(importance),
    )
    weighted_BL = loss_BL * batch.response_mask_BL  # by 1, but for groups of another weight
    return LossOutput(aggregate(weighted_BL, mask_BL, totals, config.aggregation), sums)


def _weights(importance: Importance) -> dict[str, Tensor]:
    """[B, L] of which the metrics of the importance weight are sums."""
    return {
        "truncated": importance.truncated_BL,
        "masked": importance.masked_BL,
        "weight": importance.weight_BL,
        "weight_squared": importance.weight_BL.square(),
    }


def _check_inputs(
    config: AlgoConfig,
    ref_BL: Tensor | None,
    teacher_BL: Tensor | None,
    entropy_BL: Tensor | None,
) -> None:
    if config.teacher and teacher_BL is None:
        raise ValueError("a teacher should come with teacher_logprobs_BL, found None")
    if config.kl_coef > 0 and ref_BL is None:
        raise ValueError("kl_coef > 0 should come with ref_logprobs_BL, found None")
    if config.entropy_coef > 0 and entropy_BL is None:
        raise ValueError("entropy_coef > 0 should come with entropy_BL, found None")


def _apart(teacher_BL: Tensor | None, old_BL: Tensor, mask_BL: Tensor) -> Tensor:
    """Per token, `log p_teacher - logp_old`; 0 without a teacher."""
    return torch.zeros_like(old_BL) if teacher_BL is None else _masked(teacher_BL, mask_BL) - old_BL


def _regularised(loss_BL: Tensor, kl_BL: Tensor, entropy_BL: Tensor, config: AlgoConfig) -> Tensor:
    if config.kl_coef > 0:
        loss_BL = loss_BL + config.kl_coef * kl_BL
    if config.entropy_coef > 0:
        loss_BL = loss_BL - config.entropy_coef * entropy_BL
    return loss_BL


def _kl(logp_BL: Tensor, ref_BL: Tensor | None, mask_BL: Tensor, config: AlgoConfig) -> Tensor:
    """Per token, to the reference; 0 without one."""
    if ref_BL is None:
        return torch.zeros_like(logp_BL)
    return kl_estimate(logp_BL, _masked(ref_BL, mask_BL).detach(), config.kl_estimator)


def _tokens(
    part: Part,
    log_ratio_BL: Tensor,
    advantages_B1: Tensor,
    mask_BL: Tensor,
    old_BL: Tensor,
    config: AlgoConfig,
) -> tuple[Tensor, Tensor]:
    found = part(
        log_ratio_BL,
        advantages_B1=advantages_B1,
        mask_BL=mask_BL,
        old_logprobs_BL=old_BL,
        config=config,
    )
    loss_BL, clipped_BL = found if isinstance(found, tuple) else (found, torch.zeros_like(mask_BL))
    for each in (loss_BL, clipped_BL):  # another shape would be spread over the batch unnoticed
        if not isinstance(each, Tensor) or each.shape != mask_BL.shape:
            what = list(each.shape) if isinstance(each, Tensor) else type(each).__name__
            raise ValueError(f"{part.name} should give tensors {list(mask_BL.shape)}, found {what}")
    return loss_BL, clipped_BL


def aggregate(value_BL: Tensor, mask_BL: Tensor, totals: BatchTotals, aggregation: str) -> Tensor:
    """This micro-batch's contribution to the global mean of a per-token value.

    `token_mean`: sum over tokens / tokens of the whole batch. `sequence_mean`: sum over sequences
    of their token means / sequences of the whole batch. `sequence_sum_norm` (Dr. GRPO): sum over
    tokens / (response limit * sequences of the whole batch).

    Raises:
        ValueError: unknown aggregation.
    """
    if aggregation not in AGGREGATIONS:
        raise ValueError(
            f"aggregation should be one of {', '.join(AGGREGATIONS)}, found {aggregation!r}"
        )
    kept_BL = torch.where(mask_BL, value_BL, torch.zeros_like(value_BL))
    # An empty batch (all samples abstained) has totals of 0 and a numerator of exactly 0.
    if aggregation == "token_mean":
        return kept_BL.sum() / (totals.num_tokens or 1)
    if aggregation == "sequence_mean":
        means_B = kept_BL.sum(-1) / mask_BL.sum(-1).clamp(min=1)
        return means_B.sum() / (totals.num_sequences or 1)
    return kept_BL.sum() / (totals.max_response_length * (totals.num_sequences or 1))


def _masked(value_BL: Tensor, mask_BL: Tensor) -> Tensor:
    """At least float32, and 0 outside the mask: NaN there reaches neither value nor gradient."""
    value_BL = value_BL.to(torch.promote_types(value_BL.dtype, torch.float32))
    return torch.where(mask_BL, value_BL, torch.zeros_like(value_BL))


def _sums(mask_BL: Tensor, **values_BL: Tensor) -> dict[str, Tensor]:
    sums = {
        name: (value_BL.detach() * mask_BL).sum(dtype=torch.float64)
        for name, value_BL in values_BL.items()
    }
    sums["num_tokens"] = mask_BL.sum(dtype=torch.float64)
    sums["num_sequences"] = mask_BL.any(-1).sum(dtype=torch.float64)
    return sums
