"""Which language a text is in: `langdetect`, as in IFEval, with a fixed seed.

langdetect is naive Bayes on random draws of n-grams. The seed makes equal texts get equal answers,
in every process; but on a line or two it guesses ("HELLO WORLD" is Dutch to it, and a third of such
lines in capitals are not English). So `is_english`, which training asks, first looks the words of a
text of up to a page up in a list of English ones; of IFEval's 6,620 consensus verdicts four change
by that, all of English texts. The released checker's verdicts are in `official/ifeval.py`.
"""

import gzip
import re
from functools import cache
from pathlib import Path

from mgsrl.constraints.spec import CannotDecideError

SEED = 0
_PAGE = 600
"""Words of a text up to which the list of words decides first."""
_ENGLISH_SHARE = 2 / 3
"""Share of a text's words in the list that makes it English: names and slang are not in it, while
other languages share fewer ("die Hand ist warm" is an exception, "die Sonne scheint hell" none)."""


def detect(text: str) -> str | None:
    """The likeliest language's code (`pt`, `zh-cn`, ...); None for a text without letters."""
    from langdetect import DetectorFactory
    from langdetect import detect as likeliest
    from langdetect.lang_detect_exception import LangDetectException

    DetectorFactory.seed = SEED
    try:
        return str(likeliest(text))
    except LangDetectException:
        return None


def is_english(text: str) -> bool:
    """Whether the text is English; without evidence yes, as in IFEval."""
    words = re.findall(r"[^\W\d_]{2,}", text.lower())
    known = sum(word in _english_words() for word in words)
    if 0 < len(words) <= _PAGE and known >= _ENGLISH_SHARE * len(words):
        return True
    return detect(text) in ("en", None)


@cache
def _english_words() -> frozenset[str]:
    packed = Path(__file__).with_name("english.txt.gz").read_bytes()
    lines = gzip.decompress(packed).decode().splitlines()
    return frozenset(line for line in lines if not line.startswith("#"))


def matches_language(text: str, language: str) -> bool:
    """Whether `text` is in `language` (`pt`, `zh-cn`; `zh` is any Chinese); without evidence yes.

    Raises CannotDecideError for a language the detector does not know.
    """
    code = language.lower().replace("_", "-")
    if code not in _known():
        code = code.split("-")[0]
    if code not in _known():
        raise CannotDecideError(f"no detector for language {language!r}")
    found = detect(text)
    return found is None or code in (found, found.split("-")[0])


@cache
def _known() -> frozenset[str]:
    from langdetect import PROFILES_DIRECTORY

    codes = {path.name for path in Path(PROFILES_DIRECTORY).iterdir()}
    return frozenset(codes | {code.split("-")[0] for code in codes})
