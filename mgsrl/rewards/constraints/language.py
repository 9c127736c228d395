"""Which language a text is in: its dominant script, then its character n-grams.

IFEval uses `langdetect` (naive Bayes on random draws of n-grams), which answers differently from
run to run on short texts. Here the same profiles are used on all n-grams, so equal texts get equal
answers. Left out: languages that share a script with none of `LANGUAGES` are told by script alone,
and Chinese variants are one.

`is_english` asks less: a text with its share of English function words is English, because n-grams
of a short text ("trees are green") are easily likeliest in Dutch.
"""

import gzip
import math
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from mgsrl.rewards.constraints.spec import CannotDecideError

_SCRIPTS: tuple[tuple[str, str], ...] = (
    ("latin", "A-Za-zÀ-ɏḀ-ỿ"),
    ("cyrillic", "Ѐ-ӿ"),
    ("el", "Ͱ-Ͽ"),
    ("he", "֐-׿"),
    ("arabic", "؀-ۿݐ-ݿ"),
    ("devanagari", "ऀ-ॿ"),
    ("bn", "ঀ-৿"),
    ("pa", "਀-੿"),
    ("gu", "઀-૿"),
    ("ta", "஀-௿"),
    ("te", "ఀ-౿"),
    ("kn", "ಀ-೿"),
    ("ml", "ഀ-ൿ"),
    ("th", "฀-๿"),
    ("ko", "가-힣ᄀ-ᇿ"),
    ("ja", "぀-ヿ"),
    ("zh", "一-鿿"),
)
"""Scripts of one language go by its code."""
_SHARED_SCRIPTS = ("latin", "cyrillic", "arabic", "devanagari")
_SCRIPT_PATTERNS = tuple((name, re.compile(f"[{chars}]")) for name, chars in _SCRIPTS)

MAX_TEXT = 10_000
"""Characters looked at, as in langdetect."""
_SMOOTHING = 5e-5
"""langdetect's: 0.5 / 10,000."""
_URL = re.compile(r"https?://[-_.?&~;+=/#0-9A-Za-z]{1,2076}")
_NORMALIZED = {"ی": "ي", "ș": "ş", "ț": "ţ"}

_ENGLISH_WORDS = """the of and to a is that for it as with be by on not he i this are or his from at
which but have they you were there can has we my your their its our if would when what who how do
does more some all than then them these so like make makes very about out up into"""
_ENGLISH = frozenset(_ENGLISH_WORDS.split())
_ENGLISH_SHARE = 0.2
"""Function words are a third and more of English text; other languages share few of the above."""


@cache
def _profiles() -> tuple[tuple[str, ...], dict[str, list[tuple[int, float]]]]:
    """The languages, and for each n-gram (language, log-likelihood above the smoothing's)."""
    path = Path(__file__).with_name("language_ngrams.txt.gz")
    languages: list[str] = []
    grams: dict[str, list[tuple[int, float]]] = {}
    for line in gzip.decompress(path.read_bytes()).decode().split("\n"):
        if line.startswith("#"):
            continue
        code, *entries = line.split("\t")
        for entry in entries:
            match = re.fullmatch(r"([^0-9]+)([0-9]+)", entry)
            assert match is not None, entry
            probability = math.exp(-int(match[2]) / 8)
            gain = math.log1p(probability / _SMOOTHING)
            grams.setdefault(match[1], []).append((len(languages), gain))
        languages.append(code)
    return tuple(languages), grams


def _normalized(char: str) -> str:
    if char < "\x80":
        return char if char.isalpha() else " "
    if char <= "¿":
        return char if char in "ªº" else " "
    if "\u2000" <= char <= "\u206f":
        return " "
    if "\u1ea0" <= char <= "\u1eff":  # all Vietnamese letters are one
        return "\u1ec3"
    return _NORMALIZED.get(char, char)


def _ngrams(text: str) -> Iterator[str]:
    """The 1- to 3-grams of each word with the spaces around it; words in capitals hardly count."""
    window, capitals = " ", False
    for char in map(_normalized, re.sub(" +", " ", _URL.sub(" ", text)[:MAX_TEXT])):
        last = window[-1]
        if last == " ":
            window, capitals = " ", False
            if char == " ":
                continue
        window = (window + char)[-3:]
        capitals = char.isupper() and (capitals or last.isupper())
        if not capitals:
            for size in range(1, len(window) + 1):
                if window[-size:] != " ":
                    yield window[-size:]


def _scripts(text: str) -> Counter[str]:
    """Letters by script. Japanese mixes kana and Han: kana present makes Han letters Japanese."""
    counts = Counter({name: len(pattern.findall(text)) for name, pattern in _SCRIPT_PATTERNS})
    if counts["ja"] * 10 >= counts["zh"]:
        counts["ja"] += counts.pop("zh")
    return +counts


def detect(text: str) -> str | None:
    """ISO 639-1 code of the most likely language; None without evidence."""
    scripts = _scripts(text)
    if not scripts:
        return None
    script = scripts.most_common(1)[0][0]
    if script not in _SHARED_SCRIPTS:
        return script
    languages, grams = _profiles()
    scores = [0.0] * len(languages)
    for gram in _ngrams(text):
        for index, gain in grams.get(gram, ()):
            scores[index] += gain
    best = max(range(len(scores)), key=scores.__getitem__)
    return languages[best] if scores[best] > 0 else None


def is_english(text: str) -> bool:
    """Whether the text is English; without evidence yes, as in IFEval when detection fails."""
    scripts = _scripts(text)
    if not scripts:
        return True
    if scripts.most_common(1)[0][0] != "latin":
        return False
    words = re.findall(r"[^\W\d_]+", text.lower())
    if sum(word in _ENGLISH for word in words) >= _ENGLISH_SHARE * len(words):
        return True
    return detect(text) in ("en", None)


def matches_language(text: str, language: str) -> bool:
    """Whether `text` is in `language` (`pt`, `zh-cn`, ...).

    Raises CannotDecideError for a language the detector does not know.
    """
    code = language.lower().split("-")[0].split("_")[0]
    by_script = {name for name, _ in _SCRIPTS if name not in _SHARED_SCRIPTS}
    if code not in by_script and code not in _profiles()[0]:
        raise CannotDecideError(f"no detector for language {language!r}")
    return detect(text) == code
