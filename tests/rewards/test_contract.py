"""The contract finds what breaks it, and passes the rewards that keep it."""

import itertools
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from mgsrl.cli import main
from mgsrl.config import RewardConfig
from mgsrl.config.reward import ScoreConfig
from mgsrl.rewards import contract, endpoint
from mgsrl.rewards.contract import Contract, check_contract, check_rewards
from mgsrl.rewards.extract import extract_response
from mgsrl.rewards.protocol import RewardItem
from mgsrl.rewards.worker import RewardWorker
from mgsrl.types import Reward
from tests.rewards.local_server import Answer, chat_answer, local_server

CONSTRAINTS = RewardConfig(kind="constraints")


def failed(verdicts: Sequence[contract.Verdict]) -> set[str]:
    return {verdict.check for verdict in verdicts if not verdict.kept}


@pytest.mark.parametrize(
    ("kind", "missing_tag"),
    [
        ("math", "zero"),
        ("math", "whole_response"),
        ("constraints", "zero"),
        ("constraints", "whole_response"),
        ("constraints", "abstain"),
        ("reward_model", "zero"),
    ],
)
def test_the_rewards_of_the_house_keep_it(kind: str, missing_tag: str) -> None:
    config = RewardConfig(kind=kind, path="pocket", missing_tag=missing_tag, time_limit_s=1.5)
    verdicts = check_contract(config)
    assert failed(verdicts) == set()
    assert len(verdicts) >= 23


class Fake:
    """A checker of the word plum with a fault."""

    def __init__(self, fault: Callable[[RewardItem], Reward | None]) -> None:
        self.fault = fault

    def score(self, items: Sequence[RewardItem]) -> list[Reward]:
        return [self.fault(item) or self.good(item) for item in items]

    def good(self, item: RewardItem) -> Reward:
        found = extract_response(item.response)
        return found.verdict or Reward(float("plum" in (found.text or "")))

    def close(self) -> None:
        return None


count = itertools.count()


def reads_the_prompt(item: RewardItem) -> Reward:
    text = item.messages[0]["content"] + item.response
    found = extract_response(text)
    return found.verdict or Reward(float("plum" in text))


def reads_the_reasoning(item: RewardItem) -> Reward | None:
    whole = Reward(float("plum" in item.response))
    return whole if extract_response(item.response).format_ok else None


def reads_without_tags(item: RewardItem) -> Reward:
    return Reward(float("plum" in item.response), format_ok="<response>" in item.response)


def takes_the_first_block(item: RewardItem) -> Reward | None:
    match = re.search(r"<response>(.*?)</response>", item.response, re.DOTALL)
    return Reward(float("plum" in match[1])) if match else None


def draws_lots(item: RewardItem) -> Reward | None:
    return Reward(next(count) % 7 / 7) if extract_response(item.response).format_ok else None


def scores_in_percent(item: RewardItem) -> Reward | None:
    return Reward(100.0) if "plum" in (extract_response(item.response).text or "") else None


def likes_silence(item: RewardItem) -> Reward | None:
    return Reward(1.0) if extract_response(item.response).text == "" else None


def is_slow(item: RewardItem) -> Reward | None:
    time.sleep(0.2 if len(item.response) > 100_000 else 0.0)
    return None


@pytest.mark.parametrize(
    ("fault", "checks"),
    [
        (lambda _item: None, set()),
        (reads_the_prompt, {"prompt leakage: the answer is in the prompt only"}),
        (reads_the_reasoning, {"reasoning leakage: the answer is in <think> only"}),
        (
            reads_without_tags,
            {"tags: none", "tags: not closed", "truncation: in the reasoning"},
        ),
        (takes_the_first_block, {"tags: two blocks, the last counts"}),
        (draws_lots, {"determinism: the cases again"}),
        (scores_in_percent, {"a right response", "range"}),
        (likes_silence, {"an empty block", "a block of whitespace"}),
        (is_slow, {"time: 200,000 characters"}),
    ],
)
def test_what_breaks_it_is_found(
    fault: Callable[[RewardItem], Reward | None],
    checks: set[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(contract, "SLACK_S", 0.1 - CONSTRAINTS.time_limit_s)
    worker = RewardWorker(CONSTRAINTS)
    worker.reward = Fake(fault)
    found = failed(Contract(CONSTRAINTS, worker).verdicts())
    assert checks <= found
    assert found or not checks
    if not checks:
        assert found == set()


def test_a_judge_keeps_it_and_a_random_one_does_not() -> None:
    def sober(body: Any) -> Answer:
        text = body["messages"][0]["content"].split("[Answer to rate]\n")[1]
        return chat_answer(f"[[{1 + len(text) % 10}]]")

    def random(_body: Any) -> Answer:
        return chat_answer(f"[[{1 + next(count) % 10}]]")

    for answer, good in ((sober, True), (random, False)):
        with local_server(answer) as server:
            config = RewardConfig(kind="judge", url=server.url, model="j", request_limit_s=10.0)
            found = failed(check_contract(config))
        assert ("determinism: the cases again" in found) != good
        assert bool(found) != good


def test_a_dead_server_fails_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "FIRST_WAIT_S", 0.01)
    with local_server(lambda _body: Answer(500, b"down")) as server:
        config = RewardConfig(kind="http", url=server.url, max_retries=1)
        (verdict,) = check_contract(config)
        assert len(server.requests) == 2
    assert not verdict.kept
    assert "HTTP 500: down" in verdict.found


def test_extra_scores_are_tried_too() -> None:
    extra = {"short": ScoreConfig(kind="constraints", missing_tag="abstain")}
    rewards = {"if": replace(CONSTRAINTS, extra=extra)}
    tried = dict(check_rewards(rewards))
    assert list(tried) == ["if", "if/short"]
    assert not failed(tried["if/short"])
    assert any(verdict.expected == "an abstention, no block" for verdict in tried["if/short"])


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    only_math = ["~domains.chat", "~domains.instruction_following"]
    assert main(["doctor", "rewards", *only_math, "domains.math.reward.time_limit_s=1.5"]) == 0
    output = capsys.readouterr().out
    assert "math" in output
    assert re.search(r"all \d+ checks pass", output)
    with local_server(lambda _body: Answer(404, b"nobody")) as server:
        remote = ["domains.math.reward.kind=http", f"domains.math.reward.url={server.url}"]
        assert main(["doctor", "rewards", *only_math, *remote]) == 1
    captured = capsys.readouterr()
    assert "HTTP 404" in captured.out
    assert "1 of 1 checks fail: math 1" in captured.err
    assert main(["doctor", "rewards", "domains.math.reward.kind=maths"]) == 2
    assert "math" in capsys.readouterr().err
