"""Wall-clock seconds per stage of a training step; the stages and `other` sum to the step.

Left out: nested or overlapping stages. A second counted twice would make the shares add up to
more than the step, so a stage inside a stage is an error here rather than a puzzle in a plot.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mgsrl.errors import InvariantError

STAGES = ("rollout", "reward", "logprob", "backward", "surgery", "step", "sync")
RARE_STAGES = ("probe",)
"""Not logged on steps without them."""


class StageTimers:
    """Times the stages of one step after the other; a stage may be entered more than once.

    A step begins at `start_step`, or else where the last one finished (or at construction).
    Call `start_step` after work that belongs to no step, such as an evaluation.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._running: str | None = None
        self.start_step()

    def start_step(self) -> None:
        """Forget what was measured and begin a step now."""
        self._assert_idle("a step started")
        self._seconds = dict.fromkeys(STAGES, 0.0)
        self._begin = self._clock()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the block's duration to stage `name`, also when the block raises.

        Raises:
            InvariantError: an unknown stage, or a stage is already running.
        """
        if name not in (*STAGES, *RARE_STAGES):
            raise InvariantError(f"unknown stage {name!r}; stages are {', '.join(STAGES)}")
        self._assert_idle(f"stage {name!r} started")
        self._running = name
        begin = self._clock()
        try:
            yield
        finally:
            self._seconds[name] = self._seconds.get(name, 0.0) + self._clock() - begin
            self._running = None

    def finish_step(self) -> dict[str, float]:
        """End the step: `time/<stage>` of every stage (of a rare one if it was entered),
        `time/other` and `time/total`, in seconds.

        `time/step` is the stage `step` (the optimizer's); `time/other` is what lies between the
        stages, so that all of them sum to `time/total`. The next step begins here.
        """
        self._assert_idle("the step finished")
        total = self._clock() - self._begin
        # Rounding can leave a sum a hair above the total: never report a negative duration.
        other = max(0.0, total - sum(self._seconds.values()))
        times = {f"time/{name}": seconds for name, seconds in self._seconds.items()}
        self.start_step()
        return {**times, "time/other": other, "time/total": total}

    def _assert_idle(self, what: str) -> None:
        if self._running is not None:
            raise InvariantError(f"{what} inside stage {self._running!r}; stages do not nest")
