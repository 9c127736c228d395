"""Live progress for people: which stage the run is in, a bar with the time left, a line per step.

In a terminal one live line sits below the finished lines. In a plain log (no TTY) there are no
control characters: one line per stage of start-up and one per step.
Left out: tables that redraw, logging levels, the metrics that no one reads while waiting.
"""

import math
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TextIO

from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from mgsrl.obs.metrics import mean
from mgsrl.obs.terminal import output, reader_is_gone

# The time left is extrapolated from the steps of the last half hour.
ETA_WINDOW_S = 1800.0


class Console:
    """Progress of a run of `total_steps` steps; `first_step` steps were done before (resume).

    `enabled=False` silences everything but notes. Steps count from 1: step 7 is the seventh.
    """

    def __init__(
        self, enabled: bool, total_steps: int, *, first_step: int = 0, file: TextIO | None = None
    ) -> None:
        self._enabled = enabled
        self._total = total_steps
        self._out = output(file)
        self._live = enabled and self._out.is_terminal
        self._begin = self._last = time.monotonic()
        self._durations: list[float] = []
        self.seconds_outside: dict[str, float] = {}
        """Seconds of each stage outside the steps so far."""
        self._progress: Progress | None = None
        self._label = "starting"
        if self._live:
            self._progress = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                TextColumn("{task.completed:.0f}/{task.total:.0f}"),
                TimeRemainingColumn(elapsed_when_finished=True),
                console=self._out,
                speed_estimate_period=ETA_WINDOW_S,
                refresh_per_second=4,
            )
            self._task = self._progress.add_task(
                "starting", total=total_steps, completed=first_step
            )
            self._progress.start()

    def __enter__(self) -> "Console":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @contextmanager
    def stage(self, text: str, *, step: int | None = None) -> Iterator[None]:
        """Show `text` while the block runs; with `step` it is a stage of that step.

        A stage outside the steps (start-up, evaluation) also leaves a line: when it starts in a
        plain log, so that the log says what is being waited for; when it ends in a terminal,
        with its duration.
        """
        inside_step = step is not None
        label = f"step {step}/{self._total} | {text}" if inside_step else text
        begin = time.monotonic()
        self._label = label
        if self._progress is not None:
            self._progress.update(self._task, description=label)
        elif self._enabled and not inside_step:
            self._print(f"[{_clock(begin - self._begin)}] {text}")
        yield
        seconds = time.monotonic() - begin
        if not inside_step:
            self.seconds_outside[text] = self.seconds_outside.get(text, 0.0) + seconds
        if self._progress is not None and not inside_step:
            self._print(Text.assemble(("✓ ", "green"), text, (f"  {seconds:.0f} s", "dim")))
        if not inside_step:
            self._last = time.monotonic()

    def progress(self, done: int, total: int) -> None:
        """How far the current stage is, e.g. responses generated; shown in a terminal only."""
        if self._progress is not None:
            self._progress.update(self._task, description=f"{self._label} {done}/{total}")

    def step_line(self, step: int, scalars: Mapping[str, float]) -> None:
        """One line for a finished step (`step_text`), in a plain log with the time left."""
        if not self._enabled:
            return
        now = time.monotonic()
        self._durations = [*self._durations[-9:], now - self._last]
        self._last = now
        if self._progress is not None:
            self._progress.update(self._task, completed=step)
            self._print(step_text(step, self._total, scalars))
        else:
            mean_s = sum(self._durations) / len(self._durations)
            left = _clock(mean_s * (self._total - step))
            line = step_text(step, self._total, scalars).plain
            self._print(f"[{_clock(now - self._begin)}] {line} | {left} left")

    def note(self, text: str) -> None:
        """A line of its own, shown even when the console is off: the user should read it."""
        self._print(Text(text) if not self._live else Text.assemble(("• ", "yellow"), text))

    def show(self, table: Table) -> None:
        """A table between the finished lines."""
        if self._enabled:
            self._write(table)

    @property
    def width(self) -> int:
        """Characters of a line; very many where nothing is wrapped."""
        return int(self._out.width)

    def close(self) -> None:
        """Stop the live line; finished lines stay. Safe to call twice."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def _print(self, line: str | Text) -> None:
        # Text, not markup: rewards and file names may hold square brackets
        self._write(line if isinstance(line, Text) else Text(line))

    def _write(self, item: Text | Table) -> None:
        """Print `item`. What reads or holds the lines may go away (`| head`, a log on a full
        disk); the run goes on without them, all of it is in the run folder."""
        try:
            self._out.print(item)
            self._out.file.flush()
        except BrokenPipeError:
            if not reader_is_gone():
                raise
        except OSError:
            pass


def step_text(step: int, total: int, scalars: Mapping[str, float]) -> Text:
    """`step  7/30 | reward math 0.450 chat 0.310 | live 88% cut 3% clip 0% | loss 0.012 grad 0.71
    lr 2e-04 | conflicts 12% kl 0.0020 | 4.7 s`; what is unknown is left out.

    `live`, `cut` and `loss` are means over domains, `kl` is the largest of them. The names are
    those of `docs/metrics.md`, shortened.
    """
    width = len(str(total))
    text = Text.assemble((f"step {step:>{width}}/{total}", "bold"), " | reward")
    for name, value in _family(scalars, "reward").items():
        text.append(f" {name} ")
        text.append(f"{value:.3f}", style="cyan")
    kls = [v for v in _family(scalars, "kl").values() if math.isfinite(v)]
    groups = (
        (
            ("live", mean(_family(scalars, "live_groups").values()), ".0%"),
            ("cut", mean(_family(scalars, "cut_at_limit").values()), ".0%"),
            ("clip", scalars.get("clip_fraction"), ".0%"),
        ),
        (
            ("loss", mean(_family(scalars, "loss").values()), ".2g"),
            ("grad", scalars.get("grad_norm"), ".2g"),
            ("lr", scalars.get("learning_rate"), ".1e"),
        ),
        (
            ("conflicts", scalars.get("surgery/conflict_rate"), ".0%"),
            ("kl", max(kls, default=None), ".4f"),
        ),
    )
    parts = [_known(group) for group in groups]
    if share := scalars.get("skipped"):
        which = "SKIPPED" if share == 1 else f"{share:.0%} of the updates SKIPPED"
        parts.append(f"{which} (no finite update)")
    if math.isfinite(scalars.get("time/total", math.nan)):
        parts.append(f"{scalars['time/total']:.1f} s")
    for part in filter(None, parts):
        text.append(f" | {part}")
    return text


def _known(group: Iterable[tuple[str, float | None, str]]) -> str:
    """`name value` of those that are known."""
    return " ".join(
        f"{name} {value:{form}}"
        for name, value, form in group
        if value is not None and math.isfinite(value)
    )


def _family(scalars: Mapping[str, float], family: str) -> dict[str, float]:
    prefix = f"{family}/"
    return {key.removeprefix(prefix): v for key, v in scalars.items() if key.startswith(prefix)}


def _clock(seconds: float) -> str:
    """`m:ss`, or `h:mm:ss` from an hour on."""
    hours, rest = divmod(int(seconds), 3600)
    minutes, secs = divmod(rest, 60)
    return f"{hours}:{minutes:02d}:{secs:02d}" if hours else f"{minutes}:{secs:02d}"
