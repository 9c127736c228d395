"""The reward actor: one reward function in one Ray process.

A plain class, so tests and `mgsrl score` can use it without Ray. Whatever a reward raises on an
item becomes an abstention of that item with the reason: the item is masked out of training and
counted, and `Scorer` stops the run when too many abstain. Mistakes of the user (a model that is
not there) are raised.
"""

import os
from collections.abc import Sequence
from typing import Any

from mgsrl.config.reward import RewardConfig
from mgsrl.errors import UserError
from mgsrl.rewards.build import make_reward
from mgsrl.rewards.protocol import RewardItem
from mgsrl.types import Reward


class RewardWorker:
    def __init__(
        self, config: RewardConfig, special_tokens: Sequence[str] = (), date: str | None = None
    ) -> None:
        self.config = config
        self._mistake: UserError | None = None
        try:
            self.reward = make_reward(config, special_tokens, date)
        except UserError as error:
            # Raised here it would reach the driver as the death of an actor, without its message.
            self._mistake = error

    def ready(self) -> dict[str, Any]:
        """Facts for `run.json`; returns once the reward is loaded.

        Raises the user's mistakes that loading showed.
        """
        import psutil

        if self._mistake is not None:
            raise self._mistake

        processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
        rss = sum(process.memory_info().rss for process in processes)
        return {"kind": self.config.kind, "pid": os.getpid(), "rss_gib": round(rss / 2**30, 3)}

    def score(self, items: Sequence[RewardItem]) -> list[Reward]:
        """One reward per item, in order."""
        try:
            return self.reward.score(items)
        except UserError:
            raise
        except Exception as error:
            if len(items) == 1:
                return [Reward(None, error=f"{type(error).__name__}: {error}")]
        # One item spoilt the batch: alone, only that one abstains.
        return [reward for item in items for reward in self.score([item])]

    def close(self) -> None:
        self.reward.close()
