"""The loop itself, with rollouts and learning that only sleep: what overlaps, by which weights.

The real loop and the real `Run`, with stand-ins for the rooms below that take known times; whole
runs are in `test_ahead_run.py`.
"""

import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import pytest

from mgsrl.cluster import signals
from mgsrl.config import AlgoConfig, CheckpointConfig, StrategyConfig, SurgeryConfig
from mgsrl.obs.timers import StageTimers
from mgsrl.training.loop import train
from mgsrl.training.run import Run
from mgsrl.training.schedule import make_schedule
from mgsrl.types import Prompt, Reward, Rollout, RolloutGroup
from tests.training.test_ahead import mixture


class Engines:
    """One engine that takes `seconds` for a step's rollouts, in a thread of its own."""

    distinct_pools = ()

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.version = -1
        self.outstanding: dict[int, Future[dict[str, list[RolloutGroup]]]] = {}
        self.made: dict[int, tuple[int, int]] = {}
        """By step: the version when its rollouts began, and when they ended."""
        self._thread = ThreadPoolExecutor(1)

    def submit(self, prompts: Mapping[str, Sequence[Prompt]], step: int, made: Any = ()) -> None:
        self.outstanding[step] = self._thread.submit(self._make, prompts, step)

    def _make(
        self, prompts: Mapping[str, Sequence[Prompt]], step: int
    ) -> dict[str, list[RolloutGroup]]:
        begin = self.version
        time.sleep(self.seconds)
        self.made[step] = begin, self.version
        return {
            domain: [
                RolloutGroup(p, (Rollout(f"{step}/{p.id}", (1,), (-1.0,), "", "stop", begin),) * 2)
                for p in of_domain
            ]
            for domain, of_domain in prompts.items()
        }

    def wait(self, step: int, *_: Any) -> None:
        self.outstanding[step].result()

    def collect(self, step: int, _: Any) -> dict[str, list[RolloutGroup]]:
        return self.outstanding.pop(step).result()


class Walk(Run):
    """The rooms that are not looked at do nothing."""

    seconds: list[float]
    evaluated: list[tuple[int, int]]

    def restore(self) -> None: ...

    def enter_phase(self) -> None:
        self.timers.start_step()

    def pack(self, groups: Any) -> Any:
        return SimpleNamespace(domains=list(groups))

    def evaluate_if_due(self) -> None:
        self.evaluated.append((self.step, self.sampler.version))  # type: ignore[attr-defined]

    def after_step(self, *_: Any) -> None:
        signals.release()
        self.seconds.append(self.timers.finish_step()["time/total"])
        self.evaluate_if_due()

    def finish(self) -> None: ...


def walk(
    staleness: int,
    *,
    steps: int = 5,
    rollout_s: float = 0.0,
    learn_s: float = 0.0,
    strategy: StrategyConfig | None = None,
) -> Any:
    engines = Engines(rollout_s)

    def send(version: int, _: Any) -> None:
        engines.version = version

    def score(groups: dict[str, list[RolloutGroup]], **_: Any) -> dict[str, list[RolloutGroup]]:
        rewards = (Reward(0.0), Reward(1.0))
        return {
            domain: [RolloutGroup(g.prompt, g.rollouts, rewards) for g in of_domain]
            for domain, of_domain in groups.items()
        }

    run: Any = Walk.__new__(Walk)
    main = threading.get_ident()

    def learn(_domain: str) -> None:
        assert threading.get_ident() == main  # the learners' verbs are collectives
        time.sleep(learn_s / len(run.schedule.phase(run.step).quotas))

    @contextmanager
    def stage(_text: str, *, step: int | None = None) -> Any:
        yield

    run.__dict__.update(
        step=0,
        num_steps=steps,
        staleness=staleness,
        inflight_updates=False,
        schedule=make_schedule(strategy or StrategyConfig(), {"math": 2, "chat": 2}, steps),
        mixture=mixture(),
        sampler=engines,
        scorer=SimpleNamespace(score=score, shaped_rewards=dict, reward_pools=()),
        learners=SimpleNamespace(
            load_batch=lambda _: None,
            accumulate=learn,
            resolve_conflicts=lambda _: None,
            optimizer_step=lambda _: None,
        ),
        publisher=SimpleNamespace(
            publish=send,
            version=0,
            sync=SimpleNamespace(canary_sequences=1),
            turns=SimpleNamespace(
                learn=lambda: None, shared=False, learners_whole=lambda: nullcontext()
            ),
        ),
        console=SimpleNamespace(progress=None, stage=stage),
        algos=dict.fromkeys(("math", "chat"), AlgoConfig()),
        updates_per_batch=1,
        surgery=SurgeryConfig(),
        saver=SimpleNamespace(config=CheckpointConfig(), poll=lambda: None),
        timers=StageTimers(),
        seconds=[],
        evaluated=[],
        _ahead={},
        _probe=None,
        _in_step=0,
    )
    train(run)
    return run


@pytest.mark.parametrize("staleness", [0, 1, 2, 4])
def test_every_step_has_weights_as_old_as_it_may(staleness: int) -> None:
    """From the first step's on; the version does not change while its rollouts are made, and what
    is evaluated is the version of that step alone."""
    run = walk(staleness, steps=6)
    expected = {step: (max(0, step - staleness),) * 2 for step in range(6)}
    assert run.sampler.made == expected
    assert run.evaluated == [(step, step) for step in range(7)]


def test_a_phase_begins_with_the_weights_that_the_last_one_ended_with() -> None:
    run = walk(2, steps=8, strategy=StrategyConfig(sequential=True))
    ages = [step - begin for step, (begin, _) in sorted(run.sampler.made.items())]
    assert ages == [0, 1, 2, 2, 0, 1, 2, 2]


@pytest.mark.parametrize(("rollout_s", "learn_s"), [(0.3, 0.3), (0.3, 0.15), (0.15, 0.3)])
def test_a_step_takes_the_longer_part_instead_of_the_sum(rollout_s: float, learn_s: float) -> None:
    one_by_one = walk(0, steps=4, rollout_s=rollout_s, learn_s=learn_s).seconds
    overlapped = walk(1, steps=4, rollout_s=rollout_s, learn_s=learn_s).seconds
    both, longer = rollout_s + learn_s, max(rollout_s, learn_s)
    assert min(one_by_one) >= both
    # half of what overlaps is more than a busy machine's clock takes from the fastest step
    assert longer <= min(overlapped[1:-1]) < (both + longer) / 2
