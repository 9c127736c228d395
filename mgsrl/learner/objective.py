"""The loss of one micro-batch as the learner computes it, and what stays fixed over updates."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from mgsrl.algo.losses import LossOutput, grpo_loss
from mgsrl.config.algo import AlgoConfig
from mgsrl.plugins import Part
from mgsrl.types import BatchTotals, MicroBatch


@dataclass
class Prepared:
    """One micro-batch with what stays fixed over the updates on it."""

    batch: MicroBatch
    ref_logprobs_BL: torch.Tensor | None
    teacher_logprobs_BL: torch.Tensor | None = None
    old_logprobs_BL: torch.Tensor | None = None
    """Those of the first update, for the others."""


@dataclass(frozen=True)
class Objective:
    """What all micro-batches of a batch have in common.

    Args:
        algos: by domain.
        policy_losses: by `AlgoConfig.loss`, of `algo.losses.policy_loss`.
        totals: the batch's denominators, over all domains.
    """

    algos: Mapping[str, AlgoConfig]
    policy_losses: Mapping[str, Part]
    totals: BatchTotals

    def __call__(
        self,
        item: Prepared,
        logprobs_BL: torch.Tensor,
        entropy_BL: torch.Tensor,
        old_logprobs_BL: torch.Tensor | None = None,
    ) -> LossOutput:
        """`old_logprobs_BL`: in the place of the micro-batch's own."""
        old_BL = item.old_logprobs_BL if old_logprobs_BL is None else old_logprobs_BL
        algo = self.algos[item.batch.domain]
        return grpo_loss(
            logprobs_BL,
            item.batch,
            self.totals,
            algo,
            self.policy_losses[algo.loss],
            old_logprobs_BL=old_BL,
            ref_logprobs_BL=item.ref_logprobs_BL,
            teacher_logprobs_BL=item.teacher_logprobs_BL,
            # Detached, its backward is never computed: then it is a metric only.
            entropy_BL=entropy_BL if algo.entropy_coef > 0 else entropy_BL.detach(),
        )


def moved(batch: MicroBatch, device: torch.device) -> MicroBatch:
    return replace(
        batch,
        token_ids_T=batch.token_ids_T.to(device),
        response_mask_BL=batch.response_mask_BL.to(device),
        rollout_logprobs_BL=batch.rollout_logprobs_BL.to(device),
        advantages_B=batch.advantages_B.to(device),
    )
