"""How a domain's responses are scored: what every kind of reward has in common.

The keys of one kind stand beside its class (`rewards/math_verifier.py`: `MathConfig`), and beside
these keys in YAML: `{kind: math, time_limit_s: 3, clip: [0, 1]}`. `REWARDS` knows the kinds.
"""

import math
from dataclasses import dataclass, field
from typing import Any, Self

from mgsrl.config.keys import MEMBERS, member_config
from mgsrl.config.require import at_least, one_of, plain_name, seconds
from mgsrl.config.typed import INFINITE, plain, read_config
from mgsrl.errors import ConfigError, shortened
from mgsrl.plugins import Registry

MISSING_TAG = ("zero", "whole_response", "abstain")
TRAINING, OFFICIAL = READINGS = ("training", "official")
"""Whose verdict on a constraint: the better one, or that of the released checkers."""
OWN = "own"
"""The name of a domain's own score beside those of `extra`."""
REWARDS = Registry(
    "reward",
    "mgsrl.rewards",
    {
        "math": "mgsrl.rewards.math_verifier:MathVerifier",
        "constraints": "mgsrl.rewards.constraint_checker:ConstraintChecker",
        "reward_model": "mgsrl.rewards.reward_model:RewardModel",
        "judge": "mgsrl.rewards.judge:Judge",
        "http": "mgsrl.rewards.http_reward:HttpReward",
        "function": "mgsrl.rewards.function:FunctionReward",
    },
    base="mgsrl.rewards.protocol:BaseReward",
    else_say="correct the name; a plain function goes into reward.function",
)
"""The kinds of reward."""


def named_reward(name: str, key: str) -> dict[str, str]:
    """The keys that say which reward `name` is: a `kind`, or a user's plain `function`.

    Raises:
        ConfigError: a module or file that cannot be loaded.
    """
    is_function = ":" in name and not isinstance(Registry("reward", "", {}).load(name, key), type)
    return {"function" if is_function else "kind": name}


@dataclass
class ScoreConfig:
    """One reward."""

    kind: str = "math"
    """`math` (math-verify), `constraints` (IFEval-style checks), `reward_model` (a sequence
    classifier), `judge` (a language model behind an OpenAI-compatible address), `http` (any
    server that speaks the JSON of docs/rewards.md), `function` (a plain function of yours, named
    by the key `function`), or a class of yours: `module:Class` or `file.py:Class`."""
    options: Any = field(default=None, metadata={MEMBERS: REWARDS})
    """The keys that this kind alone has, an instance of its class's `Config`; None takes their
    defaults. In YAML and overrides they stand beside the other keys of this record."""
    missing_tag: str = "zero"
    """What a response without a complete `<response>` block gets: `zero`, the score of the
    `whole_response`, or `abstain`."""
    clip: list[float] | None = field(default=None, metadata=INFINITE)
    """[LOW, HIGH]: scores outside are moved to the nearer end; null leaves them."""
    standardise: bool = False
    """Subtract the running mean of the domain's scores in training and divide by their standard
    deviation."""
    standardise_memory: int = 4096
    """`standardise`: how many scores back the statistics reach. They are exact up to that number;
    from then on every new score lowers the weight of the older ones by 1 / `standardise_memory`,
    so they follow a policy that moves."""
    weight: float = 1.0
    """Factor of the (clipped, standardised) score."""
    gate: float | None = None
    """A score (as the reward gave it) below this makes the weighted sum 0."""

    def __post_init__(self) -> None:
        if self.options is None:
            self.options = member_config(REWARDS, self.kind, "reward.kind")()

    @classmethod
    def of(cls, kind: str, **keys: Any) -> Self:
        """From keys as YAML has them, all at one level: `of("math", time_limit_s=3, weight=0.5)`.

        Raises:
            ConfigError: a kind that cannot be loaded, a key it does not have, a value of the wrong
                type.
        """
        return read_config(cls, {"kind": kind, **keys})

    def __reduce__(self) -> tuple[Any, ...]:
        # The class of a user's options may lie in a file that the receiving process knows only once
        # it has loaded the kind.
        return read_config, (type(self), plain(self))

    @property
    def ends(self) -> tuple[float, float]:
        """What the score lies between: 0 and 1, unless `clip` has other ends that are finite."""
        low, high = self.clip or (-math.inf, math.inf)
        return (
            low if math.isfinite(low) else min(0.0, high),
            high if math.isfinite(high) else max(1.0, low),
        )

    def validate(self, key: str) -> None:
        one_of(f"{key}.missing_tag", self.missing_tag, MISSING_TAG)
        at_least(f"{key}.standardise_memory", self.standardise_memory, 2)
        if self.clip is not None and (len(self.clip) != 2 or not self.clip[0] < self.clip[1]):
            raise cannot_be(f"{key}.clip", "[LOW, HIGH] with LOW < HIGH, or null", str(self.clip))
        if hasattr(self.options, "validate"):
            self.options.validate(key)


@dataclass
class RewardConfig(ScoreConfig):
    """A domain's reward: its own score, further ones, what is made of them, and who computes it."""

    extra: dict[str, ScoreConfig] = field(default_factory=dict)
    """Further scores by name, added to the domain's own with their weights. A response abstains
    when one of them does."""
    require_format: bool = False
    """A response without a complete `<response>` block gets 0 for the weighted sum."""
    format_bonus: float = 0.0
    """Added to responses with a complete `<response>` block."""
    overlong_buffer: int = 0
    """Tokens before the domain's longest response in which the length penalty grows from 0 to
    `overlong_penalty` (DAPO's soft overlong punishment); 0 is none."""
    overlong_penalty: float = 1.0
    """Subtracted from the longest responses."""
    num_workers: int = 1
    """Reward actors for this domain."""
    num_gpus: float = 0.0
    """GPUs per reward actor; without one a model computes on the CPU, over several one is
    spread."""
    start_limit_s: float = 300.0
    """Longest wait for a reward actor to load."""
    call_limit_s: float = 600.0
    """Longest wait for one batch of a reward actor, beyond what the items' own time limits add up
    to; the actor is replaced after it."""
    max_restarts: int = 3
    """Times one reward actor may die and be brought back within `restart_window` steps before the
    run stops."""
    restart_window: int = 100
    """Steps after which the death of a reward actor is forgotten."""

    @property
    def scores(self) -> dict[str, ScoreConfig]:
        """The own score and the extra ones by name."""
        return {OWN: self, **self.extra}

    @property
    def num_added(self) -> int:
        """How many scores it adds up, the bonus and the length penalty among them; without one all
        responses get 0."""
        added = [score.weight for score in self.scores.values()]
        added += [self.format_bonus, self.overlong_penalty * self.overlong_buffer]
        return sum(weight != 0 for weight in added)

    @property
    def is_composite(self) -> bool:
        """Whether it adds up two or more scores."""
        return self.num_added > 1

    @property
    def least(self) -> float:
        """The least it can be of scores between 0 and 1, or where a finite `clip` ends; as if
        nothing were standardised."""
        scores = self.scores.values()
        total = sum(min(score.weight * end for end in score.ends) for score in scores)
        if self.require_format or any(score.gate is not None for score in scores):
            total = min(total, 0.0)
        overlong = self.overlong_penalty if self.overlong_buffer else 0.0
        return total + min(self.format_bonus, 0.0) - overlong

    def validate(self, key: str) -> None:
        super().validate(key)
        at_least(f"{key}.num_workers", self.num_workers, 1)
        at_least(f"{key}.num_gpus", self.num_gpus, 0.0)
        at_least(f"{key}.max_restarts", self.max_restarts, 0)
        at_least(f"{key}.restart_window", self.restart_window, 1)
        seconds(f"{key}.start_limit_s", self.start_limit_s)
        seconds(f"{key}.call_limit_s", self.call_limit_s)
        at_least(f"{key}.overlong_buffer", self.overlong_buffer, 0)
        at_least(f"{key}.overlong_penalty", self.overlong_penalty, 0.0)
        if self.overlong_penalty not in (0.0, 1.0) and not self.overlong_buffer:
            raise ConfigError(
                f"{key}.overlong_penalty grows over overlong_buffer tokens, and there are none.",
                expected=f"{key}.overlong_buffer above 0 beside it",
                found=f"{key}.overlong_penalty={self.overlong_penalty:g} {key}.overlong_buffer=0",
                todo=f"set {key}.overlong_buffer=16, or {key}.overlong_penalty=1",
            )
        for name, score in self.extra.items():
            plain_name(f"{key}.extra", name)
            score.validate(f"{key}.extra.{name}")
            if name == OWN:
                raise cannot_be(f"{key}.extra", f"other names than {OWN!r}", repr(name))


def cannot_be(key: str, expected: str, found: str) -> ConfigError:
    """The error for a value that its type allows and its meaning does not."""
    return ConfigError(
        f"{key} cannot be.", expected=expected, found=shortened(found), todo=f"correct {key}"
    )
