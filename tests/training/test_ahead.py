"""Rollouts that are ahead of the learners: whose prompts, how far, and what a checkpoint keeps."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mgsrl.config import PhaseConfig, StrategyConfig
from mgsrl.config.compose import compose_config
from mgsrl.data.mixture import Mixture
from mgsrl.errors import ConfigError, InvariantError
from mgsrl.rollout.sampler import Submission
from mgsrl.training.in_flight import FILE, read_in_flight, write_in_flight
from mgsrl.training.run import Run
from mgsrl.training.schedule import Schedule, check_staleness, make_schedule
from mgsrl.types import Prompt, Rollout, RolloutGroup

DOMAINS = ("math", "chat")


def mixture() -> Mixture:
    prompts = {domain: [Prompt(f"p{i}", domain, (), (i,)) for i in range(7)] for domain in DOMAINS}
    return Mixture(prompts, {"math": 5, "chat": 5}, 3, True)


class Ahead:
    """Takes prompts as the sampler does."""

    def __init__(self) -> None:
        self.outstanding: dict[int, Any] = {}
        self.seen: dict[int, dict[str, list[str]]] = {}
        self.furthest: list[tuple[int, ...]] = []
        self.made: set[int] = set()

    def wait(self, step: int, *_: Any) -> None:
        self.made.add(step)

    def submit(self, prompts: dict[str, list[Prompt]], step: int, made: Any = ()) -> None:
        assert step not in self.outstanding
        assert self.made == self.outstanding.keys()  # the engines have one step at a time
        self.outstanding[step] = prompts
        self.seen[step] = {domain: [p.id for p in of] for domain, of in prompts.items()}


def walk(schedule: Schedule, staleness: int, num_steps: int) -> Ahead:
    """The loop's submissions, nothing else."""
    sampler = Ahead()
    run: Any = SimpleNamespace(
        step=0,
        staleness=staleness,
        schedule=schedule,
        adaptive=None,
        mixture=mixture(),
        sampler=sampler,
        inflight_updates=False,
        console=SimpleNamespace(progress=None),
        _ahead={},
    )
    run._finish_rollouts = lambda: Run._finish_rollouts(run)
    for run.step in range(num_steps):
        Run.submit_prompts(run)
        sampler.furthest.append(tuple(sampler.outstanding))
        del sampler.outstanding[run.step]
        sampler.made.discard(run.step)
        run._finish_rollouts()  # as settle_rollouts does
    assert not sampler.outstanding
    return sampler


@settings(deadline=None)
@given(
    staleness=st.integers(0, 5),
    lengths=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    quotas=st.tuples(st.integers(1, 5), st.integers(1, 5)),
)
def test_prompts_and_quotas_are_those_of_the_synchronous_run(
    staleness: int, lengths: list[int], quotas: tuple[int, int]
) -> None:
    """Every step exactly its quotas, whatever is ahead; and never beyond a phase."""
    strategy = StrategyConfig(
        phases=[
            PhaseConfig(domains=list(DOMAINS[: 1 + index % 2]), steps=steps)
            for index, steps in enumerate(lengths)
        ]
    )
    steps = sum(lengths)
    schedule = make_schedule(strategy, dict(zip(DOMAINS, quotas)), steps, total=5)
    synchronous, ahead = walk(schedule, 0, steps), walk(schedule, staleness, steps)
    assert ahead.seen == synchronous.seen
    for step, submitted in enumerate(ahead.furthest):
        end = schedule.phase(step).end
        assert submitted == tuple(range(step, min(step + staleness + 1, end)))


def test_more_ahead_than_a_phase_is_long_is_refused() -> None:
    together = make_schedule(StrategyConfig(), {"math": 2, "chat": 2}, 3)
    check_staleness(together, 2)
    with pytest.raises(ConfigError, match=r"at most 2: the run has 3 steps"):
        check_staleness(together, 3)
    one_by_one = make_schedule(StrategyConfig(sequential=True), {"math": 2, "chat": 2}, 4)
    check_staleness(one_by_one, 1)
    with pytest.raises(ConfigError, match=r"(?s)within a phase.*longest of 2 phases has 2 steps"):
        check_staleness(one_by_one, 2)
    with pytest.raises(ConfigError, match=r"at most 0: the run has 1 step\n"):
        check_staleness(make_schedule(StrategyConfig(), {"math": 2}, 1), 1)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["rollout.staleness=-1"], "rollout.staleness is too small"),
        (["rollout.staleness=1", "algo.importance_cap=null"], "need the importance weight"),
        (["rollout.inflight_updates=true"], "ahead of the learners"),
    ],
)
def test_settings_that_cannot_be_right_are_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compose_config(overrides)


@pytest.mark.parametrize(
    ("step", "kept", "missing"), [(0, 0, 0), (2, 2, 0), (2, 1, 1), (3, 1, 0), (4, 0, 0), (8, 0, 0)]
)
def test_a_checkpoint_without_what_would_be_ahead_is_told(
    step: int, kept: int, missing: int
) -> None:
    """Two phases of 4 steps; a run that was to end at step 3 saved one step less of rollouts."""
    notes: list[str] = []
    run: Any = SimpleNamespace(
        step=step,
        staleness=2,
        schedule=make_schedule(StrategyConfig(sequential=True), {"math": 2, "chat": 2}, 8),
        _ahead=dict.fromkeys(range(kept)),
        console=SimpleNamespace(note=notes.append),
    )
    Run._note_missing(run)
    assert [f"next {missing} step(s)" in note for note in notes] == [True] * (missing > 0)


def rollout(request_id: str, version: int) -> Rollout:
    return Rollout(request_id, (4, 5), (-0.1, -1 / 3), "täxt\n", "stop", version)


@pytest.mark.parametrize(("version", "fine"), [(3, False), (4, True), (5, True), (6, False)])
def test_older_weights_than_allowed_are_never_trained_on(version: int, fine: bool) -> None:
    group = RolloutGroup(Prompt("p0", "math", (), (1,)), (rollout("5/math/p0/0", version),))
    run: Any = SimpleNamespace(
        step=5,
        staleness=1,
        sampler=SimpleNamespace(collect=lambda *_: {"math": [group]}),
        console=SimpleNamespace(progress=None),
    )
    if fine:
        assert Run.collect_groups(run) == {"math": [group]}
    else:
        with pytest.raises(InvariantError, match=f"weight version {version} .* version 5"):
            Run.collect_groups(run)


def test_a_checkpoint_keeps_what_is_ahead_to_the_bit(tmp_path: Path) -> None:
    drawn = mixture().next_prompts({"math": 2, "chat": 1})
    made = [rollout(f"4/math/{drawn['math'][0].id}/{i}", 3) for i in range(2)]
    made.append(rollout(f"4/chat/{drawn['chat'][0].id}/1", 3))
    later = mixture().next_prompts({"chat": 3})
    write_in_flight(
        tmp_path,
        {
            4: Submission(drawn, 2, {r.request_id: r for r in made}),
            5: Submission(later, 2),
        },
    )
    assert read_in_flight(tmp_path, mixture()) == {4: (drawn, made), 5: (later, [])}
    rows = [json.loads(line) for line in (tmp_path / FILE).read_text().splitlines()]
    assert [len(row["rollouts"]) for row in rows] == [2, 0, 1, 0, 0, 0]


def test_another_experiment_makes_the_responses_again(tmp_path: Path) -> None:
    drawn = mixture().next_prompts({"math": 1})
    made = {r.request_id: r for r in [rollout(f"4/math/{drawn['math'][0].id}/0", 3)]}
    write_in_flight(tmp_path, {4: Submission(drawn, 1, made)})
    assert read_in_flight(tmp_path, mixture())[4][1] == list(made.values())
    assert read_in_flight(tmp_path, mixture(), responses=False) == {4: (drawn, [])}


def test_prompts_that_take_part_no_more_are_left_out(tmp_path: Path) -> None:
    drawn = mixture().next_prompts({"math": 2, "chat": 1})
    write_in_flight(tmp_path, {4: Submission(drawn, 2)})
    fewer = Mixture({"math": mixture().prompts_of("math")}, {"math": 5}, 3, True)
    assert read_in_flight(tmp_path, fewer) == {4: ({"math": drawn["math"]}, [])}


def test_a_step_has_the_domains_of_the_schedule_whatever_a_checkpoint_holds() -> None:
    """A run may go on with domains that are weighted anew."""
    drawn = mixture().next_prompts({"math": 2, "chat": 2})
    sampler = Ahead()
    run: Any = SimpleNamespace(
        step=4,
        staleness=1,
        schedule=make_schedule(StrategyConfig(sequential=True), {"math": 2, "chat": 2}, 8),
        adaptive=None,
        mixture=mixture(),
        sampler=sampler,
        _finish_rollouts=lambda: sampler.made.update(sampler.outstanding),
        _ahead={4: (drawn, []), 5: ({"math": drawn["math"]}, [])},
    )
    Run.submit_prompts(run)
    assert sampler.seen[4] == {"chat": [prompt.id for prompt in drawn["chat"]]}
    assert sampler.seen[5].keys() == {"chat"}
    assert len(sampler.seen[5]["chat"]) == 4


def test_nothing_ahead_leaves_no_file(tmp_path: Path) -> None:
    write_in_flight(tmp_path, {})
    assert list(tmp_path.iterdir()) == []
    assert read_in_flight(tmp_path, mixture()) == {}
