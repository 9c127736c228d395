"""IFBench's constraints: all there, their published rows valid, draws, hostile responses."""

import contextlib
import itertools
import json
import random
import re
from functools import partial

import pytest

from mgsrl.constraints import (
    REGISTRY,
    BoundConstraint,
    CannotDecideError,
    bind,
    follows,
    parse_reference,
    validate_reference,
)
from mgsrl.errors import DataError
from tests.oracle import published_file, published_rows
from tests.timing import takes_under

IDS = [id_ for id_, entry in REGISTRY.items() if "ifbench" in entry.check.__module__]
REQUEST = 'Name a tree that grows in "Reykjavík"; say why it does, and how old it can be there.'


def draw(id_: str, rng: random.Random) -> dict[str, object]:
    entry = REGISTRY[id_]
    if entry.draw_from_prompt is not None:
        return entry.draw_from_prompt(rng, REQUEST)
    return entry.draw(rng) if entry.draw is not None else {}


def test_there_are_58() -> None:
    assert len(IDS) == 58


def test_all_published_constraints_are_there_with_their_arguments() -> None:
    spec = json.loads(published_file("if/constraint_spec.json").read_text())
    published = {
        id_: sorted(entry["kwargs"])
        for id_, entry in spec["ifbench"].items()
        if id_ not in spec["google_ifeval"]
    }
    assert published == {id_: sorted(REGISTRY[id_].arguments) for id_ in IDS}


def test_published_rows_are_valid_and_their_statements_are_in_the_prompts() -> None:
    checked = set()
    for row in published_rows("if/ifbench_test.jsonl"):
        validate_reference(row)
        for bound in parse_reference(row).constraints:
            statement = bound.constraint.statement.format(**bound.arguments)
            assert _words(statement) in _words(row["prompt"]), (row["key"], statement)
            checked.add(bound.constraint.id)
    assert checked == {*IDS}


def _words(text: str) -> str:
    """What the published prompts vary: "22-nd", "4.0", quotes, "in your response"."""
    varied = r'"|(?<=\d)(-?(st|nd|rd|th)|\.0)\b|\bin your response\b,?'
    return " ".join(re.sub(varied, "", text.lower()).split())


@pytest.mark.parametrize("id_", IDS)
def test_drawn_arguments_are_valid_and_stated(id_: str) -> None:
    for seed in range(50):
        kwargs = draw(id_, random.Random(seed))
        assert kwargs == draw(id_, random.Random(seed))
        bound = bind(id_, kwargs)
        assert set(bound.arguments) == set(REGISTRY[id_].arguments)
        statement = bound.constraint.statement.format(**bound.arguments)
        assert "{" not in statement.replace("{and braces}", "")


HOSTILE = [
    "\n" * 100_000,
    "([{" * 17_000 + "}])" * 17_000,
    "a" + "." * 99_000 + "a",
    "* a\n- \"'\n" * 12_000,
    "שלום לכולם. " * 8_000,
    "👩‍👩‍👧 🇫🇷 " * 10_000,
    'Question\nA) "b,c"\n' * 5_000,
]


@pytest.mark.parametrize("id_", IDS)
def test_hostile_responses_are_judged_within_a_second(id_: str) -> None:
    bound = bind(id_, draw(id_, random.Random(0)))
    for text in HOSTILE:
        assert takes_under(1, partial(judge, bound, text)), repr(text[:20])


def judge(bound: BoundConstraint, text: str) -> None:
    with contextlib.suppress(CannotDecideError):
        assert isinstance(bound.follows(text), bool)


EMPTY = ["", " ", "\n", " \n\t\n", "\u200b", ".", "\ufeff", "\r\n", "\x00", "**", "\n\n.\n\n"]


@pytest.mark.parametrize("id_", IDS)
def test_empty_responses_do_not_crash(id_: str) -> None:
    bound = bind(id_, draw(id_, random.Random(1)))
    for text, strict in itertools.product(EMPTY, (True, False)):
        try:
            verdict = follows(bound, text, strict=strict)
        except CannotDecideError:
            continue
        assert text.strip() or not verdict


@pytest.mark.parametrize(
    ("id_", "kwargs", "message"),
    [
        ("count:word_count_range", {"min_words": 9, "max_words": 8}, "empty range"),
        ("count:conjunctions", {"small_n": 8}, "seven"),
        ("count:person_names", {"N": 51}, "50 names"),
        ("count:words_japanese", {"N": 0}, "at least 1"),
        ("count:keywords_multiple", {"keyword1": "tree"}, "keyword2"),
        ("ratio:stop_words", {"percentage": 101}, "from 0 to 100"),
        ("ratio:stop_words", {"percentage": 1.5}, "from 0 to 100"),
        ("ratio:overlap", {"percentage": 50}, "reference_text"),
        ("repeat:repeat_span", {"prompt_to_repeat": "a b", "n_start": 1, "n_end": 0}, "of 2"),
        ("repeat:repeat_span", {"prompt_to_repeat": "a b", "n_start": 0, "n_end": 2}, "of 2"),
    ],
)
def test_bad_arguments_are_data_errors(id_: str, kwargs: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        bind(id_, kwargs)


@pytest.mark.parametrize(
    ("id_", "text", "undecided"),
    [
        ("words:start_verb", "Пиши письма.", True),
        ("words:start_verb", "42 letters.", False),
        ("words:odd_even_syllables", "The 木 the", True),
        ("words:odd_even_syllables", "The the 木", False),
    ],
)
def test_other_scripts_are_left_undecided_where_they_matter(
    id_: str, text: str, undecided: bool
) -> None:
    bound = bind(id_, {})
    if undecided:
        with pytest.raises(CannotDecideError):
            follows(bound, text)
    else:
        assert not follows(bound, text)
