"""IFBench's `format:` family: brackets, quotes, case, templates, options.

Bullets, lines and indentation are in `ifbench_layout`.
"""

import re
from collections.abc import Iterator

from mgsrl.constraints.plain_words import plain_words, trimmed, words_with_marks
from mgsrl.constraints.sentences import sentences
from mgsrl.constraints.spec import TEXT, constraint

_PAIRS = {")": "(", "]": "[", "}": "{"}


@constraint(
    "format:parentheses",
    "Five brackets of any kind are open at once, and the innermost is closed by its own kind.",
    statement="Nest parentheses (and [brackets {{and braces}}]) at least 5 levels deep.",
)
def parentheses(text: str) -> bool:
    open_brackets: list[str] = []
    for bracket in re.findall(r"[()\[\]{}]", text):
        if bracket not in _PAIRS:
            open_brackets.append(bracket)
        elif open_brackets and open_brackets[-1] == _PAIRS[bracket]:
            if len(open_brackets) >= 5:
                return True
            open_brackets.pop()
        else:  # closed by another kind: nothing before it counts
            open_brackets.clear()
    return False


def _quote_marks(text: str) -> Iterator[str]:
    """Quote marks as straight ones; an apostrophe inside a word is none."""
    straight = re.sub("[“”„]", '"', re.sub("[‘’‚]", "'", text))
    for match in re.finditer(r"\"|(?<!\w)'|'(?!\w)", straight):
        yield match.group()


@constraint(
    "format:quotes",
    "Quotes in quotes in quotes, double and single ones in turn, all three closed.",
    statement=(
        "Include quotes within quotes within quotes, at least 3 levels deep, alternating between "
        "double quotes and single quotes."
    ),
)
def quotes(text: str) -> bool:
    marks: list[str] = []
    depths = [0]  # for the text and each open quote: how deep the quotes closed inside it go
    for mark in _quote_marks(text):
        if marks and marks[-1] == mark:
            marks.pop()
            depth = depths.pop() + 1
            if depth >= 3:
                return True
            depths[-1] = max(depths[-1], depth)
        else:
            marks.append(mark)
            depths.append(0)
    return False


@constraint(
    "format:quote_unquote",
    "Words follow every phrase in double quotes before the next one or the end.",
    statement="Every quoted phrase must be followed by an unquoted explanation.",
)
def quote_unquote(text: str) -> bool:
    straight = re.sub("[“”„]", '"', text).replace("'\"'", "")
    parts = straight.split('"')
    after = parts[2::2] + parts[-1:]  # the last one also when its quote is never closed
    return all(re.search(r"[^\W\d_]", part) for part in after) or len(parts) == 1


def _is_choice_of_letters(options: str) -> bool:
    return re.match(r"\W*a\W*b\W*c\W*", options, re.IGNORECASE) is not None


def _options(options: str) -> list[str]:
    separator = "/" if "/" in options else r"\bor\b" if re.search(r"\bor\b", options) else ","
    return [option.strip() for option in re.split(separator, options)]


@constraint(
    "format:options",
    "One of the options and nothing else; case and marks count for letters, not for words.",
    arguments={"options": TEXT},
    statement="Answer with one of the following options: {options}.",
    draw=lambda rng: {
        "options": rng.choice(
            ("yes/no/maybe", "I know or I don't know", "a), b), c), d)", "true/false", "A, B, C, D")
        )
    },
)
def options(text: str, options: str) -> bool:
    allowed = _options(options)
    if _is_choice_of_letters(options):
        return text.strip() in allowed
    return trimmed(text) in map(trimmed, allowed)


# --- case, templates, white space -----------------------------------------------------------------

_MINOR = """a an the and but for nor or so yet as at by from if in into of off on onto out over per
than till to up via vs with"""
_MINOR_WORDS = frozenset(_MINOR.split())


def _is_title_word(word: str) -> bool:
    letters = "".join(filter(str.isalpha, word))
    # "iPhone" and "pH" are spelled so; "tREE" is not.
    return not letters[:1].islower() or (any(map(str.isupper, letters)) and not _swapped(letters))


def _swapped(letters: str) -> bool:
    return letters[1:].isupper() and len(letters) > 2


@constraint(
    "format:title_case",
    "Every word starts with a capital letter, but for articles, prepositions and so on inside.",
    statement=(
        "Write the entire response in title case (capitalize the first letter of every major word)."
    ),
)
def title_case(text: str) -> bool:
    words = [word for word in words_with_marks(text) if any(map(str.isalpha, word))]
    major = words[:1] + [word for word in words if trimmed(word) not in _MINOR_WORDS]
    return bool(words) and all(map(_is_title_word, major))


@constraint(
    "format:output_template",
    "The three labels in this order, the first at the start, each with some text after it.",
    statement=(
        "Use this exact template for your response: My Answer: [answer] My Conclusion: "
        "[conclusion] Future Outlook: [outlook]"
    ),
)
def output_template(text: str) -> bool:
    before, *parts = re.split("(My Answer:|My Conclusion:|Future Outlook:)", text)
    return (
        not plain_words(before)
        and parts[::2] == ["My Answer:", "My Conclusion:", "Future Outlook:"]
        and all(map(plain_words, parts[1::2]))
    )


@constraint(
    "format:no_whitespace",
    "No white space at all.",
    statement="The output should not contain any whitespace.",
)
def no_whitespace(text: str) -> bool:
    return not any(map(str.isspace, text))


_EMOJI = re.compile(
    "[©®‼⁉\u20e3™ℹ↔-↪⌚-⏿Ⓜ▪-◾☀-➿⤴⤵⬅-⭕〰〽㊗㊙\U0001f000-\U0001faff]"  # \u20e3 ends keycaps
)
_INVISIBLE = re.compile("[\ufe0e\ufe0f\u200d\U000e0020-\U000e007f]")
_AROUND = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~“”‘’… \t\n"


def _without_marks(sentence: str) -> str:
    """The sentence without punctuation around it and the invisible parts of emoji."""
    return _INVISIBLE.sub("", sentence).strip(_AROUND)


@constraint(
    "format:emoji",
    "Every sentence ends with an emoji, before its last mark or right after it.",
    statement="Please use an emoji at the end of every sentence.",
)
def emoji(text: str) -> bool:
    found = [_without_marks(sentence) for sentence in sentences(text)]
    return all(
        _EMOJI.match(sentence[-1:]) or _EMOJI.match(following.lstrip("0123456789")[:1])
        for sentence, following in zip(found, [*found[1:], ""], strict=False)
    )
