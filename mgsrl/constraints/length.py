"""IFEval's `length_constraints:` family."""

import random
import re
from typing import Any

from mgsrl.constraints.sentences import sentences
from mgsrl.constraints.spec import COUNT, POSITIVE, RELATION, TEXT, compare, constraint
from mgsrl.constraints.words import draw_word


def words(text: str) -> list[str]:
    r"""Runs of `\w`, as IFEval counts them: "don't" is two words, "well-known" is two."""
    return re.findall(r"\w+", text)


def _draw_words(rng: random.Random) -> dict[str, Any]:
    relation = rng.choice(("less than", "at least"))
    low, high = (80, 300) if relation == "less than" else (60, 400)
    return {"num_words": 10 * rng.randint(low // 10, high // 10), "relation": relation}


@constraint(
    "length_constraints:number_words",
    "The number of words compares as asked.",
    arguments={"num_words": COUNT, "relation": RELATION},
    statement="Answer with {relation} {num_words} words.",
    draw=_draw_words,
)
def number_words(text: str, num_words: int, relation: str) -> bool:
    return compare(len(words(text)), relation, num_words)


def _draw_sentences(rng: random.Random) -> dict[str, Any]:
    relation = rng.choice(("less than", "at least"))
    low, high = (6, 15) if relation == "less than" else (3, 12)
    return {"num_sentences": rng.randint(low, high), "relation": relation}


@constraint(
    "length_constraints:number_sentences",
    "The number of sentences compares as asked.",
    arguments={"num_sentences": COUNT, "relation": RELATION},
    statement="Your response should contain {relation} {num_sentences} sentences.",
    draw=_draw_sentences,
)
def number_sentences(text: str, num_sentences: int, relation: str) -> bool:
    return compare(len(sentences(text)), relation, num_sentences)


@constraint(
    "length_constraints:number_paragraphs",
    "Exactly so many paragraphs, separated by the markdown divider ***.",
    arguments={"num_paragraphs": COUNT},
    statement=(
        "There should be {num_paragraphs} paragraphs. "
        "Paragraphs are separated with the markdown divider: ***"
    ),
    draw=lambda rng: {"num_paragraphs": rng.randint(2, 5)},
)
def number_paragraphs(text: str, num_paragraphs: int) -> bool:
    paragraphs = re.split(r"\s?\*\*\*\s?", text)
    if any(not paragraph.strip() for paragraph in paragraphs[1:-1]):
        return False
    return sum(bool(paragraph.strip()) for paragraph in paragraphs) == num_paragraphs


def _draw_paragraph(rng: random.Random) -> dict[str, Any]:
    count = rng.randint(2, 5)
    nth = rng.randint(1, count)
    return {"num_paragraphs": count, "nth_paragraph": nth, "first_word": draw_word(rng)}


def _first_word(paragraph: str) -> str:
    word = paragraph.split()[0].lstrip("'").lstrip('"')
    return re.split(r"[.,?!'\"]", word, maxsplit=1)[0].lower()


@constraint(
    "length_constraints:nth_paragraph_first_word",
    "So many paragraphs separated by empty lines; the nth starts with the word.",
    arguments={"num_paragraphs": POSITIVE, "nth_paragraph": POSITIVE, "first_word": TEXT},
    statement=(
        "There should be {num_paragraphs} paragraphs. Paragraphs and only paragraphs are "
        "separated with each other by two new lines as if it was '\\n\\n' in python. "
        "Paragraph {nth_paragraph} must start with the word {first_word}."
    ),
    draw=_draw_paragraph,
)
def nth_paragraph_first_word(
    text: str, num_paragraphs: int, nth_paragraph: int, first_word: str
) -> bool:
    # Published data hold rows with nth_paragraph beyond num_paragraphs: nothing follows those.
    paragraphs = text.split("\n\n")
    count = sum(bool(paragraph.strip()) for paragraph in paragraphs)
    if nth_paragraph > count or count != num_paragraphs:
        return False
    # IFEval indexes the list with the empty paragraphs still in it.
    paragraph = paragraphs[nth_paragraph - 1].strip()
    return bool(paragraph) and _first_word(paragraph) == first_word.lower()
