"""Scores -> weights that add up to 1."""

import math
import sys
from collections.abc import Mapping

LEAST = sys.float_info.min


def softmax(scores: Mapping[str, float], temperature: float = 1.0) -> dict[str, float]:
    """`exp(score / temperature)`, divided by their sum; above 0 for any finite scores, because a
    phase may train only those with the lowest.

    >>> softmax({"math": 0.0, "chat": 0.0})
    {'math': 0.5, 'chat': 0.5}
    """
    highest = max(scores.values())
    powers = {
        name: max(math.exp((score - highest) / temperature), LEAST)
        for name, score in scores.items()
    }
    whole = math.fsum(powers.values())
    return {name: power / whole for name, power in powers.items()}
