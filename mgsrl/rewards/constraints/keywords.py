"""IFEval's `keywords:` family.

IFEval uses the keyword as a regular expression; here it is literal text, which is what the
prompt says. The two differ only for keywords with special characters (`C++`, `U.S.`).
"""

import random
import re
from collections import Counter
from typing import Any

from mgsrl.rewards.constraints.spec import (
    COUNT,
    LETTER,
    RELATION,
    TEXT,
    TEXTS,
    breaks,
    compare,
    constraint,
    follows,
    occurrences,
)


@constraint(
    "keywords:existence",
    "Every keyword occurs, in any case, possibly inside a longer word.",
    arguments={"keywords": TEXTS},
    statement="Include keywords {keywords} in the response.",
    examples=[
        follows("Trees are green.", keywords=["tree", "green"]),
        breaks("Trees are brown.", keywords=["tree", "green"]),
    ],
)
def existence(text: str, keywords: tuple[str, ...]) -> bool:
    lowered = text.lower()
    return all(keyword.lower() in lowered for keyword in keywords)


@constraint(
    "keywords:forbidden_words",
    "None of the words occurs as a whole word, in any case.",
    arguments={"forbidden_words": TEXTS},
    statement="Do not include keywords {forbidden_words} in the response.",
    examples=[
        follows("The treetop.", forbidden_words=["tree"]),
        breaks("A Tree!", forbidden_words=["tree"]),
    ],
)
def forbidden_words(text: str, forbidden_words: tuple[str, ...]) -> bool:
    return not any(
        re.search(rf"\b{re.escape(word)}\b", text, flags=re.IGNORECASE) for word in forbidden_words
    )


def _draw_frequency(rng: random.Random) -> dict[str, Any]:
    return {"frequency": rng.randint(1, 3), "relation": rng.choice(("less than", "at least"))}


@constraint(
    "keywords:frequency",
    "The keyword occurs the asked number of times, in any case, inside longer words too.",
    arguments={"keyword": TEXT, "frequency": COUNT, "relation": RELATION},
    statement="In your response, the word {keyword} should appear {relation} {frequency} times.",
    draw=_draw_frequency,
    examples=[
        follows("Tea, teapot.", keyword="tea", frequency=2, relation="at least"),
        breaks("Tea, teapot.", keyword="tea", frequency=2, relation="less than"),
    ],
)
def frequency(text: str, keyword: str, frequency: int, relation: str) -> bool:
    return compare(occurrences(keyword.strip(), text), relation, frequency)


@constraint(
    "keywords:letter_frequency",
    "The character occurs the asked number of times, in any case.",
    arguments={"letter": LETTER, "let_frequency": COUNT, "let_relation": RELATION},
    statement=(
        "In your response, the letter {letter} should appear {let_relation} {let_frequency} times."
    ),
    examples=[
        follows("Banana", letter="a", let_frequency=3, let_relation="at least"),
        follows("Wow!!", letter="!", let_frequency=2, let_relation="at least"),
        breaks("Banana", letter="A", let_frequency=3, let_relation="less than"),
    ],
)
def letter_frequency(text: str, letter: str, let_frequency: int, let_relation: str) -> bool:
    return compare(Counter(text.lower())[letter], let_relation, let_frequency)
