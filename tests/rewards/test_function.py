"""Plain functions as rewards: what they get, TRL's kind, async ones, and all that goes wrong."""

import os
import re
import sys
import time
from pathlib import Path

import pytest

from mgsrl.config.reward import RewardConfig
from mgsrl.errors import ConfigError, ContractError, MgsrlError
from mgsrl.rewards.actor import RewardWorker
from mgsrl.rewards.factory import check_reward, make_reward
from mgsrl.rewards.protocol import Response
from mgsrl.testing import check_reward as keeps_contract
from mgsrl.types import Reward

CODE = """
import asyncio, subprocess, sys, time

def plain(response, answer): return float(answer in response)
def everything(prompt, response, answer, **columns):
    assert columns["messages"][-1]["content"] == prompt
    assert columns["format_ok"] and columns["finish_reason"] == "stop"
    return float(columns["tests"] == [1, {"a": None}])
def needs(response, tests, limit=3): return float(len(tests) == limit)
def trl(completions, prompts, tests, **kwargs):
    return [float(p in c) for c, p in zip(completions, prompts)]
def trl_messages(completions, **kwargs): return [len(c[0]["content"]) for c in completions]
def trl_wrong(completions, **kwargs): return 1.0
def nothing(response): return None
def text(response): return "1"
def nan(response): return float("nan")
def raises(response):
    return 1 / len(response.strip("x"))
def slow(response): time.sleep(60 if "slow" in response else 0); return 1.0
def starts(response):
    child = subprocess.Popen(["sleep", "60"], start_new_session="away" in response)
    open(response, "w").write(str(child.pid))
    time.sleep(60)
async def waits(response): await asyncio.sleep(60 if "slow" in response else 0.3); return 1.0
def dies(response): import os; os._exit(3)
def listed(response): return [1.0]
def of_tokens(completion_ids, **kwargs): return [float(len(ids)) for ids in completion_ids]
def by_step(completions, trainer_state, **kwargs): return [trainer_state.global_step]
def reads(response):
    return len(sys.stdin.read()) + len(subprocess.run(["cat"], capture_output=True).stdout)
def forks(response): import os; return 7.0 if os.fork() == 0 else 1.0
class Odd(Exception):
    def __str__(self): raise KeyError
def odd(response): raise Odd
def data(response): return b"1"
def wrapped(response): return waits(response)
def trl_array(completions):
    import numpy; return numpy.ones(1)
async def yields(response): yield 1.0
def by_position(response, /): return 1.0
def blind(*args): return 1.0
largest = max
class Holder:
    def __call__(self, response): return 2.0
    @staticmethod
    def static(response): return 3.0
holder = Holder()
number = 3
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(CODE)
    return path


def scores(file: Path, name: str, *texts: str, **keys: object) -> list[Reward]:
    reference = {"answer": "7", "tests": [1, {"a": None}]}
    config = RewardConfig.of("function", function=f"{file}:{name}", **keys)
    worker = RewardWorker(check_reward(config, "domains.d.reward"))
    messages = ({"role": "system", "content": "s"}, {"role": "user", "content": "ask"})
    try:
        worker.ready()
        return worker.score(
            [
                Response(messages, f"<response>{text}</response>", reference, "stop")
                for text in texts
            ]
        )
    finally:
        worker.close()


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("plain", "It is 7.", 1.0),
        ("plain", "It is 8.", 0.0),
        ("everything", "x", 1.0),
        ("needs", "x", 0.0),
        ("trl", "I ask", 1.0),
        ("trl_array", "x", 1.0),
        ("reads", "x", 0.0),
        ("wrapped", "x", 1.0),
        ("holder", "x", 2.0),
        ("Holder.static", "x", 3.0),
    ],
)
def test_it_is_handed_what_its_signature_names(
    file: Path, name: str, text: str, value: float
) -> None:
    (reward,) = scores(file, name, text)
    assert (reward.value, reward.error) == (value, None)


def test_trl_functions_that_read_messages(file: Path) -> None:
    (reward,) = scores(file, "trl_messages", "four", conversational=True)
    assert reward.value == 4.0


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nothing", "returned None"),
        ("text", "a finite number or None is expected, found '1'"),
        ("nan", "found nan"),
        ("listed", r"a finite number or None is expected, found \[1\.0\]"),
        ("data", "found b'1'"),
        ("odd", r"Odd: \(no text: KeyError\) \(line"),
        ("raises", r"ZeroDivisionError: .* \(line \d+ of .*mine.py\)"),
        ("trl_wrong", "a list with one score per completion"),
        ("dies", "the process ended"),
    ],
)
def test_what_is_no_score_abstains_with_the_reason(file: Path, name: str, said: str) -> None:
    (reward,) = scores(file, name, "x")
    assert reward.abstained
    assert re.search(said, reward.error or ""), reward.error


def test_a_fork_that_comes_back_answers_nothing(file: Path) -> None:
    assert [reward.value for reward in scores(file, "forks", "a", "b", "c", "d")] == [1.0] * 4


def test_a_slow_one_is_killed_and_costs_only_itself(file: Path) -> None:
    begin = time.monotonic()
    rewards = scores(file, "slow", "one", "slow", "two", time_limit_s=2)
    assert [reward.value for reward in rewards] == [1.0, None, 1.0]
    assert time.monotonic() - begin < 40


@pytest.mark.parametrize("name", ["pid", "away"])
def test_what_it_started_is_killed_with_it(file: Path, tmp_path: Path, name: str) -> None:
    (reward,) = scores(file, "starts", str(tmp_path / name), time_limit_s=3)
    assert reward.abstained
    pid = int((tmp_path / name).read_text())
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}/status").exists():
        if "State:\tZ" in Path(f"/proc/{pid}/status").read_text():
            break
        assert time.monotonic() < deadline, f"{pid} lives"
        time.sleep(0.1)


def test_async_ones_are_asked_for_many_at_once(file: Path) -> None:
    config = {"time_limit_s": 5, "concurrency": 16}
    begin = time.monotonic()
    rewards = scores(file, "waits", *(["quick"] * 31), "slow", **config)
    assert [reward.value for reward in rewards] == [1.0] * 31 + [None]
    assert "no score within 5 s" in (rewards[-1].error or "")
    assert time.monotonic() - begin < 30  # one after the other: 9 s of waiting and the limit


def test_columns_that_it_names_are_required(file: Path) -> None:
    reward = make_reward(RewardConfig.of("function", function=f"{file}:needs"))
    assert tuple(reward.requires) == ("tests",)
    assert "limit" in reward.accepts
    assert reward.needs_prompt


def test_the_short_form_says_the_kind(file: Path) -> None:
    from mgsrl.config.compose import compose_config

    for more in ([], ["domains.math.reward.kind=function"]):
        config = compose_config([f"domains.math.reward.function={file}:plain", *more])
        assert config.domains["math"].reward.kind == "function"


@pytest.mark.parametrize(
    "name",
    [
        "nowhere",
        "number",
        "Holder",
        "yields",
        "by_position",
        "blind",
        "largest",
        "of_tokens",
        "by_step",
    ],
)
def test_what_is_no_function_is_refused_before_any_actor(file: Path, name: str) -> None:
    with pytest.raises((ConfigError, MgsrlError), match=r"reward\.function"):
        check_reward(RewardConfig.of("function", function=f"{file}:{name}"), "domains.d.reward")


def test_its_contract_is_a_test(file: Path) -> None:
    case = {"prompt": "7?", "good": "7", "bad": "8", "reference": {"answer": "7"}}
    keeps_contract(f"{file}:plain", **case)
    with pytest.raises(ContractError, match="a right response"):
        keeps_contract(f"{file}:nothing", **case)


def test_a_module_of_the_working_directory(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The child, elsewhere, finds it as well."""
    monkeypatch.chdir(file.parent)
    monkeypatch.setattr(sys, "path", list(sys.path))
    package = file.parent / f"lab{os.getpid()}"
    package.mkdir()
    (package / "rewards.py").write_text("from . import two\ndef score(response): return two.TWO\n")
    (package / "two.py").write_text("TWO = 2\n")
    config = RewardConfig.of("function", function=f"{package.name}.rewards:score")
    worker = RewardWorker(check_reward(config, "domains.d.reward"))
    try:
        (reward,) = worker.score([Response((), "<response>x</response>", {})])
    finally:
        worker.close()
    assert reward.value == 2.0


def test_one_that_its_process_cannot_load_is_one_message(file: Path) -> None:
    file.write_text("big = bytearray(900 * 2**20)\ndef score(response): return 1.0\n")
    with pytest.raises(ConfigError, match=r"(?s)in 800 MiB.*MemoryError.*raise reward"):
        scores(file, "score", "x", memory_limit_mib=800)
