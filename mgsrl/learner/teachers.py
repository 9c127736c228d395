"""The models that domains are distilled from (`algo.teacher`): frozen, kept as the reference is.

`learner.offload_reference` rests them in host memory, so that one at a time is on the device.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from mgsrl.learner.objective import Prepared
from mgsrl.learner.reference import Reference
from mgsrl.learner.spec import LearnerSpec


class Teachers:
    """Those of all domains; domains may share one."""

    def __init__(self, spec: LearnerSpec, dtype: torch.dtype, device: torch.device) -> None:
        self._spec = spec
        self._by_path = {
            path: Reference(replace(spec.policy, path=path), spec.learner, dtype, device)
            for path in dict.fromkeys(algo.teacher for algo in spec.algos.values() if algo.teacher)
        }

    @property
    def models(self) -> list[Reference]:
        return list(self._by_path.values())

    def score(self, batch: Mapping[str, Sequence[Prepared]]) -> None:
        """Give every micro-batch its teacher's log-probabilities (collective under ZeRO-3)."""
        for domain, items in batch.items():
            teacher = self._by_path.get(self._spec.algos[domain].teacher)
            if teacher is not None:
                with teacher.at_hand():
                    for item in items:
                        item.teacher_logprobs_BL = teacher.logprobs(item.batch)
