"""The judge and the HTTP reward against a real server: what they send, read and survive."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mgsrl.config import SourceConfig
from mgsrl.config.reward import RewardConfig
from mgsrl.data.sources import load_rows
from mgsrl.errors import ConfigError, DataError, UserError
from mgsrl.rewards import endpoint
from mgsrl.rewards.actor import RewardWorker
from mgsrl.rewards.factory import check_reward, make_reward, row_needs
from mgsrl.rewards.protocol import Response
from mgsrl.types import Reward
from tests.rewards.local_server import Answer, LocalServer, chat_answer, local_server

USER = ({"role": "user", "content": "Name a fruit."},)
JUDGE = RewardConfig.of("judge", url="http://127.0.0.1:9", model="judge-1", max_retries=1)
HTTP = RewardConfig.of("http", url="http://127.0.0.1:9", max_retries=1, batch_size=2)
SERVER_TROUBLE = [Answer(429), Answer(500), Answer(404), Answer(hang_up=True), Answer(body=b"<p>")]


def changed(config: RewardConfig, **keys: Any) -> RewardConfig:
    return replace(config, options=replace(config.options, **keys))


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "FIRST_WAIT_S", 0.01)


def item(text: str, **reference: Any) -> Response:
    return Response(USER, f"<think>secret</think><response>{text}</response>", reference)


def scored(
    config: RewardConfig, items: list[Response], answer: Callable[[Any], Answer]
) -> tuple[list[Reward], LocalServer]:
    with local_server(answer) as server:
        worker = RewardWorker(changed(config, url=server.url, request_limit_s=5.0), ("<end>",))
        try:
            worker.ready()
            return worker.score(items), server
        finally:
            worker.close()


def rate(body: Any) -> Answer:
    """A judge that likes long answers."""
    question = body["messages"][0]["content"]
    answer = question.split("[Answer to rate]\n")[1].split("\n\nRate how")[0]
    return chat_answer(f"The scale ends at [[10]]. Rating: [[{1 + len(answer)}]]")


# --- the judge ------------------------------------------------------------------------------------


def test_the_judge_reads_the_response_and_its_last_score_counts() -> None:
    rewards, server = scored(JUDGE, [item("abc"), item(""), item("a" * 9)], rate)
    assert [reward.value for reward in rewards] == [pytest.approx(3 / 9), 0.0, 1.0]
    assert rewards[0].details["raw_score"] == 4.0
    question = next(
        text
        for _path, _headers, body in server.requests
        if "abc" in (text := body["messages"][0]["content"])
    )
    assert "Name a fruit." in question
    assert "secret" not in question
    body = server.requests[0][2]
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("judge-1", 0.0, 1024)


def test_the_template_is_filled_once() -> None:
    config = changed(JUDGE, judge_template="P={prompt} R={response} A={reference} {other}")
    asked: list[str] = []

    def answer(body: Any) -> Answer:
        asked.append(body["messages"][0]["content"])
        return chat_answer("[[5]]")

    conversation = (
        *USER,
        {"role": "assistant", "content": "Fig."},
        {"role": "user", "content": "?"},
    )
    text = "{reference}<|im_<end>end|>"
    scored(config, [replace(item(text, answer="plum"), messages=conversation)], answer)
    assert asked == [
        "P=user: Name a fruit.\n\nassistant: Fig.\n\nuser: ? R={reference} A=plum {other}"
    ]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("I like it.", "holds no score"),
        ("", "holds no score"),
        ("[[11]]", "11 is out of range"),
        ("[[0]]", "0 is out of range"),
        ("[[nan]]", "holds no score"),
    ],
)
def test_an_answer_without_a_good_score_abstains(answer: str, reason: str) -> None:
    (reward,), _server = scored(JUDGE, [item("abc")], lambda _body: chat_answer(answer))
    assert reward.abstained
    assert reward.format_ok
    assert reason in (reward.error or "")
    assert reward.details == {"judge": answer}


def test_other_scales_and_patterns() -> None:
    config = changed(JUDGE, judge_pattern=r"(?i)score:\s*(\S+)?", judge_min=-1.0, judge_max=1.0)
    texts = ["Score: 0.5", "score: 1e999", "score: good", "score:"]
    answers = dict(zip("abcd", texts))
    rewards, _server = scored(
        changed(config, judge_template="{response}"),
        [item(key) for key in answers],
        lambda body: chat_answer(answers[body["messages"][0]["content"]]),
    )
    assert [reward.value for reward in rewards] == [0.75, None, None, None]


def test_responses_without_a_block_are_not_sent() -> None:
    items = [Response(USER, "no tags"), item("abc"), Response(USER, "<response>open")]
    for config, answer in ((JUDGE, rate), (HTTP, sizes)):
        rewards, server = scored(config, items, answer)
        assert [reward.format_ok for reward in rewards] == [False, True, False]
        assert rewards[0].value == rewards[2].value == 0.0
        assert rewards[1].value not in (0.0, None)
        assert len(server.requests) == 1


# --- the HTTP reward ------------------------------------------------------------------------------


def sizes(body: Any) -> Answer:
    return Answer(body={"rewards": [len(each["response"]) for each in body["items"]]})


def test_items_are_sent_in_batches_and_put_in_order() -> None:
    rewards, server = scored(HTTP, [item("a" * n, answer="7") for n in range(5)], sizes)
    assert [reward.value for reward in rewards] == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert sorted(len(body["items"]) for _path, _headers, body in server.requests) == [1, 2, 2]
    assert server.requests[0][2]["items"][0].keys() == {"messages", "response", "reference"}
    first = min((body["items"][0] for *_rest, body in server.requests), key=lambda i: i["response"])
    assert first == {"messages": list(USER), "response": "", "reference": {"answer": "7"}}


@pytest.mark.parametrize(
    ("body", "values", "reason"),
    [
        ({"rewards": [0.5, None]}, [0.5, None], "abstained"),
        ({"rewards": [1, "1"]}, [1.0, None], "'1', not a number"),
        ({"rewards": [True, {}]}, [None, None], "True, not a number"),
        (b'{"rewards": [NaN, 1e999]}', [None, None], "gave nan"),
        (b'{"rewards": [1, 1' + b"0" * 400 + b"]}", [1.0, None], "gave inf"),
        ({"rewards": [1.0]}, [None, None], "1 rewards for 2 items"),
        ({"rewards": "11"}, [None, None], "no list"),
        ([1.0, 2.0], [None, None], "no list"),
        (b"", [None, None], "not JSON"),
    ],
)
def test_answers_of_the_reward_server(body: Any, values: list[Any], reason: str) -> None:
    rewards, _server = scored(HTTP, [item("a"), item("b")], lambda _body: Answer(body=body))
    assert [reward.value for reward in rewards] == values
    first = next(reward.error for reward in rewards if reward.abstained)
    assert reason in (first or "")


# --- both -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [JUDGE, HTTP], ids=["judge", "http"])
@pytest.mark.parametrize("trouble", SERVER_TROUBLE, ids=["429", "500", "404", "reset", "rubbish"])
def test_a_bad_server_abstains(config: RewardConfig, trouble: Answer) -> None:
    rewards, server = scored(config, [item("a"), item("b"), item("c")], lambda _body: trouble)
    assert [(reward.value, reward.format_ok) for reward in rewards] == [(None, True)] * 3
    assert all(reward.error and reward.error.startswith("the ") for reward in rewards)
    assert len(server.requests) <= 6


def test_mistakes_are_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"domains\.chat\.reward\.url is not an address"):
        check_reward(changed(JUDGE, url="localhost:8000"), "domains.chat.reward")
    for change, found in (
        ({"url": ""}, r"r\.url is empty"),
        ({"model": " "}, r"r\.model is empty"),
        ({"judge_template": "{prompt}"}, r"(?s)judge_template.*\{response\}"),
        ({"judge_pattern": "("}, "judge_pattern"),
        ({"judge_pattern": "[0-9]+"}, "(?s)judge_pattern.*group"),
        ({"judge_min": 3.0, "judge_max": 3.0}, "judge_max"),
        ({"concurrency": 0}, "concurrency"),
        ({"max_retries": -1}, "max_retries"),
    ):
        with pytest.raises(ConfigError, match=found):
            changed(JUDGE, **change).validate("r")
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    worker = RewardWorker(changed(JUDGE, api_key_env="NO_SUCH_KEY"))
    with pytest.raises(UserError, match="NO_SUCH_KEY"):
        worker.ready()


def test_a_reference_that_the_template_wants() -> None:
    config = changed(JUDGE, judge_template="{response} {reference}")
    make_reward(config).validate_reference({"answer": "x"})
    make_reward(JUDGE).validate_reference({})
    with pytest.raises(DataError, match="answer"):
        make_reward(config).validate_reference({})


def test_rows_of_a_judged_domain_keep_their_answer(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "a", "answer": "plum"}\n{"prompt": "b", "answer": null}\n')
    source = SourceConfig(kind="file", path=str(path))
    options: dict[str, Any] = {"key": "k"}
    rows = load_rows(source, "chat", **options, needs=row_needs(JUDGE))
    assert [row.reference for row in rows] == [{"answer": "plum"}, {}]
    wanting = changed(JUDGE, judge_template="{response} {reference}")
    with pytest.raises(DataError, match=r"(?s)rows\.jsonl.*judge's template wants a \{reference\}"):
        load_rows(source, "chat", **options, needs=row_needs(wanting))


def test_light_to_load() -> None:
    import subprocess
    import sys

    code = (
        "import sys; from mgsrl.config import RewardConfig; "
        "from mgsrl.rewards.actor import RewardWorker; "
        "RewardWorker(RewardConfig.of('judge', url='http://h', model='m')).ready(); "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_extra_scores_are_kept_by_name() -> None:
    def answer(body: Any) -> Answer:
        numbers = [None if "x" in each["response"] else 2.0 for each in body["items"]]
        return Answer(body={"rewards": numbers})

    reference = {"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}
    with local_server(answer) as server:
        style = RewardConfig.of("http", url=server.url, max_retries=0)
        reward = RewardWorker(RewardConfig(kind="constraints", extra={"style": style}))
        good, bad, plain = reward.score(
            [item("a", **reference), item("x", **reference), Response(USER, "no", reference)]
        )
        reward.close()
    assert (good.value, good.details["parts"]) == (1.0, {"style": {"value": 2.0, "raw_score": 2.0}})
    assert bad.abstained
    assert bad.error == "style: the reward server abstained"
    assert plain.value == 0.0
    assert not plain.format_ok
