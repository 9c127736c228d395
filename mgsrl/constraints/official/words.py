"""IFBench's `words:`, `sentence:` and `repeat:` families as its checker decides them."""

from collections import Counter
from itertools import pairwise

import syllapy

from mgsrl.constraints.official.first_tag import first_tag
from mgsrl.constraints.official.registry import official
from mgsrl.constraints.official.text import PUNCTUATION, SPLIT, bare, split_sentences, trim
from mgsrl.constraints.tokens import word_tokens

_ALPHABET = "abcdefghijklmnopqrstuvwxyz"
_PRIMES = frozenset(n for n in range(2, 100) if all(n % factor for factor in range(2, n)))
_WHITE = "Words part at white space alone and lose ASCII punctuation alone"


@official("words:alphabet", f"{_WHITE} (`well–known` is one word).")
def alphabet(text: str) -> bool:
    places = [_ALPHABET.find(word[0]) for word in bare(text).lower().split()]
    return places[:1] > [-1] and all(
        later == (earlier + 1) % 26 for earlier, later in pairwise(places)
    )


@official("words:vowel", "Vowels with accents are none, and a text without vowels passes.")
def vowel(text: str) -> bool:
    return "\n" not in text.strip() and len(set("aeiou").intersection(text.lower())) <= 3


@official("words:consonants", "A mark that stands alone is a word, which fails.")
def consonants(text: str) -> bool:
    return all(_has_cluster(word) for word in text.lower().split())


def _has_cluster(word: str) -> bool:
    consonant = [char in "bcdfghjklmnpqrstvwxyz" for char in word]
    return any(one and other for one, other in pairwise(consonant))


@official("words:palindrome", "Digits and other characters form palindromes too.")
def palindrome(text: str) -> bool:
    found = (word for word in bare(text).lower().split() if len(word) >= 5)
    return sum(word == word[::-1] for word in found) >= 10


@official("words:prime_lengths", f"{_WHITE}; a text without words passes.")
def prime_lengths(text: str) -> bool:
    return all(len(word) in _PRIMES for word in bare(text).split())


@official("words:repeats", f"{_WHITE}.")
def repeats(text: str, small_n: int) -> bool:
    return max(Counter(bare(text.lower()).split()).values(), default=0) <= small_n


@official("words:no_consecutive", f"{_WHITE}.")
def no_consecutive(text: str) -> bool:
    words = bare(text.lower()).split()
    return all(first[0] != second[0] for first, second in pairwise(words))


@official(
    "words:odd_even_syllables",
    "Accents are not taken off, so `é` is no vowel; words in other scripts and marks beyond ASCII "
    "have one syllable; a text without words passes.",
)
def odd_even_syllables(text: str) -> bool:
    counts = map(syllapy.count, bare(text).lower().split())
    return all((first + second) % 2 for first, second in pairwise(counts))


# --- first, last and other places -----------------------------------------------------------------


@official(
    "words:start_verb",
    "NLTK's tagger decides, marks in front included; it takes many orders for names and some nouns "
    "for verbs.",
)
def start_verb(text: str) -> bool:
    return "VB" in first_tag(text)


@official(
    "words:last_first", f"{SPLIT}; only ASCII punctuation and spaces are taken from their ends."
)
def last_first(text: str) -> bool:
    edge = PUNCTUATION + " "
    for earlier, later in pairwise(split_sentences(text)):
        last, first = earlier.rstrip(edge).split()[-1:], later.lstrip(edge).split()[:1]
        if not last or not first or last[0].lower() != first[0].lower():
            return False
    return True


@official(
    "words:paragraph_last_first",
    "Marks count as part of the words but at the two ends of a paragraph; a paragraph of marks is "
    "none, and a text without paragraphs passes.",
)
def paragraph_last_first(text: str) -> bool:
    paragraphs = (trim(line.strip().lower()).split() for line in text.split("\n"))
    return all(words[0] == words[-1] for words in paragraphs if words)


@official(
    "words:keywords_specific_position",
    f"{SPLIT}; marks count as words, contractions as two, and case matters.",
)
def keywords_specific_position(text: str, keyword: str, n: int, m: int) -> bool:
    found = split_sentences(text)
    return n <= len(found) and word_tokens(found[n - 1])[m - 1 : m] == [keyword.strip()]


@official(
    "words:words_position",
    "Marks count as words, contractions as two, and case matters: after a final mark the last but "
    "one is the word before it.",
)
def words_position(text: str, keyword: str) -> bool:
    words = word_tokens(text)
    return len(words) > 1 and words[1] == words[-2] == keyword.strip()


# --- sentences ------------------------------------------------------------------------------------


@official(
    "sentence:alliteration_increment",
    f"{SPLIT}; all alliterative runs of a sentence add up, and the first sentence needs none.",
)
def alliteration_increment(text: str) -> bool:
    lengths = [-1, *map(_alliteration, split_sentences(text))]
    return all(later > earlier for earlier, later in pairwise(lengths))


def _alliteration(sentence: str) -> int:
    """Words in runs with one first letter."""
    words = [word.lstrip(PUNCTUATION) for word in sentence.lower().split()]
    same = [first[0] == second[0] for first, second in pairwise(filter(None, words))]
    return sum(same) + sum(pair and not before for before, pair in pairwise([False, *same]))


@official("sentence:keyword", f"{SPLIT}, and the keyword counts inside longer words.")
def keyword(text: str, word: str, N: int) -> bool:
    found = split_sentences(text)
    return len(found) >= N and word.lower() in found[N - 1].lower()


@official("sentence:increment", f"{SPLIT}; words part at white space alone.")
def increment(text: str, small_n: int) -> bool:
    counts = [len(bare(sentence).split()) for sentence in split_sentences(text)]
    return bool(counts) and all(later - earlier == small_n for earlier, later in pairwise(counts))


@official(
    "repeat:repeat_change",
    "The first word may be the same when the texts differ in its case or in white space.",
)
def repeat_change(text: str, prompt_to_repeat: str) -> bool:
    return text != prompt_to_repeat and text.split()[1:] == prompt_to_repeat.split()[1:]


@official(
    "repeat:repeat_span",
    "The word at `n_end` is left out although the prompt includes it; a span from word 0 is drawn "
    "at random, so nothing follows it.",
)
def repeat_span(text: str, prompt_to_repeat: str, n_start: int, n_end: int) -> bool:
    span = prompt_to_repeat.strip().lower().split()[n_start:n_end]
    return n_start > 0 and text.strip().lower().split() == span
