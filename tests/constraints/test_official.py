"""The released checkers' verdicts: every listed difference is one, and the docs list them all."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from mgsrl.config.reward import OFFICIAL, TRAINING, RewardConfig
from mgsrl.constraints import REGISTRY, CannotDecideError, bind, follows
from mgsrl.constraints.language import is_english
from mgsrl.constraints.official import FAMILIES, OFFICIAL_CHECKS, difference_table
from mgsrl.constraints.official.first_tag import first_tag
from mgsrl.constraints.official.text import split_sentences
from mgsrl.constraints.tokens import word_tokens
from mgsrl.errors import ConfigError
from mgsrl.rewards.protocol import Response
from tests.constraints.example import Example
from tests.constraints.examples import EXAMPLES as TRAINING_EXAMPLES
from tests.constraints.examples_official import EXAMPLES
from tests.oracle import published_rows
from tests.rewards.loaded import worker
from tests.timing import takes_under

DOCS = Path(__file__).resolve().parents[2] / "docs" / "rewards.md"
EACH = [(id_, example) for id_, examples in EXAMPLES.items() for example in examples]


@pytest.mark.parametrize(("id_", "example"), EACH)
def test_every_example_is_a_difference(id_: str, example: Example) -> None:
    bound = bind(id_, example.kwargs)
    assert follows(bound, example.response, reading=OFFICIAL) is example.expected
    try:
        assert follows(bound, example.response, reading=TRAINING) is not example.expected
    except CannotDecideError:
        assert "abstains" in OFFICIAL_CHECKS[id_].difference


def test_every_entry_has_examples_and_every_check_is_filed() -> None:
    assert all(EXAMPLES[id_] for id_ in OFFICIAL_CHECKS)
    assert set(OFFICIAL_CHECKS) <= set(REGISTRY)
    filed = {entry.check.__module__ for entry in OFFICIAL_CHECKS.values()}
    assert filed == {family.__name__ for family in FAMILIES}


def test_the_docs_have_a_row_for_every_difference() -> None:
    assert difference_table() in DOCS.read_text(encoding="utf-8"), difference_table()


@pytest.mark.parametrize("id_", sorted(set(REGISTRY) - set(OFFICIAL_CHECKS))[::7])
def test_other_constraints_have_one_verdict(id_: str) -> None:
    for example in TRAINING_EXAMPLES[id_]:
        assert follows(bind(id_, example.kwargs), example.response, reading=OFFICIAL) is (
            example.expected
        )


HOSTILE = ["?!", ". ", "\n", " \n", "* ", "'", '"', "([", "Question 1", "the ", '","', "Mr. ", "A."]


@pytest.mark.parametrize("id_", OFFICIAL_CHECKS)
def test_hostile_text_takes_linear_time(id_: str) -> None:
    bound = bind(id_, EXAMPLES[id_][0].kwargs)
    for unit in HOSTILE:
        text = unit * (100_000 // len(unit)) + "x"
        assert takes_under(2, partial(follows, bound, text, reading=OFFICIAL)), unit


# --- what the released checkers are made of -------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Dr. Ray came. He left.", ["Dr. Ray came.", "He left."]),
        ('He said "Go." Then he left.', ['He said "Go".', "Then he left."]),
        ("Visit www.oak.org. It is 3.5 m.", ["Visit www.", "oak.org.", "It is 3.5 m."]),
        ("J. R. Tolkien. Wait... what?! Yes", ["J. R. Tolkien.", "Wait...", "what?", "!", "Yes"]),
        ("The U.S. He left Oak Inc. It grew.", ["The U.S.", "He left Oak Inc", "It grew."]),
        ("One\nTwo.", ["One Two."]),
        ("", []),
    ],
)
def test_sentences_of_the_release(text: str, expected: list[str]) -> None:
    assert split_sentences(text) == expected


@pytest.mark.parametrize(
    ("text", "tag"),
    [
        ("Explore the world.", "IN"),
        ("Imagine a tree.", "VB"),
        ("Running is fun.", "VBG"),
        ("Design a house.", "NNP"),
        ("Is it raining?", "VBZ"),
        ("Can you?", "MD"),
        ("1. Go home.", "CD"),
        ("2024 was warm", "CD"),
        ("Well-known facts", "JJ"),
        ('"Go," she said.', "``"),
        ("Buy low, sell high", "NNP"),
        ("Go", "VB"),
        ("", ""),
    ],
)
def test_first_tags_are_those_of_nltk(text: str, tag: str) -> None:
    assert first_tag(text) == tag


def test_words_are_those_of_nltk() -> None:
    assert word_tokens("Don't\ngo. It's\tfine, she'll cannot") == (
        ["Do", "n't", "go", ".", "It", "'s", "fine", ",", "she", "'ll", "can", "not"]
    )


# --- short texts ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "HELLO WORLD",
        "ROCKY, GASEOUS, ICY, DISTANT PLANETS.",
        "BREAD MILK EGGS CHEESE",
        "HAPPY BIRTHDAY MARIA",
        "DON'T PANIC!",
        "YES",
        "buy low, sell high",
        "nasa launches rocket",
    ],
)
def test_short_english_texts_are_english(text: str) -> None:
    assert is_english(text)


@pytest.mark.parametrize(
    "text",
    [
        "HOLA MUNDO",
        "DER HUND IST GROSS",
        "PAIN LAIT OEUFS FROMAGE",
        "la casa es grande",
        "die Sonne scheint hell",
        "het huis is groot",
        "ДЕРЕВЬЯ ЗЕЛЁНЫЕ",
    ],
)
def test_short_texts_of_other_languages_are_not(text: str) -> None:
    assert not is_english(text)


# --- the reward -----------------------------------------------------------------------------------


def _score(response: str, id_: str, **options: Any) -> float | None:
    reward = worker("constraints", **options)
    try:
        item = Response((), response, {"instruction_id_list": [id_], "kwargs": [{}]})
        return reward.score([item])[0].value
    finally:
        reward.close()


def test_the_reading_of_a_reward() -> None:
    block = "<response>HELLO WORLD</response>"
    assert _score(block, "change_case:english_capital") == 1.0
    assert _score(block, "change_case:english_capital", reading=OFFICIAL) == 0.0
    with pytest.raises(ConfigError, match="reading"):
        RewardConfig.of("constraints", reading="oficial").validate("domains.x.reward")


def test_the_official_reading_sees_white_space_around_a_response() -> None:
    whole = {"missing_tag": "whole_response", "reading": OFFICIAL}
    id_ = "format:no_whitespace"
    assert _score("Trees\n", id_, **whole) == 0.0
    assert _score("Trees\n", id_, missing_tag="whole_response") == 1.0
    assert _score("<think>x</think>\nTrees", id_, **whole) == 1.0
    assert _score("<response>\nTrees\n</response>", id_, **whole) == 1.0


def test_known_cases_of_instruction_following() -> None:
    cases = [
        case
        for case in published_rows("oracle/reward_faults_cases.jsonl")
        if case["domain"] == "instruction_following"
    ]
    assert cases
    for case in cases:
        for id_, kwargs in zip(case["instruction_id_list"], case["kwargs"], strict=True):
            verdict = follows(bind(id_, kwargs), case["response"])
            assert verdict is bool(case["expected_reward"]), json.dumps(case)
