"""An engine on a thread of its own: it generates while its worker answers calls.

Requests are taken on at any time and their responses handed over as they are done. Everything that
is asked of the engine (scores, new weights) happens on its thread too, between two of its steps;
during a weight update it stands still and keeps its requests.
Left out: withdrawing requests; nothing that is asked for is ever unwanted.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

from mgsrl.rollout.engine import Engine
from mgsrl.types import GenerationRequest, Rollout

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Taken:
    """What a worker has to show."""

    rollouts: tuple[Rollout, ...]
    """Those not handed over before, of any step."""
    busy_s: float
    """Seconds since the start in which the engine worked on requests."""


class RunningEngine:
    """The engine that `load` gives, and the requests it works on."""

    def __init__(self, load: Callable[[], Engine]) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="engine")
        self.engine = self.call(load)
        self._stream = self.call(self.engine.stream)
        self._paused = False
        self._turning = False
        """Whether the thread has the next step before it."""
        self._changed = threading.Condition()
        """Guards what follows."""
        self._steps: dict[str, int] = {}
        """Of the requests under way, by id."""
        self._left: Counter[int] = Counter()
        """How many they are, by step."""
        self._done: list[Rollout] = []
        self._busy_s = 0.0
        self._error: BaseException | None = None

    def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call it on the engine's thread, before the engine's next step."""
        return self._thread.submit(function, *args, **kwargs).result()

    def submit(self, step: int, requests: Sequence[GenerationRequest], urgent: bool) -> None:
        """Take requests of one training step on; their ids are new.

        Args:
            urgent: before those that wait.
        """

        def accept() -> None:
            self._stream.submit(requests, urgent)
            with self._changed:
                self._steps.update((request.id, step) for request in requests)
                self._left[step] += len(requests)
            self._turn_later()

        self.call(accept)

    def take(self, step: int, wait_s: float) -> Taken:
        """What is done; comes when all of `step` is, or after `wait_s` seconds.

        Raises:
            Exception: what the engine raised.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._error or not self._left[step], wait_s)
            if self._error is not None:
                raise self._error
            rollouts, self._done = tuple(self._done), []
            return Taken(rollouts, self._busy_s)

    @property
    def is_idle(self) -> bool:
        """Whether all that was taken on is done."""
        with self._changed:
            return not self._steps

    def pause(self) -> None:
        """No step from now on until `resume`; one under way is waited for."""
        self.call(setattr, self, "_paused", True)

    def resume(self) -> None:
        def go_on() -> None:
            self._paused = False
            self._turn_later()

        self.call(go_on)

    def _turn_later(self) -> None:
        """Calls that came meanwhile have their turn before."""
        if self._steps and not (self._paused or self._turning or self._error):
            self._turning = True
            self._thread.submit(self._turn)

    def _turn(self) -> None:
        self._turning = False
        if self._paused:
            return
        begin = time.monotonic()
        rollouts: list[Rollout] = []
        steps: list[int] = []
        error: BaseException | None = None
        try:
            rollouts = self._stream.step()
            steps = [self._steps.pop(rollout.request_id) for rollout in rollouts]
        except BaseException as raised:  # it belongs to whoever waits for the responses
            error = raised
        with self._changed:
            self._busy_s += time.monotonic() - begin
            self._done += rollouts
            self._left.subtract(steps)
            self._error = error
            if rollouts or error:
                self._changed.notify_all()
        self._turn_later()
