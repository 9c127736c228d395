"""A reward behind any HTTP address: a POST of JSON, an answer of JSON.

Request: `{"items": [{"messages": [...], "response": "...", "reference": {...}}]}` with at most
`batch_size` items, the response being what stood inside the `<response>` block. Answer:
`{"rewards": [0.5, null, ...]}`, one finite number or null (abstain) per item. Anything else makes
the items of that request abstain with the reason.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mgsrl.config.require import at_least
from mgsrl.errors import EndpointError
from mgsrl.rewards.protocol import RewardItem
from mgsrl.rewards.remote import RemoteConfig, RemoteReward
from mgsrl.types import Reward


@dataclass
class HttpConfig(RemoteConfig):
    batch_size: int = 32
    """Responses per request."""

    def validate(self, key: str) -> None:
        super().validate(key)
        at_least(f"{key}.batch_size", self.batch_size, 1)


class HttpReward(RemoteReward):
    """See the module."""

    Config = HttpConfig

    def score(self, items: Sequence[RewardItem]) -> list[Reward]:
        size = self.config.batch_size
        batches = [items[start : start + size] for start in range(0, len(items), size)]
        answers = self.endpoint.post_many(
            [{"items": [_payload(item) for item in batch]} for batch in batches]
        )
        return [
            reward
            for batch, answer in zip(batches, answers, strict=True)
            for reward in read_rewards(answer, len(batch))
        ]

    def describe(self) -> str:
        return str(self.config.url)


def read_rewards(answer: Any, count: int) -> list[Reward]:
    """`count` rewards of one answer; abstentions with the reason where it holds none."""
    rewards = answer.get("rewards") if isinstance(answer, dict) else None
    if isinstance(answer, EndpointError):
        problem = f"the reward server: {answer}"
    elif not isinstance(rewards, list):
        problem = "the reward server's answer has no list `rewards`"
    elif len(rewards) != count:
        problem = f"the reward server gave {len(rewards)} rewards for {count} items"
    else:
        return [_reward(value) for value in rewards]
    return [Reward(None, error=problem)] * count


def _reward(value: Any) -> Reward:
    if value is None:
        return Reward(None, error="the reward server abstained")
    if isinstance(value, bool) or not isinstance(value, int | float):
        return Reward(None, error=f"the reward server gave {value!r:.40}, not a number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        return Reward(None, error=f"the reward server gave {number}")
    return Reward(number, details={"raw_score": number})


def _payload(item: RewardItem) -> dict[str, Any]:
    return {
        "messages": [dict(message) for message in item.messages],
        "response": item.text,
        "reference": dict(item.reference),
    }
