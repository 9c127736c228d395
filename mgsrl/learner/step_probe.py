"""Tries steps on the learner's shards, measures the domains' losses after each, takes all back.

`surgery/step_probe.py` says what the steps are and what is measured. Here they are made: AdamW's
change of this rank's shards of the fp32 weights, from moments that are only read; the compute
weights of all ranks follow (`refresh_weights`). Weights are copied before and put back after, so
nothing of a probe remains, to the bit; generators of random numbers are put back as well.

Cost: D + 3 forward passes over the held-back halves, and 8 bytes per parameter that a rank steps
(the copy and the step) beside the rows of two halves. Under bfloat16 the losses are those of the
rounded weights, which many a step of a small learning rate does not reach: that is what training
sees, too. Left out: probes of later updates on a batch (`algo.updates_per_batch`); the first one
is probed.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
import torch.distributed as dist

from mgsrl.learner.domain_grads import DomainGradients
from mgsrl.learner.layout import STATES, ShardLayout
from mgsrl.learner.learning_rate import learning_rate
from mgsrl.learner.objective import Objective, Prepared
from mgsrl.learner.spec import LearnerSpec, step_seed
from mgsrl.surgery.memory import PairMemory
from mgsrl.surgery.step_probe import (
    adamw_step_,
    clip_factor,
    norms_of,
    scales,
    trial_weights,
)
from mgsrl.types import MicroBatch, StepProbe

Forward = Callable[[MicroBatch], tuple[torch.Tensor, torch.Tensor]]


class HeldBack:
    """The second halves' losses at the present weights.

    Args:
        batch: this rank's micro-batches.
        forward: (log-probabilities, entropies), a collective over all ranks.
        seed: of what a forward pass draws (dropout), the same for every measurement.
    """

    def __init__(
        self,
        batch: Mapping[str, Sequence[Prepared]],
        forward: Forward,
        objective: Objective,
        seed: int,
    ) -> None:
        # What does not train has a loss of zero whatever the weights.
        self._items = [
            [item for item in items if item.batch.half and item.batch.trains]
            for items in batch.values()
        ]
        self._forward, self._objective, self._seed = forward, objective, seed
        self._old: dict[int, torch.Tensor] = {}

    @torch.no_grad()
    def losses(self, device: torch.device) -> torch.Tensor:
        """float64 [D] over all ranks: each domain's term of the batch's loss. The first call fixes
        the log-probabilities that later ones are compared with."""
        torch.manual_seed(self._seed)
        losses_D = torch.zeros(len(self._items), dtype=torch.float64, device=device)
        for index, items in enumerate(self._items):
            for item in items:
                logprobs_BL, entropy_BL = (each.double() for each in self._forward(item.batch))
                old_BL = item.old_logprobs_BL
                if old_BL is None:
                    old_BL = self._old.setdefault(id(item), logprobs_BL)
                losses_D[index] += self._objective(item, logprobs_BL, entropy_BL, old_BL).loss
        dist.all_reduce(losses_D)
        return losses_D.cpu()


def probe_steps(
    grads: DomainGradients,
    layout: ShardLayout,
    spec: LearnerSpec,
    step: int,
    half_sizes: Mapping[str, tuple[int, int]],
    held_back: HeldBack,
    device: torch.device,
    memory: PairMemory,
) -> StepProbe | None:
    """Try every step, from the gradients of a batch packed in halves, which stay as they are.

    Returns:
        None where a gradient is not finite; then there is no update to make either.
    """
    domains = grads.domains
    sizes = {domain: half_sizes[domain] for domain in domains}
    gram_MRR = grads.gramian()
    if not torch.isfinite(gram_MRR).all():
        return None
    seed = step_seed(spec.seed, step)
    weights_SMR = trial_weights(gram_MRR, sizes, grads.modules, spec.surgery, seed, memory)
    norms = norms_of(weights_SMR, gram_MRR)
    unbiased_D = scales(list(sizes.values()))[1]
    shape = (len(weights_SMR), len(domains))
    change_SD = torch.full(shape, math.nan, dtype=torch.float64)
    predicted_SD, norm_S = change_SD.clone(), change_SD[:, 0].clone()
    layout.check_present()
    with _random_state_kept(device), _weights_kept(layout) as kept:
        before_D = held_back.losses(device)
        row_N = grads.new_row()
        for index, weights_MR in enumerate(weights_SMR):
            if not torch.isfinite(weights_MR).all():
                continue
            grads.mix(weights_MR, row_N)
            row_N.mul_(clip_factor(norms[index], spec.learner.optimizer.max_grad_norm))
            _make_step(layout, row_N, spec, step)
            along_R, norm_S[index] = grads.along(row_N)
            for shard in layout.shards:
                layout.master(shard).add_(row_N[shard.column :][: shard.numel])
            layout.refresh_weights()
            predicted_SD[index] = along_R[len(domains) :] * unbiased_D
            change_SD[index] = (held_back.losses(device) - before_D) * unbiased_D
            _put_back(layout, kept)
    return StepProbe(domains, change_SD, predicted_SD, norm_S)


def _make_step(layout: ShardLayout, row_N: torch.Tensor, spec: LearnerSpec, step: int) -> None:
    """Turn the gradient in `row_N` into the change of the weights."""
    config = spec.learner.optimizer
    rate, updates = learning_rate(config, step, spec.num_steps), layout.num_updates()
    for shard in layout.shards:
        first, second = (layout.state(shard, kind) for kind in STATES)
        adamw_step_(
            row_N[shard.column :][: shard.numel],
            layout.master(shard),
            None if first is None or second is None else (first, second),
            updates,
            lr=rate,
            betas=(config.beta1, config.beta2),
            eps=config.eps,
            weight_decay=config.weight_decay,
        )


@contextmanager
def _weights_kept(layout: ShardLayout) -> Iterator[list[torch.Tensor]]:
    """Copies of the masters, put back whatever happens inside."""
    kept = [master.detach().clone() for master in layout.masters]
    try:
        yield kept
    except BaseException:
        # Not `refresh_weights`: a collective would wait for ranks that are not in it.
        _copy(layout, kept)
        raise


def _put_back(layout: ShardLayout, kept: Sequence[torch.Tensor]) -> None:
    _copy(layout, kept)
    layout.refresh_weights()


def _copy(layout: ShardLayout, kept: Sequence[torch.Tensor]) -> None:
    for master, copy in zip(layout.masters, kept, strict=True):
        master.detach().copy_(copy)


@contextmanager
def _random_state_kept(device: torch.device) -> Iterator[None]:
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        yield
