"""Drawing constraints: valid arguments, sentences that state them, sets that fit together."""

import doctest
import random
import re
from itertools import combinations

import pytest

from mgsrl.constraints import REGISTRY, bind, conflicts, follows, sample
from mgsrl.constraints.conflicts import compatible, conflict
from mgsrl.constraints.sample import (
    DEFAULT_FAMILIES,
    FAMILIES,
    Drawn,
    draw_arguments,
    draw_constraints,
    family,
    select_ids,
    statement_of,
)
from mgsrl.constraints.words import OPENERS, WORDS
from mgsrl.errors import UserError
from tests.constraints.witness import write

PROMPT = 'Tell me about trees, {please}!\nShort and "simple".'
TRAINING = select_ids(DEFAULT_FAMILIES)
ALL = select_ids(FAMILIES)


@pytest.mark.parametrize("module", [conflicts, sample], ids=lambda module: module.__name__)
def test_documentation_examples(module: object) -> None:
    outcome = doctest.testmod(module)  # type: ignore[arg-type]
    assert outcome.attempted > 0
    assert outcome.failed == 0


def test_all_published_training_constraints_can_be_drawn() -> None:
    assert [family(REGISTRY[id_]) for id_ in TRAINING].count("ifeval") == 25
    assert [family(REGISTRY[id_]) for id_ in TRAINING].count("ifevalg") == 29


@pytest.mark.parametrize("id_", ALL)
def test_draws_are_valid_and_stated(id_: str) -> None:
    constraint = REGISTRY[id_]
    for seed in range(50):
        arguments = draw_arguments(constraint, random.Random(seed), PROMPT)
        assert draw_arguments(constraint, random.Random(seed), PROMPT) == arguments
        bound = bind(id_, arguments)
        required = {
            name for name, argument in constraint.arguments.items() if not argument.optional
        }
        assert required <= set(arguments)
        statement = statement_of(constraint, arguments)
        assert not re.search(r"\{\w+\}|\['|\[\]", statement)
        for name, value in bound.arguments.items():
            if isinstance(value, int) and f"{{{name}}}" in constraint.statement:
                assert str(value) in statement


def test_statements_read_well() -> None:
    def state(id_: str, **kwargs: object) -> str:
        return statement_of(REGISTRY[id_], kwargs)

    sentences = "length_constraints:number_sentences"
    assert "exactly 1 sentence." in state(sentences, num_sentences=1, relation="exactly")
    assert "exactly 11 sentences." in state(sentences, num_sentences=11, relation="exactly")
    position = "keywords:keyword_specific_position"
    assert "in the 3rd sentence, as the 12th word" in state(position, keyword="tea", n=3, m=12)
    assert "the Swedish language" in state("language:response_language", language="sv")
    assert '"a", "b" and "c"' in state("keywords:existence", keywords=["a", "b", "c"])
    assert 'the keywords "a" in' in state("keywords:existence", keywords=["a"])


def test_no_word_is_part_of_another() -> None:
    assert len(set(WORDS)) == len(WORDS) >= 300
    assert not [(a, b) for a in WORDS for b in WORDS if a != b and a in b]
    assert not set(OPENERS) & set(WORDS)


# --- which go together ----------------------------------------------------------------------------


def test_conflicts_are_symmetric_and_know_every_training_constraint() -> None:
    for one, other in combinations(TRAINING, 2):
        assert conflict(one, other) == conflict(other, one)
        assert "nothing is known" not in str(conflict(one, other))
    assert all(conflict(id_, id_) for id_ in TRAINING)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("change_case:english_lowercase", "change_case:english_capital"),
        ("language:response_language", "change_case:english_lowercase"),
        ("language:response_language", "keywords:existence"),
        ("combination:repeat_prompt", "first_word:first_word_answer"),
        ("combination:repeat_prompt", "punctuation:no_comma"),
        ("combination:two_responses", "length_constraints:number_paragraphs"),
        ("detectable_format:json_format", "startend:end_checker"),
        ("detectable_format:json_format", "detectable_format:number_bullet_lists"),
        ("length_constraints:number_words", "length_constraints:number_sentences"),
        ("punctuation:punctuation_dot", "detectable_content:postscript"),
        ("copy:copy", "punctuation:no_comma"),
        ("count:count_unique", "keywords:frequency"),
        ("paragraphs:paragraphs", "paragraphs:paragraphs2"),
        ("made:up", "punctuation:no_comma"),
    ],
)
def test_known_conflicts(one: str, other: str) -> None:
    assert conflict(one, other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("punctuation:no_comma", "length_constraints:number_words"),
        ("detectable_format:title", "detectable_format:number_bullet_lists"),
        ("change_case:english_lowercase", "keywords:existence"),
        ("combination:repeat_prompt", "startend:end_checker"),
        ("detectable_format:json_format", "keywords:existence"),
    ],
)
def test_known_companions(one: str, other: str) -> None:
    assert conflict(one, other) is None


def test_sets_have_the_size_asked_for_and_fit_together() -> None:
    rng = random.Random(0)
    seen: set[str] = set()
    for number in range(900):
        count = 1 + number % 3
        drawn = draw_constraints(rng, PROMPT, count, TRAINING)
        ids = drawn.instruction_id_list
        assert len(ids) == len(drawn.kwargs) == len(drawn.statements) == count
        assert all(compatible(id_, set(ids) - {id_}) for id_ in ids)
        words = [
            word
            for kwargs in drawn.kwargs
            for value in kwargs.values()
            for word in (value if isinstance(value, list) else [value])
            if word in WORDS
        ]
        assert len(words) == len(set(words))
        seen |= set(ids)
    assert seen == set(TRAINING)


def missed(drawn: Drawn) -> list[str]:
    """The constraints that our writer's response does not follow."""
    text = write(drawn.instruction_id_list, drawn.kwargs)
    pairs = zip(drawn.instruction_id_list, drawn.kwargs, strict=True)
    return [id_ for id_, kwargs in pairs if not follows(bind(id_, kwargs), text)]


def test_drawn_sets_can_be_followed() -> None:
    rng = random.Random(1)
    for number in range(600):
        drawn = draw_constraints(rng, PROMPT, 1 + number % 4, TRAINING)
        assert not missed(drawn), drawn


def test_all_pairs_that_are_allowed_can_be_followed() -> None:
    pairs = [pair for pair in combinations(TRAINING, 2) if compatible(pair[0], pair[1:])]
    assert len(pairs) > 500
    for pair in pairs:
        drawn = draw_constraints(random.Random(str(pair)), PROMPT, 2, pair)
        assert not missed(drawn), drawn


def test_same_seed_same_set() -> None:
    first, second = (draw_constraints(random.Random(3), PROMPT, 3, TRAINING) for _ in range(2))
    assert first == second


def test_a_copied_span_is_never_blank() -> None:
    for seed in range(50):
        kwargs = draw_arguments(REGISTRY["new:copy_span_idx"], random.Random(seed), PROMPT)
        span = PROMPT[kwargs["n_start"] : kwargs["n_end"]]
        assert span == span.strip() != ""
        assert follows(bind("new:copy_span_idx", kwargs), span)


def test_what_cannot_be_drawn_is_refused_with_the_reason() -> None:
    with pytest.raises(UserError, match="did you mean 'punctuation:no_comma'"):
        select_ids(DEFAULT_FAMILIES, ["punctuation:no_coma"])
    with pytest.raises(UserError, match="--families ifevalg ifeval"):
        select_ids(["ifevalg"], ["punctuation:no_comma"])
    with pytest.raises(UserError, match="No 2 of the constraints"):
        draw_constraints(random.Random(0), PROMPT, 2, ["copy:copy", "punctuation:no_comma"])
