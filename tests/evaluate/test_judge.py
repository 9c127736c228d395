"""The judge against a real local server: orders, verdicts, garbage, failures, configurations."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mgsrl.config.compose import config_dir
from mgsrl.errors import ConfigError, EndpointError, MissingPathError
from mgsrl.evaluate.judge_file import judge_config_path, load_judge_config
from mgsrl.evaluate.scoring import _orders
from mgsrl.rewards.judge import Answer, Judge, JudgeConfig, read_label, read_score
from mgsrl.rewards.protocol import Surroundings
from tests.evaluate.judge_server import Answer as Reply
from tests.evaluate.judge_server import judge_server

PAIRWISE = JudgeConfig(
    judge_mode="pairwise",
    judge_template="Q {prompt}\n1: {answer_a}\n2: {answer_b}",
    judge_pattern=r"\[\[(A|B|tie)\]\]",
    judge_verdicts={"A": 1.0, "tie": 0.5, "B": 0.0},
)
SCORE = JudgeConfig(judge_template="{prompt} {response} {reference}", judge_pattern=r"Score: (\S+)")
GOOD, BAD = "a good answer", "bad"


def answer(text: str, baseline: str = "") -> Answer:
    orders = (False, True) if baseline else (False,)
    conversation = ({"role": "user", "content": "Hello?"},)
    return Answer(conversation, text, baseline=baseline, orders=orders)  # type: ignore[arg-type]


def judge(config: JudgeConfig, reply: Reply, *answers: Answer) -> tuple[list[Any], list[Any]]:
    with judge_server(reply) as (url, requests):
        server: Any = {"url": url, "model": "m", "request_limit_s": 10, "max_retries": 0}
        asked = Judge(replace(config, concurrency=4, **server))
        asked.load(Surroundings())
        with asked.endpoint:
            return asked.ask(answers), requests


def prefers_good(request: dict[str, Any]) -> str:
    lines = request["messages"][-1]["content"].splitlines()
    first, second = (line[3:] == GOOD for line in lines[1:])
    return "so [[tie]]" if first == second else f"so [[{'A' if first else 'B'}]]"


def test_both_orders_are_asked_and_agree() -> None:
    verdicts, requests = judge(
        PAIRWISE,
        prefers_good,
        answer(GOOD, baseline=BAD),
        answer(BAD, baseline=GOOD),
        answer(BAD, baseline=BAD),
    )
    assert [(v["judge_wins"], v["judge_games"]) for v in verdicts] == [(2, 2), (0, 2), (1, 2)]
    asked = {request["messages"][-1]["content"] for request in requests}
    assert asked == {
        f"Q Hello?\n1: {first}\n2: {second}"
        for first, second in ((GOOD, BAD), (BAD, GOOD), (BAD, BAD))
    }
    assert all(r["model"] == "m" and r["temperature"] == 0.0 for r in requests)


def test_a_judge_that_always_prefers_the_first_answer_gives_half() -> None:
    (verdict,), _ = judge(PAIRWISE, lambda _: "[[A]]", answer(GOOD, baseline=BAD))
    assert verdict["judge_wins"] / verdict["judge_games"] == 0.5


def test_weighted_verdicts_count_as_several_games() -> None:
    config = load_judge_config(config_dir() / "judge" / "arena_hard.yaml")

    def reply(request: dict[str, Any]) -> str:
        text = request["messages"][-1]["content"]
        return "[[A>>B]]" if text.index(GOOD) < text.index(BAD) else "My verdict: [[B>A]]"

    (verdict,), requests = judge(config, reply, answer(GOOD, baseline=BAD))
    assert (verdict["judge_wins"], verdict["judge_games"]) == (4, 4)
    assert [m["role"] for m in requests[0]["messages"]] == ["system", "user"]


def test_garbage_abstains_and_does_not_count_half() -> None:
    def reply(request: dict[str, Any]) -> str:
        first = request["messages"][-1]["content"].splitlines()[1]
        return "[[A]]" if first.endswith(GOOD) else "\x00 I would rather not. [[C]]"

    (verdict,), _ = judge(PAIRWISE, reply, answer(GOOD, baseline=BAD))
    assert verdict["judge_error"] == "the judge's answer holds no verdict"
    assert "judge_wins" not in verdict
    assert len(verdict["judge_replies"]) == 2


def test_a_call_that_failed_is_no_verdict() -> None:
    def reply(request: dict[str, Any]) -> str | None:
        return None if BAD in request["messages"][-1]["content"] else "Score: 7"

    verdicts, _ = judge(SCORE, reply, answer(GOOD), answer(BAD))
    assert verdicts[0]["judge_score"] == 7
    assert isinstance(verdicts[1], EndpointError)
    assert "HTTP 400" in str(verdicts[1])


def test_one_order_is_drawn_per_response_and_stays() -> None:
    config = replace(PAIRWISE, judge_swap_positions=False)
    answers = [
        Answer(
            ({"role": "user", "content": f"{n}?"},),
            GOOD,
            baseline=BAD,
            orders=_orders(config, str(n)),
        )
        for n in range(40)
    ]
    verdicts, requests = judge(config, prefers_good, *answers)
    assert all((v["judge_wins"], v["judge_games"]) == (1, 1) for v in verdicts)
    first = [r["messages"][-1]["content"].splitlines()[1].endswith(GOOD) for r in requests]
    assert 8 < sum(first) < 32
    again, requests_again = judge(config, prefers_good, *answers)
    texts = [{r["messages"][-1]["content"] for r in rs} for rs in (requests, requests_again)]
    assert texts[0] == texts[1]


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        ("Score: 3 ... Score: 8", 8.0),
        ("Score: 7.5", 7.5),
        ("Score: 11", None),
        ("Score: nan", None),
        ("Score: ten", None),
        ("", None),
    ],
)
def test_read_score(reply: str, score: float | None) -> None:
    found = read_score(SCORE, reply)
    assert found.get("judge_score") == score
    assert ("judge_error" in found) == (score is None)


def test_rubrics_are_averaged() -> None:
    config = load_judge_config(config_dir() / "judge" / "creative_writing.yaml")
    assert read_score(config, "Good.\nCharacters: 10\n**Originality:** 15\n") == {
        "judge_score": 12.5
    }
    error = {"judge_error": "the judge's score 25 is out of range"}
    assert read_score(config, "Characters: 10\nOriginality: 25") == error


def test_read_label_takes_the_last() -> None:
    assert read_label(PAIRWISE, "[[A]]? No: [[B]]") == "B"
    assert read_label(PAIRWISE, "A") is None


def test_braces_of_an_answer_are_not_filled() -> None:
    texts = ("{answer_b} {other}", "{prompt}")
    _, requests = judge(PAIRWISE, lambda _: "[[A]]", answer(texts[0], baseline=texts[1]))
    asked = {request["messages"][-1]["content"] for request in requests}
    assert asked == {f"Q Hello?\n1: {a}\n2: {b}" for a, b in (texts, texts[::-1])}


def test_shipped_configurations_load_and_say_what_they_are() -> None:
    files = sorted((config_dir() / "judge").glob("*.yaml"))
    assert len(files) == 6
    for file in files:
        load_judge_config(file)
        assert "TEMPLATE OF OUR OWN" in file.read_text()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("mode: pairwise", ["template", "{answer_a} in it"]),
        ("- a", ["a YAML mapping"]),
        ("a: [", ["a YAML mapping", "ParserError"]),
        ("moode: score", ["did you mean 'mode'"]),
        ("mode: score\nuser: '{prompt}'\npattern: (x)", ["template", "{response}"]),
        ("mode: score\nuser: '{prompt}{answer}'\npattern: x", ["a group"]),
        ("mode: score\nuser: '{prompt}{answer}'\npattern: '('", ["a regular expression"]),
        ("mode: other\nuser: a\npattern: (x)", ["one of score, pairwise"]),
        ("mode: score\nuser: 3\npattern: (x)", ["template", "'3'"]),
        ("mode: pairwise\nuser: '{prompt}{answer_a}{answer_b}'\npattern: (x)", ["verdicts"]),
        (
            "mode: pairwise\nuser: '{prompt}{answer_a}{answer_b}'\npattern: (x)\nverdicts: {A: 2}",
            ["verdicts.A", "a number from 0 to 1"],
        ),
    ],
)
def test_bad_configurations(tmp_path: Path, text: str, words: list[str]) -> None:
    file = tmp_path / "judge.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_judge_config(file)
    for word in [*words, "judge.yaml"]:
        assert word in str(caught.value)


def test_files_of_before_are_read(tmp_path: Path) -> None:
    file = tmp_path / "judge.yaml"
    file.write_text(
        "mode: score\nuser: '{prompt} {answer}'\npattern: (x)\nminimum: 2\nmaximum: 3\n"
    )
    config = load_judge_config(file, url="http://h", model="m")
    assert (config.judge_template, config.judge_min, config.judge_max) == (
        "{prompt} {answer}",
        2,
        3,
    )
    assert "url" not in config.asking()


def test_a_domains_reward_cannot_compare() -> None:
    config = replace(PAIRWISE, url="http://h", model="m")
    with pytest.raises(ConfigError, match=r"(?s)reward\.judge_mode.*score"):
        config.validate("domains.chat.reward")


def test_a_task_without_configuration_shows_the_option() -> None:
    with pytest.raises(MissingPathError, match="--judge-config FILE"):
        judge_config_path(None, "chat")
