"""Packs scored groups into domain-pure micro-batches for all learner ranks.

At every micro-step all ranks hold the same domain (ZeRO's collectives then reduce one domain's
gradient and nothing else), so every rank gets the same number of micro-batches per domain. A rank
with nothing left gets one of weight zero.

Ranks wait for each other at every micro-step, so sequences are sorted by length and dealt in runs
of `world_size * micro_batch_size`: what is computed at the same time is about equally long, which
also keeps padding low. The last, incomplete run holds the shortest sequences.

Left out: token budgets instead of a micro-batch size and sequence packing without padding. Both
change speed only, and both want attention kernels that a CPU does not have.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from mgsrl.data.token_row import lay_out
from mgsrl.errors import InvariantError
from mgsrl.types import BatchTotals, MicroBatch, Prompt, Rollout, RolloutGroup


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

    @property
    def domains(self) -> tuple[str, ...]:
        """The domains with something to train on, in the order of the groups."""
        return tuple(self.per_rank[0])


@dataclass(frozen=True, slots=True)
class _Sequence:
    prompt: Prompt
    rollout: Rollout
    advantage: float

    @property
    def length(self) -> int:
        return len(self.prompt.token_ids) + len(self.rollout.token_ids)


@dataclass(frozen=True)
class Packing:
    """What a run's batches are packed with."""

    micro_batch_size: int
    """Sequences per rank and micro-step."""
    world_size: int
    """Learner ranks."""
    max_response_length: int
    """The response limit, the constant of `sequence_sum_norm`."""
    pad_token_id: int
    """Stands for the tokens of a rank with nothing left; masked."""
    temperatures: Mapping[str, float]
    """Of sampling, by domain."""


def pack(
    groups: Mapping[str, Sequence[RolloutGroup]], packing: Packing, *, halves: bool = False
) -> PackedBatch:
    """Distribute every trainable response over ranks and micro-batches; deterministic.

    Responses whose reward abstained, and responses without a token, are left out. A domain in
    which nothing is left is absent on all ranks.

    Args:
        groups: scored groups with advantages, by domain.
        halves: keep every domain's prompts in two halves (every other prompt with something to
            train on), no micro-batch holding both; for `surgery.reliability`.

    Raises:
        InvariantError: a group that was not scored, or log-probabilities that do not match its
            tokens.
    """
    size, world_size = packing.micro_batch_size, packing.world_size
    per_rank: tuple[dict[str, tuple[MicroBatch, ...]], ...] = tuple({} for _ in range(world_size))
    half_sizes: dict[str, tuple[int, int]] = {}
    num_tokens = num_sequences = 0
    for domain, domain_groups in groups.items():
        prompts = _trainable(domain, domain_groups)
        if not prompts:
            continue
        parts = [prompts[0::2], prompts[1::2]] if halves else [prompts]
        if halves:
            half_sizes[domain] = (len(parts[0]), len(parts[1]))
        steps: list[tuple[int, list[list[_Sequence]]]] = []
        for half, part in enumerate(parts):
            sequences = [sequence for prompt in part for sequence in prompt]
            num_sequences += len(sequences)
            num_tokens += sum(len(sequence.rollout.token_ids) for sequence in sequences)
            steps += [(half, step) for step in _deal(sequences, size, world_size)]
        for rank in range(world_size):
            per_rank[rank][domain] = tuple(
                _micro_batch(
                    domain, step[rank], packing.pad_token_id, packing.temperatures[domain], half
                )
                for half, step in steps
            )
    totals = BatchTotals(num_tokens, num_sequences, packing.max_response_length)
    return PackedBatch(per_rank, totals, half_sizes)


def _trainable(domain: str, groups: Sequence[RolloutGroup]) -> list[list[_Sequence]]:
    """The trainable responses by prompt, without prompts that have none."""
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
        for rollout, reward, advantage in zip(group.rollouts, group.rewards, group.advantages):
            if len(rollout.logprobs) != len(rollout.token_ids):
                raise _mismatch(
                    f"{domain}/{rollout.request_id}",
                    f"{len(rollout.token_ids)} log-probabilities, one per response token",
                    f"{len(rollout.logprobs)}",
                )
            if not reward.abstained and rollout.token_ids:
                sequences.append(_Sequence(group.prompt, rollout, advantage))
        if sequences:
            prompts.append(sequences)
    return prompts


def _deal(
    sequences: list[_Sequence], micro_batch_size: int, world_size: int
) -> list[list[list[_Sequence]]]:
    """[steps][ranks][<= micro_batch_size] longest first; each run is dealt to and fro."""
    # sorted() is stable: equal lengths keep the order of prompts and samples.
    by_length = sorted(sequences, key=lambda sequence: -sequence.length)
    run = micro_batch_size * world_size
    steps = []
    for start in range(0, len(by_length), run):
        ranks: list[list[_Sequence]] = [[] for _ in range(world_size)]
        for index, sequence in enumerate(by_length[start : start + run]):
            lap, place = divmod(index, world_size)
            ranks[place if lap % 2 == 0 else world_size - 1 - place].append(sequence)
        steps.append(ranks)
    return steps


def _micro_batch(
    domain: str, sequences: list[_Sequence], pad_token_id: int, temperature: float, half: int
) -> MicroBatch:
    """Of weight zero, with a token to predict, when there is no sequence."""
    pairs = [(sequence.prompt.token_ids, sequence.rollout.token_ids) for sequence in sequences]
    token_ids_T, layout = lay_out(pairs or [((pad_token_id,), (pad_token_id,))])
    length = max(len(response) for _, response in pairs) if pairs else 1
    response_mask_BL = torch.zeros(max(len(pairs), 1), length)
    rollout_logprobs_BL = torch.zeros_like(response_mask_BL)
    for row, sequence in enumerate(sequences):
        end = len(sequence.rollout.token_ids)
        response_mask_BL[row, :end] = 1
        rollout_logprobs_BL[row, :end] = torch.tensor(sequence.rollout.logprobs)
    advantages = [sequence.advantage for sequence in sequences] or [0.0]
    return MicroBatch(
        domain=domain,
        token_ids_T=token_ids_T,
        layout=layout,
        response_mask_BL=response_mask_BL,
        rollout_logprobs_BL=rollout_logprobs_BL,
        advantages_B=torch.tensor(advantages, dtype=torch.float32),
        temperature=temperature,
        half=half,
    )


def _mismatch(what: str, expected: str, found: str) -> InvariantError:
    return InvariantError(
        f"{what} cannot be packed.",
        expected=expected,
        found=found,
        todo="report this: scoring and advantages come before packing",
    )
