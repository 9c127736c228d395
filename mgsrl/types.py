"""The vocabulary: frozen records that pass between the stages of one training step.

Shape suffixes used throughout the package:
    _B sequences of a micro-batch   _L token positions of responses, right-padded
    _G samples of a group           _T tokens, one after the other
    _D domains                      _E the other domains, in an order of projection
    _M modules                      _P pairs of domains
    _H hidden width                 _V vocabulary
    _N parameters, flattened        _R rows of gradients kept: domains, or two halves of each
    _S pieces of parameters         _U units of work of a kernel
    _K orders of projection; in kernels, columns
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:  # reward actors import this page and should not pay for torch (150 MB each)
    import torch

ROUNDING = 1e-5
"""Rewards that differ by less, relative to the largest of them or to 1, are equal: so much may a
float32 network differ from itself on the same tokens in another batch (4e-6 was measured)."""

Message = Mapping[str, str]
"""One chat turn: `{"role": "system" | "user" | "assistant", "content": str}`."""

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Prompt:
    """One task for the policy, already templated and tokenized."""

    id: str
    """Unique within its domain and split."""
    domain: str
    messages: tuple[Message, ...]
    """The conversation as the data source gave it (what a reward model is shown)."""
    token_ids: tuple[int, ...]
    """The policy's prompt tokens, generation prompt included."""
    reference: Mapping[str, Any] = field(default_factory=dict)
    """What the domain's reward needs, by column: `answer`, `instruction_id_list`, ..."""


@dataclass(frozen=True, slots=True)
class RowNeeds:
    """What a domain's rewards want of a row of data. Columns are those of the row's reference."""

    requires: tuple[str, ...] = ()
    """Columns that a row must have."""
    accepts: tuple[str, ...] = ()
    """Columns that are read where a row has them."""
    prompt: bool = True
    """Whether a response without its conversation cannot be scored."""
    validate: Callable[[Mapping[str, Any]], None] | None = None
    """Raises `ValueError` for a reference that a reward cannot use."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How one response is sampled."""

    temperature: float
    max_new_tokens: int
    top_p: float = 1.0


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One response to generate; equal requests on equal weights give equal tokens."""

    id: str
    token_ids: tuple[int, ...]
    seed: int
    sampling: Sampling


@dataclass(frozen=True, slots=True)
class Rollout:
    """One response of the policy."""

    request_id: str
    token_ids: tuple[int, ...]
    """[T] response tokens, the end-of-sequence token included when it was sampled."""
    logprobs: tuple[float, ...]
    """[T] natural-log probabilities under the sampling distribution (temperature included)."""
    text: str
    """The response decoded without special tokens; never contains the prompt."""
    finish_reason: FinishReason
    weight_version: int
    """The version of the weights that sampled its first token, its oldest: the number of batches
    trained on before (each makes `updates_per_batch` optimizer steps and one publication)."""
    version_changes: tuple[tuple[int, int], ...] = ()
    """(token, version): from that response token on newer weights sampled, because they arrived
    while it was made. A log-probability is of the version that sampled its token."""

    @property
    def weight_versions(self) -> tuple[tuple[int, int], ...]:
        """(version, number of tokens) of each stretch of tokens, in order; never empty."""
        starts = ((0, self.weight_version), *self.version_changes)
        ends = (*(token for token, _ in self.version_changes), len(self.token_ids))
        return tuple((version, end - start) for (start, version), end in zip(starts, ends))


@dataclass(frozen=True, slots=True)
class Component:
    """One addend of a composite reward: `weight * score`."""

    weight: float
    score: float
    """Clipped and standardised as configured; 0 where a gate is closed."""


@dataclass(frozen=True, slots=True)
class Reward:
    """What a reward worker says of one response. `value is None` means it abstained."""

    value: float | None
    format_ok: bool = True
    """Whether the response held a complete `<response>` block."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """JSON-able: `extracted` (math), `followed` (constraints), `raw_score` (reward model), ..."""
    error: str | None = None
    """Why it abstained."""
    components: tuple[Component, ...] = ()
    """What adds up to `value` where a domain's reward is shaped, in the same order in every reward
    of the domain."""

    @property
    def abstained(self) -> bool:
        return self.value is None


@dataclass(frozen=True, slots=True)
class RolloutGroup:
    """The `G` responses to one prompt; later stages fill in `rewards` and `advantages`."""

    prompt: Prompt
    rollouts: tuple[Rollout, ...]
    """[G]"""
    rewards: tuple[Reward, ...] = ()
    """[G] once scored."""
    advantages: tuple[float, ...] = ()
    """[G] once computed; 0 where the reward abstained (such samples are trained on only where a
    teacher teaches alone)."""

    @property
    def is_live(self) -> bool:
        """Whether two or more responses were scored, and not all alike (but for rounding).

        Within any other group rewards tell nothing apart: all its advantages are exactly 0, but of
        estimators that compare across groups or by components.
        """
        return tell_apart([reward.value for reward in self.rewards if reward.value is not None])


def tell_apart(rewards: Sequence[float]) -> bool:
    """Whether these rewards differ by more than `ROUNDING`."""
    if len(rewards) < 2:
        return False
    low, high = min(rewards), max(rewards)
    return high - low > ROUNDING * max(1.0, abs(low), abs(high))


@dataclass(frozen=True, slots=True)
class RowLayout:
    """Where prompts and responses stand in a row of tokens; together they tile it.

    A prompt stands once, however many of the responses are to it.
    """

    prompts: tuple[slice, ...]
    responses: tuple[slice, ...]
    """[B]"""
    prompt_of: tuple[int, ...]
    """[B] the place in `prompts` of each response's."""


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Sequences of ONE domain: their tokens in one row, and what is known of their responses.

    A micro-batch of weight zero (`response_mask_BL` all zero) keeps ranks in lockstep when a
    rank has nothing left: it is run like any other and adds nothing.
    """

    domain: str
    token_ids_T: torch.Tensor
    """int64 [T], without padding."""
    layout: RowLayout
    response_mask_BL: torch.Tensor
    """float32 [B, L], the weight in the loss of a response token that is trained on (1, but in
    groups of `algo.dead_group_weight`), else 0; L of the longest response."""
    rollout_logprobs_BL: torch.Tensor
    """float32, the engine's log-probabilities; 0 behind a response's end."""
    advantages_B: torch.Tensor
    """float32"""
    temperature: float
    """The sampling temperature; log-probabilities are of `logits / temperature`."""
    half: int = 0
    """Which half of its domain's prompts, 0 or 1, in a batch packed in halves."""
    trains: bool = True
    """Whether it adds to the gradient; else it is computed forwards only, for the metrics."""


@dataclass(frozen=True, slots=True)
class BatchTotals:
    """Global denominators: over all ranks, all domains and the whole batch of one update."""

    num_tokens: float
    """Response tokens trained on, by their weight."""
    num_sequences: float
    max_response_length: int
    """The configured response limit; the constant of `sequence_sum_norm` (Dr. GRPO)."""


@dataclass(frozen=True, slots=True)
class DomainStats:
    """Means over one domain's trained tokens in one update (already reduced over ranks)."""

    loss: float
    kl: float
    """Nats, to the reference; NaN without one (`kl_coef` 0)."""
    entropy: float
    mismatch: float
    """mean |log p_learner - log p_engine| over response tokens, in nats."""
    clip_fraction: float
    """Share of tokens whose gradient a clip removed; 0 in the first update on a batch."""
    truncated_fraction: float
    """Share of tokens whose importance weight the cap cut."""
    num_tokens: int
    num_sequences: int
    teacher_kl: float = math.nan
    """Nats, mean of log p_policy - log p_teacher over the policy's tokens; NaN without one."""
    mismatch_kl: float = math.nan
    """Nats per token, k3 estimate of KL(engine || learner)."""
    importance_ess: float = math.nan
    """Effective sample size of the importance weights over the number of tokens, 0 to 1, masked
    ones included; NaN without weights."""
    masked_fraction: float = math.nan
    """Share of tokens that the mask of the importance weight left out; NaN without one."""


@dataclass(frozen=True, slots=True)
class Reliability:
    """How far the domains' gradients of one step stand out of their noise; all float64 (NaN where
    unknown). `surgery/reliability.py` has the definitions."""

    reliability_MD: torch.Tensor
    """Share of a gradient's squared norm that is signal; below 0 by chance when there is none."""
    corrected_cosine_MDD: torch.Tensor
    """Cosines of the noise-free gradients; not limited to -1..1, as estimates are not."""
    z_MDD: torch.Tensor
    """Inner product over its standard error."""
    conflict_MDD: torch.Tensor
    """bool, symmetric: the pair's conflict stands out of the noise."""
    total_reliability_D: torch.Tensor
    total_corrected_cosine_DD: torch.Tensor
    """Both over the whole model."""


@dataclass(frozen=True, slots=True)
class StepProbe:
    """What steps that were tried and taken back did to the domains' losses, as float64;
    `surgery/step_probe.py` has the definitions. S = D + 2 steps: the resolved one, each domain's
    own, and the optimizer's without any gradient."""

    domains: tuple[str, ...]
    change_SD: torch.Tensor
    """[S, D] each domain's loss on its held-back half after the step minus before it. NaN for a
    domain without such a half, and for a resolved step for which there were no finite weights."""
    predicted_SD: torch.Tensor
    """[S, D] the same to first order."""
    norm_S: torch.Tensor
    """[S] how far the step went: the norm of the weights' change."""


@dataclass(frozen=True, slots=True)
class SurgeryReport:
    """What gradient surgery saw and did in one update; `D` domains, `M` modules."""

    domains: tuple[str, ...]
    modules: tuple[str, ...]
    gram_MDD: torch.Tensor
    """float64 [M, D, D], inner products of the domains' gradients per module."""
    weights_MD: torch.Tensor
    """float64 [M, D], the update of module m is `sum_d weights[m, d] * gradient[m, d]`."""
    scalars: Mapping[str, float]
    """Ready-made metrics: `surgery/conflict_rate`, `surgery/conflict_rate/<kind>`,
    `surgery/cosine/<a>-<b>`, `surgery/projected_share/<d>`, `grad_norm/<d>`."""
    kinds: tuple[str, ...] = ()
    """[M] the kind of each module (`attention`, `mlp`, ...); empty when nothing was resolved."""
    dimensions: Mapping[str, float] = field(default_factory=dict)
    """Effective dimension of each kind's gradients."""
    projected_MD: torch.Tensor | None = None
    """float64 [M, D], share of the squared norm of each domain's gradient that was projected away
    in the module; None when nothing was resolved, or gradients were only given weights."""
    reliability: Reliability | None = None
    """On steps that measure it."""
    step_probe: StepProbe | None = None
    """On steps that try others (`surgery.step_probe`)."""
    memory: Mapping[str, torch.Tensor] | None = None
    """What a method with memory goes on with, by names of its own; float64 [M, D, D]
    (`surgery/memory.py`). None of the others."""
    problem: str | None = None
    """Why there is no update (then the weights are zero and the step is skipped)."""


@dataclass(frozen=True, slots=True)
class StepStats:
    """One optimizer step."""

    grad_norm: float
    """Global norm of the resolved gradient before clipping; NaN if skipped."""
    learning_rate: float
    skipped: bool
    """True when a gradient was not finite, or surgery found no finite weights for it."""
    reason: str | None = None
    """Why it was skipped."""
