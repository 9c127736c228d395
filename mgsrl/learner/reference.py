"""The frozen reference policy of the KL term; loaded only when `kl_coef > 0`.

ZeRO 0-2: a plain copy on every rank. ZeRO-3: a DeepSpeed engine without optimizer, its
parameters partitioned like the policy's, so that no rank holds a whole second model.

`learner.offload_reference` keeps it in host memory but for the seconds in which a batch is scored.

It never has adapters: it starts as the model of `policy.path` and moves to merged weights. Left
out: scoring with the policy's own base weights while adapters are trained, which would spare the
second model until the reference is moved.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from mgsrl.config.learner import LearnerConfig
from mgsrl.config.policy import LoraConfig, PolicyConfig
from mgsrl.learner.engine import deepspeed_config
from mgsrl.learner.layout import (
    check_not_lent,
    held_part,
    holder,
    own_share,
    regather_persistent,
)
from mgsrl.learner.policy import load_forward
from mgsrl.sync.source import WeightSource
from mgsrl.types import MicroBatch


class Reference:
    """A frozen policy that scores responses.

    Attributes:
        moved: whether it was ever moved to a later policy (then checkpoints must hold it).
    """

    def __init__(
        self, policy: PolicyConfig, config: LearnerConfig, dtype: torch.dtype, device: torch.device
    ) -> None:
        plain = replace(policy, lora=LoraConfig())
        model = load_forward(plain, dtype, config.share_prompts).requires_grad_(False)
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
        self._device = device
        self._on_host: list[torch.Tensor] = []
        if config.offload_reference:
            self._on_host = [_host_copy(held.data) for held in self._holders()]
            self._rest()

    @torch.no_grad()
    def logprobs(self, batch: MicroBatch) -> torch.Tensor:
        """float32 [B, L] log-probabilities of the response tokens, 0 elsewhere."""
        logprobs_BL, _ = self._forward(
            batch.token_ids_T, batch.layout, batch.response_mask_BL, batch.temperature, False
        )
        return logprobs_BL

    @contextmanager
    def at_hand(self) -> Iterator[None]:
        """On the device inside the block, wherever it is kept."""
        check_not_lent(self._holders(), "reference")
        for held, host in zip(self._holders(), self._on_host):
            held.data = torch.empty_like(host, device=self._device).copy_(host, non_blocking=True)
        self._wait()  # DeepSpeed gathers on a stream of its own
        try:
            yield
        finally:
            self._wait()
            self._rest()

    def _rest(self) -> None:
        """Leave the device; only the scoring was done there, so nothing has to be copied back."""
        if hasattr(self._forward, "optimizer"):  # ZeRO-3 keeps up to 2 GB of what it gathered last
            self._forward.optimizer.empty_partition_cache()
        for held, host in zip(self._holders(), self._on_host):
            held.data = host

    def _wait(self) -> None:
        if self._on_host and self._device.type == "cuda":
            torch.cuda.synchronize()

    def _holders(self) -> list[torch.Tensor]:
        """The tensors whose data is what this rank holds."""
        return [holder(param) for param in self.model.parameters()]

    def shards(self, rank: int, world_size: int) -> dict[str, tuple[int, torch.Tensor]]:
        """name -> (start, flat view) of this rank's share of every parameter; over all ranks
        each element appears once."""
        return {
            name: own_share(param, rank, world_size)
            for name, param in self.model.named_parameters()
        }

    @torch.no_grad()
    def move_to(self, source: WeightSource) -> None:
        """Copy the policy's current weights (a collective under ZeRO-3)."""
        params = dict(self.model.named_parameters())
        for name, whole in source:
            start, target = held_part(params[name])
            target.copy_(whole.reshape(-1)[start:][: target.numel()])
        self.moved = True
        self.refresh()

    def refresh(self) -> None:
        """Call after writing to `shards` (ZeRO-3 keeps small parameters whole besides)."""
        if not self._on_host:
            regather_persistent(self.model.parameters())


def _host_copy(data: torch.Tensor) -> torch.Tensor:
    host = torch.empty_like(data, device="cpu", pin_memory=data.is_cuda)
    return host.copy_(data)
