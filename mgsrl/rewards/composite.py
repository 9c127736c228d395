"""Several rewards on the same responses: a domain's own, and those of `reward.extra`.

The value is the own one; the others are kept by name in `details["parts"]`, and `shaping.py` adds
them up on the driver, where the running statistics are. A response abstains when one of them does,
for a sum without a part would be another reward.
"""

from collections.abc import Mapping

from mgsrl.types import Reward


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
