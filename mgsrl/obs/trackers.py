"""Where scalars, responses and pictures go: `metrics.jsonl`, the console, TensorBoard, wandb and
trackers of the user's own.

One small class each, which knows nothing of the others (`tracker.py` says what a tracker is). The
packages behind the optional ones are imported when such a tracker is wanted: start-up time.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from mgsrl.config.training import TrackersConfig
from mgsrl.errors import ConfigError
from mgsrl.files.backlog import Backlog, append_whole
from mgsrl.files.jsonl import dump_line, rewrite
from mgsrl.obs.completions import as_markdown
from mgsrl.obs.console import Console
from mgsrl.obs.metrics import FILE as METRICS
from mgsrl.obs.tracker import Guest, TrackedRun, Tracker, Trackers
from mgsrl.obs.wandb_tracker import WandbTracker, wandb_mode
from mgsrl.plugins import Registry, check_signature

TRACKERS = Registry("tracker", "mgsrl.trackers", {})
"""The user's own; ours have keys of their own."""


class JsonlTracker(Tracker):
    """`metrics.jsonl`: one JSON object a step, flushed, so that a killed run keeps its steps.

    Lines of `next_step` and later are dropped first (atomically): a resumed run writes them anew.
    Non-finite values become null. `timestamp` is in seconds since 1970 (UTC). What the disk does
    not take waits in `backlog`; without one it is an error.
    """

    def __init__(self, run_dir: Path, next_step: int = 0, backlog: Backlog | None = None) -> None:
        self._path, self._backlog = run_dir / METRICS, backlog
        run_dir.mkdir(parents=True, exist_ok=True)
        rewrite(self._path, lambda row: row.get("step", -1) < next_step)
        self._path.touch()

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        row = {"step": step, "timestamp": round(time.time(), 3), **scalars}
        write = partial(append_whole, self._path, dump_line(row).encode())
        if self._backlog is None:
            write()
        else:
            self._backlog.add(METRICS, write)


class ConsoleTracker(Tracker):
    """One console line a step; the console itself belongs to the caller."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        self._console.step_line(step, scalars)


class TensorBoardTracker(Tracker):
    """TensorBoard event files under `tensorboard/`; steps of a resumed run replace the old ones.

    Its library writes in a thread. What ends that one is raised by `flush`: only this is told.
    """

    def __init__(self, run: TrackedRun) -> None:
        from torch.utils.tensorboard import SummaryWriter

        before = threading.excepthook

        def told_by_flush(args: threading.ExceptHookArgs) -> None:
            if not type(args.thread).__module__.startswith("tensorboard."):
                before(args)

        self._excepthook, threading.excepthook = before, told_by_flush
        folder = run.folder / "tensorboard"
        first = run.next_step if run.next_step > 1 else 0  # an evaluation is before the first step
        self._writer = SummaryWriter(str(folder), purge_step=first)

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def evaluation(self, step: int, scalars: Mapping[str, float]) -> None:
        self.log(step, scalars)

    def completions(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        for domain in dict.fromkeys(row["domain"] for row in rows):
            text = as_markdown([row for row in rows if row["domain"] == domain])
            self._writer.add_text(f"completions/{domain}", text, step)
        self._writer.flush()

    def image(self, step: int, name: str, path: Path) -> None:
        import numpy as np
        from PIL import Image

        with Image.open(path) as picture:
            pixels = np.asarray(picture.convert("RGB"))
        self._writer.add_image(name, pixels, step, dataformats="HWC")
        self._writer.flush()

    def close(self) -> None:
        threading.excepthook = self._excepthook
        self._writer.close()


def own_tracker(name: str) -> Callable[[TrackedRun], Tracker]:
    """What makes the user's tracker `name`.

    Raises:
        ConfigError: it cannot be found, or cannot be a tracker.
    """
    found: Callable[[TrackedRun], Tracker] = TRACKERS.load(name, "trackers.also")
    check_signature(found, (None,), "trackers.also", f"{name}(run), a TrackedRun")
    if isinstance(found, type) and not issubclass(found, Tracker):
        raise ConfigError(
            "trackers.also names a class that is no tracker.",
            expected="a subclass of mgsrl.obs.tracker.Tracker",
            found=name,
            todo=f"write class {found.__name__}(Tracker)",
        )
    return found


def check_trackers(config: TrackersConfig) -> None:
    """Raise ConfigError for a tracker that cannot be: of the user's, or without its package."""
    for name in config.also:
        own_tracker(name)
    if config.tensorboard:
        try:
            import torch.utils.tensorboard  # noqa: F401
        except ImportError as error:
            raise ConfigError(
                "trackers.tensorboard needs a package that is not installed.",
                expected="the package tensorboard",
                found=str(error),
                todo="pip install 'mgsrl[tensorboard]', or set trackers.tensorboard=false",
            ) from error


def make_trackers(
    config: TrackersConfig, run: TrackedRun, console: Console, backlog: Backlog | None = None
) -> Trackers:
    """The trackers that `config` asks for (`check_trackers`); `metrics.jsonl` always."""
    guests: dict[str, Callable[[TrackedRun], Tracker]] = {}
    if config.tensorboard:
        guests["tensorboard"] = TensorBoardTracker
    mode = wandb_mode(config.wandb)
    if mode != "disabled":
        guests["wandb"] = partial(WandbTracker, config=config, mode=mode)
    guests |= {name: own_tracker(name) for name in config.also}
    return Trackers(
        [JsonlTracker(run.folder, run.next_step, backlog), ConsoleTracker(console)],
        [Guest(name, partial(make, run), run.note) for name, make in guests.items()],
    )
