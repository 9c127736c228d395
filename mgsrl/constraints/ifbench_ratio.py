"""IFBench's `ratio:` family.

A sentence is declarative, interrogative or exclamatory by its last mark. Where the published
checks are satisfied by no sentence at all (0 to 0), at least one is asked for here.
"""

import random
from collections import Counter
from functools import lru_cache
from typing import Any

from mgsrl.constraints.length import words as number_words
from mgsrl.constraints.plain_words import PERCENTAGE, final_mark, plain_words
from mgsrl.constraints.sentences import sentences
from mgsrl.constraints.spec import TEXT, constraint

_STOP_WORDS = """i me my myself we our ours ourselves you your yours yourself yourselves he him
his himself she her hers herself it its itself they them their theirs themselves what which who
whom this that these those am is are was were be been being have has had having do does did doing
a an the and but if or because as until while of at by for with about against between into through
during before after above below to from up down in out on off over under again further then once
here there when where why how all any both each few more most other some such no nor not only own
same so than too very s t can will just don should now d ll m o re ve y ain aren couldn didn doesn
hadn hasn haven isn ma mightn mustn needn shan shouldn wasn weren won wouldn"""
STOP_WORDS = frozenset(_STOP_WORDS.split())
"""NLTK's English list, of which the parts around an apostrophe count separately."""


@constraint(
    "ratio:stop_words",
    "At most so many percent of the words are English stop words (NLTK's list).",
    arguments={"percentage": PERCENTAGE},
    statement=(
        "Ensure that stop words constitute no more than {percentage}% of the total words in your "
        "response."
    ),
    draw=lambda rng: {"percentage": rng.randint(10, 60)},
)
def stop_words(text: str, percentage: int) -> bool:
    words = number_words(text.lower())
    stops = sum(word in STOP_WORDS for word in words)
    return bool(words) and 100 * stops <= percentage * len(words)


def _kinds(text: str) -> Counter[str]:
    return Counter(map(final_mark, sentences(text)))


@constraint(
    "ratio:sentence_type",
    "Twice as many sentences end in a full stop as in a question mark, of which there is one.",
    statement="Maintain a 2:1 ratio of declarative to interrogative sentences in your response.",
)
def sentence_type(text: str) -> bool:
    kinds = _kinds(text)
    return kinds["?"] > 0 and kinds["."] == 2 * kinds["?"]


@constraint(
    "ratio:sentence_balance",
    "As many sentences end in a full stop as in a question mark and in an exclamation mark.",
    statement=(
        "Ensure that the ratio of sentence types (declarative, interrogative, exclamatory) in your "
        "response is balanced."
    ),
)
def sentence_balance(text: str) -> bool:
    kinds = _kinds(text)
    return kinds["."] == kinds["?"] == kinds["!"] > 0


@lru_cache(maxsize=1024)
def _reference_trigrams(text: str) -> frozenset[str]:
    """Cached, since all responses to a prompt are compared with one reference."""
    return _trigrams(text)


def _trigrams(text: str) -> frozenset[str]:
    return frozenset(text[at : at + 3] for at in range(len(text) - 2))


def _draw_overlap(rng: random.Random, request: str) -> dict[str, Any]:
    return {"reference_text": request, "percentage": rng.randint(5, 95)}


@constraint(
    "ratio:overlap",
    "So many percent (2 more or less) of the response's different trigrams of characters are the"
    " reference's.",
    arguments={"reference_text": TEXT, "percentage": PERCENTAGE},
    statement="Maintain a trigram overlap of {percentage}% (±2%) with the provided reference text.",
    draw_from_prompt=_draw_overlap,
)
def overlap(text: str, reference_text: str, percentage: int) -> bool:
    # As IFBench compares, rounding included.
    ours = _trigrams(text)
    shared = len(ours & _reference_trigrams(reference_text)) / len(ours) * 100 if ours else -100.0
    return percentage - 2 <= shared <= percentage + 2


@constraint(
    "ratio:sentence_words",
    "Three sentences of as many characters each; no word occurs twice.",
    statement=(
        "Respond with three sentences, all containing the same number of characters but using all "
        "different words."
    ),
)
def sentence_words(text: str) -> bool:
    found = sentences(text)
    words = plain_words(text)
    return len(found) == 3 and len(set(map(len, found))) == 1 and len(set(words)) == len(words)
