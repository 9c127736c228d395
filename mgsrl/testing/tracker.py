"""What holds for trackers: whatever a run sends them, they neither fail nor hang.

Left out: what arrives where a tracker sends it; only you know how to look.
"""

import base64
import math
import tempfile
from collections.abc import Callable
from pathlib import Path

from mgsrl.obs.completions import COLUMNS
from mgsrl.obs.tracker import Guest, TrackedRun, Tracker, Trackers
from mgsrl.obs.trackers import own_tracker
from mgsrl.testing.demand import demand

PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
"""The smallest PNG picture."""
HOSTILE = "[bold]# A |table| of\n\n```code``` \x1b[31m\u202e 中文 \U0001f600"
"""What a response may hold."""


def check_tracker(
    tracker: str | Callable[[TrackedRun], Tracker], folder: Path | None = None
) -> None:
    """Give a tracker what a run would: two steps, then a resumption that does the second again.

    Args:
        tracker: its name, as in `trackers.also`, or the class.
        folder: an empty run folder; None takes a temporary one.

    Raises:
        ContractError: it is no Tracker, an exception, or a call that took longer than a run waits.
        ConfigError: it cannot be found or called.
    """
    if folder is None:
        with tempfile.TemporaryDirectory() as temporary:
            return check_tracker(tracker, Path(temporary))
    make = own_tracker(tracker) if isinstance(tracker, str) else tracker
    picture = folder / "picture.png"
    picture.write_bytes(PIXEL)
    for next_step, last_step in ((1, 0), (2, 2)):
        run = TrackedRun(folder, "check", {"seed": 0}, next_step, _fail, last_step)
        _live(make, run, picture)
    return None


def _live(make: Callable[[TrackedRun], Tracker], run: TrackedRun, picture: Path) -> None:
    tracker = Trackers(guests=[Guest("tracker", lambda: make(run), _fail)])
    if run.next_step == 1:
        tracker.evaluation(0, {"evaluate/reward/math": 0.25})
    for step in range(run.next_step, 3):
        tracker.log(step, {"reward/math": 0.5, "kl/math": math.nan, "loss/math": math.inf})
        row = dict(zip(COLUMNS, (step, "math", HOSTILE, HOSTILE, 1.0, 0.5, 7, "stop"), strict=True))
        tracker.completions(step, [row, {**row, "response": "", "reward": None, "advantage": None}])
        tracker.evaluation(step, {"evaluate/reward/math": math.nan})
        tracker.image(step, "surgery/heat_map", picture)
    tracker.close()


def _fail(line: str) -> None:
    demand(False, "The tracker", "no call fails or hangs", line)
