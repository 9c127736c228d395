"""The rewards of the testbed `pocket_conflict`: three habits of style and one dial between them.

Of a text's sentences, each of `HABITS` counts a share: those with a comma, those that end with an
exclamation mark, those that say "they" or "them". The bundled policy `pocket_styles` has each in
half of its sentences, independently; `z` are the three shares in its standard deviations. The
domain of a habit is rewarded with

    r_d = u_d . z,    u_d = (1, b, b) / sqrt(1 + 2 b^2),    the 1 at its own habit

so it wants its own habit and thinks `b` of the other two. `conflict` sets the cosine between the
`u_d` of any two domains, and so, as the habits are independent at the start, the correlation of
their rewards: 1 at `conflict=0` (the three rewards are one), 0 at 0.5, -0.4 at 1. Three directions
cannot be further apart than -1/2 from each other, where their sum is zero and whatever one gains
the others lose: at -0.4 all three can still gain together, by 0.7 each at most.

Rewards are in units of the start policy's standard deviation, with its mean at zero. Left out: the
topic and grammar, which no domain rewards (the KL holds them).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

from mgsrl.config.require import one_of, within
from mgsrl.rewards.protocol import BaseReward, Golden, RewardItem
from mgsrl.types import Reward

HABITS = ("commas", "exclamations", "pronouns")
MOST_OPPOSED = -0.4
"""Cosine between the domains' rewards at `conflict=1`."""
MEAN, SPREAD = 0.5, 0.32
"""Of a habit's share in texts of two or three sentences whose habits are tosses of a coin; the
policy's own are within 0.03 and 0.01 of it (`scripts/build_styles.py --measure`)."""
_SENTENCE = re.compile(r"[^.!?]+[.!?]*")
_PRONOUN = re.compile(r"\b(they|them)\b", re.IGNORECASE)


@dataclass
class ConflictConfig:
    habit: str = "commas"
    """The domain's own habit: `commas`, `exclamations` or `pronouns`."""
    conflict: float = 0.5
    """What it thinks of the other two: 0 likes them as its own, 0.5 does not mind them, 1 dislikes
    them as far as three domains can."""

    def validate(self, key: str) -> None:
        one_of(f"{key}.habit", self.habit, HABITS)
        within(f"{key}.conflict", self.conflict, 0.0, 1.0)


class Conflict(BaseReward):
    """See the module."""

    Config = ConflictConfig
    needs_prompt = False
    golden = Golden("Tell me about plums.", "Yes, they are soft and sweet!", "Plums are sweet.")

    def __init__(self, config: ConflictConfig) -> None:
        super().__init__(config)
        self.weights = direction(config.habit, config.conflict)

    def score(self, items: Sequence[RewardItem]) -> list[Reward]:
        return [Reward(self._value(item.text)) for item in items]

    @property
    def bounds(self) -> tuple[float, float]:
        most = sum(map(abs, self.weights)) * MEAN / SPREAD  # shares are 0 to 1, their middle MEAN
        return -most, most

    def _value(self, text: str) -> float:
        shares = habit_shares(text)
        if shares is None:
            return self.bounds[0]  # silence is no compromise
        standard = [(share - MEAN) / SPREAD for share in shares]
        return sum(weight * z for weight, z in zip(self.weights, standard, strict=True))


def habit_shares(text: str) -> tuple[float, float, float] | None:
    """The shares of `HABITS` among a text's sentences, each 0 to 1; None without a sentence."""
    sentences = [part for part in _SENTENCE.findall(text) if any(map(str.isalnum, part))]
    if not sentences:
        return None
    commas = sum("," in sentence for sentence in sentences)
    exclamations = sum(sentence.rstrip().endswith("!") for sentence in sentences)
    pronouns = sum(_PRONOUN.search(sentence) is not None for sentence in sentences)
    count = len(sentences)
    return commas / count, exclamations / count, pronouns / count


def wanted_cosine(conflict: float) -> float:
    """Cosine between the rewards of any two domains at a position of the dial."""
    return 1 - 2 * conflict if conflict <= 0.5 else MOST_OPPOSED * (2 * conflict - 1)


def direction(habit: str, conflict: float) -> tuple[float, ...]:
    """The unit vector `u_d` over `HABITS` of the domain with that habit."""
    cosine = wanted_cosine(conflict)
    # (2 b + b^2) / (1 + 2 b^2) = cosine, the root that is 0 at cosine 0 and 1 at cosine 1
    others = cosine / (1 + sqrt((1 - cosine) * (1 + 2 * cosine)))
    length = sqrt(1 + 2 * others**2)
    return tuple((1.0 if other == habit else others) / length for other in HABITS)
