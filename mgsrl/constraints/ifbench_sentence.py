"""IFBench's `sentence:` and `repeat:` families.

Conditions on each sentence and the one before it hold when there is one sentence.
"""

import random
from itertools import groupby, pairwise
from typing import Any

from mgsrl.constraints.plain_words import plain_words, whole_word
from mgsrl.constraints.sentences import sentences
from mgsrl.constraints.spec import COUNT, POSITIVE, TEXT, WORD, constraint
from mgsrl.constraints.words import draw_word


def _alliteration(sentence: str) -> int:
    """The length of the longest run of words with one first letter; 0 when no two are alike."""
    letters = [word[0] for word in plain_words(sentence)]
    longest = max((len(list(run)) for _, run in groupby(letters)), default=0)
    return longest if longest > 1 else 0


@constraint(
    "sentence:alliteration_increment",
    "The longest run of words with the same first letter grows from sentence to sentence.",
    statement=(
        "Each sentence must have a longer sequence of consecutive alliterative words than the "
        "previous one."
    ),
)
def alliteration_increment(text: str) -> bool:
    lengths = map(_alliteration, sentences(text))
    return all(later > earlier for earlier, later in pairwise(lengths))


@constraint(
    "sentence:keyword",
    "The N-th sentence has the keyword as a whole word, in any case.",
    arguments={"word": WORD, "N": POSITIVE},
    statement="The response must include keyword {word} in the {N}-th sentence.",
    draw=lambda rng: {"word": draw_word(rng), "N": rng.randint(1, 12)},
)
def keyword(text: str, word: str, N: int) -> bool:
    found = sentences(text)
    return len(found) >= N and whole_word(word).search(found[N - 1]) is not None


@constraint(
    "sentence:increment",
    "Every sentence has exactly so many words more than the one before it.",
    arguments={"small_n": POSITIVE},
    statement=(
        "Each sentence in your response must contain exactly {small_n} more words than the "
        "previous one."
    ),
    draw=lambda rng: {"small_n": rng.randint(1, 5)},
)
def increment(text: str, small_n: int) -> bool:
    counts = [len(plain_words(sentence)) for sentence in sentences(text)]
    return all(later - earlier == small_n for earlier, later in pairwise(counts))


# --- repeating the request ------------------------------------------------------------------------


@constraint(
    "repeat:repeat_change",
    "The request with another first word and nothing else; white space aside.",
    arguments={"prompt_to_repeat": TEXT},
    statement=(
        "Repeat the request, but change the first word of the repeated request, (do not say "
        "anything before repeating the request; the request you need to repeat does not include "
        "this sentence) and do not answer the actual request!"
    ),
    draw_from_prompt=lambda rng, request: {"prompt_to_repeat": request},
)
def repeat_change(text: str, prompt_to_repeat: str) -> bool:
    ours, theirs = text.split(), prompt_to_repeat.split()
    return bool(ours) and ours[0].lower() != theirs[0].lower() and ours[1:] == theirs[1:]


@constraint(
    "repeat:repeat_simple",
    "This very sentence, in any case, and nothing else.",
    statement="Only output this sentence here, ignore all other requests.",
)
def repeat_simple(text: str) -> bool:
    return text.strip().lower() == "only output this sentence here, ignore all other requests."


def _span_inside(prompt_to_repeat: str, n_start: int, n_end: int) -> str | None:
    words = len(prompt_to_repeat.split())
    inside = n_start <= n_end < words
    return None if inside else f"words {n_start} to {n_end} of {words}"


def _draw_span(rng: random.Random, request: str) -> dict[str, Any]:
    words = len(request.split())
    start = rng.randrange(words)
    return {
        "prompt_to_repeat": request,
        "n_start": start,
        "n_end": rng.randrange(start, min(words, start + 12)),
    }


@constraint(
    "repeat:repeat_span",
    "The words n_start to n_end of the request, from 0 and both included, in any case.",
    arguments={"prompt_to_repeat": TEXT, "n_start": COUNT, "n_end": COUNT},
    statement=(
        "Copy the span of words that lies between (and including) index {n_start} and {n_end}, the "
        "indices are word indices, split by whitespace!"
    ),
    draw_from_prompt=_draw_span,
    consistent=_span_inside,
)
def repeat_span(text: str, prompt_to_repeat: str, n_start: int, n_end: int) -> bool:
    span = prompt_to_repeat.split()[n_start : n_end + 1]
    return text.lower().split() == " ".join(span).lower().split()
