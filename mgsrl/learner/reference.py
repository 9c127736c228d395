"""The frozen reference policy of the KL term; loaded only when `kl_coef > 0`.

ZeRO 0-2: a plain copy on every rank. ZeRO-3: a DeepSpeed engine without optimizer, its
parameters partitioned like the policy's, so that no rank holds a whole second model.
"""

from typing import Any

import torch
from torch import nn

from mgsrl.config.learner import LearnerConfig
from mgsrl.config.policy import PolicyConfig
from mgsrl.learner.engine import deepspeed_config
from mgsrl.learner.forward import PolicyForward
from mgsrl.learner.layout import regather_persistent
from mgsrl.learner.policy import load_policy
from mgsrl.types import MicroBatch


class Reference:
    """A frozen policy that scores responses.

    Attributes:
        moved: whether it was ever moved to a later policy (then checkpoints must hold it).
    """

    def __init__(
        self, policy: PolicyConfig, config: LearnerConfig, dtype: torch.dtype, device: torch.device
    ) -> None:
        model = PolicyForward(load_policy(policy, dtype)).requires_grad_(False)
        self.moved = False
        self._forward: Any = model.to(device)
        if config.zero_stage == 3:
            import deepspeed

            num_parameters = sum(p.numel() for p in model.parameters())
            ds_config = deepspeed_config(config, num_parameters, device.type)
            self._forward, _, _, _ = deepspeed.initialize(
                model=model, config=ds_config, dist_init_required=False
            )
        self.model: nn.Module = model.policy
        self._forward.eval()

    @torch.no_grad()
    def logprobs(self, batch: MicroBatch) -> torch.Tensor:
        """float32 [B, L] log-probabilities of the response tokens, 0 elsewhere."""
        logprobs_BL, _ = self._forward(
            batch.token_ids_BL, batch.response_mask_BL, batch.temperature
        )
        return logprobs_BL

    def shards(self, rank: int, world_size: int) -> dict[str, tuple[int, torch.Tensor]]:
        """name -> (start, flat view) of this rank's share of every parameter; over all ranks
        each element appears once."""
        return {
            name: own_share(param, rank, world_size)
            for name, param in self.model.named_parameters()
        }

    @torch.no_grad()
    def move_to(self, policy: nn.Module) -> None:
        """Copy the policy's current weights (partitioned alike, so no communication)."""
        sources = dict(policy.named_parameters())
        for name, param in self.model.named_parameters():
            local_data(param).copy_(local_data(sources[name]))
        self.moved = True
        self.refresh()

    def refresh(self) -> None:
        """Call after writing to `shards` (ZeRO-3 keeps small parameters whole besides)."""
        regather_persistent([p for p in self.model.parameters() if getattr(p, "ds_persist", False)])


def local_data(param: nn.Parameter) -> torch.Tensor:
    """What this rank holds of a parameter: its ZeRO-3 partition, or all of it."""
    data: torch.Tensor = getattr(param, "ds_tensor", param.data)
    return data


def own_share(param: nn.Parameter, rank: int, world_size: int) -> tuple[int, torch.Tensor]:
    """(start, flat view) of the share of one parameter that this rank writes to a checkpoint."""
    numel = int(getattr(param, "ds_numel", param.numel()))
    share = -(-numel // world_size)
    start = min(rank * share, numel)
    length = min(share, numel - start)
    if hasattr(param, "ds_tensor"):
        return start, param.ds_tensor.view(-1)[:length]
    return start, param.data.view(-1)[start:][:length]
