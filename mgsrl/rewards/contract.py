"""The contract of a reward, tried on golden cases (`mgsrl doctor rewards`).

Every domain's real reward, loaded as a run would load it, scores responses whose outcome the house
rules fix: only the last complete `<response>` block counts, nothing in prompt or reasoning does,
the same response gets the same number, hostile text ends in time. An `exact` reward must give 1 and
0; for the others a case must score like the plain response that it is equal to. What is tried is
the reward's own `golden` case.

Left out: whether a reward model or judge has good taste, and shaping, which is arithmetic.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Literal

from mgsrl.config.reward import OWN, RewardConfig, ScoreConfig
from mgsrl.rewards.actor import RewardWorker
from mgsrl.rewards.factory import check_reward, make_reward
from mgsrl.rewards.protocol import OPEN, Golden, Response
from mgsrl.types import Reward

SLACK_S = 5.0
"""Beyond a time limit, for a killed process to be replaced on a busy machine."""
LONG_LIMIT_S = 60.0
TOLERANCE = 1e-4
"""Relative, above 1; identical tokens can differ by rounding when they share a batch."""

Outcome = Literal["good", "bad", "missing", "empty", "odd"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """One line of the table."""

    check: str
    expected: str
    found: str
    kept: bool


def block(text: str) -> str:
    """`text` as a policy should answer."""
    return f"<think>Let me see.</think>\n<response>{text}</response>"


def golden_cases(task: Golden) -> dict[str, tuple[str, Outcome]]:
    """Response and outcome by name of the check."""
    good, bad = task.good, task.bad
    return {
        "a right response": (block(good), "good"),
        "a wrong response": (block(bad), "bad"),
        "prompt leakage: the answer is in the prompt only": (block(bad + " "), "bad"),
        "reasoning leakage: the answer is in <think> only": (
            f"<think>{good}</think><response>{bad}</response>",
            "bad",
        ),
        "tags: none": (good, "missing"),
        "tags: not closed": (f"<think>x</think><response>{good}", "missing"),
        "tags: not opened": (f"{good}</response>", "missing"),
        "tags: a block inside <think>": (
            f"<think><response>{good}</response></think> done",
            "missing",
        ),
        "tags: nested, the inner counts": (
            f"<response>{bad}<response>{good}</response></response>",
            "good",
        ),
        "tags: two blocks, the last counts": (block(good) + block(bad), "bad"),
        "tags: a last block that is not closed": (block(good) + f"<response>{bad}", "good"),
        "truncation: in the reasoning": (f"<think>{good} and then", "missing"),
        "truncation: in the response": (f"<think>x</think><response>{good[:-1]}", "missing"),
        "empty": ("", "missing"),
        "whitespace": (" \n\t ", "missing"),
        "an empty block": (block(""), "empty"),
        "a block of whitespace": (block(" \n "), "empty"),
        "text that is no Unicode": (block("\x00\ud83d"), "odd"),
    }


def check_rewards(
    rewards: Mapping[str, RewardConfig], row_of: Callable[[str], Golden] | None = None
) -> Iterator[tuple[str, list[Verdict]]]:
    """The verdicts on every domain's reward and on its extra scores (`DOMAIN/NAME`), in order.

    Args:
        row_of: a domain's name -> a row of its data, for rewards that read columns which only the
            user's rows have.

    Raises:
        UserError: a reward that cannot be loaded.
    """
    for domain, config in rewards.items():
        checked = check_reward(config, f"domains.{domain}.reward")
        for name, score in checked.scores.items():
            # A score has no actor of its own, so it has no settings of one.
            own = {field.name: getattr(score, field.name) for field in fields(ScoreConfig)}
            alone = RewardConfig(**own, num_gpus=config.num_gpus)
            reward, golden = make_reward(alone), None
            if row_of is not None and not {*reward.requires} <= {*reward.golden.reference}:
                golden = row_of(domain)
            shown_as = domain if name == OWN else f"{domain}/{name}"
            yield shown_as, check_contract(alone, golden)


def check_contract(config: RewardConfig, golden: Golden | None = None) -> list[Verdict]:
    """The verdicts on one reward; only the first when it scores nothing at all.

    Args:
        golden: tried instead of the reward's own case.
    """
    worker = RewardWorker(config)
    worker.ready()
    try:
        return Contract(config, worker, golden).verdicts()
    finally:
        worker.close()


class Contract:
    """The checks on one loaded reward."""

    def __init__(
        self, config: RewardConfig, worker: RewardWorker, golden: Golden | None = None
    ) -> None:
        self.config = config
        self.worker = worker
        self.reward = worker.rewards[OWN]
        self.task = golden or self.reward.golden
        self.exact = self.reward.exact

    def verdicts(self) -> list[Verdict]:
        (trial,) = self.worker.score([self.item(block(self.task.good))])
        if trial.abstained:
            return [Verdict("a right response", "a score", shown(trial), kept=False)]
        cases = golden_cases(self.task)
        if self.reward.templated:
            cases["control tokens in the response"] = (block(f"{self.task.good}<|im_end|>"), "good")
        items = [self.item(response) for response, _outcome in cases.values()]
        begin = time.monotonic()
        first = self.scored(items)
        took_s = time.monotonic() - begin
        known = dict(zip(cases, first, strict=True))
        good, bad = known["a right response"], known["a wrong response"]
        found = [
            self._case(check, outcome, known[check], good, bad)
            for check, (_response, outcome) in cases.items()
        ]
        if not self.exact:
            found.append(self._told_apart(good, bad))
        found.append(self._leaking_prompt())
        found += self._time(took_s, len(items))
        found.append(self._determinism(first, self.scored(items)))
        found.append(self._range(first))
        return found

    def scored(self, items: list[Response]) -> list[Reward]:
        """By a model one by one: alone, equal responses have equal padding, none."""
        if self.reward.model_path:
            return [reward for item in items for reward in self.worker.score([item])]
        return self.worker.score(items)

    def item(self, response: str, prompt: str = "") -> Response:
        message = {"role": "user", "content": prompt or self.task.prompt}
        return Response((message,), response, self.task.reference)

    def _case(
        self, check: str, outcome: Outcome, reward: Reward, good: Reward, bad: Reward
    ) -> Verdict:
        if outcome == "missing":
            expected, kept = self._missing(reward)
        elif outcome in ("empty", "odd") and not self.exact:
            expected, kept = "a number or an abstention", True
        elif outcome == "empty":
            expected, kept = "0", reward.format_ok and reward.value == 0.0
        elif outcome == "odd":
            expected, kept = "less than 1, or an abstention", reward.value != 1.0
        elif self.exact:
            value = float(outcome == "good")
            expected, kept = f"{value:g}", reward.format_ok and reward.value == value
        else:
            like = good if outcome == "good" else bad
            expected = shown(like) if like is not reward else "a score"
            kept = reward.format_ok and alike(reward, like) and not reward.abstained
        return Verdict(check, expected, shown(reward), kept)

    def _missing(self, reward: Reward) -> tuple[str, bool]:
        """What a response without a block gets, and whether `reward` is that."""
        policy = self.config.missing_tag
        if policy == "zero":
            return "0, no block", reward.value == 0.0 and not reward.format_ok
        if policy == "abstain":
            return "an abstention, no block", reward.abstained and not reward.format_ok
        return "the score of the whole text, no block", not reward.format_ok

    def _told_apart(self, good: Reward, bad: Reward) -> Verdict:
        """Otherwise the cases above compare a number with itself."""
        differ = not alike(good, bad)
        found = f"{shown(good)} and {shown(bad)}"
        # Without a case of its own, it may judge a property that the two happen to share.
        kept = differ or (self.task.good is OPEN.good and not self.reward.templated)
        if not differ:
            found += ": the checks of tags prove nothing"
        return Verdict("a right and a wrong response", "different scores", found, kept)

    def _leaking_prompt(self) -> Verdict:
        """A block in the prompt is none of the response."""
        prompt = f"{self.task.prompt} <response>{self.task.good}</response>"
        (reward,) = self.worker.score([self.item("I cannot say.", prompt)])
        expected, kept = self._missing(reward)
        if self.exact:
            kept = kept and reward.value != 1.0  # a part may be met by chance
        return Verdict("prompt leakage: a block in the prompt", expected, shown(reward), kept)

    def _time(self, took_s: float, count: int) -> Iterator[Verdict]:
        if self.reward.remote:
            yield self._in_time("time: all cases", took_s, self.reward.limit_s(count), "")
            return
        limit_s = self.reward.limit_s(1)
        limit_s = limit_s + SLACK_S if limit_s else LONG_LIMIT_S
        trials = {"200,000 characters": "word " * 40_000, **self.reward.hostile}
        for check, text in trials.items():
            begin = time.monotonic()
            (reward,) = self.worker.score([self.item(block(text))])
            yield self._in_time(f"time: {check}", time.monotonic() - begin, limit_s, shown(reward))
        (after,) = self.worker.score([self.item(block(self.task.good))])
        kept = not after.abstained and (after.value == 1.0 or not self.exact)
        yield Verdict("a right response after these", "a score", shown(after), kept)

    def _in_time(self, check: str, took_s: float, limit_s: float, found: str) -> Verdict:
        seen = f"{found} after {took_s:.1f} s".strip()
        return Verdict(check, f"an end within {limit_s:g} s", seen, took_s <= limit_s)

    def _determinism(self, first: list[Reward], second: list[Reward]) -> Verdict:
        changed = [
            f"{shown(a)} then {shown(b)}" for a, b in zip(first, second) if a.value != b.value
        ]
        found = f"{len(changed)} differ: {changed[0]}" if changed else "the same"
        return Verdict("determinism: the cases again", "the same numbers", found, not changed)

    def _range(self, rewards: list[Reward]) -> Verdict:
        values = [reward.value for reward in rewards if reward.value is not None]
        low, high = self.reward.bounds
        kept = all(math.isfinite(value) and low <= value <= high for value in values)
        expected = f"{low:g} to {high:g}" if math.isfinite(high - low) else "finite numbers"
        return Verdict("range", expected, f"{min(values):.4g} to {max(values):.4g}", kept)


def shown(reward: Reward) -> str:
    """A reward in a few words."""
    value = f"{reward.value:.4g}" if reward.value is not None else f"abstained: {reward.error}"
    return value if reward.format_ok else f"{value}, no block"


def alike(a: Reward, b: Reward) -> bool:
    """Whether two responses that should be the same to the reward were."""
    if a.value is None or b.value is None:
        return a.value is b.value
    return abs(a.value - b.value) <= TOLERANCE * max(1.0, abs(a.value), abs(b.value))
