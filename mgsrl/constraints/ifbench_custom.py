"""IFBench's `custom:` family: constraints that are whole requests with a checkable answer.

Facts of the world are as of 2025; where a name or a membership is disputed, both answers pass.
"""

import re
import unicodedata
from itertools import pairwise

from mgsrl.constraints.plain_words import plain_words
from mgsrl.constraints.sentences import sentences
from mgsrl.constraints.spec import constraint

_COUNTRIES = """Algeria; Angola; Benin; Botswana; Burkina Faso; Burundi; Cameroon;
Cape Verde, Cabo Verde; Central African Republic; Chad; Comoros, Union of the Comoros;
Democratic Republic of the Congo, Congo Democratic Republic of the, DR Congo, DRC, Congo Kinshasa,
Congo DRC, Congo Democratic Republic, Democratic Republic of Congo;
Republic of the Congo, Congo Republic of the, Congo, Congo Brazzaville, Congo Republic;
Cote d Ivoire, Ivory Coast; Djibouti; Egypt; Equatorial Guinea; Eritrea; Eswatini, Swaziland;
Ethiopia; Gabon; Gambia; Ghana; Guinea; Guinea Bissau; Kenya; Lesotho; Liberia; Libya; Madagascar;
Malawi; Mali; Mauritania; Mauritius; Morocco; Mozambique; Namibia; Niger; Nigeria; Rwanda;
Sao Tome and Principe, Sao Tome; Senegal; Seychelles; Sierra Leone; Somalia; South Africa;
South Sudan; Sudan; Tanzania; Togo; Tunisia; Uganda; Zambia; Zimbabwe;
Western Sahara, Sahrawi Arab Democratic Republic; Somaliland"""

_CAPITALS = """Reykjavik; Helsinki; Oslo; Tallinn; Stockholm; Riga; Moscow; Copenhagen; Vilnius;
Minsk; Dublin; Berlin; Amsterdam; Warsaw; London; Brussels; Kyiv, Kiev; Prague;
Luxembourg, Luxembourg City; Paris; Vienna; Bratislava; Budapest; Vaduz; Chisinau; Bern, Berne;
Ljubljana; Zagreb"""


def _names(table: str) -> dict[str, int]:
    """Each spelling with the place of its entry."""
    entries = enumerate(table.replace("\n", " ").split(";"))
    return {_folded(name): place for place, entry in entries for name in entry.split(",")}


def _folded(name: str) -> str:
    """Lower-case words without accents and marks, the article aside."""
    decomposed = unicodedata.normalize("NFKD", re.sub("['’‘`-]", " ", name))
    plain = "".join(char for char in decomposed if not unicodedata.combining(char))
    return re.sub("^the ", "", " ".join(plain_words(plain)))


_COUNTRY_PLACES = _names(_COUNTRIES)
_CAPITAL_PLACES = _names(_CAPITALS)
_OPTIONAL_CAPITALS = {_CAPITAL_PLACES["kyiv"]}
"""Missing in the published answer."""


@constraint(
    "custom:multiples",
    "The numbers in the response are 14, 21, 28, 35, 42 and 49.",
    statement="Count from 10 to 50 but only print multiples of 7.",
)
def multiples(text: str) -> bool:
    return re.findall(r"\d+", text) == ["14", "21", "28", "35", "42", "49"]


_OPTION = re.compile(r"\W*[A-Ea-e][.):]\W*\w")


@constraint(
    "custom:mcq_count_length",
    'Four questions, each starting with "Question" and having options A to E; each is longer.',
    statement=(
        'Generate 4 multiple choice questions with 5 options each about "20th century art '
        'history". Each question should start with the label "Question". The questions should get '
        "progressively longer. Do not provide an explanation."
    ),
)
def mcq_count_length(text: str) -> bool:
    before, *questions = re.split(r"^[ \t]*Question\b[ \t]*\d*[.:)]?", text, flags=re.MULTILINE)
    lines = [question.split("\n") for question in questions]
    options = [[bool(_OPTION.match(line)) for line in question] for question in lines]
    if before.strip() or [sum(found) for found in options] != [5, 5, 5, 5]:
        return False
    stems = [
        " ".join(question[: found.index(True)]).strip()
        for question, found in zip(lines, options, strict=True)
    ]
    return all(len(shorter) < len(longer) for shorter, longer in pairwise(stems))


@constraint(
    "custom:reverse_newline",
    "52 or more countries of Africa in reverse alphabetical order, one on a line; no other lines.",
    statement="List the countries of Africa in reverse alphabetical order, each on a new line.",
)
def reverse_newline(text: str) -> bool:
    lines = [re.sub(r"^\W*\d{1,2}[.)]", "", line) for line in text.split("\n")]
    names = [name for line in lines if (name := _folded(line))]
    start = names.index("zimbabwe") if "zimbabwe" in names else len(names)
    listed = names[start:]
    places = [_country(name) for name in listed]
    return (
        None not in places
        and len(set(places)) == len(places) >= 52
        and all(later < earlier for earlier, later in pairwise(listed))
    )


def _country(name: str) -> int | None:
    """The country of a folded name; a second name may stand in brackets behind it."""
    words = name.split()[:8]
    heads = (" ".join(words[:length]) for length in range(len(words), 0, -1))
    return next((_COUNTRY_PLACES[head] for head in heads if head in _COUNTRY_PLACES), None)


@constraint(
    "custom:word_reverse",
    'Read backwards word by word, the response speaks of the "bald eagle".',
    statement=(
        "What animal is the national symbol of the US? Respond to this query, but make your "
        "sentence in reverse order of what it should be, per word."
    ),
)
def word_reverse(text: str) -> bool:
    return "eagle bald" in " ".join(plain_words(text))


@constraint(
    "custom:character_reverse",
    'The response holds "bald eagle" letter by letter backwards.',
    statement=(
        "What animal is the national symbol of the US? Respond to this query, but make your "
        "sentence in reverse order of what it should be, per letter."
    ),
)
def character_reverse(text: str) -> bool:
    return "elgae dlab" in text.lower()


@constraint(
    "custom:sentence_alphabet",
    "26 sentences whose first words start with A to Z in order.",
    statement=(
        "Tell me a 26-sentence story where each sentence's first word starts with the letters of "
        "the alphabet in order."
    ),
)
def sentence_alphabet(text: str) -> bool:
    firsts = [plain_words(sentence)[:1] for sentence in sentences(text)]
    return "".join(word[0][0] for word in firsts if word) == "abcdefghijklmnopqrstuvwxyz" and all(
        firsts
    )


@constraint(
    "custom:european_capitals_sort",
    "Europe's capitals north of 45 degrees, from north to south, separated by commas.",
    statement=(
        "Give me the names of all capital cities of european countries whose latitude is higher "
        "than than 45 degrees? List the capital cities without country names, separated by commas, "
        "sorted by latitude, from highest to lowest."
    ),
)
def european_capitals_sort(text: str) -> bool:
    places = [_CAPITAL_PLACES.get(_folded(name)) for name in text.strip(" \n.,").split(",")]
    expected = sorted(set(_CAPITAL_PLACES.values()))
    required = [place for place in expected if place not in _OPTIONAL_CAPITALS]
    return places in (expected, required)
