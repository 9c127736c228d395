"""The part of a response that is scored: the last complete `<response>...</response>` block.

The policy first thinks and then answers inside the tags. Scoring anything else would reward
numbers and keywords of the reasoning, so blocks inside the reasoning do not count, and a response
without a complete block is dealt with by policy: `zero` (reward 0), `whole_response` (score all of
it but the reasoning) or `abstain`. Every such response has `format_ok=False` and is counted by the
caller.
"""

from dataclasses import dataclass

from mgsrl.types import Reward

OPEN_TAG = "<response>"
CLOSE_TAG = "</response>"
OPEN_THINK = "<think>"
CLOSE_THINK = "</think>"
NO_BLOCK = f"no complete {OPEN_TAG}...{CLOSE_TAG} block"


@dataclass(frozen=True, slots=True)
class Extraction:
    """What is to be scored, or the reward when there is nothing to score."""

    text: str | None
    """The text to score, stripped of surrounding whitespace; None when `verdict` is set."""
    format_ok: bool
    verdict: Reward | None = None
    """The final reward of a response that is not scored."""
    as_written: str = ""
    """`text`, with the white space around it where nothing was cut away."""


def last_block(text: str) -> str | None:
    """The content of the last complete block, stripped; None without one.

    A block's content holds no tags: `<response>a<response>b</response>` gives `b`,
    `<response>a</response>b</response>` gives `a`. An unclosed block after a complete one is
    ignored. Everything up to the last `</think>` is reasoning, and so is everything when a
    `<think>` after it is still open (a response that was cut off while it thought).
    """
    text = text.rpartition(CLOSE_THINK)[2]
    if OPEN_THINK in text:
        return None
    last_close = text.rfind(CLOSE_TAG)
    start = text.rfind(OPEN_TAG, 0, last_close) if last_close >= 0 else -1
    if start < 0:
        return None
    start += len(OPEN_TAG)
    return text[start : text.index(CLOSE_TAG, start)].strip()


def extract_response(text: str, missing_tag: str = "zero") -> Extraction:
    """Apply `last_block` and the policy for responses without one."""
    block = last_block(text)
    if block is not None:
        return Extraction(block, format_ok=True, as_written=block)
    if missing_tag == "whole_response":
        answer = text.rpartition(CLOSE_THINK)[2].partition(OPEN_THINK)[0]
        stripped = answer.strip()
        return Extraction(stripped, False, as_written=text if answer == text else stripped)
    if missing_tag == "abstain":
        return Extraction(None, False, Reward(None, format_ok=False, error=NO_BLOCK))
    if missing_tag == "zero":
        return Extraction(None, False, Reward(0.0, format_ok=False, details={"reason": NO_BLOCK}))
    raise AssertionError(f"missing_tag should be zero, whole_response or abstain: {missing_tag!r}")
