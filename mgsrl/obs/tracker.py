"""What a tracker is, and how one that others wrote is kept from harming the run.

    class Mine(Tracker):                                    # mylab/trackers.py
        def __init__(self, run: TrackedRun) -> None: ...
        def log(self, step, scalars): ...

    mgsrl train trackers.also=[mylab.trackers:Mine]

`mgsrl.testing.check_tracker` tries one without a training.
Left out: histograms and artefacts (the run folder and the report hold them).
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from mgsrl.errors import one_line

START_LIMIT_S = 120.0
CALL_LIMIT_S = 30.0
CLOSE_LIMIT_S = 60.0


@dataclass(frozen=True, slots=True)
class TrackedRun:
    """What a tracker is made of."""

    folder: Path
    """The run folder; it exists."""
    name: str = "run"
    config: Mapping[str, Any] = field(default_factory=dict)
    """The resolved configuration as plain values."""
    next_step: int = 1
    """The first step that will be logged; above 1 when the run goes on."""
    note: Callable[[str], None] = print
    """Says a line on the console."""
    last_step: int = 0
    """The last step that was logged before: from `next_step` to it they are done again."""


class Tracker:
    """Receives what a run measures; each method does nothing unless a tracker overrides it.

    Steps count from 1 and ascend. One thread makes all calls, also the constructor's.
    """

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        """The scalars of a step (docs/metrics.md); some may be NaN."""

    def evaluation(self, step: int, scalars: Mapping[str, float]) -> None:
        """Held-out scores: those of step 0 before any step, the others after the step's own."""

    def completions(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """A few responses of the step: rows with the keys `completions.COLUMNS`."""

    def image(self, step: int, name: str, path: Path) -> None:
        """A picture, a PNG file."""

    def close(self) -> None:
        """The last call; there is none after a crash."""


class Trackers(Tracker):
    """Several as one: `own`, whose errors are the run's, then `guests`, which only show it."""

    def __init__(self, own: Sequence[Tracker] = (), guests: Sequence["Guest"] = ()) -> None:
        self._own, self._guests = tuple(own), tuple(guests)

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        self._each(step, lambda tracker: tracker.log(step, scalars))

    def evaluation(self, step: int, scalars: Mapping[str, float]) -> None:
        self._each(step, lambda tracker: tracker.evaluation(step, scalars))

    def completions(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        self._each(step, lambda tracker: tracker.completions(step, rows))

    def image(self, step: int, name: str, path: Path) -> None:
        self._each(step, lambda tracker: tracker.image(step, name, path))

    def close(self) -> None:
        for tracker in self._own:
            tracker.close()
        for guest in self._guests:
            guest.close()

    def _each(self, step: int, call: Callable[[Tracker], None]) -> None:
        for tracker in self._own:
            call(tracker)
        for guest in self._guests:
            guest.send(step, call)


class Guest:
    """A tracker that may show the run, never slow it down, hang it or end it.

    Every call has a time limit. The first that fails is told in one line, and is the last.
    """

    def __init__(self, name: str, make: Callable[[], Tracker], note: Callable[[str], None]) -> None:
        self._name, self._note = name, note
        self._bounded = Bounded(name)
        problem, self._tracker = self._bounded(make, START_LIMIT_S)
        if problem is None and not isinstance(self._tracker, Tracker):
            problem, self._tracker = f"it is a {type(self._tracker).__name__}, no Tracker", None
        if problem is not None:
            note(f"{name}: off for this run ({problem}). metrics.jsonl has everything.")

    def send(self, step: int, call: Callable[[Tracker], None]) -> None:
        """Make a call that belongs to `step`."""
        tracker = self._tracker
        if tracker is None:
            return
        problem, _ = self._bounded(lambda: call(tracker), CALL_LIMIT_S)
        if problem is not None:
            self._tracker = None
            self._note(f"{self._name}: stopped at step {step} ({problem}). metrics.jsonl goes on.")

    def close(self) -> None:
        tracker, self._tracker = self._tracker, None
        if tracker is not None:
            problem, _ = self._bounded(tracker.close, CLOSE_LIMIT_S)
            if problem is not None:
                self._note(f"{self._name}: not everything may have arrived ({problem}).")


class Bounded:
    """Makes calls in one thread of its own (libraries keep state by thread), each of them for at
    most so many seconds: `(problem or None, result)`.

    A call that does not come back is left behind, and all that follow wait for it in vain; as a
    daemon the thread cannot keep the process alive.
    """

    def __init__(self, name: str) -> None:
        self._calls: SimpleQueue[tuple[Callable[[], Any], SimpleQueue[Any]]] = SimpleQueue()
        threading.Thread(target=self._work, daemon=True, name=f"tracker {name}").start()

    def __call__(self, call: Callable[[], Any], limit_s: float) -> tuple[str | None, Any]:
        outcome: SimpleQueue[tuple[str | None, Any]] = SimpleQueue()
        self._calls.put((call, outcome))
        try:
            return outcome.get(timeout=limit_s)
        except Empty:
            return f"no answer within {limit_s:.0f} s", None

    def _work(self) -> None:
        while True:
            call, outcome = self._calls.get()
            try:
                outcome.put((None, call()))
            # Anything, `sys.exit` too: a guest's defect must not end hours of training.
            # It is not swallowed; the caller tells the user.
            except BaseException as error:
                outcome.put((f"{type(error).__name__}: {one_line(error)}", None))
