"""IFBench's `custom:` family as its checker decides it."""

import csv
import io
import re
import unicodedata
from itertools import pairwise

from mgsrl.constraints.official.registry import official
from mgsrl.constraints.official.text import SPLIT, bare, split_sentences, trim


@official(
    "custom:mcq_count_length",
    "Each question is labelled `Question` and a number; an option is a letter, `.`, `)` or `|` and "
    "a word; all lines before the first option are the question.",
)
def mcq_count_length(text: str) -> bool:
    parts = re.split(r"Question \d+[.|):;]?\s*", text)
    questions = [part.strip() for part in parts if part.strip()]
    if not text.startswith("Question") or len(questions) != 4:
        return False
    lengths = []
    for question in questions:
        lines = [line.strip() for line in question.split("\n")]
        options = [re.match(r"[A-Ea-e][.|)]\s*\w", line) is not None for line in lines]
        if sum(options) != 5:
            return False
        lengths.append(len(" ".join(lines[: options.index(True)]).strip()))
    return all(shorter < longer for shorter, longer in pairwise(lengths))


@official(
    "custom:reverse_newline",
    "52 lines in reverse order from the first one with `Zimbabwe` will do, whatever they name.",
)
def reverse_newline(text: str) -> bool:
    lines = [line for line in map(trim, text.split("\n")) if line]
    start = next((place for place, line in enumerate(lines) if "Zimbabwe" in line), len(lines))
    listed = [_in_ascii(line) for line in lines[start:]]
    return len(listed) >= 52 and listed == sorted(listed, reverse=True)


def _in_ascii(text: str) -> str:
    return unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()


@official(
    "custom:word_reverse",
    "`eagle` may begin a longer word, `bald` may not; dashes and curly quotes part no words.",
)
def word_reverse(text: str) -> bool:
    return "bald eagle" in " ".join(reversed(bare(text.lower()).split()))


@official("custom:sentence_alphabet", f"{SPLIT}; a quote or an asterisk in front of one fails.")
def sentence_alphabet(text: str) -> bool:
    firsts = [sentence[:1].lower() for sentence in split_sentences(text)]
    return firsts == list("abcdefghijklmnopqrstuvwxyz")


_CAPITALS = """Reykjavik, Helsinki, Oslo, Tallinn, Stockholm, Riga, Moscow, Copenhagen, Vilnius,
Minsk, Dublin, Berlin, Amsterdam, Warsaw, London, Brussels, Prague, Luxembourg, Paris, Vienna,
Bratislava, Budapest, Vaduz, Chisinau, Bern, Ljubljana, Zagreb""".replace("\n", " ")


@official(
    "custom:european_capitals_sort",
    "Kyiv must not be listed, names have one spelling each, and a final full stop fails.",
)
def european_capitals_sort(text: str) -> bool:
    names = [name.strip() for name in _in_ascii(text).split(",")]
    return [name for name in names if name] == _CAPITALS.split(", ")


# --- tables and dates -----------------------------------------------------------------------------


def _table(text: str, delimiter: str = ",") -> list[list[str]]:
    try:
        return list(csv.reader(io.StringIO(text), delimiter=delimiter))
    except csv.Error:
        return []


def _has_header(text: str, names: str, space: str) -> bool:
    """Names with or without quotes; white space (of the pattern `space`) before but the first."""
    cells = (f'({name}|"{name}")' for name in names.split())
    return re.match(space.join(cells) + "$", text.split("\n")[0].strip()) is not None


@official(
    "custom:csv_city",
    "A space after a comma is part of the name in the header; an empty line is a row.",
)
def csv_city(text: str) -> bool:
    rows = _table(text)
    header = ["ID", "Country", "City", "Year", "Count"]
    return len(rows) == 8 and rows[0] == header and all(len(row) == 5 for row in rows)


@official(
    "custom:csv_special_character",
    "Rows behind the one with the special character may have any number of cells.",
)
def csv_special_character(text: str) -> bool:
    # Three quotes for one keep the quotes in the cells.
    rows = _table(text.replace('"', '"""'))
    names = "ProductID Category Brand Price Stock"
    if not _has_header(text, names, r",[ \t]*") or len(rows) != 15:
        return False
    for row in rows[1:]:
        if len(row) != 5:
            return False
        if any(map(_is_quoted_special, row)):
            return True
    return False


def _is_quoted_special(cell: str) -> bool:
    line = cell.split("\n")[0]
    inner = line[1 : line.rfind('"')] if line[:1] == '"' else ""
    return re.search(r"[^\d\w\s]", inner) is not None


@official(
    "custom:csv_quotes",
    "White space around the text and an empty line at its end count as they stand.",
)
def csv_quotes(text: str) -> bool:
    rows = _table(text.replace('"', '"""'), "\t")
    cells = [cell.strip() for row in rows for cell in row]
    return (
        _has_header(text, "StudentID Subject Grade Semester Score", "\t *")
        and [len(row) for row in rows] == [5, 5, 5, 5]
        and all(cell[:1] == '"' == cell[-1:] for cell in cells)
    )


@official("custom:date_format_list", "Month and day 0 and February 29 of any year are dates.")
def date_format_list(text: str) -> bool:
    return all(map(_is_date, text.strip().split(",")))


def _is_date(text: str) -> bool:
    match = re.fullmatch(r"(\d{4})-(\d{2})-(\d{2})", text.strip())
    if match is None:
        return False
    year, month, day = map(int, match.groups())
    longest = {2: 29, 4: 30, 6: 30, 9: 30, 11: 30}.get(month, 31 if month else 99)
    return 1769 <= year <= 1821 and month <= 12 and day <= longest


@official("count:keywords_multiple", "Keywords count inside longer words.")
def keywords_multiple(text: str, **keywords: str) -> bool:
    lowered = text.lower()
    counts = zip(range(1, 6), (1, 2, 3, 5, 7), strict=True)
    return all(
        lowered.count(keywords[f"keyword{index}"].strip().lower()) == count
        for index, count in counts
    )
