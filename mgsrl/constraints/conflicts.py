"""Which constraints cannot be asked for together.

Two tables. `_ONLY_WITH` is for constraints that decide the shape of the whole response: they go
with the few that are named and with nothing else. `_RULES` is for the others: each rule names two
sets of constraints, and none of the first goes with any of the second. A constraint that no table
knows (a new one) stands alone until somebody has thought about it.

A pair is refused when no text, or none that a person would write, follows both; when the wording of
one contradicts the other's although a check would pass; and when it depends on the arguments. The
tables are therefore a little stricter than IFEval's own. Left out: reasoning about arguments. The
draws keep to ranges that fit each other, and `sample.py` never uses a word twice.
"""

from collections.abc import Iterable
from functools import cache

_START = {
    "first_word:first_word_answer",
    "first_word:first_word_sent",
    "keywords:start_end",
    "length_constraints:nth_paragraph_first_word",
    "startend:quotation",
}
_END = {
    "detectable_content:postscript",
    "keywords:start_end",
    "last_word:last_word_answer",
    "last_word:last_word_sent",
    "startend:end_checker",
    "startend:quotation",
}
_PARAGRAPHS = {
    "combination:two_responses",
    "length_constraints:nth_paragraph_first_word",
    "length_constraints:number_paragraphs",
    "paragraphs:paragraphs",
    "paragraphs:paragraphs2",
}
_LENGTH = {
    "length_constraints:number_sentences",
    "length_constraints:number_words",
    "letters:letter_counting",
}
_SENTENCES = {
    "first_word:first_word_sent",
    "keywords:keyword_specific_position",
    "last_word:last_word_sent",
    "length_constraints:number_sentences",
}
_LETTERS = {"keywords:letter_frequency", "letters:letter_counting2"}
_CASE = {
    "change_case:capital_word_frequency",
    "change_case:english_capital",
    "change_case:english_lowercase",
    "count:lowercase_counting",
    "language:response_language",
}
_FIXED_CASE = {
    "detectable_content:postscript",
    "detectable_format:constrained_response",
    "detectable_format:multiple_sections",
    "keywords:keyword_specific_position",
}
_ENGLISH = {
    "count:count_increment_word",
    "detectable_format:constrained_response",
    "detectable_format:multiple_sections",
    "first_word:first_word_answer",
    "first_word:first_word_sent",
    "keywords:exclude_word_harder",
    "keywords:existence",
    "keywords:forbidden_words",
    "keywords:frequency",
    "keywords:keyword_specific_position",
    "keywords:letter_frequency",
    "keywords:word_count_different_numbers",
    "keywords:word_once",
    "last_word:last_word_answer",
    "last_word:last_word_sent",
    "length_constraints:nth_paragraph_first_word",
    "letters:letter_counting",
    "letters:letter_counting2",
    "startend:end_checker",
}

_RULES: tuple[tuple[str, set[str], set[str]], ...] = (
    ("both say how the response, or a part of it, begins", _START, _START),
    ("both say how the response, or a part of it, ends", _END, _END),
    ("both divide the response into parts", _PARAGRAPHS, _PARAGRAPHS),
    ("two measures of length, which may contradict each other", _LENGTH, _LENGTH),
    ("two counts of letters", _LETTERS, _LETTERS),
    ("two rules for capitals, or capitals in a language of its own", _CASE, _CASE),
    ("text in a case of its own", _CASE, _FIXED_CASE),
    (
        "English words, letters or phrases in another language",
        {"language:response_language"},
        _ENGLISH,
    ),
    (
        "sentences and fixed texts need full stops",
        {"punctuation:punctuation_dot"},
        _SENTENCES | {"detectable_content:postscript", "detectable_format:constrained_response"},
    ),
    (
        "dividers, headings, fixed answers and a postscript begin a sentence of their own",
        {"first_word:first_word_sent"},
        _PARAGRAPHS
        | {
            "detectable_content:postscript",
            "detectable_format:constrained_response",
            "detectable_format:multiple_sections",
            "detectable_format:number_bullet_lists",
        },
    ),
    (
        "the marks of dividers and quotations count as words of the sentence",
        {"keywords:keyword_specific_position"},
        {
            "combination:two_responses",
            "length_constraints:number_paragraphs",
            "paragraphs:paragraphs",
            "startend:quotation",
        },
    ),
    (
        "the fixed answers end a sentence with words of their own",
        {"last_word:last_word_sent"},
        {"detectable_format:constrained_response"},
    ),
)

_EASY = {
    "keywords:existence",
    "keywords:exclude_word_harder",
    "keywords:forbidden_words",
    "punctuation:no_comma",
    "punctuation:punctuation_exclamation",
}
"""Compatible with every shape: they hold or forbid a few words or marks."""

_ONLY_WITH: dict[str, set[str]] = {
    # The response is the request, or a part of it, and nothing else.
    "copy:copy": set(),
    "copy:copying_simple": set(),
    "copy:copying_multiple": set(),
    "new:copy_span_idx": set(),
    # The request may hold any word and mark: only what adds something behind it is possible.
    "combination:repeat_prompt": {
        "detectable_content:number_placeholders",
        "detectable_content:postscript",
        "detectable_format:constrained_response",
        "detectable_format:number_highlighted_sections",
        "detectable_format:title",
        "keywords:existence",
        "keywords:palindrome",
        "last_word:last_word_answer",
        "startend:end_checker",
    },
    # Every line, word or sentence is part of the form.
    "count:counting_composition": _EASY,
    "detectable_format:json_format": _EASY
    | {"length_constraints:number_words", "change_case:english_lowercase"},
    "detectable_format:sentence_hyphens": _EASY,
    "detectable_format:square_brackets": _EASY | {"length_constraints:number_words"},
    "detectable_format:bigram_wrapping": _EASY | {"length_constraints:number_words"},
    "count:count_unique": _EASY,
    "keywords:no_adjacent_consecutive": _EASY,
    # Its first and last words must not occur elsewhere.
    "copy:repeat_phrase": _EASY,
}

_UNRESTRICTED = {
    "detectable_content:number_placeholders",
    "detectable_format:number_bullet_lists",
    "detectable_format:number_highlighted_sections",
    "detectable_format:title",
    "keywords:palindrome",
    "punctuation:no_comma",
    "punctuation:punctuation_exclamation",
}


@cache
def _known() -> frozenset[str]:
    ruled = [ids for _, left, right in _RULES for ids in (left, right)]
    return frozenset().union(_UNRESTRICTED, _ONLY_WITH, *ruled)


def conflict(one: str, other: str) -> str | None:
    """Why two constraints, by their ids, cannot be asked for together; None when they can.

    >>> conflict("change_case:english_lowercase", "change_case:english_capital")
    'two rules for capitals, or capitals in a language of its own'
    """
    if one == other:
        return "the same constraint"
    one, other = sorted((one, other))  # the same reason either way
    for id_, companion in ((one, other), (other, one)):
        if id_ not in _known():
            return f"nothing is known of what {id_} goes with"
        if id_ in _ONLY_WITH and companion not in _ONLY_WITH[id_]:
            return f"{id_} decides the whole response"
    for reason, left, right in _RULES:
        if (one in left and other in right) or (other in left and one in right):
            return reason
    return None


def compatible(id_: str, chosen: Iterable[str]) -> bool:
    """Whether a constraint can be added to those that are chosen."""
    return all(conflict(id_, other) is None for other in chosen)
