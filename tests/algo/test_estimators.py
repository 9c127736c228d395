"""The estimators beside GRPO: numbers of verl and of the authors, and what they make of a batch."""

import json
import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mgsrl.algo.advantages import check_advantages, estimator, tells, with_advantages
from mgsrl.config.algo import ADVANTAGES, AlgoConfig
from mgsrl.config.compose import compose_config
from mgsrl.config.reward import RewardConfig, ScoreConfig
from mgsrl.errors import ConfigError
from mgsrl.rewards.shaping import Shaper
from mgsrl.types import Component, Prompt, Reward, Rollout, RolloutGroup, tell_apart
from tests.documented import ROOT
from tests.oracle import published_file

CASES = json.loads(published_file("oracle/advantages_verl.json").read_text())["advantage"]
WITHOUT_STD = "_without_std"
OVER_BATCH = ("reinforce_pp", "reinforce_pp_baseline", "gdpo")


def make_group(
    values: list[float | None],
    lengths: list[int] | None = None,
    weights: list[float] | None = None,
    scores: list[list[float]] | None = None,
) -> RolloutGroup:
    """One number per response, and what it is made of."""
    lengths, weights = lengths or [1] * len(values), weights or []
    rewards = tuple(
        Reward(value, components=tuple(map(Component, weights, of)) if value is not None else ())
        for value, of in zip(values, scores or [[]] * len(values), strict=True)
    )
    rollouts = tuple(Rollout("r", (1,) * n, (0.0,) * n, "", "stop", 0) for n in lengths)
    return RolloutGroup(Prompt("p", "math", (), (1,)), rollouts, rewards)


def advantages(groups: list[RolloutGroup], name: str, **keys: Any) -> list[list[float]]:
    done = with_advantages({"math": groups}, AlgoConfig(advantage=name, **keys))["math"]
    return [[*group.advantages] for group in done]


def recorded(case: dict[str, Any]) -> tuple[list[RolloutGroup], list[list[int]]]:
    """The groups of a recorded case, and where in it their responses stand."""
    places: dict[int, list[int]] = {}
    for place, number in enumerate(case["group"]):
        places.setdefault(number, []).append(place)
    groups = [
        make_group(
            [case["rewards"][i] for i in members],
            [case["lengths"][i] for i in members],
            case.get("weights"),
            [case.get("components", [[]] * len(case["group"]))[i] for i in members],
        )
        for members in places.values()
    ]
    return groups, [*places.values()]


def both(case: dict[str, Any], column: str) -> tuple[list[float], list[float], int]:
    """Our advantages of a recorded case, the reference's, and in how many groups these were put to
    0: where there is nothing to compare, verl has what the batch's mean leaves."""
    name = column.removesuffix(WITHOUT_STD)
    groups, places = recorded(case)
    ours = advantages(groups, name, normalize_std=not column.endswith(WITHOUT_STD))
    theirs, silent = list[float](), 0
    for group, members in zip(groups, places, strict=True):
        wanted = [case["advantages"][column][i] for i in members]
        kinds = zip(*((each.score for each in r.components) for r in group.rewards), strict=True)
        tells = any(map(tell_apart, kinds)) if name == "gdpo" else group.is_live
        if name in ("reinforce_pp_baseline", "gdpo") and not tells:
            assert len(set(wanted)) == 1
            assert wanted[0] != 0
            wanted, silent = [0.0] * len(wanted), silent + 1
        theirs += wanted
    return [each for group in ours for each in group], theirs, silent


@pytest.mark.parametrize(
    ("case", "column"),
    [
        pytest.param(case, column, id=f"{case['case']}-{column}")
        for case in CASES
        for column in case["advantages"]
    ],
)
def test_equals_verl_and_the_authors_in_float64(case: dict[str, Any], column: str) -> None:
    ours, theirs, silent = both(case, column)
    assert ours == pytest.approx(theirs, abs=1e-9, rel=0)
    assert silent > 0 or column not in ("reinforce_pp_baseline", "gdpo")


def test_every_estimator_is_compared_with_its_reference() -> None:
    columns = {column for case in CASES for column in case["advantages"]}
    found = {column.removesuffix(WITHOUT_STD) for column in columns}
    assert found == ADVANTAGES.members.keys() - {"grpo"}  # test_advantages.py has that one's


# --- what each is for -----------------------------------------------------------------------------


def test_leave_one_out_leaves_abstentions_out() -> None:
    assert advantages([make_group([0.0, None, 1.0, 2.0])], "rloo") == [[-1.5, 0.0, 0.0, 1.5]]


def test_maxrl_weighs_hard_prompts_by_one_over_their_pass_rate() -> None:
    hard, easy = advantages([make_group([1.0, 0, 0, 0]), make_group([1.0, 1, 1, 0])], "maxrl")
    assert hard == pytest.approx([3, -1, -1, -1], abs=1e-4)
    assert easy == pytest.approx([1 / 3, 1 / 3, 1 / 3, -1], abs=1e-4)
    assert advantages([make_group([0.0, 0.0])], "maxrl") == [[0.0, 0.0]]


def test_the_best_of_a_group_gets_what_it_adds_and_equals_add_nothing() -> None:
    groups = [make_group([0.25, None, 1.0, 0.5]), make_group([1.0, 1.0, 0.0])]
    found = advantages(groups, "best_of_group", normalize_std=False)
    assert found == [[0.0, 0.0, 0.5, 0.0], [0.0, 0.0, 0.0]]


@given(
    st.lists(st.none() | st.integers(0, 3), min_size=1, max_size=6),
    st.sampled_from(["grpo", "rloo", "maxrl", "best_of_group"]),
)
@settings(deadline=None)
def test_a_group_tells_something_if_an_advantage_is_not_0(
    values: list[float | None], name: str
) -> None:
    """What refilling goes by is what the packing and the metric see."""
    group, config = make_group(values), AlgoConfig(advantage=name)
    assert tells(group, estimator(name), config) is any(advantages([group], name)[0])


@pytest.mark.parametrize("name", ADVANTAGES.members)
def test_two_best_tell_all_but_one_estimator_something(name: str) -> None:
    scores = [[1.0], [1.0], [0.0], [0.0]]
    group = make_group([1.0, 1.0, 0.0, 0.0], None, [1.0], scores)
    config = AlgoConfig(advantage=name)
    assert tells(group, estimator(name), config) is (name != "best_of_group")
    assert any(advantages([group], name)[0]) is (name != "best_of_group")


def test_without_a_group_baseline_alike_groups_teach_too() -> None:
    """All failed: below the batch. A lone reward counts, an abstention does not."""
    groups = [make_group([0.0, 0.0]), make_group([1.0, 1.0]), make_group([None, 1.0])]
    found = advantages(groups, "reinforce_pp")
    assert found[0][0] == found[0][1] < 0 < found[1][0] == found[1][1] == found[2][1]
    assert found[2][0] == 0.0
    assert sum(map(sum, found)) == pytest.approx(0, abs=1e-9)


def test_with_one_alike_groups_keep_0_whatever_the_lengths() -> None:
    groups = [make_group([1.0, 1.0], [3, 1]), make_group([0.0, 1.0], [9, 1])]
    alike, live = advantages(groups, "reinforce_pp_baseline")
    assert alike == [0.0, 0.0]
    assert 9 * live[0] + live[1] < 0 < live[1]  # the batch's mean, with the zeros, is taken off


@pytest.mark.parametrize("name", OVER_BATCH)
@pytest.mark.parametrize("values", [[], [0.3] * 3, [0.7], [None, 0.3], [1 / 3, 1 / 3 + 1e-9]])
def test_a_batch_of_equal_rewards_is_silent(name: str, values: list[float | None]) -> None:
    scores = [[value or 0.0, 1.0] for value in values]
    group = make_group(values, [4] * len(values), [1.0, 0.5], scores)
    assert advantages([group, group], name) == [[0.0] * len(values)] * 2


@pytest.mark.parametrize("name", OVER_BATCH)
def test_responses_without_tokens_do_no_harm(name: str) -> None:
    group = make_group([0.0, 1.0], [0, 1], [1.0, 1.0], [[0.0, 0.0], [0.5, 0.5]])
    assert advantages([group], name) == [[0.0, 0.0]]


@given(
    batch=st.lists(
        st.lists(
            st.none() | st.tuples(st.integers(-16, 16), st.integers(0, 9)), min_size=1, max_size=8
        ),
        min_size=1,
        max_size=5,
    ),
    name=st.sampled_from(["reinforce_pp", "reinforce_pp_baseline"]),
)
@settings(deadline=None)
def test_whitened_tokens_have_deviation_one_and_abstentions_count_in_nothing(
    batch: list[list[tuple[int, int] | None]], name: str
) -> None:
    def groups(keep: bool) -> list[RolloutGroup]:
        kept = [[each for each in of if keep or each is not None] for of in batch]
        return [
            make_group(
                [each and each[0] / 8 for each in of], [each[1] if each else 5 for each in of]
            )
            for of in kept
        ]

    whole, alone = advantages(groups(keep=True), name), advantages(groups(keep=False), name)
    for of, found, without in zip(batch, whole, alone, strict=True):
        rest = iter(without)
        assert found == [0.0 if each is None else next(rest) for each in of]
    tokens = [
        (a, each[1]) for of, found in zip(batch, whole, strict=True)
        for a, each in zip(found, of, strict=True) if each is not None
    ]  # fmt: skip
    number = sum(length for _, length in tokens)
    if name == "reinforce_pp" and any(a and length for a, length in tokens):
        assert math.fsum(a * length for a, length in tokens) == pytest.approx(0, abs=1e-6)
        variance = math.fsum(a * a * length for a, length in tokens) / (number - 1)
        assert variance == pytest.approx(1, abs=1e-4)


def test_components_that_differ_in_scale_have_equal_say() -> None:
    """Right and well-formed each tell half of it; in the sum the second is lost."""
    scores = [[100.0, 0.0], [100.0, 1.0], [0.0, 1.0], [0.0, 0.0]]
    group = make_group([sum(row) for row in scores], None, [1.0, 1.0], scores)
    (gdpo,), (grpo,) = advantages([group], "gdpo"), advantages([group], "grpo")
    assert gdpo[0] == pytest.approx(gdpo[2], abs=1e-4)
    assert gdpo[1] > gdpo[0] > gdpo[3]
    assert grpo[0] == pytest.approx(grpo[1], abs=0.02)


def test_a_weight_is_of_the_normalised_component() -> None:
    scores = [[0.0, 1.0], [0.0, 0.0], [1.0, 0.0]]
    group = make_group([0.25, 0.0, 1.0], None, [1.0, 0.25], scores)
    ((first, second, third),) = advantages([group], "gdpo")
    assert (first - second) / (third - second) == pytest.approx(0.25)


def test_a_shaped_reward_brings_its_components() -> None:
    """Wrong, right, right without a block: its gate is closed, so it is as wrong and ill-formed."""
    config = RewardConfig(format_bonus=0.5, require_format=True)
    raw = (Reward(0.0), Reward(1.0), Reward(1.0, format_ok=False))
    (group,) = Shaper(config, 100).shape([replace(make_group([0.0] * 3), rewards=raw)])
    ((wrong, right, without_block),) = advantages([group], "gdpo")
    assert right > 0 > wrong > without_block
    assert right - wrong == pytest.approx(2 * (wrong - without_block), abs=1e-4)


# --- what they refuse -----------------------------------------------------------------------------

PLAIN = RewardConfig()


@pytest.mark.parametrize(
    "reward",
    [
        RewardConfig(format_bonus=0.5),
        RewardConfig(overlong_buffer=8),
        RewardConfig(extra={"style": ScoreConfig(weight=0.5)}),
        RewardConfig(weight=0.0, extra={"style": ScoreConfig()}, format_bonus=1.0),
    ],
)
def test_components_are_asked_of_every_domain_before_a_run(reward: RewardConfig) -> None:
    config = AlgoConfig(advantage="gdpo")
    check_advantages(config, {"math": reward, "chat": reward})
    with pytest.raises(ConfigError, match=r"components .*domain 'chat'(?s:.*)format_bonus"):
        check_advantages(config, {"math": reward, "chat": PLAIN})
    check_advantages(AlgoConfig(), {"chat": PLAIN})


@pytest.mark.parametrize(
    "reward",
    [
        PLAIN,
        RewardConfig(extra={"safe": ScoreConfig(weight=0.0, gate=0.5)}),
        RewardConfig(overlong_buffer=8, overlong_penalty=0.0),
        RewardConfig(weight=0.0, format_bonus=0.5),
    ],
)
def test_what_adds_nothing_is_no_component(reward: RewardConfig) -> None:
    with pytest.raises(ConfigError, match="components"):
        check_advantages(AlgoConfig(advantage="gdpo"), {"math": reward})


def test_groups_without_components_name_their_domain() -> None:
    with pytest.raises(ConfigError, match="domain 'math' has no two"):
        advantages([make_group([0.0, 1.0])], "gdpo")


def test_an_estimator_that_takes_anything_asks_for_no_components() -> None:
    def anything(rewards_G: list[float], **others: Any) -> list[float]:
        return [reward * len(others["components_G"]) for reward in rewards_G]

    config = AlgoConfig(advantage=anything)  # type: ignore[arg-type]
    assert with_advantages({"math": [make_group([0.0, 1.0])]}, config)["math"][0].advantages[1] == 2


def test_negative_rewards_are_refused_with_their_domain() -> None:
    found = r"(?s)0 or more, and domain 'math'.*found: +-0\.5.*clip"
    with pytest.raises(ConfigError, match=found):
        advantages([make_group([1.0, 0.0]), make_group([-0.5, -0.5])], "maxrl")
    config = AlgoConfig(advantage="maxrl")
    check_advantages(config, {"math": PLAIN})
    signed = RewardConfig(extra={"style": ScoreConfig(standardise=True)})
    with pytest.raises(ConfigError, match="standardise=true of its score 'style'"):
        check_advantages(config, {"math": signed})
    check_advantages(AlgoConfig(), {"math": RewardConfig(standardise=True)})


@pytest.mark.parametrize(
    ("reward", "least"),
    [
        (RewardConfig(overlong_buffer=8), -1),
        (RewardConfig(overlong_buffer=8, clip=[-math.inf, 0.5]), -1),
        (RewardConfig(overlong_buffer=8, overlong_penalty=2.0, clip=[1.0, 3.0]), -1),
        (RewardConfig(overlong_buffer=8, clip=[1.0, 3.0], require_format=True), -1),
        (RewardConfig(overlong_buffer=8, clip=[1.0, 3.0], gate=0.5), -1),
        (RewardConfig(clip=[-0.5, 1.0]), -0.5),
        (RewardConfig(weight=-2.0), -2),
        (RewardConfig(format_bonus=-0.25), -0.25),
        (RewardConfig(extra={"long": ScoreConfig(weight=-0.1, clip=[0.0, 5.0])}), -0.5),
        (RewardConfig(extra={"long": ScoreConfig(weight=-0.1, clip=[2.0, math.inf])}), -0.2),
        (RewardConfig(), 0),
        (RewardConfig(overlong_buffer=8, overlong_penalty=0.0), 0),
        (RewardConfig(overlong_buffer=8, clip=[1.0, 3.0]), 0),
        (RewardConfig(overlong_buffer=8, clip=[2.0, math.inf]), 1),
        (RewardConfig(clip=[-math.inf, 0.5], weight=0.5, require_format=True), 0),
        (RewardConfig(weight=-1.0, clip=[-2.0, 0.0]), 0),
        (RewardConfig(clip=[-1.0, 1.0], weight=0.0, format_bonus=1.0), 0),
    ],
)
def test_rewards_that_can_be_negative_are_refused_before_a_run(
    reward: RewardConfig, least: float
) -> None:
    assert reward.least == pytest.approx(least)
    config = AlgoConfig(advantage="maxrl")
    if least < 0:
        with pytest.raises(ConfigError, match=rf"domain 'math'(?s:.*)found: +{least:g} for some"):
            check_advantages(config, {"math": reward})
    else:
        check_advantages(config, {"math": reward})
    check_advantages(AlgoConfig(), {"math": reward})


@pytest.mark.parametrize("name", ADVANTAGES.members)
def test_what_whitens_is_not_whitened_twice(name: str) -> None:
    config = AlgoConfig(advantage=name, whiten_per_domain=True)
    if name in OVER_BATCH:
        with pytest.raises(ConfigError, match="whitens the advantages of a domain itself"):
            check_advantages(config)
    else:
        check_advantages(config)


@pytest.mark.parametrize("name", ADVANTAGES.members)
def test_a_division_that_is_not_made_cannot_be_left_out(name: str) -> None:
    config = AlgoConfig(advantage=name, normalize_std=False)
    if name in ("grpo", "gdpo", "best_of_group"):
        check_advantages(config)
    else:
        with pytest.raises(ConfigError, match=r"does not read algo\.normalize_std"):
            check_advantages(config)


def test_the_configuration_of_the_papers_page_has_components() -> None:
    page = (ROOT / "docs" / "papers.md").read_text(encoding="utf-8")
    (line,) = [row for row in page.splitlines() if "2601.05242" in row]
    config = compose_config(line.split("`")[1].split())
    assert config.algo.advantage == "gdpo"
    check_advantages(config.algo, {name: each.reward for name, each in config.domains.items()})
