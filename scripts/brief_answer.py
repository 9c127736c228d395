"""The chat reward of `+experiment=smollm2`: a brief, whole answer that keeps to the subject.

Between 0 and 1, from the text alone, so that it runs anywhere and everyone can say what it is:

    score = whole * fresh * (subject + substance) / 2

- `whole`: 1 when the answer ended by itself, with the end of a sentence, else a quarter;
- `fresh`: the share of its pairs of words that are not repetitions;
- `subject`: the share of the request's words (four letters and more) that come back;
- `substance`: its words (four letters and more) that the request does not have, full at 10.

It is no judgement of quality, truth or manners: fitting words that say nothing score as well as
a good answer.
"""

import re
from itertools import pairwise

ENOUGH = 10
"""New words that count as substance."""
CUT = 0.25
"""What is left of the score of an answer that does not end."""


def score(prompt: str, response: str, finish_reason: str) -> float:
    """See the module."""
    request = prompt.rsplit("\n", 1)[0]  # without the line that asks for one or two sentences
    asked, said = _stems(request), _stems(response)
    whole = finish_reason == "stop" and re.search(r"[.!?][\"')\]]*\s*$", response) is not None
    words = re.findall(r"\w+", response.lower())
    pairs = list(pairwise(words))
    fresh = len(set(pairs)) / len(pairs) if pairs else 0.0
    subject = len(asked & said) / len(asked) if asked else 1.0
    substance = min(1.0, len(said - asked) / ENOUGH)
    return (1.0 if whole else CUT) * fresh * (subject + substance) / 2


def _stems(text: str) -> set[str]:
    """Words of four letters and more, by their first five: "trains" and "training" are "train"."""
    return {word[:5] for word in re.findall(r"[a-z]{4,}", text.lower())}
