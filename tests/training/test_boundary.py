"""Wherever in a step a signal comes, what is saved is the last whole step.

The real loop, `Run`, mixture and signals, with stand-ins for the rooms below, in each of which the
signal comes in turn; whole runs are in `test_faults_run.py`.
"""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mgsrl.cluster import signals
from mgsrl.config import AlgoConfig, CheckpointConfig, StrategyConfig, SurgeryConfig
from mgsrl.errors import LearnerDiedError
from mgsrl.training.interrupt import last_step_saved
from mgsrl.training.loop import train
from mgsrl.training.run import Run
from mgsrl.training.schedule import make_schedule
from mgsrl.training.skips import SkipWatch
from mgsrl.types import Prompt, Reward, Rollout, RolloutGroup, StepStats
from tests.training.test_ahead import mixture

WHEN = 3
"""The step, counted from 1, in which the signal comes."""
BEFORE = ("submit", "collect", "score", "shape", "pack", "load", "accumulate", "resolve")
WITHIN = ("update", "wait", "publish", "log")
"""Where the weights are those of no step whose logs are written."""
AFTER = ("evaluate",)


class Parts:
    """What stands in; each says where the run is."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at: str, staleness: int) -> None:
        self._at = at
        self.saved: list[Any] = []
        self.logged: list[int] = []
        self.scored = 0
        self.run = self._run(staleness)
        monkeypatch.setattr("mgsrl.training.run.step_scalars", lambda **_: {})
        monkeypatch.setattr("mgsrl.training.run.staleness_metrics", lambda *_: {})
        monkeypatch.setattr(Run, "pack", self._pack)
        monkeypatch.setattr(Run, "restore", lambda _: None)
        monkeypatch.setattr(Run, "enter_phase", lambda run: run.timers.start_step())

    def at(self, place: str) -> None:
        step = self.run.step + (place in (*BEFORE, "update"))
        if place == self._at and step == WHEN:
            self._at = ""
            signal.raise_signal(signal.SIGTERM)

    def _pack(self, *_: Any) -> Any:
        self.at("pack")
        return SimpleNamespace(domains=["math", "chat"], scalars={})

    def _run(self, staleness: int) -> Any:
        class Sampler:
            distinct_pools, samples_per_prompt = (), 2
            busy_share = staticmethod(lambda: 0.0)

            def __init__(self, parts: Parts) -> None:
                self.parts, self.lengths, self.outstanding = parts, {}, {}  # type: ignore[var-annotated]

            def submit(self, prompts: dict[str, list[Prompt]], step: int, made: Any = ()) -> None:
                self.outstanding[step] = prompts
                self.parts.at("submit")

            def wait(self, *_: Any) -> None:
                self.parts.at("wait")

            def collect(self, step: int, _: Any) -> dict[str, list[RolloutGroup]]:
                prompts = self.outstanding.pop(step)
                self.lengths["math"] = float(step)
                self.parts.at("collect")
                rollouts = (Rollout("r", (1,), (-1.0,), "", "stop", step),) * 2
                rewards = (Reward(0.0), Reward(1.0))
                return {
                    d: [RolloutGroup(p, rollouts, rewards) for p in of] for d, of in prompts.items()
                }

        @contextmanager
        def stage(_text: str, *, step: int | None = None) -> Iterator[None]:
            yield

        def told(place: str, result: Any = None) -> Callable[..., Any]:
            return lambda *_: (self.at(place), result)[1]

        def shape(groups: Any) -> Any:
            self.scored += 1
            self.at("shape")
            return groups

        def log(step: int, *_: Any) -> None:
            self.at("log")
            self.logged.append(step)

        def score(groups: Any, **_: Any) -> Any:
            self.at("score")
            return groups

        turns = SimpleNamespace(learn=lambda: None, end=lambda: None)
        return Run(
            **{name: SimpleNamespace() for name in ("packing", "checkpoint")},  # type: ignore[arg-type]
            folder=Path("/nowhere"),
            num_steps=6,
            staleness=staleness,
            schedule=make_schedule(StrategyConfig(), {"math": 2, "chat": 2}, 6),
            mixture=mixture(),
            sampler=Sampler(self),
            scorer=SimpleNamespace(
                score=score, shaped_rewards=shape, state=lambda: self.scored, reward_pools=()
            ),
            learners=SimpleNamespace(
                handles=[1], device="cpu",
                load_batch=told("load"),
                accumulate=told("accumulate"),
                resolve_conflicts=told("resolve"),
                optimizer_step=told("update", StepStats(0.5, 1e-6, skipped=False)),
            ),
            publisher=SimpleNamespace(
                publish=told("publish"), canary_error=0.0, version=0, turns=turns,
                sync=SimpleNamespace(canary_sequences=1),
            ),
            evaluation=SimpleNamespace(due=lambda *_: True, evaluate=told("evaluate"), prompts={}),
            journal=SimpleNamespace(log_step=log, close=lambda: None),
            saver=SimpleNamespace(
                config=CheckpointConfig(), due=lambda _: False, poll=lambda: None,
                settle=lambda: None, save_now=self.saved.append,
            ),
            console=SimpleNamespace(stage=stage, progress=None, note=lambda _: None),
            algos={"math": AlgoConfig(), "chat": AlgoConfig()},
            updates_per_batch=1,
            surgery=SurgeryConfig(), skips=SkipWatch(print),
            models=SimpleNamespace(state=dict),
        )  # fmt: skip


@pytest.fixture
def heard() -> Iterator[None]:
    before = signal.signal(signal.SIGTERM, signals.on_signal)
    signals.forget()
    yield
    signals.forget()
    signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("heard")
@pytest.mark.parametrize(
    ("place", "staleness"),
    [
        (place, staleness)
        for place in (*BEFORE, *WITHIN, *AFTER)
        for staleness in (0, 1)
        if (place, staleness) != ("wait", 0)  # for nothing
    ],
)
def test_what_is_saved_is_the_last_whole_step(
    place: str, staleness: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: dict[int, Any] = {}
    undisturbed = Parts(monkeypatch, "nowhere", staleness)
    whole_step = Run._whole_step

    def keep(run: Run) -> Any:
        boundary = whole_step(run)
        return kept.setdefault(boundary.step, boundary) if run is undisturbed.run else boundary

    monkeypatch.setattr(Run, "_whole_step", keep)
    train(undisturbed.run)
    parts = Parts(monkeypatch, place, staleness)
    with pytest.raises(KeyboardInterrupt), last_step_saved(parts.run):
        train(parts.run)
    last = parts.logged[-1]
    assert last == WHEN - 1 if place in BEFORE else last == WHEN
    assert parts.saved == [kept[last]]
    assert not signals._held


@pytest.mark.usefixtures("heard")
def test_a_run_that_must_end_does_not_wait_for_the_next_steps_rollouts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They may take minutes, and the learners hold no other whole step meanwhile."""
    parts = Parts(monkeypatch, "update", 1)
    parts.run.saver.config.grace_s = 1.0

    def wait(step: int, progress: Any, give_up: Callable[[], bool]) -> None:
        begin = time.monotonic()
        while signals.stopping() and not give_up():
            assert time.monotonic() - begin < 10
            time.sleep(0.01)

    monkeypatch.setattr(parts.run.sampler, "wait", wait)
    with pytest.raises(KeyboardInterrupt), last_step_saved(parts.run):
        train(parts.run)
    assert parts.logged[-1] == WHEN
    assert [boundary.step for boundary in parts.saved] == [WHEN]


def test_what_a_checkpoint_held_beyond_todays_staleness_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The cursors are beyond these prompts: nobody would draw them again in this epoch."""
    run = Parts(monkeypatch, "nowhere", 1).run
    rollout = Rollout("5/math/p/0", (1,), (-1.0,), "", "stop", 3)
    run._ahead = {5: ({"math": [Prompt("p", "math", (), (1,))]}, [rollout])}
    boundary = run._whole_step()
    assert boundary.ahead[5].made == {"5/math/p/0": rollout}
    assert [prompt.id for prompt in boundary.ahead[5].prompts["math"]] == ["p"]


def test_a_step_that_cannot_be_saved_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Parts(monkeypatch, "nowhere", 0).run
    assert run.save_last_step() is None  # there is none
    run.step = 1
    with pytest.raises(LearnerDiedError, match="no whole step"):
        run.save_last_step()
