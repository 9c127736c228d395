"""What a reward is: one class with the dataclass of its own keys beside it.

    class Short(BaseReward):
        def score(self, items):
            return [Reward(float(len(item.text) < 100)) for item in items]

A reward sees the text to judge; the tags are off, and what happens to a response without a block is
settled before (`actor.py`). The conversation is there for the rewards that judge a response in its
context, or refuse one that repeats the question, and is never searched for the answer.

An object is cheap until `load`: the driver asks one for what its kind needs and checks, the actor
loads one. So nothing heavy is imported at the top of a reward's module.

Left out on purpose: anything about tokens, groups or steps.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from mgsrl.types import FinishReason, Message, Reward


@dataclass(frozen=True, slots=True)
class Response:
    """One response of a policy, as it was written, and its task."""

    messages: tuple[Message, ...]
    """The conversation that it answers."""
    response: str
    """The whole text, tags included; never the prompt."""
    reference: Mapping[str, Any] = field(default_factory=dict)
    """The row's columns that the rewards read (JSON-able)."""
    finish_reason: FinishReason | None = None
    """Why it ended; None where nobody knows (stored responses)."""


@dataclass(frozen=True, slots=True)
class RewardItem:
    """One response as a reward sees it."""

    messages: tuple[Message, ...]
    """The conversation that it answers."""
    text: str
    """What is judged: the inside of the `<response>` block, or, under `whole_response`, all but the
    reasoning. No white space around it."""
    reference: Mapping[str, Any] = field(default_factory=dict)
    """The row's columns: what `requires` and `accepts` name, and what the user maps to
    `reference.NAME`."""
    format_ok: bool = True
    """Whether `text` stood in a complete block."""
    finish_reason: FinishReason | None = None
    as_written: str = ""
    """`text`, with the white space around it where the response is nothing but the text."""


@dataclass(frozen=True, slots=True)
class Golden:
    """A prompt that gives its answer away, with a right and a wrong response to it."""

    prompt: str
    good: str
    bad: str
    reference: Mapping[str, Any] = field(default_factory=dict)


OPEN = Golden(
    "Name a purple fruit, such as the plum, and say how it tastes.",
    "A plum is a purple fruit. It tastes sweet and a little sour.",
    "asdf asdf 17 17 17 ;;",
    {"answer": "plum"},
)
"""Of rewards without a golden case of their own."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a reward is told when it is loaded."""

    special_tokens: tuple[str, ...] = ()
    """The policy's, which a model that judges must not see."""
    date: str | None = None
    """The day that a chat template takes for today, as `2026-11-26`; None is today."""
    num_gpus: float = 0.0
    """GPUs of this process."""


@dataclass
class NoKeys:
    """The `Config` of a reward without keys of its own."""


class BaseReward(ABC):
    """A reward. One object scores many batches; `close` frees processes and memory.

    Args:
        config: an instance of `Config`.
    """

    Config: ClassVar[type] = NoKeys
    """The dataclass of its own keys; a method `validate(key)` checks their values. Names of the
    keys that every reward has (`weight`, `clip`, ...) are taken."""
    requires: ClassVar[tuple[str, ...]] = ()
    """Columns of the reference that every row must have."""
    accepts: ClassVar[tuple[str, ...]] = ()
    """Columns that are handed over where a row has them."""
    needs_prompt: ClassVar[bool] = True
    """Whether it reads the conversation."""
    exact: ClassVar[bool] = False
    """It knows the answer: a right response gets 1, one that is wrong in every part 0."""
    templated: ClassVar[bool] = False
    """A model reads the text in a template of its own, so control tokens must be taken out."""
    remote: ClassVar[bool] = False
    """A server computes the score."""
    in_child: ClassVar[bool] = False
    """Each object has a process of its own that scores one item after the other, so that on one
    machine several objects use several cores."""
    items_per_call: ClassVar[int | None] = None
    """Items handed to an actor at a time; None is its whole share (it makes batches itself)."""
    metric: ClassVar[str] = "score"
    """How `mgsrl eval` sums up a task with it: `math`, `constraints`, `chat`, or `score`, the
    mean."""
    domain: ClassVar[str] = ""
    """The domain whose stored responses `mgsrl score DOMAIN` scores with it, ..."""
    domain_keys: ClassVar[Mapping[str, Any]] = {}
    """... and the keys that it sets for that."""
    golden: ClassVar[Golden] = OPEN
    """Tried by the contract."""
    hostile: ClassVar[Mapping[str, str]] = {}
    """Further texts that must end in time, by what they are called."""

    key: str = "reward"
    """Where its configuration stands, for messages; known before it is asked for anything."""

    def __init__(self, config: Any) -> None:
        self.config = config

    def check(self, key: str) -> Any:
        """The configuration for actors (paths absolute). Raises the user's mistakes that can be
        seen without loading anything; `key` is where it stands (`domains.chat.reward`)."""
        return self.config

    def validate_reference(self, reference: Mapping[str, Any]) -> None:  # noqa: B027 (optional)
        """Raise `ValueError` for a reference that it cannot use."""

    def load(self, surroundings: Surroundings) -> None:  # noqa: B027 (optional)
        """Load models, start processes, connect. Raises the user's mistakes."""

    @abstractmethod
    def score(self, items: Sequence[RewardItem]) -> list[Reward]:
        """One `Reward` per item, in order (`format_ok` is filled in by the caller).

        An item that cannot be judged (error, time-out) gets a `Reward` with `value=None` and the
        reason; what is raised for a batch costs every item of it a second call, alone.
        """

    def close(self) -> None:  # noqa: B027 (optional)
        """Free processes and memory; the object is not used afterwards."""

    def limit_s(self, count: int) -> float:
        """Seconds that the time limits of `count` items add up to, retries included; 0 where there
        are none of its own."""
        return 0.0

    @property
    def bounds(self) -> tuple[float, float]:
        """The range of its scores."""
        return (0.0, 1.0) if self.exact else (-math.inf, math.inf)

    @property
    def model_path(self) -> str:
        """The model that it computes with in its own process; empty for none."""
        return ""

    def without_block(self, reference: Mapping[str, Any]) -> Mapping[str, Any]:
        """Details of the 0 of a response that has no block."""
        return {}

    def describe(self) -> str:
        """Who judges, for people: `judged by ...`."""
        return type(self).__qualname__
