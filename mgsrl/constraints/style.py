"""IFEval's `change_case:`, `punctuation:`, `startend:`, `combination:`, `language:` families."""

import random
from typing import Any

from mgsrl.constraints.language import is_english, matches_language
from mgsrl.constraints.spec import COUNT, RELATION, TEXT, compare, constraint
from mgsrl.constraints.tokens import word_tokens

END_PHRASES = (
    "Is there anything else I can help with?",
    "Any other questions?",
    "What do you think?",
    "Does that help?",
)
"""Without full stops, commas and exclamation marks, which other constraints forbid."""

_LANGUAGES = ("de", "es", "fi", "fr", "it", "nl", "pl", "pt", "ru", "sv")


def _draw_capital(rng: random.Random) -> dict[str, Any]:
    relation = rng.choice(("less than", "at least"))
    low, high = (5, 12) if relation == "less than" else (2, 6)
    return {"capital_frequency": rng.randint(low, high), "capital_relation": relation}


@constraint(
    "change_case:english_lowercase",
    "English without capital letters.",
    statement=(
        "Your entire response should be in English, and in all lowercase letters. "
        "No capital letters are allowed."
    ),
)
def english_lowercase(text: str) -> bool:
    return text.islower() and is_english(text)


@constraint(
    "change_case:english_capital",
    "English in capital letters only.",
    statement="Your entire response should be in English, and in all capital letters.",
)
def english_capital(text: str) -> bool:
    return text.isupper() and is_english(text)


@constraint(
    "change_case:capital_word_frequency",
    "Words in capitals (hyphenated ones count once) occur the asked number of times.",
    arguments={"capital_frequency": COUNT, "capital_relation": RELATION},
    statement=(
        "In your response, words with all capital letters should appear "
        "{capital_relation} {capital_frequency} times."
    ),
    draw=_draw_capital,
)
def capital_word_frequency(text: str, capital_frequency: int, capital_relation: str) -> bool:
    count = sum(word.isupper() for word in word_tokens(text))
    return compare(count, capital_relation, capital_frequency)


@constraint(
    "punctuation:no_comma",
    "No comma.",
    statement="In your entire response, refrain from the use of any commas.",
)
def no_comma(text: str) -> bool:
    return "," not in text


@constraint(
    "startend:end_checker",
    "The response ends with the phrase, in any case, closing double quotes aside.",
    arguments={"end_phrase": TEXT},
    statement=(
        'Finish your response with this exact phrase: "{end_phrase}" '
        "No other words should follow this phrase."
    ),
    draw=lambda rng: {"end_phrase": rng.choice(END_PHRASES)},
)
def end_checker(text: str, end_phrase: str) -> bool:
    return text.strip().strip('"').lower().endswith(end_phrase.strip().lower())


@constraint(
    "startend:quotation",
    "The response is wrapped in double quotation marks.",
    statement="Wrap your entire response with double quotation marks.",
)
def quotation(text: str) -> bool:
    stripped = text.strip()
    return len(stripped) > 1 and stripped[0] == '"' and stripped[-1] == '"'


@constraint(
    "combination:two_responses",
    "Two different responses separated by six asterisks.",
    statement=(
        "Give two different responses. Responses and only responses should be separated by "
        "6 asterisk symbols: ******."
    ),
)
def two_responses(text: str) -> bool:
    parts = [part.strip() for part in text.split("******")]
    if not all(parts[1:-1]):
        return False
    given = [part for part in parts if part]
    return len(given) == 2 and given[0] != given[1]


@constraint(
    "combination:repeat_prompt",
    "The response starts with the request, word for word, in any case.",
    arguments={"prompt_to_repeat": TEXT},
    statement=(
        "First repeat the request word for word without change, then give your answer "
        "(1. do not say any words or characters before repeating the request; 2. the request "
        "you need to repeat does not include this sentence)"
    ),
    draw_from_prompt=lambda rng, prompt: {"prompt_to_repeat": prompt},
)
def repeat_prompt(text: str, prompt_to_repeat: str) -> bool:
    return text.strip().lower().startswith(prompt_to_repeat.strip().lower())


@constraint(
    "language:response_language",
    "The response is in the language of the ISO 639-1 code.",
    arguments={"language": TEXT},
    statement=("Your ENTIRE response should be in the {language} language, no other is allowed."),
    draw=lambda rng: {"language": rng.choice(_LANGUAGES)},
)
def response_language(text: str, language: str) -> bool:
    return matches_language(text, language)
