"""IFBench's `count:` and `ratio:` families as its checker decides them."""

import re
from collections.abc import Sequence

from mgsrl.constraints.ifbench_count import CONJUNCTIONS, NAMES
from mgsrl.constraints.ifbench_ratio import STOP_WORDS
from mgsrl.constraints.length import words as number_words
from mgsrl.constraints.official.registry import official
from mgsrl.constraints.official.text import SPLIT, bare, split_sentences, trim

_PERSONAL_WORDS = """
i me my mine myself we us our ours ourselves you your yours yourself yourselves he him his
himself she her hers herself it its itself they them their theirs themselves"""
_PERSONAL = frozenset(_PERSONAL_WORDS.split())
_JAPANESE = re.compile("[\u3040-\u30ff\u4e00-\u9fff]")


@official(
    "count:unique_word_count",
    "Only ASCII punctuation is taken from words (`“oak”` is not `oak`), and a mark that stands "
    "alone counts as one word.",
)
def unique_word_count(text: str, N: int) -> bool:
    return len(set(map(trim, text.lower().split()))) >= N


@official(
    "count:conjunctions",
    "A conjunction counts again in another case or with a mark on it (`and`, `And`, `and,`).",
)
def conjunctions(text: str, small_n: int) -> bool:
    return len({word for word in text.split() if trim(word).lower() in CONJUNCTIONS}) >= small_n


@official("count:person_names", "Names count inside longer words.")
def person_names(text: str, N: int) -> bool:
    return sum(name in text for name in NAMES) >= N


@official(
    "count:punctuation",
    "The interrobang set apart is the first `?!`, else the first `!?`, never `‽`.",
)
def punctuation(text: str) -> bool:
    found = next((mark for mark in ("?!", "!?", "‽") if mark in text), "")
    rest = text.replace(found, "", 1) if found != "‽" else text
    return found != "" and all(mark in rest for mark in ".,!?;:")


@official(
    "count:words_japanese",
    "Only ASCII punctuation is taken from words, so another mark that stands alone must be "
    "Japanese; half-width and rare characters are not.",
)
def words_japanese(text: str, N: int) -> bool:
    chosen = map(trim, text.split()[N - 1 :: N])
    return all(not word or word.isdigit() or _JAPANESE.search(word) for word in chosen)


@official(
    "count:pronouns",
    "Personal and possessive pronouns alone count (no `this`, `who`, `all`), not in contractions "
    "(`he's`), while words that are one without their marks do (`U.S.`).",
)
def pronouns(text: str, N: int) -> bool:
    return sum(word in _PERSONAL for word in bare(text.replace("/", " ").lower()).split()) >= N


@official(
    "ratio:stop_words",
    "The percentage is compared after rounding in floating point: 7 stop words of 25 are more "
    "than 28 %.",
)
def stop_words(text: str, percentage: int) -> bool:
    words = number_words(text)
    stops = sum(word.lower() in STOP_WORDS for word in words)
    return bool(words) and stops / len(words) * 100 <= percentage


def _endings(text: str, marks: str) -> Sequence[int]:
    found = split_sentences(text)
    return [sum(sentence.endswith(mark) for sentence in found) for mark in marks]


@official("ratio:sentence_type", f"{SPLIT}; none of either type passes.")
def sentence_type(text: str) -> bool:
    statements, questions = _endings(text, ".?")
    return statements == 2 * questions


@official("ratio:sentence_balance", f"{SPLIT}; none of any type passes.")
def sentence_balance(text: str) -> bool:
    return len(set(_endings(text, ".?!"))) == 1


@official("ratio:sentence_words", f"{SPLIT}, and words may occur again.")
def sentence_words(text: str) -> bool:
    found = split_sentences(text)
    return len(found) == 3 and len(set(map(len, found))) == 1
