"""Scores the responses of all domains at once on their pools of reward actors.

Every domain's work is submitted before any is waited for: the math verifier's processes, the
constraint checker and the reward model then share the machine instead of queueing. A worker that
dies is replaced by its pool and its batch scored again. Equal responses to one prompt are scored
once: a model's rounding or a judge's mood must not tell them apart. Abstentions are kept apart from
rewards; when too large a share of a domain abstains the run stops, showing the first reason.
`score` gives what the rewards said, `shape` what is trained on.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Protocol

from mgsrl.cluster.pool import ActorPool
from mgsrl.errors import AbstentionError
from mgsrl.rewards.protocol import Response
from mgsrl.rewards.shaping import Shaper
from mgsrl.types import Reward, RolloutGroup

GroupsByDomain = Mapping[str, Sequence[RolloutGroup]]


class Pool(Protocol):
    """What the scorer needs of `rewards.pool.RewardPool`."""

    def score(self, responses: Sequence[Response]) -> list[Reward]: ...

    def wait_ready(self) -> list[Any]: ...

    def stop(self) -> None: ...


class Scorer:
    """See the module.

    Args:
        pools: one per domain.
        shapers: one per domain whose rewards are shaped.
        max_abstained_share: of one domain's responses in one call; above it AbstentionError.
    """

    def __init__(
        self,
        pools: Mapping[str, Pool],
        shapers: Mapping[str, Shaper] | None = None,
        *,
        max_abstained_share: float = 0.5,
    ) -> None:
        self.pools = pools
        self.shapers = shapers or {}
        self.max_abstained_share = max_abstained_share
        self.abstained: Counter[str] = Counter()
        """Abstentions by domain since the start."""
        self._absent: dict[str, Any] = {}
        """Statistics of a checkpoint whose domains do not take part any more."""

    @property
    def reward_pools(self) -> list[ActorPool]:
        """The pools whose actors may die and be replaced."""
        return [pool for pool in self.pools.values() if isinstance(pool, ActorPool)]

    def wait_ready(self) -> dict[str, list[Any]]:
        """Wait until every actor has loaded its reward; their facts by domain.

        Raises the user's mistakes that only loading can show (a classifier with two logits).
        """
        return {domain: pool.wait_ready() for domain, pool in self.pools.items()}

    def stop(self) -> None:
        """Stop the actors; safe to call twice."""
        for pool in self.pools.values():
            pool.stop()

    def score(
        self, groups_by_domain: GroupsByDomain, *, few: bool = False
    ) -> dict[str, list[RolloutGroup]]:
        """The same groups with `rewards` filled in.

        Args:
            few: of so few responses no share is judged.

        Raises:
            AbstentionError: too large a share of a domain abstained.
            WorkerDiedError: a pool could not keep its actors alive.
        """
        threads = ThreadPoolExecutor(max_workers=max(1, len(groups_by_domain)))
        try:
            futures = {
                domain: threads.submit(self._score_domain, domain, groups)
                for domain, groups in groups_by_domain.items()
            }
            scored = {domain: future.result() for domain, future in futures.items()}
        except BaseException:  # Ctrl-C must not wait for what the workers are busy with
            self.stop()
            raise
        finally:
            threads.shutdown(wait=False, cancel_futures=True)
        for domain, groups in scored.items():
            self._count(domain, [r for group in groups for r in group.rewards], few)
        return scored

    def shaped_rewards(self, groups_by_domain: GroupsByDomain) -> dict[str, list[RolloutGroup]]:
        """Scored groups with the rewards to train on; running statistics move on."""
        return {
            domain: self.shapers[domain].shape(groups) if domain in self.shapers else list(groups)
            for domain, groups in groups_by_domain.items()
        }

    def state(self) -> dict[str, Any]:
        """The running statistics, JSON-able."""
        state = {domain: shaper.state() for domain, shaper in self.shapers.items()}
        return {**self._absent, **state}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from `state()`. What only the state knows is kept for a continuation that has
        the domain again, as in `Mixture.restore`."""
        for domain, moments in state.items():
            if domain in self.shapers:
                self.shapers[domain].restore(moments)
        self._absent = {name: saved for name, saved in state.items() if name not in self.shapers}

    def _score_domain(self, domain: str, groups: Sequence[RolloutGroup]) -> list[RolloutGroup]:
        # Equal responses to one prompt have one key, and are scored once.
        keys = [[(n, r.text, r.finish_reason) for r in g.rollouts] for n, g in enumerate(groups)]
        responses = {
            key: Response(group.prompt.messages, key[1], group.prompt.reference, key[2])
            for group, of_group in zip(groups, keys, strict=True)
            for key in of_group
        }
        rewards = self.pools[domain].score(list(responses.values()))
        scored = dict(zip(responses, rewards, strict=True))
        return [
            replace(group, rewards=tuple(map(scored.__getitem__, of_group)))
            for group, of_group in zip(groups, keys, strict=True)
        ]

    def _count(self, domain: str, rewards: Sequence[Reward], few: bool) -> None:
        abstained = [reward for reward in rewards if reward.abstained]
        self.abstained[domain] += len(abstained)
        if not few and len(abstained) > self.max_abstained_share * len(rewards):
            raise AbstentionError(
                f"Too many rewards of domain {domain!r} abstained.",
                expected=f"at most a share of {self.max_abstained_share:g}",
                found=f"{len(abstained)} of {len(rewards)}; the first: {abstained[0].error}",
                todo="mend the cause, or raise max_abstained_share",
            )
