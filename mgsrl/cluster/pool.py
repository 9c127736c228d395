"""A pool of interchangeable actors: idle ones pull the next batch, dead ones are replaced.

A worker that dies, or does not answer within its limit, is made again and its batch is done
again, so the death of a rollout or reward worker loses nothing. Work must therefore be
repeatable: equal batches give equal results. Learners are not a pool (their ranks hold state).

A worker that dies again and again ends the run; one that dies now and then does not: deaths are
counted within a window of steps, which `new_step` moves on.
"""

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from mgsrl.cluster.wait import get, short_reason, timed_out, unwrapped
from mgsrl.errors import WaitTimeoutError, WorkerDiedError

MakeActor = Callable[[int], Any]
"""Slot number -> actor handle. Every actor has a method `ready()` that returns once it is."""


@dataclass
class _Call:
    index: int
    slot: int
    deadline: float


class ActorPool:
    """`size` actors made by `make`.

    Args:
        name: for messages, e.g. `"rollout"`.
        make: creates the actor of one slot; it is called again when that actor dies.
        key: where the pool's settings are in the configuration, for messages, e.g. `"rollout"`.
        max_restarts: deaths of one slot within the window after which the pool gives up.
        restart_window: steps after which a death is forgotten.
        start_limit_s: longest wait for one actor's `ready()`.
        on_restart: called with the new handle before it gets work (e.g. to send it weights).
    """

    note: Callable[[str], None] | None = None
    """Told, in one line, of every worker that is replaced."""

    def __init__(
        self,
        name: str,
        make: MakeActor,
        size: int,
        *,
        key: str,
        max_restarts: int = 3,
        restart_window: int = 100,
        start_limit_s: float = 300.0,
        on_restart: Callable[[Any], None] | None = None,
    ) -> None:
        self.name = name
        self.on_restart = on_restart
        self._make = make
        self.key = key
        self._max_restarts = max_restarts
        self._restart_window = restart_window
        self._start_limit_s = start_limit_s
        self.handles: list[Any] = [make(slot) for slot in range(size)]
        self.restarts = [0] * size
        """Replaced since the start, by slot."""
        self._step = 0
        self._deaths: list[list[int]] = [[] for _ in range(size)]
        """By slot: the steps of the deaths that are not forgotten."""

    def new_step(self, step: int) -> None:
        """The run is at `step` now: deaths `restart_window` steps ago and older are forgotten."""
        self._step = step
        self._deaths = [
            [death for death in deaths if death > step - self._restart_window]
            for deaths in self._deaths
        ]

    def wait_ready(self) -> list[Any]:
        """Wait until every actor is up; returns what their `ready()` returned.

        One that is killed as it starts is made anew, but `on_restart` is not called: it is to send
        what nobody has got yet. What its constructor raises would be raised again, and is not.
        """
        starting = {handle.ready.remote(): slot for slot, handle in enumerate(self.handles)}
        facts: list[Any] = [None] * len(starting)
        limit_s, what = self._start_limit_s, f"the {self.name} workers to start"
        end = time.monotonic() + limit_s
        while starting:
            up = ray.wait(list(starting), timeout=max(0.0, end - time.monotonic()))[0]
            if not up:
                problem = f"waited {limit_s:.0f} s for {what}; it did not come"
                raise timed_out(problem, self._start_key)
            slot = starting.pop(up[0])
            try:
                facts[slot] = get(up[0], limit_s, what, self._start_key)
            except WorkerDiedError as error:
                if getattr(error.__cause__, "actor_init_failed", False):
                    raise
                facts[slot] = self._restart(slot, error, send=False)
                end = time.monotonic() + limit_s  # nobody looked after the others meanwhile
        return facts

    @property
    def _start_key(self) -> str:
        return f"{self.key}.start_limit_s"

    def map(
        self,
        method: str,
        batches: Sequence[tuple[Any, ...]],
        *,
        limit_s: float,
        limit_key: str,
        on_done: Callable[[int, int], None] | None = None,
    ) -> list[Any]:
        """`actor.method(*batch)` for every batch, in parallel; results in the batches' order.

        Args:
            limit_s: longest wait for one batch, in seconds; the worker is replaced after it.
            limit_key: the configuration key that sets it, for messages.

        Raises:
            WorkerDiedError: a slot died more than `max_restarts` times.
            Exception: what the remote method raised (an error in the work is not a death).
        """
        results: list[Any] = [None] * len(batches)
        waiting = deque(range(len(batches)))
        idle = deque(range(len(self.handles)))
        running: dict[Any, _Call] = {}
        done = 0
        while waiting or running:
            while waiting and idle:
                index, slot = waiting.popleft(), idle.popleft()
                ref = getattr(self.handles[slot], method).remote(*batches[index])
                running[ref] = _Call(index, slot, time.monotonic() + limit_s)
            ref, call = self._next_finished(running)
            try:
                if time.monotonic() > call.deadline and not ray.wait([ref], timeout=0)[0]:
                    raise timed_out(f"{method} took longer than {limit_s:.0f} s", limit_key)
                results[call.index] = ray.get(ref, timeout=limit_s)
                done += 1
                if on_done is not None:
                    on_done(done, len(batches))
            except RayTaskError as error:
                raise unwrapped(error) from error
            except (RayError, WaitTimeoutError) as error:
                self._restart(call.slot, error)
                waiting.appendleft(call.index)
            idle.append(call.slot)
        return results

    def _next_finished(self, running: dict[Any, _Call]) -> tuple[Any, _Call]:
        """The next call that finished, or the one whose time ran out first."""
        first = min(running, key=lambda ref: running[ref].deadline)
        wait_s = max(0.0, running[first].deadline - time.monotonic()) + 0.01
        ready, _ = ray.wait(list(running), num_returns=1, timeout=wait_s)
        ref = ready[0] if ready else first
        return ref, running.pop(ref)

    def revive_dead(self) -> int:
        """Replace every actor that no longer answers `ready()`; returns how many."""
        revived = 0
        for slot, handle in enumerate(self.handles):
            try:
                what = f"{self.name} worker {slot}"
                get(handle.ready.remote(), self._start_limit_s, what, self._start_key)
            except (WorkerDiedError, WaitTimeoutError) as error:
                self._restart(slot, error)
                revived += 1
        return revived

    def replace(self, handle: Any, reason: Exception) -> None:
        """Make the actor behind `handle` anew, dead or not."""
        self._restart(self.handles.index(handle), reason)

    def _restart(self, slot: int, reason: Exception, *, send: bool = True) -> Any:
        """Replace the actor of one slot; returns what its `ready()` returned.

        A death during the restart itself counts like any other, so a worker that cannot come
        up ends the run after `max_restarts` tries.
        """
        while True:
            if not self.handles:
                raise WorkerDiedError(f"the {self.name} workers were stopped") from reason
            self._count_death(slot, reason)
            ray.kill(self.handles[slot], no_restart=True)
            self.handles[slot] = self._make(slot)
            try:
                what = f"{self.name} worker {slot} to restart"
                ready = self.handles[slot].ready.remote()
                facts = get(ready, self._start_limit_s, what, self._start_key)
                if send and self.on_restart is not None:
                    self.on_restart(self.handles[slot])
                return facts
            except (WorkerDiedError, WaitTimeoutError) as error:
                reason = error

    def _count_death(self, slot: int, reason: Exception) -> None:
        self._deaths[slot].append(self._step)
        count = len(self._deaths[slot])
        within = f"within {self._restart_window} steps"
        if count > self._max_restarts:
            raise WorkerDiedError(
                f"{self.name} worker {slot} died {count} times {within}; giving up. "
                f"Last reason: {reason}\n"
                f"  to do:    mend the cause, or raise {self.key}.max_restarts (now "
                f"{self._max_restarts}); the run can be resumed with the same command"
            ) from reason
        self.restarts[slot] += 1
        if self.note is not None:
            self.note(
                f"{self.name} worker {slot} is replaced ({count} of at most {self._max_restarts} "
                f"times {within}): {short_reason(reason)}"
            )

    def stop(self) -> None:
        """Kill the actors; safe to call twice. A `map` under way in another thread ends."""
        handles, self.handles = self.handles, []
        for handle in handles:
            ray.kill(handle, no_restart=True)
