"""Packs scored groups into domain-pure micro-batches for all learner ranks.

At every micro-step all ranks hold the same domain (ZeRO's collectives then reduce one domain's
gradient and nothing else), so every rank gets the same number of micro-batches per domain. A rank
with nothing left gets one of weight zero.

`dealing.py` says which sequences are computed together. Where only advantages teach, those with an
advantage of exactly 0 go into micro-batches of their own that are never differentiated: they count
in every denominator and metric (entropy and mismatch need their log-probabilities, so the forward
pass is made), and the backward pass, two thirds of the work, would have added zeros.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch

from mgsrl.data.dealing import Limit, Pieces, Sample, deal
from mgsrl.data.token_row import lay_out
from mgsrl.errors import InvariantError
from mgsrl.types import BatchTotals, MicroBatch, RolloutGroup

FORWARD_AND_BACKWARD = 3
"""Their work in units of the forward pass's."""

FILLER = ((0,), (0,))
"""Prompt and response of a rank with nothing left: the least that has a token to predict."""


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """The batch of one update."""

    per_rank: tuple[dict[str, tuple[MicroBatch, ...]], ...]
    """[world_size] micro-batches by domain; the same domains and counts on every rank."""
    totals: BatchTotals
    """One denominator for all domains together: the sum of the domains' gradients is then the
    gradient of the mixed batch."""
    half_sizes: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Prompts in each half-batch, by domain; empty unless the batch was packed in halves."""
    scalars: Mapping[str, float] = field(default_factory=dict)
    """Ready-made metrics: `packing/padding`, `packing/shared`, `packing/waiting`,
    `packing/forward_only`."""

    @property
    def domains(self) -> tuple[str, ...]:
        """The domains with something to train on, in the order of the groups."""
        return tuple(self.per_rank[0])


@dataclass(frozen=True, slots=True)
class _Step:
    """One micro-step of all ranks."""

    ranks: list[Pieces]
    half: int
    trains: bool


@dataclass(frozen=True)
class Packing:
    """What a run's batches are packed with."""

    micro_batch_size: int
    """Sequences per rank and micro-step."""
    world_size: int
    """Learner ranks."""
    max_response_length: int
    """The response limit, the constant of `sequence_sum_norm`."""
    temperatures: Mapping[str, float]
    """Of sampling, by domain."""
    only_advantages_teach: Collection[str] = ()
    """Domains whose responses with an advantage of 0 are left out of the backward pass."""
    mask_overlong: Collection[str] = ()
    """Domains whose responses that were cut at the token limit are left out."""
    distilled: Collection[str] = ()
    """Domains whose reward is not trained on: one that abstained leaves no response out."""
    dead_group_weights: Mapping[str, float] = field(default_factory=dict)
    """Of the groups whose advantages are all 0, by domain; 1 where there is none."""
    tokens_per_micro_batch: int | None = None
    """If given, this many tokens instead of `micro_batch_size` sequences."""
    share_prompts: bool = False
    """Whether the samples of a group have one copy of their prompt in a micro-batch."""

    @property
    def limit(self) -> Limit:
        return Limit(self.micro_batch_size, self.tokens_per_micro_batch, self.share_prompts)


def pack(
    groups: Mapping[str, Sequence[RolloutGroup]], packing: Packing, *, halves: bool = False
) -> PackedBatch:
    """Distribute every trainable response over ranks and micro-batches; deterministic.

    Responses whose reward abstained, unless it is not trained on, responses without a token, with
    `mask_overlong` those that were cut at the token limit, and those of dead groups of weight 0 are
    left out: they count in no denominator, and those of other weights by them. A domain in which
    nothing is left is absent on all ranks. Where dead groups are all that there is, they are packed
    with weight 1: it is what the batch's means come to as their weight goes to 0, and the step has
    its KL.

    Args:
        groups: scored groups with advantages, by domain.
        halves: keep every domain's prompts in two halves (every other prompt with something to
            train on), no micro-batch holding both; for `surgery.reliability`.

    Raises:
        InvariantError: a group that was not scored, or log-probabilities that do not match its
            tokens.
    """
    ranks = range(packing.world_size)
    per_rank: tuple[dict[str, tuple[MicroBatch, ...]], ...] = tuple({} for _ in ranks)
    half_sizes: dict[str, tuple[int, int]] = {}
    sequences: list[Sample] = []
    all_steps: list[_Step] = []
    trainable = {domain: _trainable(domain, of, packing) for domain, of in groups.items()}
    if not any(trainable.values()) and packing.dead_group_weights:
        whole = replace(packing, dead_group_weights={})
        trainable = {domain: _trainable(domain, of, whole) for domain, of in groups.items()}
    for domain, prompts in trainable.items():
        if not prompts:
            continue
        parts = [prompts[0::2], prompts[1::2]] if halves else [prompts]
        if halves:
            half_sizes[domain] = (len(parts[0]), len(parts[1]))
        spares = domain in packing.only_advantages_teach
        steps = [s for half, part in enumerate(parts) for s in _steps(part, half, packing, spares)]
        for rank in ranks:
            per_rank[rank][domain] = tuple(
                _micro_batch(domain, step, rank, packing) for step in steps
            )
        sequences += [sequence for prompt in prompts for sequence in prompt]
        all_steps += steps
    num_tokens = sum(sequence.weight * len(sequence.rollout.token_ids) for sequence in sequences)
    num_sequences = sum(sequence.weight for sequence in sequences)
    totals = BatchTotals(num_tokens, num_sequences, packing.max_response_length)
    return PackedBatch(per_rank, totals, half_sizes, _scalars(all_steps, packing.limit))


def _trainable(domain: str, groups: Sequence[RolloutGroup], packing: Packing) -> list[list[Sample]]:
    """The trainable responses by prompt, without prompts that have none."""
    mask_overlong = domain in packing.mask_overlong
    prompts = []
    for group in groups:
        sequences = []
        size = len(group.rollouts)
        if len(group.rewards) != size or len(group.advantages) != size:
            raise _mismatch(
                f"{domain}/{group.prompt.id}",
                f"{size} rewards and advantages, one per response",
                f"{len(group.rewards)} rewards, {len(group.advantages)} advantages",
            )
        weight = 1 if any(group.advantages) else packing.dead_group_weights.get(domain, 1)
        for rollout, reward, advantage in zip(group.rollouts, group.rewards, group.advantages):
            if len(rollout.logprobs) != len(rollout.token_ids):
                raise _mismatch(
                    f"{domain}/{rollout.request_id}",
                    f"{len(rollout.token_ids)} log-probabilities, one per response token",
                    f"{len(rollout.logprobs)}",
                )
            cut = mask_overlong and rollout.finish_reason == "length"
            judged = not reward.abstained or domain in packing.distilled
            if judged and rollout.token_ids and not cut and weight:
                sequences.append(Sample(group.prompt, rollout, advantage, weight))
        if sequences:
            prompts.append(sequences)
    return prompts


def _steps(prompts: list[list[Sample]], half: int, packing: Packing, spares: bool) -> list[_Step]:
    """The micro-steps of one half of a domain, those without a backward pass last."""
    steps = []
    for trains in (True, False):
        kept = [
            [s for s in prompt if (s.advantage != 0 or not spares) is trains] for prompt in prompts
        ]
        dealt = deal([prompt for prompt in kept if prompt], packing.limit, packing.world_size)
        steps += [_Step(ranks, half, trains) for ranks in dealt]
    return steps


def _scalars(steps: Sequence[_Step], limit: Limit) -> dict[str, float]:
    """See `docs/metrics.md`."""
    if not steps:
        return {}
    computed = real = forward_only = worked = waited = 0
    for step in steps:
        costs = [limit.cost(pieces) for pieces in step.ranks]
        computed += sum(costs)
        real += sum(s.length for pieces in step.ranks for piece in pieces for s in piece)
        forward_only += 0 if step.trains else sum(costs)
        passes = FORWARD_AND_BACKWARD if step.trains else 1
        worked += passes * sum(costs)
        waited += passes * (max(costs) * len(costs) - sum(costs))
    return {
        "packing/padding": max(0, computed - real) / computed,
        "packing/shared": max(0, real - computed) / real,
        "packing/waiting": waited / (worked + waited),
        "packing/forward_only": forward_only / computed,
    }


def _micro_batch(domain: str, step: _Step, rank: int, packing: Packing) -> MicroBatch:
    """Of weight zero, with a token to predict, when there is no sequence."""
    sequences = [sequence for piece in step.ranks[rank] for sequence in piece]
    pairs = [(sequence.prompt.token_ids, sequence.rollout.token_ids) for sequence in sequences]
    token_ids_T, layout = lay_out(pairs or [FILLER])
    length = max(len(response) for _, response in pairs) if pairs else 1
    response_mask_BL = torch.zeros(max(len(pairs), 1), length)
    rollout_logprobs_BL = torch.zeros_like(response_mask_BL)
    for row, sequence in enumerate(sequences):
        end = len(sequence.rollout.token_ids)
        response_mask_BL[row, :end] = sequence.weight
        rollout_logprobs_BL[row, :end] = torch.tensor(sequence.rollout.logprobs)
    advantages = [sequence.advantage for sequence in sequences] or [0.0]
    return MicroBatch(
        domain=domain,
        token_ids_T=token_ids_T,
        layout=layout,
        response_mask_BL=response_mask_BL,
        rollout_logprobs_BL=rollout_logprobs_BL,
        advantages_B=torch.tensor(advantages, dtype=torch.float32),
        temperature=packing.temperatures[domain],
        half=step.half,
        trains=step.trains,
    )


def _mismatch(what: str, expected: str, found: str) -> InvariantError:
    return InvariantError(
        f"{what} cannot be packed.",
        expected=expected,
        found=found,
        todo="report this: scoring and advantages come before packing",
    )
