"""IFEval's `keywords:` family.

IFEval uses the keyword as a regular expression; here it is literal text, which is what the
prompt says. The two differ only for keywords with special characters (`C++`, `U.S.`).
"""

import random
import re
from collections import Counter
from typing import Any

from mgsrl.constraints.spec import (
    COUNT,
    LETTER,
    RELATION,
    TEXT,
    TEXTS,
    compare,
    constraint,
    occurrences,
)
from mgsrl.constraints.words import draw_word, draw_words


@constraint(
    "keywords:existence",
    "Every keyword occurs, in any case, possibly inside a longer word.",
    arguments={"keywords": TEXTS},
    statement="Include the keywords {keywords} in the response.",
    draw=lambda rng: {"keywords": draw_words(rng, 2, 3)},
)
def existence(text: str, keywords: tuple[str, ...]) -> bool:
    lowered = text.lower()
    return all(keyword.lower() in lowered for keyword in keywords)


@constraint(
    "keywords:forbidden_words",
    "None of the words occurs as a whole word, in any case.",
    arguments={"forbidden_words": TEXTS},
    statement="Do not use the words {forbidden_words} in the response.",
    draw=lambda rng: {"forbidden_words": draw_words(rng, 2, 4)},
)
def forbidden_words(text: str, forbidden_words: tuple[str, ...]) -> bool:
    return not any(
        re.search(rf"\b{re.escape(word)}\b", text, flags=re.IGNORECASE) for word in forbidden_words
    )


def draw_frequency(rng: random.Random) -> dict[str, Any]:
    """A word and how often it occurs."""
    return {
        "keyword": draw_word(rng),
        "frequency": rng.randint(2, 4),
        "relation": rng.choice(("less than", "at least")),
    }


@constraint(
    "keywords:frequency",
    "The keyword occurs the asked number of times, in any case, inside longer words too.",
    arguments={"keyword": TEXT, "frequency": COUNT, "relation": RELATION},
    statement="In your response, the word {keyword} should appear {relation} {frequency} times.",
    draw=draw_frequency,
)
def frequency(text: str, keyword: str, frequency: int, relation: str) -> bool:
    return compare(occurrences(keyword.strip(), text), relation, frequency)


def draw_letter(rng: random.Random) -> dict[str, Any]:
    """A common letter at least, or a rare one less than so many times: a text can do either."""
    if rng.random() < 0.5:
        common = {"letter": rng.choice("aehilnorstu"), "let_frequency": rng.randint(3, 15)}
        return {**common, "let_relation": "at least"}
    rare = {"letter": rng.choice("jqxz"), "let_frequency": rng.randint(5, 10)}
    return {**rare, "let_relation": "less than"}


@constraint(
    "keywords:letter_frequency",
    "The character occurs the asked number of times, in any case.",
    arguments={"letter": LETTER, "let_frequency": COUNT, "let_relation": RELATION},
    statement=(
        "In your response, the letter {letter} should appear {let_relation} {let_frequency} times."
    ),
    draw=draw_letter,
)
def letter_frequency(text: str, letter: str, let_frequency: int, let_relation: str) -> bool:
    return compare(Counter(text.lower())[letter], let_relation, let_frequency)
