"""IFBench's `count:` family.

Where a prompt can be read in several ways ("numbers", "every standard punctuation mark"), the
published reading holds.
"""

import random
import re
import string
from typing import Any

from mgsrl.constraints.length import words as number_words
from mgsrl.constraints.plain_words import trimmed, whole_word
from mgsrl.constraints.spec import COUNT, POSITIVE, WORD, constraint
from mgsrl.constraints.tokens import word_tokens
from mgsrl.constraints.words import draw_words

_NAMES_SENTENCE = """Emma, Liam, Sophia, Jackson, Olivia, Noah, Ava, Lucas, Isabella, Mason, Mia,
Ethan, Charlotte, Alexander, Amelia, Benjamin, Harper, Leo, Zoe, Daniel, Chloe, Samuel, Lily,
Matthew, Grace, Owen, Abigail, Gabriel, Ella, Jacob, Scarlett, Nathan, Victoria, Elijah, Layla,
Nicholas, Audrey, David, Hannah, Christopher, Penelope, Thomas, Nora, Andrew, Aria, Joseph, Claire,
Ryan, Stella, Jonathan"""
NAMES = _NAMES_SENTENCE.replace(",", "").split()

CONJUNCTIONS = frozenset(("for", "and", "nor", "but", "or", "yet", "so"))

_PRONOUN_WORDS = """
i me my mine myself we us our ours ourselves you your yours yourself yourselves he
him his himself she her hers herself it its itself they them their theirs themselves this that
these those who whom whose which what whoever whomever whatever whichever anybody anyone anything
everybody everyone everything nobody nothing none somebody someone something each either neither
both all some any"""
_PRONOUNS = frozenset(_PRONOUN_WORDS.split())

_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)
_JAPANESE = re.compile("[぀-ヿㇰ-ㇿ㐀-䶿一-鿿々〆ｦ-ﾟ]")


def _range_not_empty(min_words: int, max_words: int) -> str | None:
    return f"an empty range, {min_words} to {max_words}" if min_words > max_words else None


def _draw_range(rng: random.Random) -> dict[str, Any]:
    low = rng.randint(30, 400)
    return {"min_words": low, "max_words": low + rng.randint(5, 10 + low // 10)}


@constraint(
    "count:word_count_range",
    'The number of words is in the range, both ends included; "don\'t" is two words.',
    arguments={"min_words": COUNT, "max_words": COUNT},
    statement="The response must contain between {min_words} and {max_words} words.",
    draw=_draw_range,
    consistent=_range_not_empty,
)
def word_count_range(text: str, min_words: int, max_words: int) -> bool:
    return min_words <= len(number_words(text)) <= max_words


@constraint(
    "count:unique_word_count",
    "At least N different words, case and the marks around them aside.",
    arguments={"N": POSITIVE},
    statement="Use at least {N} unique words in the response.",
    draw=lambda rng: {"N": rng.randint(30, 200)},
)
def unique_word_count(text: str, N: int) -> bool:
    return len({trimmed(word) for word in text.split()} - {""}) >= N


@constraint(
    "count:conjunctions",
    "At least so many different ones of for, and, nor, but, or, yet, so.",
    arguments={"small_n": POSITIVE},
    statement="Use at least {small_n} different coordinating conjunctions in the response.",
    draw=lambda rng: {"small_n": rng.randint(2, 6)},
    consistent=lambda small_n: "more than the seven there are" if small_n > 7 else None,
)
def conjunctions(text: str, small_n: int) -> bool:
    return len(CONJUNCTIONS.intersection(map(trimmed, text.split()))) >= small_n


def _names_enough(N: int) -> str | None:
    return None if len(NAMES) >= N else f"more than the {len(NAMES)} names there are"


@constraint(
    "count:person_names",
    "At least N different names of the list, as whole words and capitalised.",
    arguments={"N": POSITIVE},
    statement=(
        "Mention at least {N} different person names in the response, from this list of person "
        f"names: {' '.join(_NAMES_SENTENCE.split())} ."
    ),
    draw=lambda rng: {"N": rng.randint(1, 40)},
    consistent=_names_enough,
)
def person_names(text: str, N: int) -> bool:
    return len(set(NAMES).intersection(re.findall(r"\w+", text))) >= N


@constraint(
    "count:numbers",
    "Exactly N numbers in digits; a mark inside one (3.14, 100,000, 10-20) does not part it.",
    arguments={"N": COUNT},
    statement="Include exactly {N} numbers in the response.",
    draw=lambda rng: {"N": rng.randint(1, 15)},
)
def numbers(text: str, N: int) -> bool:
    return len(re.findall(r"\d+", text.translate(_WITHOUT_PUNCTUATION))) == N


@constraint(
    "count:punctuation",
    "Full stop, comma, !, ?, semicolon and colon, and apart from those an interrobang (?! or !?).",
    statement=(
        "Use every standard punctuation mark at least once, including semicolons, colons, and the "
        "interrobang (?!)."
    ),
)
def punctuation(text: str) -> bool:
    rest, interrobangs = re.subn(r"\?!|!\?|‽", "", text, count=1)
    return interrobangs == 1 and all(mark in rest for mark in ".,!?;:")


@constraint(
    "count:words_japanese",
    "Every N-th word (parted by spaces) has Japanese letters, numbers and marks excused.",
    arguments={"N": POSITIVE},
    statement="Every {N}th word of your response must be in Japanese.",
    draw=lambda rng: {"N": rng.choice((4, 5, 6, 7, 8, 9, 10, 15, 20, 25))},
)
def words_japanese(text: str, N: int) -> bool:
    chosen = (trimmed(word) for word in text.split()[N - 1 :: N])
    return all(not word or word.isdigit() or _JAPANESE.search(word) for word in chosen)


@constraint(
    "count:pronouns",
    "At least N pronouns, possessive, demonstrative and indefinite ones among them; all count.",
    arguments={"N": POSITIVE},
    statement="The response should include at least {N} pronouns.",
    draw=lambda rng: {"N": rng.randint(1, 30)},
)
def pronouns(text: str, N: int) -> bool:
    separate = text.lower().replace("/", " ").replace("’", "'")
    return sum(word in _PRONOUNS for word in word_tokens(separate)) >= N


def _draw_keywords(rng: random.Random) -> dict[str, Any]:
    return {f"keyword{index}": word for index, word in enumerate(draw_words(rng, 5, 5), start=1)}


@constraint(
    "count:keywords_multiple",
    "The keywords occur once, 2, 3, 5 and 7 times as whole words, in any case.",
    arguments={f"keyword{index}": WORD for index in range(1, 6)},
    statement=(
        "Include keyword {keyword1} once in your response, keyword {keyword2} twice in your "
        "response, keyword {keyword3} three times in your response, keyword {keyword4} five times "
        "in your response, and keyword {keyword5} seven times in your response."
    ),
    draw=_draw_keywords,
)
def keywords_multiple(text: str, **keywords: str) -> bool:
    counts = zip(range(1, 6), (1, 2, 3, 5, 7), strict=True)
    return all(
        len(whole_word(keywords[f"keyword{index}"]).findall(text)) == count
        for index, count in counts
    )
