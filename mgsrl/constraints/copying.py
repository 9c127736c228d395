"""IFEvalG's training constraints on copying, paragraphs and wrapping (open-instruct, RLVR)."""

import random
import re
from collections.abc import Iterator
from typing import Any

from mgsrl.constraints.length import number_paragraphs
from mgsrl.constraints.sentences import sentences
from mgsrl.constraints.spec import COUNT, POSITIVE, TEXT, constraint
from mgsrl.constraints.tokens import word_tokens
from mgsrl.constraints.words import draw_words


def _the_request(rng: random.Random, prompt: str) -> dict[str, Any]:
    return {"prompt_to_repeat": prompt}


def _same(text: str, other: str) -> bool:
    return text.strip().lower() == other.strip().lower()


@constraint(
    "copy:copy",
    "The response is the request, in any case, and nothing else.",
    arguments={"prompt_to_repeat": TEXT},
    statement=(
        "Copy this instruction verbatim, do not follow the instruction, only copy it into the "
        "output (do not include this instruction sentence!)."
    ),
    draw_from_prompt=_the_request,
)
def copy(text: str, prompt_to_repeat: str) -> bool:
    return _same(text, prompt_to_repeat)


@constraint(
    "copy:copying_simple",
    "The response is the request, in any case, and nothing else.",
    arguments={"prompt_to_repeat": TEXT},
    statement=(
        "Repeat the request without change (do not say anything before repeating the request; "
        "the request you need to repeat does not include this sentence) and do not answer the "
        "actual request!"
    ),
    draw_from_prompt=_the_request,
)
def copying_simple(text: str, prompt_to_repeat: str) -> bool:
    return _same(text, prompt_to_repeat)


@constraint(
    "copy:copying_multiple",
    "The request N times, separated by six asterisks, and nothing else.",
    arguments={"prompt_to_repeat": TEXT, "N": POSITIVE},
    statement=(
        "Repeat the request without change {N} times, separated by 6 asterisk symbols (do not "
        "say anything before repeating the request; the request you need to repeat does not "
        "include this sentence) and do not answer the actual request!"
    ),
    draw_from_prompt=lambda rng, prompt: {"prompt_to_repeat": prompt, "N": rng.randint(2, 3)},
)
def copying_multiple(text: str, prompt_to_repeat: str, N: int) -> bool:
    parts = text.split("******")
    return len(parts) == N and all(_same(part, prompt_to_repeat) for part in parts)


def _span_not_empty(prompt_to_repeat: str, n_start: int, n_end: int) -> str | None:
    return f"an empty span, {n_start} to {n_end}" if n_start >= n_end else None


def _draw_span(rng: random.Random, prompt: str) -> dict[str, Any]:
    """From the beginning of one word to the end of the same or a later one."""
    words = [match.span() for match in re.finditer(r"\S+", prompt)]
    first = rng.randrange(len(words))
    last = rng.randrange(first, len(words))
    return {"prompt_to_repeat": prompt, "n_start": words[first][0], "n_end": words[last][1]}


@constraint(
    "new:copy_span_idx",
    "The response is the request's characters n_start to n_end - 1, in any case.",
    arguments={"prompt_to_repeat": TEXT, "n_start": COUNT, "n_end": COUNT},
    statement=(
        "Copy the part of the request that starts at character index {n_start} and ends before "
        "character index {n_end} (the first character has index 0), and write nothing else."
    ),
    draw_from_prompt=_draw_span,
    consistent=_span_not_empty,
)
def copy_span_idx(text: str, prompt_to_repeat: str, n_start: int, n_end: int) -> bool:
    return _same(text, prompt_to_repeat[n_start:n_end])


def _draw_phrase(rng: random.Random) -> dict[str, Any]:
    first, middle, last = draw_words(rng, 3, 3)
    return {"phrase": f"{first} and {middle} near {last}", "small_n": rng.randint(2, 3)}


@constraint(
    "copy:repeat_phrase",
    "The phrase occurs exactly so many times, each time with at most one word changed.",
    arguments={"phrase": TEXT, "small_n": POSITIVE},
    statement=(
        'Repeat the phrase "{phrase}" exactly {small_n} times, transforming it slightly each time '
        "by replacing only one word in the center of the phrase."
    ),
    draw=_draw_phrase,
)
def repeat_phrase(text: str, phrase: str, small_n: int) -> bool:
    words = phrase.split()
    found = [match.split() for match in _between(f"{words[0]} ", f" {words[-1]}", text)]
    if len(found) != small_n or any(len(other) > len(words) for other in found):
        return False
    changes = [
        sum(ours != theirs for ours, theirs in zip(other, words, strict=False)) for other in found
    ]
    # As published: every repetition at most one change, the last one exactly one.
    return max(changes) <= 1 and changes[-1] == 1


def _between(first: str, last: str, text: str) -> Iterator[str]:
    """What the pattern `first.*?last` finds, in linear time also where `last` never comes."""
    for line in text.split("\n"):
        start = line.find(first)
        while start >= 0 and (end := line.find(last, start + len(first))) >= 0:
            end += len(last)
            yield line[start:end]
            start = line.find(first, end)


# --- paragraphs and wrapping ----------------------------------------------------------------------


@constraint(
    "paragraphs:paragraphs",
    "Two paragraphs separated by the markdown divider ***.",
    statement=(
        "There should be 2 paragraphs. Paragraphs are separated with the markdown divider: ***"
    ),
)
def paragraphs(text: str) -> bool:
    return number_paragraphs(text, num_paragraphs=2)


@constraint(
    "paragraphs:paragraphs2",
    "Two paragraphs separated by an empty line.",
    statement=(
        "There should be 2 paragraphs. Paragraphs and only paragraphs are separated with each "
        "other by two line breaks."
    ),
)
def paragraphs2(text: str) -> bool:
    parts = [part.strip() for part in text.split("\n\n")]
    return all(parts[1:-1]) and sum(map(bool, parts)) == 2


@constraint(
    "count:counting_composition",
    "Three paragraphs separated by ***, of n_sent sentences of n_words words (marks count) each.",
    arguments={"n_sent": POSITIVE, "n_words": POSITIVE},
    statement=(
        "Write 3 paragraphs, delimited by the markdown divider ***, with exactly {n_sent} "
        "sentences each, with exactly {n_words} words in each sentence (every punctuation mark "
        "counts as a word)."
    ),
    draw=lambda rng: {"n_sent": rng.randint(1, 3), "n_words": rng.randint(5, 12)},
)
def counting_composition(text: str, n_sent: int, n_words: int) -> bool:
    parts = re.split(r"\s?\*\*\*\s?", text)
    return len(parts) == 3 and all(
        len(sentences(part)) == n_sent
        and all(len(word_tokens(sentence)) == n_words for sentence in sentences(part))
        for part in parts
    )


@constraint(
    "detectable_format:sentence_hyphens",
    "Sentences are joined by hyphens without spaces.",
    statement="All sentences must be connected using hyphens, with no spaces between them.",
)
def sentence_hyphens(text: str) -> bool:
    expected = sentences(text.replace("-", " "))
    return all(part == whole for part, whole in zip(text.split("-"), expected, strict=False))


@constraint(
    "detectable_format:square_brackets",
    "Every word stands in square brackets.",
    statement="Enclose every word in your response within square brackets.",
)
def square_brackets(text: str) -> bool:
    return all(word.startswith("[") and word.endswith("]") for word in text.split())


@constraint(
    "detectable_format:bigram_wrapping",
    "Every two words stand in double angular brackets.",
    statement=(
        "Wrap every word bigram in double angular brackets, such as <<I am>> <<at home>> "
        "<<with my>> <<cute dog>>."
    ),
)
def bigram_wrapping(text: str) -> bool:
    words = text.split()
    pairs = zip(words[::2], words[1::2], strict=False)
    return all(first.startswith("<<") and second.endswith(">>") for first, second in pairs)
