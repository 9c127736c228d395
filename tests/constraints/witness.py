"""Writes a response that follows a set of constraints: the proof that the set can be followed.

The responses are no prose. They are the plainest text of the right words, marks and parts.
"""

import json
import random
import re
from collections.abc import Iterator, Mapping
from typing import Any

from mgsrl.constraints.words import WORDS

FOREIGN = {
    "de": "der Hund und die Katze spielen heute nicht mit dem Kind weil es schon schläft",
    "es": "el perro y la niña juegan hoy en la calle porque hace mucho calor aquí",
    "fi": "koira ja kissa eivät ole tänään kotona koska he ovat menneet ulos",
    "fr": "le chien et la fille sont dans la maison parce que nous avons froid ici",
    "it": "il cane e la ragazza sono nella casa perché oggi non abbiamo tempo",
    "nl": "de hond en het meisje zijn vandaag niet thuis omdat wij geen tijd hebben",
    "pl": "pies i dziewczyna nie są dzisiaj w domu ponieważ wszyscy bardzo się spieszą",
    "pt": "o cachorro e a menina não estão em casa porque hoje nós temos muito trabalho",
    "ru": "собака и девочка сегодня не дома потому что они гуляют на улице",
    "sv": "hunden och flickan är inte hemma idag eftersom vi har mycket att göra",
}


class Writer:
    """Builds the response from its parts; `c` maps the ids of the set to their arguments."""

    def __init__(self, constraints: Mapping[str, Mapping[str, Any]], seed: int) -> None:
        self.c = constraints
        self.rng = random.Random(seed)
        language = self.argument("language:response_language", "language")
        asked = {word.lower() for word in _texts(constraints)}
        self.fillers = FOREIGN[language].split() if language else _english(asked)

    def argument(self, id_: str, name: str, default: Any = None) -> Any:
        return self.c[id_][name] if id_ in self.c else default

    def filler(self, start: int = 0) -> Iterator[str]:
        while True:
            for word in self.fillers[start:] + self.fillers[:start]:
                yield word
                if word.isascii() and "the" in self.fillers and word != "the":
                    yield "the"

    def keywords(self) -> list[str]:
        """The words that must occur, as often as they must."""
        words = list(self.argument("keywords:existence", "keywords", []))
        for id_ in ("keywords:frequency", "keywords:word_count_different_numbers"):
            if self.argument(id_, "relation") in ("at least", "exactly"):
                words += [self.c[id_]["keyword"]] * self.c[id_]["frequency"]
        words += [self.c[id_]["keyword"] for id_ in ("keywords:word_once",) if id_ in self.c]
        for name, times in (("keyword1", 1), ("keyword2", 2)):
            words += [self.argument("count:count_increment_word", name, "")] * times
        return [word for word in words if word]

    def extras(self) -> list[str]:
        """Everything that can stand in the middle of a sentence."""
        fill = self.filler()
        parts = self.keywords()
        for id_, letter, count, relation in (
            ("keywords:letter_frequency", "letter", "let_frequency", "let_relation"),
            ("letters:letter_counting2", "letter", "let_frequency", "let_relation"),
        ):
            if self.argument(id_, relation) == "at least":
                word = next(word for word in self.fillers if self.c[id_][letter] in word)
                parts += [word] * self.c[id_][count]
        if self.argument("change_case:capital_word_frequency", "capital_relation") == "at least":
            count = self.argument("change_case:capital_word_frequency", "capital_frequency")
            parts += ["NASA"] * count
        if "keywords:palindrome" in self.c:
            parts += ["а" if "собака" in self.fillers else "a", next(fill)]
        if "detectable_format:title" in self.c:
            parts.append(f"<<{next(fill)}>>")
        parts += [
            f"[{next(fill)}]"
            for _ in range(
                self.argument("detectable_content:number_placeholders", "num_placeholders", 0)
            )
        ]
        highlights = self.argument(
            "detectable_format:number_highlighted_sections", "num_highlights", 0
        )
        parts += [f"*{next(fill)}*" for _ in range(highlights)]
        sections = self.argument("detectable_format:multiple_sections", "num_sections", 0)
        for number in range(sections):
            splitter = self.c["detectable_format:multiple_sections"]["section_spliter"]
            parts.append(f"{splitter} {number + 1} {next(fill)}")
        bullets = self.argument("detectable_format:number_bullet_lists", "num_bullets", 0)
        parts += [f"\n- {next(fill)}" for _ in range(bullets)] + ["\n"] * bool(bullets)
        return parts + [next(fill) for _ in range(max(self.padding(), 10))]

    def padding(self) -> int:
        """Words that a demand for length needs."""
        if self.argument("length_constraints:number_words", "relation") == "at least":
            return int(self.argument("length_constraints:number_words", "num_words"))
        if self.argument("letters:letter_counting", "relation") == "at least":
            return int(self.argument("letters:letter_counting", "N")) // 2
        return 0

    # --- ordinary text ----------------------------------------------------------------------------

    def parts_and_divider(self) -> tuple[int, str]:
        count = self.argument("length_constraints:number_paragraphs", "num_paragraphs")
        if count or "paragraphs:paragraphs" in self.c:
            return count or 2, "\n***\n"
        count = self.argument("length_constraints:nth_paragraph_first_word", "num_paragraphs")
        if count or "paragraphs:paragraphs2" in self.c:
            return count or 2, "\n\n"
        return (2, "\n******\n") if "combination:two_responses" in self.c else (1, "")

    def text(self) -> str:
        parts, divider = self.parts_and_divider()
        sentences = max(parts, self.argument("keywords:keyword_specific_position", "n", 1))
        if self.argument("length_constraints:number_sentences", "relation") == "at least":
            sentences = max(
                sentences, self.c["length_constraints:number_sentences"]["num_sentences"]
            )
        written = [self.sentence(number, sentences) for number in range(sentences)]
        # The first sentences one to a part, the others in the last part.
        blocks = [*written[: parts - 1], " ".join(written[parts - 1 :])]
        nth = self.argument("length_constraints:nth_paragraph_first_word", "nth_paragraph")
        if nth:
            word = self.c["length_constraints:nth_paragraph_first_word"]["first_word"]
            blocks[nth - 1] = f"{word} {blocks[nth - 1]}"
        text = self.dressed(divider.join(blocks))
        prompt = self.argument("combination:repeat_prompt", "prompt_to_repeat")
        return f"{prompt}\n{text}" if prompt else text

    def sentence(self, number: int, count: int) -> str:
        fill = self.filler(3 * number % len(self.fillers))
        opener = self.argument("first_word:first_word_sent", "first_word") or next(fill)
        if number == 0:
            opener = self.argument("first_word:first_word_answer", "first_word") or opener
        words = [opener, *(next(fill) for _ in range(number % 3 + 1))]
        position = self.argument("keywords:keyword_specific_position", "n")
        if position == number + 1:
            place = self.c["keywords:keyword_specific_position"]["m"] - 1
            # Sentence n opens paragraph n, and the paragraph's first word comes before it.
            nth = self.argument("length_constraints:nth_paragraph_first_word", "nth_paragraph")
            place -= nth == number + 1
            words = [opener, *(next(fill) for _ in range(place - 1))][:place]
            words.append(self.c["keywords:keyword_specific_position"]["keyword"])
        last = number == count - 1
        if last:
            words += self.extras()
        ending = self.argument("last_word:last_word_sent", "last_word")
        mark = "?" if "punctuation:punctuation_dot" in self.c else "."
        if last:
            ending = self.argument("last_word:last_word_answer", "last_word", ending)
            if "detectable_format:constrained_response" in self.c:
                words.append("My answer is yes.")
            if "keywords:start_end" in self.c:
                ending, mark = next(self.filler()), ""
            if "startend:end_checker" in self.c:
                ending, mark = self.c["startend:end_checker"]["end_phrase"], ""
        return re.sub(r" *\n *", "\n", " ".join([*words, *([ending] if ending else [])])) + mark

    def dressed(self, text: str) -> str:
        if "detectable_content:postscript" in self.c:
            text += f"\n{self.c['detectable_content:postscript']['postscript_marker']} {text[:4]}"
        if "change_case:english_capital" in self.c or "count:lowercase_counting" in self.c:
            text = text.upper()
        if "change_case:english_lowercase" in self.c:
            text = text.lower()
        return f'"{text}"' if "startend:quotation" in self.c else text

    # --- whole shapes -----------------------------------------------------------------------------

    def shape(self) -> str | None:
        words = [*self.keywords(), "people"]
        fill = self.filler()
        words += [next(fill) for _ in range(max(self.padding(), 3))]
        words += [next(fill)] * (len(words) % 2)
        copies = {"copy:copy": 1, "copy:copying_simple": 1}
        copies["copy:copying_multiple"] = self.argument("copy:copying_multiple", "N", 0)
        for id_, kwargs in self.c.items():
            if id_ in copies:
                return "\n******\n".join([kwargs["prompt_to_repeat"]] * copies[id_])
            if id_ == "new:copy_span_idx":
                return str(kwargs["prompt_to_repeat"][kwargs["n_start"] : kwargs["n_end"]])
            if id_ == "copy:repeat_phrase":
                phrase = kwargs["phrase"].split()
                phrase[2] = "people"
                return "\n".join([" ".join(phrase)] * kwargs["small_n"] + self.keywords())
            if id_ == "count:counting_composition":
                return self.composition(kwargs["n_sent"], kwargs["n_words"] - 1)
            if id_ == "detectable_format:json_format":
                return json.dumps({"text": " ".join(words)})
            if id_ == "detectable_format:sentence_hyphens":
                return f"{' '.join(words)}.-{words[-1]}."
            if id_ == "detectable_format:square_brackets":
                return " ".join(f"[{word}]" for word in words)
            if id_ == "detectable_format:bigram_wrapping":
                pairs = zip(words[::2], words[1::2], strict=True)
                return " ".join(f"<<{first} {second}>>" for first, second in pairs)
            if id_ == "count:count_unique":
                return " ".join(dict.fromkeys(words)) + "."
            if id_ == "keywords:no_adjacent_consecutive":
                return " ".join(sorted(words, reverse=True))
        return None

    def composition(self, sentences: int, length: int) -> str:
        fill, needed = self.filler(), self.keywords()
        parts = []
        for _ in range(3):
            lines = []
            for _ in range(sentences):
                words = [needed.pop() if needed else next(fill) for _ in range(length)]
                lines.append(" ".join(words) + ".")
            parts.append(" ".join(lines))
        return "\n***\n".join(parts)


def write(ids: tuple[str, ...], kwargs: tuple[dict[str, Any], ...], seed: int = 0) -> str:
    """A response that follows all of them."""
    writer = Writer(dict(zip(ids, kwargs, strict=True)), seed)
    return writer.shape() or writer.text()


def _texts(constraints: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    for kwargs in constraints.values():
        for name, value in kwargs.items():
            for item in value if isinstance(value, list) else [value]:
                if isinstance(item, str) and name != "prompt_to_repeat":
                    yield from item.split()


def _english(asked: set[str]) -> list[str]:
    """Words that no constraint counts or forbids; common letters in them, rare ones not."""
    taken = [word for word in asked if len(word) > 1]
    free = [word for word in WORDS if not set(word) & set("jqxz")]
    free = [word for word in free if not any(other in word or word in other for other in taken)]
    common = [next(word for word in free if letter in word) for letter in "aehilnorstu"]
    function_words = [word for word in ("the", "of", "and", "with") if word not in taken]
    return [*function_words, *dict.fromkeys(common)]
