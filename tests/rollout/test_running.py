"""An engine at work: requests come and go, weights change in between, no wait is for ever."""

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mgsrl.config import RolloutConfig
from mgsrl.errors import InvariantError
from mgsrl.rollout.actor import RolloutWorker
from mgsrl.rollout.engine import BatchStream, EngineSpec
from mgsrl.rollout.running import RunningEngine
from mgsrl.sync.wire import pack_group
from mgsrl.types import GenerationRequest, Rollout, Sampling
from tests.sync.sources import perturbed

HOUR = 3600.0


def request(name: str, tokens: int = 1, seed: int = 0) -> GenerationRequest:
    return GenerationRequest(name, (5, 9, 30 + seed), seed, Sampling(1.0, tokens))


class Stepping:
    """An engine and its stream: one token of every request a step, each its weights' version."""

    def __init__(self, step_s: float = 0.0) -> None:
        self.weight_version = 0
        self.step_s = step_s
        self.tokens: dict[str, list[int]] = {}
        self.requests: list[GenerationRequest] = []
        self.steps = 0
        self.threads: set[int] = set()

    def stream(self) -> "Stepping":
        return self

    def submit(self, requests: Sequence[GenerationRequest], urgent: bool = False) -> None:
        self.threads.add(threading.get_ident())
        self.requests += requests

    def step(self) -> list[Rollout]:
        self.threads.add(threading.get_ident())
        time.sleep(self.step_s)
        self.steps += 1
        done = []
        for each in list(self.requests):
            row = self.tokens.setdefault(each.id, [])
            row.append(self.weight_version)
            if len(row) == each.sampling.max_new_tokens:
                self.requests.remove(each)
                done.append(Rollout(each.id, tuple(row), (0.0,) * len(row), "", "length", row[0]))
        return done


def running(engine: Any) -> RunningEngine:
    return RunningEngine(lambda: engine)


def ids(rollouts: Sequence[Rollout]) -> list[str]:
    return [rollout.request_id for rollout in rollouts]


def test_short_responses_do_not_wait_for_long_ones() -> None:
    engine = Stepping(step_s=0.01)
    at_work = running(engine)
    at_work.submit(0, [request("long", 60)], False)
    at_work.submit(1, [request("short", 2)], False)
    assert ids(at_work.take(1, HOUR).rollouts) == ["short"]
    assert not at_work.is_idle
    at_work.submit(2, [request("later", 2)], False)
    assert ids(at_work.take(2, HOUR).rollouts) == ["later"]
    assert len(engine.tokens["long"]) < 60
    assert ids(at_work.take(0, HOUR).rollouts) == ["long"]
    assert at_work.is_idle
    assert len(engine.threads) == 1, "only one thread may touch an engine"


def test_taking_is_bounded_and_hands_everything_over_once() -> None:
    at_work = running(Stepping(step_s=0.02))
    at_work.submit(0, [request("a", 1), request("b", 15)], False)
    first = at_work.take(0, 0.1)
    assert ids(first.rollouts) == ["a"]
    assert ids(at_work.take(7, HOUR).rollouts) == [], "nothing of step 7 is asked for"
    last = at_work.take(0, HOUR)
    assert ids(last.rollouts) == ["b"]
    assert 0.0 < first.busy_s < last.busy_s < 3.0
    assert at_work.take(0, HOUR).busy_s == last.busy_s, "an engine without requests is idle"


def test_weights_come_between_two_tokens_and_the_requests_stay() -> None:
    engine = Stepping(step_s=0.005)
    at_work = running(engine)
    at_work.submit(0, [request("a", 40)], False)
    while engine.steps < 5:
        time.sleep(0.001)
    at_work.pause()
    steps = engine.steps
    at_work.submit(0, [request("b", 3)], False)  # taken on while it stands still
    time.sleep(0.05)
    assert engine.steps == steps
    at_work.call(setattr, engine, "weight_version", 1)
    at_work.resume()
    at_work.resume()  # no second row of steps
    rows = {r.request_id: r.token_ids for r in at_work.take(0, HOUR).rollouts}
    assert rows["a"] == (0,) * steps + (1,) * (40 - steps)
    assert rows["b"] == (1, 1, 1)


def test_calls_happen_between_steps_however_long_the_work_is() -> None:
    engine = Stepping(step_s=0.01)
    at_work = running(engine)
    at_work.submit(0, [request("a", 500)], False)
    begin = time.monotonic()
    for _ in range(20):
        at_work.call(lambda: None)
    assert time.monotonic() - begin < 20 * 0.01 + 1.0
    assert engine.steps >= 15, "calls took turns with steps"


def test_an_error_of_the_engine_reaches_whoever_waits() -> None:
    class Broken(Stepping):
        def step(self) -> list[Rollout]:
            raise ValueError("out of memory")

    at_work = running(Broken())
    at_work.submit(0, [request("a")], False)
    for _ in range(2):
        with pytest.raises(ValueError, match="out of memory"):
            at_work.take(0, HOUR)

    class Refusing(Stepping):
        def submit(self, requests: Sequence[GenerationRequest], urgent: bool = False) -> None:
            raise ValueError("too long")

    at_work = running(Refusing())
    with pytest.raises(ValueError, match="too long"):
        at_work.submit(0, [request("a")], False)
    assert ids(at_work.take(0, HOUR).rollouts) == [], "what was refused is not waited for"


def test_an_engine_that_only_generates_works_batch_by_batch() -> None:
    made: list[list[str]] = []

    class Plain:
        def batches(self, requests: Sequence[GenerationRequest]) -> list[Any]:
            return [requests[i : i + 2] for i in range(0, len(requests), 2)]

        def generate(self, requests: Sequence[GenerationRequest]) -> list[Rollout]:
            made.append([request.id for request in requests])
            return [Rollout(r.id, (1,), (0.0,), "", "stop", 0) for r in requests]

    engine: Any = Plain()
    stream = BatchStream(engine)
    stream.submit([request(name) for name in "abc"])
    stream.submit([request(name) for name in "xyz"], urgent=True)
    done = [ids(stream.step()) for _ in range(4)]
    assert done == [["x", "y"], ["z"], ["a", "b"], ["c"]] == made
    engine.generate = lambda _: []
    at_work = running(SimpleNamespace(stream=lambda: BatchStream(engine)))
    at_work.submit(0, [request("a"), request("b")], False)
    with pytest.raises(InvariantError, match="should answer 2 requests"):
        at_work.take(0, HOUR)


@pytest.fixture(scope="module")
def worker(tiny_model: Path) -> RolloutWorker:
    """A real engine that works on two requests at a time."""
    config = RolloutConfig(engine="transformers", max_prompts_in_flight=2)
    return RolloutWorker(EngineSpec(config, str(tiny_model), 64, threads=1))


def slowly(worker: RolloutWorker) -> Callable[[], int]:
    """Let the worker's batches take a while; gives how many were made."""
    made = [0]
    generate = type(worker.engine).generate

    def slow(requests: Sequence[GenerationRequest]) -> list[Rollout]:
        time.sleep(0.05)
        made[0] += 1
        return generate(worker.engine, requests)  # type: ignore[arg-type]

    worker.engine.generate = slow  # type: ignore[method-assign]
    return lambda: made[0]


def test_a_real_engine_takes_weights_and_scores_with_requests_in_flight(
    worker: RolloutWorker, tiny_model: Path
) -> None:
    sequence = (5, 9, 30, 31, 32, 77, 120)
    requests = [request(f"r{i}", 12, seed=i) for i in range(8)]
    old = worker.generate(requests)
    made = slowly(worker)
    worker.submit(0, requests)
    while made() < 2:
        time.sleep(0.005)
    model = perturbed(tiny_model)
    worker.start_weight_update()
    before = made()
    for name, value in model.named_parameters():
        worker.update_weights(pack_group([name], [value.detach()]))
    worker.finish_weight_update("5")
    in_flight = worker.logprobs([sequence])
    rollouts = {r.request_id: r for r in worker.take(0, HOUR).rollouts}
    assert in_flight == worker.logprobs([sequence]), "scores depend on what is in flight"
    new = worker.generate(requests)
    for index, wanted in enumerate(requests):
        expected = old if index < 2 * before else new
        assert rollouts[wanted.id] == expected[index]
    assert 0 < 2 * before < len(requests), "the update came before or after everything"
