"""IFEvalG's training constraints on words, letters and punctuation (open-instruct, RLVR).

Sentences are Punkt's here; open-instruct uses a list of regular expressions for some of them.
"""

import random
import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from mgsrl.constraints.keywords import draw_frequency, draw_letter, letter_frequency
from mgsrl.constraints.keywords import frequency as keyword_frequency
from mgsrl.constraints.sentences import sentences
from mgsrl.constraints.spec import (
    COUNT,
    LETTER,
    OPTIONAL_TEXT,
    POSITIVE,
    RELATION,
    TEXT,
    WORD,
    compare,
    constraint,
    occurrences,
)
from mgsrl.constraints.tokens import word_tokens
from mgsrl.constraints.words import OPENERS, draw_word, draw_words


@constraint(
    "keywords:no_adjacent_consecutive",
    "No word starts with the letter of the alphabet after that of the word before it.",
    statement="No two adjacent words can start with consecutive letters of the alphabet.",
)
def no_adjacent_consecutive(text: str) -> bool:
    letters = [word[0].lower() for word in text.split()]
    # Lower case can be two characters long ("İ"), which the published check refuses.
    return all(
        len(first) == len(second) == 1 and ord(second) - ord(first) != 1
        for first, second in pairwise(letters)
    )


@constraint(
    "keywords:word_once",
    "The keyword occurs exactly once, in any case, inside longer words too.",
    arguments={"keyword": TEXT},
    statement="Include the keyword {keyword} exactly once in your response.",
    draw=lambda rng: {"keyword": draw_word(rng)},
)
def word_once(text: str, keyword: str) -> bool:
    return occurrences(keyword.strip(), text) == 1


@constraint(
    "keywords:word_count_different_numbers",
    "The keyword occurs the asked number of times, in any case, inside longer words too.",
    arguments={"keyword": TEXT, "frequency": COUNT, "relation": RELATION},
    statement="In your response, the word {keyword} should appear {relation} {frequency} times.",
    draw=lambda rng: {**draw_frequency(rng), "relation": "exactly"},
)
def word_count_different_numbers(text: str, keyword: str, frequency: int, relation: str) -> bool:
    return keyword_frequency(text, keyword, frequency, relation)


def _draw_excluded(rng: random.Random, prompt: str) -> dict[str, Any]:
    """A longer word of the request: an answer would use it."""
    return {"keyword": rng.choice(re.findall(r"[A-Za-z]{5,}", prompt) or [draw_word(rng)])}


@constraint(
    "keywords:exclude_word_harder",
    "The keyword does not occur between two spaces.",
    arguments={"keyword": TEXT, "instruction": OPTIONAL_TEXT},
    statement="Do not include the keyword {keyword} in the response.",
    draw_from_prompt=_draw_excluded,
)
def exclude_word_harder(text: str, keyword: str, instruction: str = "") -> bool:
    return f" {keyword.strip()} " not in text


@constraint(
    "count:count_increment_word",
    "The first keyword occurs once and the second twice, in any case.",
    arguments={"keyword1": TEXT, "keyword2": TEXT},
    statement=(
        "Include the keyword {keyword1} once and the keyword {keyword2} twice in your response."
    ),
    draw=lambda rng: dict(zip(("keyword1", "keyword2"), draw_words(rng, 2, 2), strict=True)),
)
def count_increment_word(text: str, keyword1: str, keyword2: str) -> bool:
    return occurrences(keyword1.strip(), text) == 1 and occurrences(keyword2.strip(), text) == 2


@constraint(
    "keywords:palindrome",
    "Some word reads the same backwards (one letter does).",
    statement="Include a palindrome in your response.",
)
def palindrome(text: str) -> bool:
    return any(word == word[::-1] for word in text.split())


@constraint(
    "keywords:keyword_specific_position",
    "The m-th word (marks count) of the n-th sentence is the keyword.",
    arguments={"keyword": WORD, "n": POSITIVE, "m": POSITIVE},
    statement=(
        "Include the keyword {keyword} in the {n}-th sentence, as the {m}-th word of that sentence."
    ),
    draw=lambda rng: {"keyword": draw_word(rng), "n": rng.randint(1, 3), "m": rng.randint(2, 6)},
)
def keyword_specific_position(text: str, keyword: str, n: int, m: int) -> bool:
    found = sentences(text)
    return n <= len(found) and word_tokens(found[n - 1])[m - 1 : m] == [keyword]


@constraint(
    "keywords:start_end",
    "The first and the last word are the same, in any case, with no mark after the last.",
    statement=(
        "Start and end your response with the same word (do not write anything after the last "
        "word, not even punctuation)."
    ),
)
def start_end(text: str) -> bool:
    words = word_tokens(text)
    return len(words) > 1 and words[0].lower() == words[-1].lower()


# --- first and last words -------------------------------------------------------------------------


@constraint(
    "first_word:first_word_answer",
    "The first word is the asked one, in any case.",
    arguments={"first_word": WORD},
    statement="The first word of your response should be the word {first_word}.",
    draw=lambda rng: {"first_word": draw_word(rng)},
)
def first_word_answer(text: str, first_word: str) -> bool:
    return text.split()[0].lower() == first_word.lower()


@constraint(
    "first_word:first_word_sent",
    "The first word of every sentence is the asked one, in any case.",
    arguments={"first_word": WORD},
    statement="The first word of each sentence should be the word {first_word}.",
    draw=lambda rng: {"first_word": rng.choice(OPENERS)},
)
def first_word_sent(text: str, first_word: str) -> bool:
    return all(sentence.split()[0].lower() == first_word.lower() for sentence in sentences(text))


def _last_words(parts: list[str]) -> Iterator[str]:
    for part in parts:
        yield re.sub(r"[^\w\s]", "", part.split()[-1]).lower()


@constraint(
    "last_word:last_word_answer",
    "The last word, marks aside, is the asked one, in any case.",
    arguments={"last_word": WORD},
    statement="The last word of your response should be the word {last_word}.",
    draw=lambda rng: {"last_word": draw_word(rng)},
)
def last_word_answer(text: str, last_word: str) -> bool:
    return list(_last_words([text])) == [last_word.lower()]


@constraint(
    "last_word:last_word_sent",
    "The last word of every sentence, marks aside, is the asked one, in any case.",
    arguments={"last_word": WORD},
    statement=(
        "The last word of each sentence, before punctuation, should be the word {last_word}."
    ),
    draw=lambda rng: {"last_word": draw_word(rng)},
)
def last_word_sent(text: str, last_word: str) -> bool:
    return all(word == last_word.lower() for word in _last_words(sentences(text)))


# --- letters, counts and punctuation --------------------------------------------------------------


@constraint(
    "punctuation:punctuation_dot",
    "No full stop.",
    statement=(
        "In your entire response, refrain from the use of . (i.e. dots) as punctuation and in "
        "general."
    ),
)
def punctuation_dot(text: str) -> bool:
    return "." not in text


@constraint(
    "punctuation:punctuation_exclamation",
    "No exclamation mark.",
    statement=(
        "In your entire response, refrain from the use of ! (i.e. exclamation marks) as "
        "punctuation and in general."
    ),
)
def punctuation_exclamation(text: str) -> bool:
    return "!" not in text


@constraint(
    "count:lowercase_counting",
    "At most N words of lower-case letters (of all of them together, as published).",
    arguments={"N": COUNT},
    statement="In your response, at most {N} words may be in all lowercase letters.",
    draw=lambda rng: {"N": rng.randint(5, 20)},
)
def lowercase_counting(text: str, N: int) -> bool:
    return len(re.findall(r"\b[a-z]+\b", text)) <= N


def _draw_letters(rng: random.Random) -> dict[str, Any]:
    relation = rng.choice(("less than", "at least"))
    low, high = (400, 1200) if relation == "less than" else (100, 800)
    return {"N": 50 * rng.randint(low // 50, high // 50), "relation": relation}


@constraint(
    "letters:letter_counting",
    "The number of letters a to z, in any case, compares as asked.",
    arguments={"N": COUNT, "relation": RELATION},
    statement="Answer with {relation} {N} letters.",
    draw=_draw_letters,
)
def letter_counting(text: str, N: int, relation: str) -> bool:
    return compare(len(re.findall(r"[a-zA-Z]", text)), relation, N)


@constraint(
    "letters:letter_counting2",
    "The character occurs the asked number of times, in any case.",
    arguments={"letter": LETTER, "let_frequency": COUNT, "let_relation": RELATION},
    statement=(
        "In your response, the letter {letter} should appear {let_relation} {let_frequency} times."
    ),
    draw=draw_letter,
)
def letter_counting2(text: str, letter: str, let_frequency: int, let_relation: str) -> bool:
    return letter_frequency(text, letter, let_frequency, let_relation)


@constraint(
    "count:count_unique",
    "No word and no mark occurs twice.",
    statement="Only use unique words in your response, no word should be repeated!",
)
def count_unique(text: str) -> bool:
    words = word_tokens(text)
    return len(words) == len(set(words))
