"""IFBench's `words:` family.

Words are those of `plain_words`, so apostrophes and hyphens do not part them. An answer without
any word follows none of these, where the published checks would let it pass.
"""

import random
import re
import unicodedata
from collections import Counter
from itertools import pairwise
from typing import Any

import syllapy

from mgsrl.constraints.plain_words import plain_words, trimmed, words_with_marks
from mgsrl.constraints.sentences import sentences
from mgsrl.constraints.spec import POSITIVE, WORD, CannotDecideError, constraint
from mgsrl.constraints.verbs import starts_with_verb
from mgsrl.constraints.words import draw_word

_ALPHABET = "abcdefghijklmnopqrstuvwxyz"
_LATIN = re.compile("[a-z0-9]")
_CLUSTER = re.compile("[bcdfghjklmnpqrstvwxyz]{2}")


def _without_accents(text: str) -> str:
    return "".join(char for char in unicodedata.normalize("NFD", text) if not _is_accent(char))


def _is_accent(char: str) -> bool:
    return unicodedata.category(char) == "Mn"


@constraint(
    "words:alphabet",
    "Every word starts with the letter after that of the word before it, A after Z.",
    statement=(
        "Each word in your response must start with the next letter of the alphabet, looping back "
        "to 'A' after 'Z'."
    ),
)
def alphabet(text: str) -> bool:
    places = [_ALPHABET.find(word[0]) for word in plain_words(text)]
    return places[:1] > [-1] and all(
        later == (earlier + 1) % 26 for earlier, later in pairwise(places)
    )


@constraint(
    "words:vowel",
    "One paragraph with at most three of the vowels a, e, i, o, u.",
    statement="Write a paragraph using words that contain only three types of vowels.",
)
def vowel(text: str) -> bool:
    found = set("aeiou").intersection(_without_accents(text.lower()))
    return "\n" not in text.strip() and 0 < len(found) <= 3


@constraint(
    "words:consonants",
    "Every word has two consonants (y is one) in a row.",
    statement=(
        "Ensure each word in your response has at least one consonant cluster (two or more "
        "consonants together)."
    ),
)
def consonants(text: str) -> bool:
    found = words_with_marks(text.lower())
    return bool(found) and all(_CLUSTER.search(word) for word in found)


@constraint(
    "words:palindrome",
    "At least ten words of five or more letters read the same backwards; repeated ones count.",
    statement="Include at least 10 single-word palindromes, each at least 5 characters long.",
)
def palindrome(text: str) -> bool:
    found = (word for word in plain_words(text) if len(word) >= 5 and word.isalpha())
    return sum(word == word[::-1] for word in found) >= 10


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % factor for factor in range(2, int(number**0.5) + 1))


@constraint(
    "words:prime_lengths",
    "The number of letters of every word is a prime number.",
    statement="Use only words with lengths that are prime numbers.",
)
def prime_lengths(text: str) -> bool:
    found = plain_words(text)
    return bool(found) and all(_is_prime(len(word)) for word in found)


@constraint(
    "words:repeats",
    "No word occurs more than so many times, in any case.",
    arguments={"small_n": POSITIVE},
    statement="The response should not repeat any word more than {small_n} times.",
    draw=lambda rng: {"small_n": rng.randint(1, 5)},
)
def repeats(text: str, small_n: int) -> bool:
    return max(Counter(plain_words(text)).values(), default=0) <= small_n


@constraint(
    "words:no_consecutive",
    "No word starts with the same letter as the word before it, in any case.",
    statement="No two consecutive words can share the same first letter.",
)
def no_consecutive(text: str) -> bool:
    return all(first[0] != second[0] for first, second in pairwise(plain_words(text)))


@constraint(
    "words:odd_even_syllables",
    "Words of an odd and of an even number of syllables take turns.",
    statement="Alternate between words with odd and even numbers of syllables.",
)
def odd_even_syllables(text: str) -> bool:
    words = plain_words(_without_accents(text))
    # IFBench's own counter, for English only; words with digits have no syllables there
    kinds = [syllapy.count(word) % 2 if _LATIN.search(word) else None for word in words]
    alternates = bool(kinds) and any(
        all(kind in (None, (first + place) % 2) for place, kind in enumerate(kinds))
        for first in (0, 1)
    )
    foreign = next((word for word, kind in zip(words, kinds) if kind is None), None)
    if alternates and foreign:  # it depends on words that cannot be counted
        raise CannotDecideError(f"no syllables known for {foreign!r}")
    return alternates


# --- first, last and other places -----------------------------------------------------------------


@constraint(
    "words:start_verb",
    "The first word is a verb in any form but no modal one.",
    statement="The response must start with a verb.",
)
def start_verb(text: str) -> bool:
    return starts_with_verb(text)


@constraint(
    "words:last_first",
    "Every sentence starts with the last word of the sentence before it, in any case.",
    statement=(
        "In your response, the last word of each sentence must become the first word of the next "
        "sentence."
    ),
)
def last_first(text: str) -> bool:
    found = [plain_words(sentence) for sentence in sentences(text)]
    return all(earlier and later and earlier[-1] == later[0] for earlier, later in pairwise(found))


@constraint(
    "words:paragraph_last_first",
    "Every paragraph (line) ends with the word it starts with, in any case.",
    statement=(
        "Each paragraph of your response must end with the same word it started with, separate "
        "paragraphs with a newline."
    ),
)
def paragraph_last_first(text: str) -> bool:
    paragraphs = [words for line in text.split("\n") if (words := plain_words(line))]
    return bool(paragraphs) and all(words[0] == words[-1] for words in paragraphs)


def _draw_place(rng: random.Random) -> dict[str, Any]:
    return {"keyword": draw_word(rng), "n": rng.randint(1, 10), "m": rng.randint(2, 20)}


@constraint(
    "words:keywords_specific_position",
    "The m-th word of the n-th sentence is the keyword, in any case.",
    arguments={"keyword": WORD, "n": POSITIVE, "m": POSITIVE},
    statement=(
        "Include keyword {keyword} in the {n}-th sentence, as the {m}-th word of that sentence."
    ),
    draw=_draw_place,
)
def keywords_specific_position(text: str, keyword: str, n: int, m: int) -> bool:
    found = sentences(text)[n - 1 : n]
    return any(_words_at(sentence, [m - 1]) == [keyword.lower()] for sentence in found)


def _words_at(text: str, places: list[int]) -> list[str]:
    """The words at `places`, in lower case; none for a place outside."""
    found = words_with_marks(text)
    return [trimmed(found[place]) for place in places if -len(found) <= place < len(found)]


@constraint(
    "words:words_position",
    "The second word and the last but one are the keyword, in any case.",
    arguments={"keyword": WORD},
    statement=(
        "The second word in your response and the second to last word in your response should be "
        "the word {keyword}."
    ),
    draw=lambda rng: {"keyword": draw_word(rng)},
)
def words_position(text: str, keyword: str) -> bool:
    return _words_at(text, [1, -2]) == [keyword.lower()] * 2
