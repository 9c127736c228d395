"""Quotas that follow what a run observes: exact, floored, bounded, and the same after a stop."""

import json
import math
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mgsrl.config import PhaseConfig, StrategyConfig
from mgsrl.config.compose import compose_config, config_from_yaml, config_to_yaml
from mgsrl.config.curriculum import CurriculumConfig
from mgsrl.config.resume import MIXTURE, resume_changes
from mgsrl.data.curricula.protocol import Curriculum, Signals
from mgsrl.data.mixture import Mixture
from mgsrl.errors import ConfigError, DataError
from mgsrl.rollout.sampler import Submission
from mgsrl.training.adaptive import AdaptiveShares, make_curriculum, shares_of, signals_of
from mgsrl.training.estimate import estimate
from mgsrl.training.in_flight import read_in_flight, write_in_flight
from mgsrl.training.plan import check_parts, plan, schedule_of
from mgsrl.training.run import Run
from mgsrl.training.schedule import Schedule, make_schedule
from mgsrl.types import Prompt, Reward, Rollout, RolloutGroup, SurgeryReport

DOMAINS = ("math", "chat", "code")
KINDS = ("bandit", "worst_task", "transfer")
SMALL = ("rollout.engine=transformers", "evaluate.prompts_per_domain=0")
WEIGHT = st.one_of(st.just(0.0), st.floats(1e-6, 1e3))


class Said(Curriculum):
    """Weights as a test says."""

    says: dict[str, float]

    def observe(self, signals: Any) -> None: ...

    def weights(self) -> dict[str, float]:
        return self.says

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: Any) -> None: ...


def adaptive(kind: str, schedule: Schedule) -> AdaptiveShares:
    curriculum = make_curriculum(CurriculumConfig(kind), schedule.domains)
    return AdaptiveShares(curriculum, schedule, kind)


# ---- shares and quotas ---------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(
    configured=st.tuples(*[st.floats(1e-3, 100)] * 3),
    weights=st.tuples(WEIGHT, WEIGHT, st.floats(1e-6, 1e3)),
    floor=st.floats(0, 1),
)
def test_shares_add_up_to_1_and_keep_the_floor(
    configured: tuple[float, ...], weights: tuple[float, ...], floor: float
) -> None:
    plain = {d: share / sum(configured) for d, share in zip(DOMAINS, configured, strict=True)}
    says = dict(zip(DOMAINS, weights, strict=True))
    shares = shares_of(dict(zip(DOMAINS, configured, strict=True)), says, floor)
    assert sum(shares.values()) == pytest.approx(1.0)
    for domain in DOMAINS:
        assert shares[domain] >= floor * plain[domain] * (1 - 1e-9)
        for other in DOMAINS:  # more of what it would have for the one with the larger weight
            if says[domain] >= says[other]:
                ratios = (shares[domain] / plain[domain], shares[other] / plain[other])
                assert ratios[0] >= ratios[1] * (1 - 1e-9)


def test_equal_weights_and_a_floor_of_1_change_nothing() -> None:
    configured = {"math": 2.0, "chat": 1.0, "code": 1.0}
    plain = {"math": 0.5, "chat": 0.25, "code": 0.25}
    assert shares_of(configured, dict.fromkeys(DOMAINS, 7.0), 0.1) == pytest.approx(plain)
    assert shares_of(configured, {"math": 0, "chat": 5, "code": 1}, 1.0) == pytest.approx(plain)
    found = shares_of(configured, {"math": 0, "chat": 0, "code": 1}, 0.2)
    assert found == pytest.approx({"math": 0.1, "chat": 0.05, "code": 0.85})


@settings(max_examples=120, deadline=None)
@given(data=st.data(), total=st.integers(1, 40), floor=st.floats(0, 1))
def test_every_batch_is_exact_within_its_bound_and_right_over_time(
    data: st.DataObject, total: int, floor: float
) -> None:
    """Whatever a curriculum says, with domains that a schedule lets come and go."""
    factor = st.sampled_from([0.0, 0.25, 1.0])
    factors = [data.draw(st.tuples(factor, factor, st.just(1.0))) for _ in range(10)]
    curves = {d: (lambda step, i=i: factors[step][i]) for i, d in enumerate(DOMAINS)}
    quotas = dict.fromkeys(DOMAINS, 1.0)
    schedule = make_schedule(StrategyConfig(), quotas, 10, total=total, curves=curves, floor=floor)
    most = schedule.largest()
    said = Said(None, DOMAINS)
    chooser = AdaptiveShares(said, schedule, "said")
    given_, due = dict.fromkeys(DOMAINS, 0), dict.fromkeys(DOMAINS, 0.0)
    comes_and_goes = any(0.0 in each for each in factors)
    for step in range(10):
        drawn = data.draw(st.tuples(WEIGHT, WEIGHT, st.floats(1e-6, 9)))
        said.says = dict(zip(DOMAINS, drawn, strict=True))
        batch = chooser.quotas(step)
        assert chooser.quotas(step) is batch
        assert sum(batch.values()) == total
        shares = {k.rpartition("/")[2]: v for k, v in chooser.scalars(step).items()}
        assert sum(shares.values()) == pytest.approx(1.0)
        for domain, count in batch.items():
            assert 0 < count <= most[domain]
            given_[domain] += count
        for domain, share in shares.items():
            due[domain] += total * share
            assert comes_and_goes or abs(given_[domain] - due[domain]) < 1.5


def test_the_bound_is_that_of_the_floor() -> None:
    quotas = dict.fromkeys(DOMAINS, 10.0)
    made = {
        floor: make_schedule(StrategyConfig(), quotas, 5, floor=floor) for floor in (0.0, 0.5, 1.0)
    }
    assert made[0.0].largest() == dict.fromkeys(DOMAINS, 30)
    assert made[0.5].largest() == dict.fromkeys(DOMAINS, 22)  # two thirds, and 2
    assert made[1.0].largest() == dict.fromkeys(DOMAINS, 12)
    assert make_schedule(StrategyConfig(), quotas, 5).largest() == dict.fromkeys(DOMAINS, 10)


@pytest.mark.parametrize(
    "says", [{}, {"math": 1.0}, dict.fromkeys(DOMAINS, 0.0), dict.fromkeys(DOMAINS, math.inf)]
)
def test_weights_that_cannot_be_used_are_told(says: dict[str, float]) -> None:
    said = Said(None, DOMAINS)
    said.says = says
    schedule = make_schedule(StrategyConfig(), dict.fromkeys(DOMAINS, 1.0), 3, floor=0.1)
    with pytest.raises(ConfigError, match="weights that cannot be used"):
        AdaptiveShares(said, schedule, "said").quotas(0)


# ---- what a step showed --------------------------------------------------------------------------


def group(domain: str, rewards: list[float | None], advantages: list[float]) -> RolloutGroup:
    rollouts = tuple(Rollout("r", (1,), (-1.0,), "", "stop", 0) for _ in rewards)
    scored = tuple(Reward(value) for value in rewards)
    return RolloutGroup(Prompt("p", domain, (), (1,)), rollouts, scored, tuple(advantages))


def report(gram_DD: list[list[float]], domains: tuple[str, ...]) -> SurgeryReport:
    gram_MDD = torch.tensor([gram_DD, gram_DD], dtype=torch.float64)
    return SurgeryReport(domains, ("a", "b"), gram_MDD, torch.ones(2, len(domains)), {})


def test_signals_by_hand() -> None:
    groups = {
        "math": [group("math", [1.0, 0.0, None], [0.7, -0.7, 0.0]), group("math", [0.5], [0.0])],
        "chat": [group("chat", [None, None], [0.0, 0.0])],
        "code": [group("code", [2.0], [0.0])],
    }
    seen = signals_of(groups, report([[4.0, -3.0], [-3.0, 9.0]], ("math", "code")))
    assert seen["math"] == Signals((0.7, 0.7, 0.0), 0.5, {"code": -0.5})
    assert seen["math"].magnitude == pytest.approx(1.4 / 3)
    assert math.isnan(seen["chat"].reward)
    assert math.isnan(seen["chat"].magnitude)
    assert seen["chat"].cosines == {}  # nothing of it was trained on
    assert seen["code"] == Signals((0.0,), 2.0, {"math": -0.5})
    broken = signals_of(groups, report([[math.nan, 1.0], [1.0, 1.0]], ("math", "code")))
    assert broken["math"].cosines == {}


# ---- a run that stops and goes on ----------------------------------------------------------------


def mixture(schedule: Schedule) -> Mixture:
    prompts = {d: [Prompt(f"p{i}", d, (), (i,)) for i in range(40)] for d in schedule.domains}
    return Mixture(prompts, schedule.largest(), 3, True)


class Engines:
    """Takes prompts as the sampler does."""

    def __init__(self) -> None:
        self.outstanding: dict[int, Any] = {}

    def submit(self, prompts: dict[str, list[Prompt]], step: int, made: Any = ()) -> None:
        self.outstanding[step] = Submission(dict(prompts), 2)


def walker(kind: str, schedule: Schedule, staleness: int) -> Any:
    run: Any = SimpleNamespace(
        step=0,
        staleness=staleness,
        schedule=schedule,
        adaptive=adaptive(kind, schedule),
        mixture=mixture(schedule),
        sampler=Engines(),
        _finish_rollouts=lambda: None,
        _ahead={},
    )
    return run


def one_step(run: Any) -> dict[str, list[str]]:
    """The loop's part of a step; what it showed depends on the step and its prompts alone."""
    Run.submit_prompts(run)
    prompts = run.sampler.outstanding.pop(run.step).prompts
    draw = random.Random(f"{run.step} {sorted(prompts)}")
    groups = {
        d: [group(d, [draw.random(), draw.random()], [draw.gauss(), draw.gauss()])] * len(of)
        for d, of in prompts.items()
    }
    rows = torch.tensor([[draw.gauss(0, 1) for _ in range(5)] for _ in prompts])
    run.adaptive.observe(run.step, groups, report((rows @ rows.mT).tolist(), tuple(prompts)))
    run.step += 1
    return {domain: [prompt.id for prompt in of] for domain, of in prompts.items()}


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    staleness=st.integers(0, 3),
    stop=st.integers(1, 8),
    phases=st.booleans(),
)
def test_a_run_that_stops_goes_on_with_the_same_prompts(
    tmp_path_factory: pytest.TempPathFactory, kind: str, staleness: int, stop: int, phases: bool
) -> None:
    """With rollouts ahead, and over the border of two phases, one of them of two domains."""
    plans = [PhaseConfig(list(DOMAINS), steps=5), PhaseConfig(["math", "code"], steps=4)]
    strategy = StrategyConfig(phases=plans if phases else [])
    schedule = make_schedule(strategy, {"math": 3.0, "chat": 2.0, "code": 2.0}, 9, floor=0.1)
    whole, first = (walker(kind, schedule, staleness) for _ in range(2))
    expected = [one_step(whole) for _ in range(9)]
    found = [one_step(first) for _ in range(stop)]
    folder = tmp_path_factory.mktemp("checkpoint")
    state = json.loads(
        json.dumps({"mixture": first.mixture.state(), "curriculum": first.adaptive.state()})
    )
    write_in_flight(folder, first.sampler.outstanding)

    second = walker(kind, schedule, staleness)
    second.mixture.restore(state["mixture"])
    second.adaptive.restore(state["curriculum"])
    second.step, second._ahead = stop, read_in_flight(folder, second.mixture)
    found += [one_step(second) for _ in range(9 - stop)]
    assert found == expected
    assert all(sum(map(len, step.values())) == 7 for step in expected)
    assert second.adaptive.state() == whole.adaptive.state()


def test_steps_under_way_keep_their_quotas() -> None:
    schedule = make_schedule(StrategyConfig(), {"math": 4.0, "chat": 4.0}, 9, floor=0.0)
    first = walker("bandit", schedule, 2)
    Run.submit_prompts(first)
    before = {step: dict(first.adaptive.quotas(step)) for step in (0, 1, 2)}
    assert before[0] == before[2] == {"math": 4, "chat": 4}
    one_step(first)
    Run.submit_prompts(first)
    assert {step: first.adaptive.quotas(step) for step in (1, 2)} == {1: before[1], 2: before[2]}
    assert first.adaptive.quotas(3) != before[0]
    state = json.loads(json.dumps(first.adaptive.state()))
    assert state["ahead"].keys() == {"1", "2", "3"}
    later = adaptive("bandit", schedule)
    later.restore(state)
    assert later.quotas(3) == first.adaptive.quotas(3)
    assert later.scalars(3) == first.adaptive.scalars(3)


def test_another_curriculum_begins_anew_and_domains_may_come_and_go() -> None:
    both = make_schedule(StrategyConfig(), {"math": 2.0, "chat": 2.0}, 9, floor=0.1)
    run = walker("bandit", both, 1)
    for _ in range(3):
        one_step(run)
    state = json.loads(json.dumps(run.adaptive.state()))
    other = adaptive("worst_task", both)
    other.restore(state)
    assert other.quotas(3) == run.adaptive.quotas(3)  # under way
    assert other.curriculum.weights() == {"math": 0.5, "chat": 0.5}
    moved = make_schedule(StrategyConfig(), {"chat": 2.0, "code": 2.0}, 9, floor=0.1)
    later = adaptive("bandit", moved)
    later.restore(state)
    assert later.quotas(3).keys() == {"chat"}
    assert later.quotas(4)["code"] == 4  # a bandit begins with what it has never seen


# ---- from a configuration ------------------------------------------------------------------------


def test_a_fixed_curriculum_is_the_schedule_alone() -> None:
    for kind in ("steps", "linear"):
        config = compose_config([f"data.curriculum={kind}"])
        schedule = schedule_of(config)
        assert schedule.shares == ()
        assert schedule.largest() == dict(schedule.phase(0).quotas)
        assert "prompts of math at most" not in estimate(config, 0).batch


def test_the_plan_knows_the_most_that_a_step_may_take() -> None:
    config = compose_config(["data.curriculum=bandit", "algo.prompts_per_domain=10"])
    batch = estimate(config, 0).batch
    assert batch["prompts of math"] == 10
    assert batch["prompts of math at most"] == 30
    enough = ["domains.math.source.size=30", "algo.prompts_per_domain=10"]
    ready = plan(compose_config([*SMALL, *enough, "data.curriculum=bandit"]))
    assert ready.adaptive is not None
    assert sum(ready.adaptive.quotas(0).values()) == 30
    assert plan(compose_config([*SMALL, *enough])).adaptive is None
    few = ["domains.math.source.size=29", "algo.prompts_per_domain=10"]
    with pytest.raises(DataError, match="fewer prompts than one step takes"):
        plan(compose_config([*SMALL, *few, "data.curriculum=bandit"]))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "alone",
    [
        ["strategy=sequential"],
        ["strategy=single"],
        ["~domains.chat", "~domains.instruction_following"],
        ["domains.chat.weight=0", "domains.math.weight=0"],
        ["strategy.phases=[{domains: [math]}, {domains: [chat]}]"],
    ],
)
def test_a_curriculum_without_anything_to_share_is_refused(kind: str, alone: list[str]) -> None:
    assert not compose_config(alone).data.curriculum.adapts
    with pytest.raises(ConfigError, match="shares a step among domains"):
        compose_config([*alone, f"data.curriculum={kind}"])


@pytest.mark.parametrize("kind", KINDS)
def test_advantages_that_do_not_teach_move_no_shares(kind: str) -> None:
    """Those of a domain that is distilled from its teacher alone."""
    taught = ["strategy=mixed", f"data.curriculum={kind}", "domains.math.algo.teacher=pocket"]
    check_parts(compose_config(taught))
    alone = [*taught, "domains.math.algo.reward_coef=0"]
    check_parts(compose_config([*alone, "domains.math.weight=0"]))
    if kind == "worst_task":
        check_parts(compose_config(alone))
    else:
        with pytest.raises(ConfigError, match=rf"curriculum={kind} goes by adv.*(?s:.*)0 in math"):
            check_parts(compose_config(alone))


@pytest.mark.parametrize("strategy", ["mixed", "mgs", "global_surgery", "normalized_advantage"])
def test_all_go_with_strategies_that_train_domains_together(strategy: str) -> None:
    """Every surgery method has the Gramian that `transfer` reads, `none` too."""
    for kind in KINDS:
        config = compose_config([f"strategy={strategy}", f"data.curriculum={kind}"])
        assert config.strategy.name == f"{strategy}_{kind}"
        check_parts(config)


def test_other_shares_are_other_batches_from_there_on() -> None:
    old = compose_config([])
    new = compose_config(["data.curriculum=bandit", "data.curriculum.floor=0.3"])
    changes = {change.key: change.effect for change in resume_changes(old, new)}
    assert changes.pop("strategy.name")
    assert changes.pop("run.dir")
    assert changes == dict.fromkeys(
        [f"data.curriculum.{n}" for n in ("exploration", "floor", "kind", "temperature", "window")],
        MIXTURE,
    )


def test_the_configuration_is_kept_and_read_again(tmp_path: Path) -> None:
    config = compose_config(["data.curriculum={kind: transfer, floor: 0.2, alignment: 0.5}"])
    path = tmp_path / "config.yaml"
    path.write_text(config_to_yaml(config))
    assert config_from_yaml(path) == config
    earlier = config_to_yaml(compose_config(["data.curriculum=linear"]))
    written = "curriculum:\n    kind: linear\n    floor: 0.1\n"
    plain = earlier.replace(written, "curriculum: linear\n")
    assert plain != earlier
    path.write_text(plain)
    assert config_from_yaml(path).data.curriculum == CurriculumConfig("linear")


def test_a_file_may_name_it_and_the_command_line_its_keys(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    head = "# @package _global_\ndefaults: [pocket_mgs, _self_]\n"
    path.write_text(f"{head}data: {{curriculum: bandit}}\n")
    window = "data.curriculum.window=50"
    found = compose_config([window, "data.curriculum.floor=0.3"], path).data.curriculum
    assert (found.kind, found.options.window, found.floor) == ("bandit", 50, 0.3)
    assert compose_config(["data.curriculum=steps"], path).data.curriculum.kind == "steps"
    with pytest.raises(ConfigError, match="window is for bandit"):
        compose_config([window])


OWN = """
from dataclasses import dataclass

from mgsrl.data.curricula.protocol import Curriculum


@dataclass
class Keys:
    power: float = 1.0


class Mine(Curriculum):
    Config = Keys

    def observe(self, signals): self.seen = signals
    def weights(self): return {d: 1.0 + i * self.config.power for i, d in enumerate(self.domains)}
    def state(self): return {}
    def restore(self, state): ...


class Broken(Mine):
    def state(self): return {"seen": self.seen}


class Other: ...
"""


def test_one_of_your_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(OWN)
    config = compose_config([f"data.curriculum={path}:Mine", "data.curriculum.power=2"])
    check_parts(config)
    chooser = AdaptiveShares(
        make_curriculum(config.data.curriculum, DOMAINS),
        make_schedule(StrategyConfig(), dict.fromkeys(DOMAINS, 9.0), 3, floor=0.0),
        "mine",
    )
    assert chooser.quotas(0) == {"math": 3, "chat": 9, "code": 15}
    with pytest.raises(ConfigError, match=r"(?s)does not work.*not JSON serializable"):
        check_parts(compose_config([f"data.curriculum={path}:Broken"]))
    with pytest.raises(ConfigError, match="derives from"):
        compose_config([f"data.curriculum={path}:Other"])
