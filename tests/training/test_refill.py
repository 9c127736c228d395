"""Prompts in the place of those whose groups are dead."""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from operator import attrgetter
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mgsrl.config.algo import AlgoConfig
from mgsrl.config.compose import compose_config
from mgsrl.errors import ConfigError
from mgsrl.training.plan import check_parts
from mgsrl.training.refill import all_drawn, refill
from mgsrl.training.run import Run
from mgsrl.types import Prompt, Reward, Rollout, RolloutGroup

LIVE = attrgetter("is_live")
ROLLOUT = Rollout("r", (1,), (-1.0,), "", "stop", 0)


def group(domain: str, name: str, live: bool, version: int = 0) -> RolloutGroup:
    rewards = (Reward(0.0), Reward(1.0 if live else 0.0))
    rollout = replace(ROLLOUT, weight_version=version)
    return RolloutGroup(Prompt(name, domain, (), (1,)), (rollout, rollout), rewards)


class Source:
    """Groups that are live or dead as said, domain by domain; then there are no more."""

    def __init__(self, lives: Mapping[str, list[bool]]) -> None:
        self.left = {domain: list(of) for domain, of in lives.items()}
        self.asked: list[dict[str, int]] = []
        self._made = 0

    def __call__(self, quotas: Mapping[str, int]) -> dict[str, list[RolloutGroup]]:
        self.asked.append(dict(quotas))
        found: dict[str, list[RolloutGroup]] = {}
        for domain, count in quotas.items():
            lives, self.left[domain] = self.left[domain][:count], self.left[domain][count:]
            self._made += len(lives)
            found[domain] = [
                group(domain, f"{self._made}.{i}", live) for i, live in enumerate(lives)
            ]
        return found


LIVES = st.lists(st.booleans(), min_size=1, max_size=5)


@given(
    st.fixed_dictionaries({"math": LIVES, "chat": LIVES}),
    st.fixed_dictionaries({d: st.lists(st.booleans(), max_size=20) for d in ("math", "chat")}),
    st.fixed_dictionaries({"math": st.integers(0, 3), "chat": st.integers(0, 3)}),
)
def test_each_domain_fills_its_own_places(
    first: dict[str, list[bool]], later: dict[str, list[bool]], draws: dict[str, int]
) -> None:
    before = {d: [group(d, str(i), x) for i, x in enumerate(of)] for d, of in first.items()}
    kept = {domain: list(of) for domain, of in before.items()}
    source = Source(later)
    after, drawn = refill(before, draws, source, LIVE)
    assert before == kept, "the caller's groups are left alone"
    assert len(source.asked) <= max(draws.values())
    for domain, of_domain in after.items():
        assert len(of_domain) == len(first[domain])
        assert {g.prompt.domain for g in drawn[domain]} == {domain}
        asked = [quotas[domain] for quotas in source.asked if domain in quotas]
        assert len(asked) <= draws[domain]
        if not draws[domain]:
            assert of_domain == before[domain]
        # who was live keeps the place, and no more is asked for than was dead then
        assert [g for g, live in zip(of_domain, first[domain], strict=True) if live] == [
            g for g in before[domain] if g.is_live
        ]
        assert not asked or asked[0] == first[domain].count(False)
        lives = sum(g.is_live for g in drawn[domain])
        assert sum(g.is_live for g in of_domain) == min(lives, len(of_domain))
        assert all(g in drawn[domain] for g in of_domain)


def test_it_ends_with_the_last_dead_group() -> None:
    groups = {"math": [group("math", "a", False), group("math", "b", True)]}
    source = Source({"math": [False, True, True]})
    after, drawn = refill(groups, {"math": 5}, source, LIVE)
    assert source.asked == [{"math": 1}, {"math": 1}]
    assert all(g.is_live for g in after["math"])
    assert len(drawn["math"]) == 4


def test_without_more_prompts_it_ends_too() -> None:
    groups = {"math": [group("math", "a", False)]}
    after, _ = refill(groups, {"math": 100}, source := Source({"math": [False]}), LIVE)
    assert after == groups
    assert len(source.asked) == 2


class Ahead:
    """A sampler with the rollouts of two later steps under way; what it makes is dead, then live,
    and of the weights of its day."""

    def __init__(self) -> None:
        self.outstanding = {3: None, 4: None}
        self.did: list[tuple[str, int]] = []
        self._lives = iter([False, True])

    def wait(self, step: int, *_: Any) -> None:
        self.did.append(("wait", step))

    def rollout(self, prompts: Any, step: int, _: Any) -> dict[str, list[RolloutGroup]]:
        self.did.append(("rollout", step))
        return {
            domain: [group(domain, p.id, next(self._lives), version=step) for p in of]
            for domain, of in prompts.items()
        }


@pytest.mark.parametrize("inflight", [False, True])
def test_what_is_drawn_beside_rollouts_of_later_steps_is_of_this_step(inflight: bool) -> None:
    """With its weights and after those that are under way, unless weights may change under way."""
    sampler, names = Ahead(), iter(["b", "c"])
    run: Any = SimpleNamespace(
        step=2,
        sampler=sampler,
        inflight_updates=inflight,
        algos={"math": AlgoConfig(refill=2)},
        mixture=SimpleNamespace(
            next_prompts=lambda quotas: {d: [Prompt(next(names), d, (), (1,))] for d in quotas}
        ),
        console=SimpleNamespace(progress=None),
        stage=lambda _: nullcontext(),
        score=lambda groups, few: groups,
    )
    run._finish_rollouts = lambda: Run._finish_rollouts(run)
    ahead = [group("math", name, live, version=1) for name, live in (("a", False), ("z", True))]
    after = Run.refill(run, {"math": ahead})
    assert [g.prompt.id for g in after["math"]] == ["c", "z"]
    assert [g.rollouts[0].weight_version for g in after["math"]] == [2, 1]
    assert [g.prompt.id for g in run._drawn["math"]] == ["a", "z", "b", "c"]
    waits = [] if inflight else [("wait", 3), ("wait", 4)]
    assert sampler.did == [*waits, ("rollout", 2)] * 2


def test_what_is_silent_to_the_estimator_is_refilled() -> None:
    """Two best responses are one too many for `best_of_group`, and none for `grpo`."""

    def of(name: str, *values: float) -> RolloutGroup:
        rewards = tuple(map(Reward, values))
        return RolloutGroup(Prompt(name, "math", (), (1,)), (ROLLOUT,) * len(values), rewards)

    for advantage, kept in (("grpo", "two best"), ("best_of_group", "one best")):
        run: Any = SimpleNamespace(
            step=0,
            algos={"math": AlgoConfig(advantage=advantage, refill=1)},
            mixture=SimpleNamespace(next_prompts=lambda _: {"math": [Prompt("b", "math", (), ())]}),
            sampler=SimpleNamespace(rollout=lambda *_: {"math": [of("one best", 1, 0, 0, 0)]}),
            console=SimpleNamespace(progress=None),
            stage=lambda _: nullcontext(),
            score=lambda groups, few: groups,
            _finish_rollouts=lambda: None,
        )
        (group,) = Run.refill(run, {"math": [of("two best", 1, 1, 0, 0)]})["math"]
        assert group.prompt.id == kept


def test_what_was_drawn_is_told_with_the_advantages_it_had() -> None:
    taught = replace(group("math", "new", True), advantages=(-1.0, 1.0))
    drawn = {"math": [group("math", "old", False), group("math", "new", True)]}
    assert all_drawn({}, {"math": [taught]}) == {}
    told = all_drawn(drawn, {"math": [taught], "chat": []})
    assert list(told) == ["math"]
    assert [(g.prompt.id, g.advantages) for g in told["math"]] == [
        ("new", (-1.0, 1.0)),
        ("old", (0.0, 0.0)),
    ]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["domains.math.algo.advantage=reinforce_pp"], "math: no scored group is dead to"),
        (
            ["domains.math.algo.teacher=pocket", "domains.math.algo.reward_coef=0"],
            "math: distils from its teacher alone",
        ),
        (["domains.math.reward.weight=0"], "math: no score has another weight than 0"),
    ],
)
def test_where_no_group_can_be_both_dead_and_live_it_is_refused(
    overrides: list[str], said: str
) -> None:
    check_parts(compose_config(overrides))
    check_parts(compose_config([*overrides, "algo.refill=2", "domains.math.algo.refill=0"]))
    others = ["strategy=single", "strategy.domain_order=[chat]"]
    check_parts(compose_config([*overrides, "algo.refill=2", *others]))
    with pytest.raises(ConfigError, match=said) as caught:
        check_parts(compose_config([*overrides, "algo.refill=2"]))
    assert "set domains.math.algo.refill=0" in str(caught.value)
    assert "chat" not in str(caught.value)
