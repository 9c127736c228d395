r"""The math reward: 1 when the response's final answer equals the reference, else 0.

Extraction and comparison are `math-verify`'s (boxed answers, LaTeX, numbers, sets, intervals,
percentages, equations, ...). They hand text from a policy to a parser and a computer algebra
system, which may then run for ever, eat all memory or crash: so they run in a process of their own
(`child.py`) that is killed and replaced when an answer takes too long. What a hostile answer gets:

- longer than `time_limit_s`, out of memory, a crash, an exception: an abstention with the reason;
- text without an answer, or an answer that is no mathematics: 0;
- nothing is ever executed: answers are parsed by a LaTeX grammar, never by `eval`.

The reference may be a number or a string with or without LaTeX delimiters. What the answer is and
when it is right is in `math_judge.py`. Left out: partial credit.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from mgsrl.errors import DataError
from mgsrl.rewards.in_child import ChildConfig, ChildReward
from mgsrl.rewards.protocol import Golden, RewardItem
from mgsrl.types import Reward

MAX_QUESTION = 20_000
"""Characters of the question that are looked at, from its end."""


@dataclass
class MathConfig(ChildConfig):
    refuse_restated: bool = True
    """An unevaluated answer that stands in the question, and is not written like the reference, is
    wrong: `\\sum_{k=1}^{100} k` is equal to 5050 and is no answer."""


class MathVerifier(ChildReward):
    """See the module."""

    Config = MathConfig
    requires = ("answer",)
    needs_prompt = False
    exact = True
    items_per_call = 16  # small enough to spread over workers
    metric = domain = "math"
    process_module = "mgsrl.rewards.math_process"
    golden = Golden(
        r"What is 3 + 4? (It is \boxed{7}.)", r"It is \boxed{7}.", r"\boxed{8}", {"answer": 7}
    )
    unjudged: ClassVar = {"extracted": None}
    hostile: ClassVar = {"a power tower": r"\boxed{9^{9^{9^{9}}}}"}

    def validate_reference(self, reference: Mapping[str, Any]) -> None:
        reference_answer(reference)

    def request(self, item: RewardItem) -> dict[str, str]:
        gold = reference_answer(item.reference)
        return {"gold": gold, "text": item.text, "prompt": self._question(item)}

    def verdict(self, reply: Mapping[str, Any]) -> Reward:
        details = {key: reply[key] for key in ("extracted", "restated") if key in reply}
        return Reward(float(reply["value"]), details=details)

    def without_block(self, reference: Mapping[str, Any]) -> Mapping[str, Any]:
        return self.unjudged

    def describe(self) -> str:
        return "math-verify"

    def _question(self, item: RewardItem) -> str:
        """What must not be repeated as an answer; it is never searched for the answer."""
        if not self.config.refuse_restated:
            return ""
        texts = (message["content"] for message in item.messages if message["role"] == "user")
        return "\n".join(text for text in texts if isinstance(text, str))[-MAX_QUESTION:]


def reference_answer(reference: Mapping[str, Any]) -> str:
    """The reference's `answer` as text. Raises DataError when there is none."""
    answer = reference.get("answer")
    if isinstance(answer, bool) or not isinstance(answer, str | int | float):
        answer = None
    text = "" if answer is None else str(answer).strip()
    if not text:
        raise DataError(
            "A math row has no reference answer.",
            expected="`answer`, a number or a non-empty string",
            found=f"answer={reference.get('answer')!r}",
            todo="correct the row or map its columns",
        )
    return text
