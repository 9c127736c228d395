"""The reward actor: one domain's rewards in one Ray process.

Here, and only here, the text to judge is cut out of the response (`cut`, which benchmarks use too),
and one without it is dealt with as each reward's `missing_tag` says. Whatever a reward raises on an
item becomes an abstention of that item with the reason: the item is masked out of training and
counted, and `Scorer` stops the run when too many abstain. Mistakes of the user (a model that is not
there) are raised.

The value is that of the domain's own reward; those of `reward.extra` are kept by name in
`details["parts"]`, and `shaping.py` adds them up on the driver, where the running statistics are. A
response abstains when one of them does, for a sum without a part would be another reward.

A plain class, so tests and `mgsrl score` can use it without Ray.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from mgsrl.config.reward import OWN, RewardConfig
from mgsrl.errors import UserError
from mgsrl.rewards.extract import extract_response
from mgsrl.rewards.factory import make_reward
from mgsrl.rewards.protocol import BaseReward, Response, RewardItem, Surroundings
from mgsrl.types import Reward


class RewardWorker:
    """See the module.

    Args:
        special_tokens: the policy's, which a model that judges must not see.
        date: the day that a reward model's chat template takes for today; None is today.
    """

    def __init__(
        self, config: RewardConfig, special_tokens: Sequence[str] = (), date: str | None = None
    ) -> None:
        self.config = config
        self.rewards: dict[str, BaseReward] = {}
        """The own reward and the extra ones by name."""
        self._mistake: UserError | None = None
        surroundings = Surroundings(tuple(special_tokens), date, config.num_gpus)
        try:
            for name, score in config.scores.items():
                reward = make_reward(score)
                reward.load(surroundings)
                self.rewards[name] = reward
        except UserError as error:
            # Raised here it would reach the driver as the death of an actor, without its message.
            self._mistake = error

    def ready(self) -> dict[str, Any]:
        """Facts for `run.json`; returns once the rewards are loaded.

        Raises the user's mistakes that loading showed.
        """
        import psutil

        if self._mistake is not None:
            raise self._mistake

        processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
        rss = sum(process.memory_info().rss for process in processes)
        return {"kind": self.config.kind, "pid": os.getpid(), "rss_gib": round(rss / 2**30, 3)}

    def score(self, responses: Sequence[Response | RewardItem]) -> list[Reward]:
        """One reward per response, in order; of a `RewardItem` the text is cut out already."""
        parts = {name: self._part(name, responses) for name in (*self.config.extra, OWN)}
        own = parts.pop(OWN)
        return [
            merge(reward, {name: rewards[index] for name, rewards in parts.items()})
            for index, reward in enumerate(own)
        ]

    def close(self) -> None:
        for reward in self.rewards.values():
            reward.close()

    def _part(self, name: str, responses: Sequence[Response | RewardItem]) -> list[Reward]:
        """What the reward `name` says of each response."""
        reward, missing_tag = self.rewards[name], self.config.scores[name].missing_tag
        found: dict[int, Reward] = {}
        items: dict[int, RewardItem] = {}
        for index, response in enumerate(responses):
            item = response if isinstance(response, RewardItem) else cut(response, missing_tag)
            if isinstance(item, RewardItem):
                items[index] = item
            elif item.abstained:
                found[index] = item
            else:
                details = {**item.details, **reward.without_block(response.reference)}
                found[index] = replace(item, details=details)
        scored = _scored(reward, list(items.values()))
        for (index, item), score in zip(items.items(), scored, strict=True):
            found[index] = replace(score, format_ok=item.format_ok)
        return [found[index] for index in range(len(responses))]


def cut(response: Response, missing_tag: str) -> RewardItem | Reward:
    """What is judged of a response; its reward where there is nothing to judge."""
    extraction = extract_response(response.response, missing_tag)
    if extraction.verdict is not None:
        return extraction.verdict
    return RewardItem(
        response.messages,
        extraction.text or "",
        response.reference,
        extraction.format_ok,
        response.finish_reason,
        extraction.as_written,
    )


def _scored(reward: BaseReward, items: list[RewardItem]) -> list[Reward]:
    """The rewards of `items`; what it raises on one of them is that one's abstention."""
    if not items:
        return []
    try:
        return reward.score(items)
    except UserError:
        raise
    except Exception as error:
        if len(items) == 1:
            return [Reward(None, error=f"{type(error).__name__}: {error}")]
    # One item spoilt the batch: alone, only that one abstains.
    return [score for item in items for score in _scored(reward, [item])]


def merge(own: Reward, parts: Mapping[str, Reward]) -> Reward:
    """`own` with the values and details of `parts`, if there are any, in its details."""
    if not parts:
        return own
    shown = {name: {"value": part.value, **part.details} for name, part in parts.items()}
    details = {**own.details, "parts": shown}
    reasons = [f"{name}: {part.error}" for name, part in parts.items() if part.abstained]
    if own.abstained:
        reasons.insert(0, own.error or "")
    if reasons:
        return Reward(None, own.format_ok, details, "; ".join(reasons))
    return Reward(own.value, own.format_ok, details)
