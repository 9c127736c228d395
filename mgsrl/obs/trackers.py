"""Where a step's scalars and pictures go: `metrics.jsonl`, the console, TensorBoard (wandb:
`wandb_tracker`).

One protocol, one small class per tracker; a tracker knows nothing of the others. The packages
behind the optional ones are imported when such a tracker is made, not before: start-up time.
Left out: histograms and artefacts (the run folder and the report hold them).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from mgsrl.config.run import TrackersConfig
from mgsrl.errors import ConfigError, explain
from mgsrl.files.jsonl import dump_line, rewrite
from mgsrl.obs.console import Console
from mgsrl.obs.metrics import FILE as METRICS
from mgsrl.obs.wandb_tracker import WandbTracker


class Tracker(Protocol):
    """Receives the scalars of every step, and now and then held-out scores (those of step 0
    before any step, the others after the step's own) or a picture (a PNG file)."""

    def log(self, step: int, scalars: Mapping[str, float]) -> None: ...

    def evaluation(self, step: int, scalars: Mapping[str, float]) -> None: ...

    def image(self, step: int, name: str, path: Path) -> None: ...

    def close(self) -> None: ...


class JsonlTracker:
    """`metrics.jsonl`: one JSON object a step, flushed, so that a killed run keeps its steps.

    Lines of `next_step` and later are dropped first (atomically): a resumed run writes them anew.
    Non-finite values become null.
    """

    def __init__(self, run_dir: Path, next_step: int = 0) -> None:
        path = run_dir / METRICS
        run_dir.mkdir(parents=True, exist_ok=True)
        rewrite(path, lambda row: row.get("step", -1) < next_step)
        self._file = path.open("a", encoding="utf-8")

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        self._file.write(dump_line({"step": step, **scalars}))
        self._file.flush()

    def evaluation(self, step: int, scalars: Mapping[str, float]) -> None:
        """Nothing: `evaluations.jsonl` has them, and a step has one line."""

    def image(self, step: int, name: str, path: Path) -> None:
        """Nothing: the picture is in the run folder."""

    def close(self) -> None:
        self._file.close()


class ConsoleTracker:
    """One console line a step; the console itself belongs to the caller."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        self._console.step_line(step, scalars)

    def evaluation(self, step: int, scalars: Mapping[str, float]) -> None:
        """Nothing: whoever evaluates shows a line with the errors."""

    def image(self, step: int, name: str, path: Path) -> None:
        """Nothing: a console shows no pictures."""

    def close(self) -> None:
        """Nothing: whoever made the console closes it."""


class TensorBoardTracker:
    """TensorBoard event files under `tensorboard/`; steps of a resumed run replace the old ones.

    Raises:
        ConfigError: the optional package is not installed.
    """

    def __init__(self, run_dir: Path, next_step: int = 0) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ConfigError(
                explain(
                    "trackers.tensorboard needs a package that is not installed.",
                    expected="the package tensorboard",
                    found=str(error),
                    todo="pip install 'mgsrl[tensorboard]', or set trackers.tensorboard=false",
                )
            ) from error
        self._writer = SummaryWriter(str(run_dir / "tensorboard"), purge_step=next_step or None)

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def evaluation(self, step: int, scalars: Mapping[str, float]) -> None:
        self.log(step, scalars)

    def image(self, step: int, name: str, path: Path) -> None:
        from PIL import Image

        with Image.open(path) as picture:
            pixels = np.asarray(picture.convert("RGB"))
        self._writer.add_image(name, pixels, step, dataformats="HWC")
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class Trackers:
    """Several trackers as one; `close` closes all of them."""

    def __init__(self, trackers: Sequence[Tracker]) -> None:
        self._trackers = list(trackers)

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        for tracker in self._trackers:
            tracker.log(step, scalars)

    def evaluation(self, step: int, scalars: Mapping[str, float]) -> None:
        for tracker in self._trackers:
            tracker.evaluation(step, scalars)

    def image(self, step: int, name: str, path: Path) -> None:
        for tracker in self._trackers:
            tracker.image(step, name, path)

    def close(self) -> None:
        for tracker in self._trackers:
            tracker.close()


def make_trackers(
    config: TrackersConfig,
    run_dir: Path,
    *,
    console: Console,
    run_name: str,
    run_config: Mapping[str, Any],
    next_step: int = 0,
) -> Trackers:
    """The trackers that `config` asks for; `metrics.jsonl` always.

    `run_config` is the resolved configuration as plain values (wandb shows it); `next_step` is
    the first step this process will log.
    """
    trackers: list[Tracker] = [JsonlTracker(run_dir, next_step), ConsoleTracker(console)]
    if config.tensorboard:
        trackers.append(TensorBoardTracker(run_dir, next_step))
    if config.wandb != "disabled":
        trackers.append(
            WandbTracker(
                run_dir,
                mode=config.wandb,
                project=config.wandb_project,
                name=run_name,
                run_config=run_config,
                note=console.note,
            )
        )
    return Trackers(trackers)
