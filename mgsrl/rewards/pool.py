"""The actors of one domain's reward: how work is cut into remote calls, and their time limits."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from mgsrl.cluster.pool import ActorPool
from mgsrl.config.reward import IN_CHILD, REMOTE, RewardConfig, ScoreConfig
from mgsrl.rewards.protocol import RewardItem
from mgsrl.types import Reward

ITEMS_PER_CALL = {"math": 16, "constraints": 128}
"""Small enough to spread over workers. A reward model gets its whole share in one call, since it
sorts it by length, and so does a server, since it is asked for many at once."""
RESTART_S = 10.0
"""What one killed verifier process may cost on a busy machine."""


class RewardPool(ActorPool):
    """An `ActorPool` of `RewardWorker`s that scores items."""

    def __init__(
        self, name: str, make: Callable[[int], Any], config: RewardConfig, **options: Any
    ) -> None:
        super().__init__(name, make, config.num_workers, **options)
        self.config = config

    def score(self, items: Sequence[RewardItem]) -> list[Reward]:
        """One reward per item, in order; dead workers are replaced and their items done again.

        Raises:
            WorkerDiedError: a worker died too often.
        """
        share = max(1, math.ceil(len(items) / len(self.handles)))
        size = min(share, ITEMS_PER_CALL.get(self.config.kind, share))
        scores = (self.config, *self.config.extra.values())
        limit_s = self.config.call_limit_s + sum(_limit_s(score, size) for score in scores)
        batches = [(list(items[i : i + size]),) for i in range(0, len(items), size)]
        results = self.map("score", batches, limit_s=limit_s, limit_key=f"{self.key}.call_limit_s")
        return [reward for batch in results for reward in batch]


def _limit_s(score: ScoreConfig, size: int) -> float:
    """What the time limits of `size` items add up to, all retries included."""
    if score.kind in IN_CHILD:
        return size * (score.time_limit_s + RESTART_S)
    if score.kind in REMOTE:
        rounds = math.ceil(size / score.concurrency)
        return rounds * (score.max_retries + 1) * score.request_limit_s
    return 0.0
