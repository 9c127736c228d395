"""Composite rewards: the length penalty against TRL's, statistics against numpy, sums by hand."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mgsrl.config import RewardConfig
from mgsrl.config.compose import compose_config, config_from_yaml, config_to_yaml
from mgsrl.config.keys import all_keys
from mgsrl.config.reward import REWARDS, ScoreConfig
from mgsrl.errors import ConfigError
from mgsrl.rewards.actor import merge
from mgsrl.rewards.extract import extract_response
from mgsrl.rewards.reward_model import RewardModelConfig
from mgsrl.rewards.scorer import Scorer
from mgsrl.rewards.shaping import RunningMoments, Shaper, soft_overlong
from mgsrl.types import Component, Prompt, Reward, Rollout, RolloutGroup
from tests.oracle import published_rows

numbers = st.floats(-1e6, 1e6)


def group(rewards: list[Reward], lengths: list[int] | None = None) -> RolloutGroup:
    lengths = lengths or [1] * len(rewards)
    rollouts = tuple(Rollout("r", (1,) * n, (0.0,) * n, "", "stop", 0) for n in lengths)
    return RolloutGroup(Prompt("p", "d", (), (1,)), rollouts, tuple(rewards))


def shaped(config: RewardConfig, *rewards: Reward, lengths: list[int] | None = None) -> list[Any]:
    config.validate("reward")
    (done,) = Shaper(config, max_tokens=100).shape([group(list(rewards), lengths)])
    return [reward.value for reward in done.rewards]


# --- length ---------------------------------------------------------------------------------------


def overlong_cases() -> list[tuple[list[float], list[float]]]:
    """Our penalties of TRL's cases, and TRL's."""
    found = []
    for case in published_rows("oracle/trl_reward_function_cases.jsonl"):
        if case["function"] != "get_soft_overlong_punishment" or case["status"] != "ok":
            continue
        made = case["factory_kwargs"]
        (completions,) = case["args"] or [case["kwargs"]["completion_ids"]]
        ours = [
            soft_overlong(len(each), made["max_completion_len"], made["soft_punish_cache"])
            for each in completions
        ]
        found.append((ours, case["result"]))
    return found


def test_soft_overlong_agrees_with_trl() -> None:
    cases = overlong_cases()
    for ours, theirs in cases:
        assert ours == pytest.approx(theirs)
    assert len(cases) >= 3


def test_soft_overlong_by_hand() -> None:
    assert [soft_overlong(n, 100, 20) for n in (0, 80, 81, 90, 100, 101, 500)] == [
        0.0, 0.0, -0.05, -0.5, -1.0, -1.0, -1.0,
    ]  # fmt: skip
    assert soft_overlong(500, 100, 0) == 0.0


@given(st.integers(0, 300), st.integers(1, 200), st.data())
def test_soft_overlong_falls_with_the_length(n: int, longest: int, data: st.DataObject) -> None:
    buffer = data.draw(st.integers(1, longest))
    now, longer = (soft_overlong(length, longest, buffer) for length in (n, n + 1))
    assert -1.0 <= longer <= now <= 0.0


# --- statistics -----------------------------------------------------------------------------------


@given(st.lists(numbers, min_size=2, max_size=50), st.integers(0, 50))
def test_moments_are_numpys_however_they_come(values: list[float], cut: int) -> None:
    at_once, in_two = RunningMoments(1000), RunningMoments(1000)
    at_once.add(values)
    in_two.add(values[:cut])
    in_two.add(values[cut:])
    assert at_once == in_two  # to the bit
    scale = max(1.0, max(map(abs, values)))
    assert at_once.mean == pytest.approx(np.mean(values), abs=1e-9 * scale)
    spread = math.sqrt(at_once.sum_of_squares / (len(values) - 1))
    assert spread == pytest.approx(np.std(values, ddof=1), abs=1e-6 * scale)


@given(st.lists(numbers, min_size=1, max_size=60), st.integers(2, 20))
def test_older_numbers_fade(values: list[float], memory: int) -> None:
    """Against the weighted sums written out: weight 1 - 1/memory per number since, once full."""
    moments = RunningMoments(memory)
    moments.add(values)
    fade = 1 - 1 / memory
    since = [max(0, len(values) - max(number, memory)) for number in range(1, len(values) + 1)]
    weights = np.array([fade**n for n in since])
    assert moments.count == min(len(values), memory)
    assert weights.sum() == pytest.approx(moments.count)
    scale = max(1.0, max(map(abs, values)))
    mean = np.average(values, weights=weights)
    assert moments.mean == pytest.approx(mean, abs=1e-9 * scale)
    squares = weights @ (np.array(values) - mean) ** 2
    assert moments.sum_of_squares == pytest.approx(squares, abs=1e-7 * scale**2)


def test_statistics_follow_a_policy_that_moves() -> None:
    moments, without_end = RunningMoments(100), RunningMoments(10**9)
    rng = np.random.default_rng(0)
    for each in (moments, without_end):
        each.add(rng.normal(0.0, 1.0, 1000).tolist())
        each.add(rng.normal(5.0, 1.0, 1000).tolist())
    assert abs(moments.standardise(5.0)) < 0.3
    assert without_end.standardise(5.0) > 0.8


def test_a_checkpoint_that_remembered_more_goes_on() -> None:
    old = RunningMoments(10**9)
    old.add(np.random.default_rng(0).normal(2.0, 3.0, 5000).tolist())
    shaper = Shaper(RewardConfig(standardise=True, standardise_memory=64), 100)
    shaper.restore({"own": [old.count, old.mean, old.sum_of_squares], "gone": [3, 0.0, 1.0]})
    (moments,) = shaper.moments.values()
    assert (moments.count, moments.mean) == (64, old.mean)
    assert moments.standardise(8.0) == pytest.approx(old.standardise(8.0), rel=0.02)


def test_numbers_all_alike_are_only_centred() -> None:
    moments = RunningMoments(1000)
    assert moments.standardise(3.0) == 3.0
    moments.add([2.0])
    assert moments.standardise(3.0) == 1.0
    moments.add([2.0, 2.0])
    assert moments.standardise(3.0) == 1.0


def test_standardised_scores_and_resuming() -> None:
    config = RewardConfig(standardise=True, clip=[-2.0, 2.0])
    batches = [[1.0, 9.0, -0.5], [0.25, -7.0, 1.5], [0.1, 0.2, 0.3]]
    groups = [group([Reward(value) for value in values]) for values in batches]
    whole = Scorer({}, {"d": Shaper(config, 100)})
    found = [whole.shaped_rewards({"d": [each]})["d"][0].rewards for each in groups]
    seen = np.clip(batches[0] + batches[1], -2, 2)
    expected = (np.clip(batches[1], -2, 2) - seen.mean()) / seen.std(ddof=1)
    assert [reward.value for reward in found[1]] == pytest.approx(expected)

    first, second = (Scorer({}, {"d": Shaper(config, 100)}) for _ in range(2))
    first.shaped_rewards({"d": groups[:1]})
    first.shaped_rewards({"d": groups[1:2]})
    second.restore(json.loads(json.dumps(first.state())))
    assert second.shaped_rewards({"d": groups[2:]})["d"][0].rewards == found[2]  # to the bit
    assert second.state() == whole.state()
    assert Scorer({}, {"d": Shaper(RewardConfig(), 100)}).state() == {"d": {}}


def test_statistics_of_a_domain_that_is_left_out_wait_for_it() -> None:
    config = RewardConfig(standardise=True)
    with_both = Scorer({}, {name: Shaper(config, 100) for name in ("a", "b")})
    with_both.shaped_rewards({name: [group([Reward(1.0), Reward(4.0)])] for name in ("a", "b")})
    without = Scorer({}, {"a": Shaper(config, 100)})
    without.restore(with_both.state())
    without.shaped_rewards({"a": [group([Reward(2.0)])]})
    again = Scorer({}, {name: Shaper(config, 100) for name in ("a", "b")})
    again.restore(without.state())
    assert again.shapers["b"].state() == with_both.shapers["b"].state()
    assert again.shapers["a"].state() == without.shapers["a"].state()


def test_what_is_no_score_stays_out_of_the_statistics() -> None:
    shaper = Shaper(RewardConfig(standardise=True), 100)
    missing = extract_response("no tags").verdict
    assert missing is not None
    rewards = [Reward(-3.0), Reward(None, error="time"), missing, Reward(-5.0)]
    (done,) = shaper.shape([group(rewards)])
    assert shaper.state() == {"own": [2, -4.0, 2.0]}
    assert done.rewards[1] == rewards[1]
    assert done.rewards[0].value == pytest.approx(1 / math.sqrt(2))


def test_every_score_has_its_own_view_of_a_missing_block() -> None:
    """The domain's own score wants a block, the extra one reads the whole response."""
    style = ScoreConfig(kind="http", standardise=True, missing_tag="whole_response")
    shaper = Shaper(RewardConfig(standardise=True, extra={"style": style}), 100)
    missing = extract_response("no tags").verdict
    assert missing is not None
    rewards = [
        merge(own, {"style": Reward(value)})
        for own, value in ((Reward(1.0), 2.0), (missing, 6.0), (Reward(1.0), 4.0))
    ]
    shaper.shape([group(rewards)])
    assert shaper.state() == {"own": [2, 1.0, 0.0], "style": [3, 4.0, 8.0]}


# --- sums -----------------------------------------------------------------------------------------


def test_nothing_configured_changes_nothing() -> None:
    before = [group([Reward(0.3, details={"a": 1}), Reward(None, error="x")], [5, 200])]
    after = Shaper(RewardConfig(kind="constraints", num_workers=3), 100).shape(before)
    assert after == before
    assert after[0].rewards[0] is before[0].rewards[0]


def test_the_formula() -> None:
    style = ScoreConfig.of("reward_model", path="pocket", weight=0.5, clip=[-1.0, 1.0])
    config = RewardConfig(
        weight=2.0,
        extra={"style": style},
        format_bonus=0.25,
        overlong_buffer=20,
        overlong_penalty=4.0,
    )
    parts = {"parts": {"style": {"value": 3.0, "raw_score": 3.0}}}
    rewards = [Reward(1.0, True, parts), Reward(0.5, False, parts), Reward(1.0, True, parts)]
    values = shaped(config, *rewards, lengths=[10, 90, 100])
    assert values == [2.0 + 0.5 + 0.25, 1.0 + 0.5 - 2.0, 2.75 - 4.0]
    (done,) = Shaper(config, 100).shape([group(rewards[1:2], [90])])
    assert done.rewards[0].details["shaping"] == {
        "raw": 0.5,
        "weighted": {"own": 1.0, "style": 0.5},
        "closed_gates": [],
        "format_bonus": 0.0,
        "overlong": -2.0,
    }
    assert done.rewards[0].details["parts"] == parts["parts"]
    json.dumps(done.rewards[0].details)


def test_gates_close_the_sum_but_not_bonus_and_penalty() -> None:
    safe = ScoreConfig.of("reward_model", path="pocket", weight=0.0, gate=0.5)
    config = RewardConfig(extra={"safe": safe}, format_bonus=0.1)
    values = shaped(
        config,
        *(Reward(1.0, True, {"parts": {"safe": {"value": value}}}) for value in (0.5, 0.49)),
    )
    assert values == [pytest.approx(1.1), pytest.approx(0.1)]
    assert shaped(RewardConfig(gate=0.0), Reward(-0.1), Reward(0.1)) == [0.0, 0.1]
    assert shaped(RewardConfig(require_format=True), Reward(0.7, False), Reward(0.7)) == [0.0, 0.7]


def test_the_components_add_up_to_the_reward() -> None:
    """In one order for all, without what cannot add anything; 0 where a gate is closed."""
    style = ScoreConfig.of("reward_model", path="pocket", weight=0.5, clip=[-1.0, 1.0])
    safe = ScoreConfig.of("reward_model", path="pocket", weight=0.0, gate=0.5)
    config = RewardConfig(
        weight=2.0, extra={"style": style, "safe": safe}, overlong_buffer=20, overlong_penalty=4.0
    )
    assert config.is_composite
    rewards = [
        Reward(1.0, True, {"parts": {"style": {"value": 3.0}, "safe": {"value": value}}})
        for value in (0.5, 0.4)
    ]
    (done,) = Shaper(config, 100).shape([group([*rewards, Reward(None)], [90, 10, 5])])
    open_, closed, abstained = done.rewards
    assert open_.components == (Component(2.0, 1.0), Component(0.5, 1.0), Component(4.0, -0.5))
    assert closed.components == (Component(2.0, 0.0), Component(0.5, 0.0), Component(4.0, 0.0))
    assert abstained.components == ()
    for reward in (open_, closed):
        assert reward.value == sum(each.weight * each.score for each in reward.components)


def test_gates_see_the_raw_score() -> None:
    config = RewardConfig(gate=5.0, clip=[0.0, 1.0])
    assert shaped(config, Reward(4.9), Reward(5.0)) == [0.0, 1.0]


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"clip": [1.0]}, "clip"),
        ({"clip": [1.0, 1.0]}, "clip"),
        ({"overlong_buffer": -1}, "overlong_buffer"),
        ({"overlong_penalty": -1.0}, "overlong_penalty"),
        ({"overlong_penalty": 2.0}, "overlong_penalty grows over overlong_buffer tokens"),
        ({"extra": {"own": ScoreConfig()}}, "extra"),
        ({"extra": {"x": ScoreConfig(kind="http")}}, r"extra\.x\.url"),
        ({"options": RewardModelConfig("pocket", backend="tensorflow")}, "backend"),
        ({"standardise_memory": 1}, "standardise_memory"),
    ],
)
def test_impossible_settings(change: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError, match=rf"domains\.d\.reward\.{key}"):
        replace(RewardConfig(), **change).validate("domains.d.reward")


def test_extra_scores_and_lengths_from_the_command_line(tmp_path: Path) -> None:
    config = compose_config(
        [
            "+domains.math.reward.extra={style:{kind:reward_model,path:pocket,weight:0.1}}",
            "domains.math.reward.clip=[0,1]",
            "domains.math.reward.overlong_buffer=8",
        ]
    )
    reward = config.domains["math"].reward
    assert reward.extra["style"] == ScoreConfig.of("reward_model", path="pocket", weight=0.1)
    assert reward.clip == [0.0, 1.0]
    saved = tmp_path / "config.yaml"
    saved.write_text(config_to_yaml(config))
    assert config_from_yaml(saved) == config
    with pytest.raises(ConfigError, match=r"domains\.math\.reward\.overlong_buffer is longer"):
        compose_config(["domains.math.reward.overlong_buffer=100000"])


def test_the_page_names_keys_that_exist() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "rewards.md").read_text()
    blocks = [block for block in page.split("\n\n") if block.startswith("|")]
    # The tables of keys, by their first lines; the others are of answers, verdicts, constraints.
    tables = [
        line
        for block in blocks
        if re.search(r"\bkeys?\b|\bserver\b", block.splitlines()[0])
        for line in block.splitlines()
    ]
    assert len(tables) > 20
    own = {key for line in tables for key in re.findall(r"`([a-z_]+)(?::[^`]*)?`", line)}
    keys = {key.rpartition(".")[2] for key, _ in all_keys(RewardConfig)} - {"NAME"}
    others = {*REWARDS.members, "max_new_tokens"}
    assert own <= keys | others
    told = set(re.findall(r"[a-z_]+", page))
    assert keys - told <= {"start_limit_s", "call_limit_s", "max_restarts", "restart_window"}
