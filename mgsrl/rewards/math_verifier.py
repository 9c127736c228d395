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

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from mgsrl.errors import DataError, explain
from mgsrl.rewards.child import ChildProcess, ProcessLostError
from mgsrl.rewards.extract import extract_response
from mgsrl.rewards.protocol import RewardItem
from mgsrl.types import Reward

MAX_QUESTION = 20_000
"""Characters of the question that are looked at, from its end."""


class MathVerifier:
    """See the module.

    Args:
        time_limit_s: per answer; the process is killed after it.
        memory_limit_mib: address space of the process.
        missing_tag: what a response without a `<response>` block gets, see `extract.py`.
        refuse_restated: an answer that only repeats a formula of the question is wrong.
    """

    def __init__(
        self,
        *,
        time_limit_s: float = 5.0,
        memory_limit_mib: int = 1024,
        missing_tag: str = "zero",
        refuse_restated: bool = True,
    ) -> None:
        self.missing_tag = missing_tag
        self.refuse_restated = refuse_restated
        self.process = ChildProcess(
            "mgsrl.rewards.math_process",
            time_limit_s=time_limit_s,
            memory_limit_mib=memory_limit_mib,
            name="math verifier",
        )

    def score(self, items: Sequence[RewardItem]) -> list[Reward]:
        return [self._score(item) for item in items]

    def close(self) -> None:
        self.process.stop()

    def _score(self, item: RewardItem) -> Reward:
        extraction = extract_response(item.response, self.missing_tag)
        if extraction.verdict is not None:
            details = {**extraction.verdict.details, "extracted": None}
            return replace(extraction.verdict, details=details)
        format_ok = extraction.format_ok
        try:
            gold = reference_answer(item.reference)
            reply = self.process.ask(
                {"gold": gold, "text": extraction.text or "", "prompt": self._question(item)}
            )
        except (ProcessLostError, DataError) as error:
            return Reward(None, format_ok, {"extracted": None}, str(error))
        if "error" in reply:
            return Reward(None, format_ok, {"extracted": None}, reply["error"])
        details = {key: reply[key] for key in ("extracted", "restated") if key in reply}
        return Reward(float(reply["value"]), format_ok, details=details)

    def _question(self, item: RewardItem) -> str:
        """What must not be repeated as an answer; it is never searched for the answer."""
        if not self.refuse_restated:
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
            explain(
                "A math row has no reference answer.",
                expected="`answer`, a number or a non-empty string",
                found=f"answer={reference.get('answer')!r}",
                todo="correct the row or map its columns",
            )
        )
    return text


def validate_reference(reference: Mapping[str, Any]) -> None:
    """Raise DataError unless the math verifier can score this reference."""
    reference_answer(reference)
