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
from mgsrl.rewards.actor import RewardWorker
from mgsrl.rewards.constraint_checker import ConstraintChecker
from mgsrl.rewards.contract import Contract, check_contract, check_rewards
from mgsrl.rewards.extract import extract_response
from mgsrl.rewards.protocol import BaseReward, Response, RewardItem
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
    own = {"path": "pocket"} if kind == "reward_model" else {"time_limit_s": 1.5}
    config = RewardConfig.of(kind, missing_tag=missing_tag, **own)
    verdicts = check_contract(config)
    assert failed(verdicts) == set()
    assert len(verdicts) >= 23


class Fake(BaseReward):
    """A checker of the word plum with a fault."""

    exact = True
    golden = ConstraintChecker.golden

    def __init__(self, fault: Callable[[RewardItem], float | None]) -> None:
        super().__init__(None)
        self.fault = fault

    def score(self, items: Sequence[RewardItem]) -> list[Reward]:
        return [self.one(item) for item in items]

    def one(self, item: RewardItem) -> Reward:
        faulty = self.fault(item)
        return Reward(float("plum" in item.text) if faulty is None else faulty)

    def limit_s(self, count: int) -> float:
        return 0.1 - contract.SLACK_S


class Careless(RewardWorker):
    """Hands the responses to its reward as they were written, tags and all."""

    def __init__(self, reads: Callable[[Response], Reward | None]) -> None:
        super().__init__(CONSTRAINTS)
        self.reads = reads

    def score(self, responses: Sequence[Response]) -> list[Reward]:
        right = super().score(responses)
        return [self.reads(r) or other for r, other in zip(responses, right, strict=True)]


count = itertools.count()


def reads_the_prompt(item: RewardItem) -> float:
    return float("plum" in item.messages[0]["content"] + item.text)


def reads_the_reasoning(item: Response) -> Reward | None:
    whole = Reward(float("plum" in item.response))
    return whole if extract_response(item.response).format_ok else None


def reads_without_tags(item: Response) -> Reward:
    return Reward(float("plum" in item.response), format_ok="<response>" in item.response)


def takes_the_first_block(item: Response) -> Reward | None:
    match = re.search(r"<response>(.*?)</response>", item.response, re.DOTALL)
    return Reward(float("plum" in match[1])) if match else None


def draws_lots(item: RewardItem) -> float:
    return next(count) % 7 / 7


def scores_in_percent(item: RewardItem) -> float | None:
    return 100.0 if "plum" in item.text else None


def likes_silence(item: RewardItem) -> float | None:
    return 1.0 if item.text == "" else None


def is_slow(item: RewardItem) -> None:
    time.sleep(0.2 if len(item.text) > 100_000 else 0.0)


@pytest.mark.parametrize(
    ("fault", "checks"),
    [
        (lambda _item: None, set()),
        (reads_the_prompt, {"prompt leakage: the answer is in the prompt only"}),
        (draws_lots, {"determinism: the cases again"}),
        (scores_in_percent, {"a right response", "range"}),
        (likes_silence, {"an empty block", "a block of whitespace"}),
        (is_slow, {"time: 200,000 characters"}),
    ],
)
def test_a_reward_that_breaks_it_is_found(
    fault: Callable[[RewardItem], float | None], checks: set[str]
) -> None:
    worker = RewardWorker(CONSTRAINTS)
    worker.rewards["own"] = Fake(fault)
    found = failed(Contract(CONSTRAINTS, worker).verdicts())
    assert checks <= found
    assert bool(found) == bool(checks)


@pytest.mark.parametrize(
    ("reads", "checks"),
    [
        (reads_the_reasoning, {"reasoning leakage: the answer is in <think> only"}),
        (
            reads_without_tags,
            {"tags: none", "tags: not closed", "truncation: in the reasoning"},
        ),
        (takes_the_first_block, {"tags: two blocks, the last counts"}),
    ],
)
def test_a_worker_that_breaks_it_is_found(
    reads: Callable[[Response], Reward | None], checks: set[str]
) -> None:
    worker = Careless(reads)
    worker.rewards["own"] = Fake(lambda _item: None)
    assert checks <= failed(Contract(CONSTRAINTS, worker).verdicts())


def test_a_judge_keeps_it_and_a_random_one_does_not() -> None:
    def sober(body: Any) -> Answer:
        text = body["messages"][0]["content"].split("[Answer to rate]\n")[1]
        return chat_answer(f"[[{1 + len(text) % 10}]]")

    def random(_body: Any) -> Answer:
        return chat_answer(f"[[{1 + next(count) % 10}]]")

    for answer, good in ((sober, True), (random, False)):
        with local_server(answer) as server:
            config = RewardConfig.of("judge", url=server.url, model="j", request_limit_s=10.0)
            found = failed(check_contract(config))
        assert ("determinism: the cases again" in found) != good
        assert bool(found) != good


def test_a_dead_server_fails_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "FIRST_WAIT_S", 0.01)
    with local_server(lambda _body: Answer(500, b"down")) as server:
        config = RewardConfig.of("http", url=server.url, max_retries=1)
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
