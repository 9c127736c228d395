"""What a reward is given and what it must do.

A reward sees the response; the conversation is a separate argument for the rewards that judge a
response in its context (a reward model), or refuse one that repeats the question (the math
verifier), and is never searched for the answer. Left out on
purpose: anything about tokens, groups or steps.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from mgsrl.types import Message, Reward


@dataclass(frozen=True, slots=True)
class RewardItem:
    """One response to score."""

    messages: tuple[Message, ...]
    """The conversation that the response answers."""
    response: str
    """The whole text of the policy, tags included; never the prompt."""
    reference: Mapping[str, Any] = field(default_factory=dict)
    """`answer` | `instruction_id_list` + `kwargs` [+ `gates`] | nothing, by kind of reward."""


@runtime_checkable
class RewardFunction(Protocol):
    """A reward. One object scores many batches; `close` frees processes and memory."""

    def score(self, items: Sequence[RewardItem]) -> list[Reward]:
        """One `Reward` per item, in order.

        An item that cannot be judged (error, time-out) gets a `Reward` with `value=None` and the
        reason; it must not raise, or one bad item would cost the whole batch.
        """
        ...

    def close(self) -> None:
        """Free processes and memory; the object is not used afterwards."""
        ...
