"""IFEval's checker (google-research) where training reads better.

What the released checker draws at random can only be met on average: its language detector has no
seed (here it has one), and where the asked "letter" is none it counts another one (here the verdict
on most letters holds).
"""

import re
import string
from collections import Counter

from mgsrl.constraints.language import detect
from mgsrl.constraints.official.registry import official
from mgsrl.constraints.spec import compare

_ALL = "Every response whose language the detector takes for another one fails"


@official(
    "change_case:english_capital",
    f"{_ALL}: capitals without lower-case letters are often Dutch or German to it. Training looks "
    "for English words first.",
)
def english_capital(text: str) -> bool:
    return _is_english_to_the_detector(text, text.isupper())


@official("change_case:english_lowercase", f"{_ALL}. Training looks for English words first.")
def english_lowercase(text: str) -> bool:
    return _is_english_to_the_detector(text, text.islower())


def _is_english_to_the_detector(text: str, case: bool) -> bool:
    # The detector is asked when the case is right, and what it cannot tell passes.
    return case and detect(text) in ("en", None)


@official(
    "language:response_language",
    "The code must be the detector's own: `zh` is never followed (it says `zh-cn`), nor is a "
    "language that it does not know, for which training abstains.",
)
def response_language(text: str, language: str) -> bool:
    return detect(text) in (language, None)


@official("keywords:existence", "Keywords are regular expressions.")
def existence(text: str, keywords: tuple[str, ...]) -> bool:
    return all(re.search(keyword, text, flags=re.IGNORECASE) for keyword in keywords)


@official("keywords:forbidden_words", "Forbidden words are regular expressions.")
def forbidden_words(text: str, forbidden_words: tuple[str, ...]) -> bool:
    return not any(re.search(rf"\b{word}\b", text, flags=re.IGNORECASE) for word in forbidden_words)


@official("keywords:frequency", "The keyword is a regular expression.")
def frequency(text: str, keyword: str, frequency: int, relation: str) -> bool:
    found = re.findall(keyword.strip(), text, flags=re.IGNORECASE)
    return compare(len(found), relation, frequency)


@official(
    "keywords:letter_frequency",
    "For a character that is no letter from a to z (`#`, `!`) it counts a letter drawn at random; "
    "the verdict on most letters stands in for that.",
)
def letter_frequency(text: str, letter: str, let_frequency: int, let_relation: str) -> bool:
    counts = Counter(text.lower())
    drawn = letter if letter in string.ascii_lowercase else string.ascii_lowercase
    verdicts = [compare(counts[each], let_relation, let_frequency) for each in drawn]
    return 2 * sum(verdicts) > len(verdicts)


@official("detectable_format:multiple_sections", "The splitter is a regular expression.")
def multiple_sections(text: str, section_spliter: str, num_sections: int) -> bool:
    return len(re.split(rf"\s?{section_spliter.strip()}\s?\d+\s?", text)) > num_sections


@official(
    "detectable_content:postscript",
    "A marker other than `P.S.` and `P.P.S` is a regular expression.",
)
def postscript(text: str, postscript_marker: str) -> bool:
    marker = postscript_marker.strip()
    known = {"P.P.S": r"p\.\s?p\.\s?s", "P.S.": r"p\.\s?s\."}
    return re.search(known.get(marker, marker.lower()), text.lower()) is not None
