"""The actors of one domain's reward: how work is cut into remote calls, and their time limits."""

import math
from collections.abc import Sequence

from mgsrl.cluster.pool import ActorPool
from mgsrl.config.reward import RewardConfig
from mgsrl.rewards.factory import check_reward, rewards_of
from mgsrl.rewards.protocol import Response
from mgsrl.types import Reward


class RewardPool(ActorPool):
    """`config.num_workers` `RewardWorker`s. Raises the user's mistakes before any actor starts.

    Args:
        special_tokens, date: as of `RewardWorker`.
    """

    def __init__(
        self,
        domain: str,
        config: RewardConfig,
        *,
        special_tokens: Sequence[str] = (),
        date: str | None = None,
    ) -> None:
        import ray

        from mgsrl.rewards.actor import RewardWorker

        key = f"domains.{domain}.reward"
        config = check_reward(config, key)
        self._rewards = rewards_of(config)
        self._call_limit_s = config.call_limit_s
        threads = {"OMP_WAIT_POLICY": "PASSIVE", "TOKENIZERS_PARALLELISM": "false"}
        actor = ray.remote(RewardWorker).options(
            # Rollouts, rewards and learning take turns on a CPU machine: no cores are reserved.
            num_cpus=0,
            num_gpus=config.num_gpus,
            max_restarts=0,
            runtime_env={"env_vars": threads},
        )
        super().__init__(
            f"reward/{domain}",
            lambda _slot: actor.remote(config, tuple(special_tokens), date),
            config.num_workers,
            key=key,
            max_restarts=config.max_restarts,
            restart_window=config.restart_window,
            start_limit_s=config.start_limit_s,
        )

    def score(self, responses: Sequence[Response]) -> list[Reward]:
        """One reward per response, in order; dead workers are replaced and their work done again.

        Raises:
            WorkerDiedError: a worker died too often.
        """
        share = max(1, math.ceil(len(responses) / len(self.handles)))
        size = min(share, self._rewards[0].items_per_call or share)
        limit_s = self._call_limit_s + sum(reward.limit_s(size) for reward in self._rewards)
        batches = [(list(responses[i : i + size]),) for i in range(0, len(responses), size)]
        results = self.map("score", batches, limit_s=limit_s, limit_key=f"{self.key}.call_limit_s")
        return [reward for batch in results for reward in batch]
