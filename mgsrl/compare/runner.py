"""Runs the cells that are missing, one `mgsrl train` process each, some at a time.

Every process is in a session of its own and gets no terminal: only this one hears Ctrl-C, and tells
them (SIGTERM), upon which each saves its last whole step. Should this process be killed, they are
told by the kernel (Linux), and the next command waits until they have saved and gone. What a run
says goes to `logs/CELL.log`. A cell that fails is reported and the others go on; the next command
tries it again.

On a machine with GPUs the runs of several jobs share nothing: each gets an equal part of the GPUs.
Left out: retrying inside one command (`mgsrl train` begins again by itself where that helps), and
several machines (`slurm.py`).
"""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from mgsrl.cluster.preflight import has_gpu_device
from mgsrl.compare.cells import Cell, Standing, read_plan, standing, write_plan
from mgsrl.errors import ConfigError
from mgsrl.report.tables import seconds_text
from mgsrl.training.lock import is_held, locked, writable

POLL_S = 0.5
TOLD_EVERY_S = 60.0
"""Between two lines on how far the running cells are, where no terminal shows it."""
LEAVE_S = 60.0
"""Beside `checkpoint.grace_s`: what a run that was told to stop may take for its actors."""
LAST_S = 20.0
"""For a run that was told twice."""
LAST_LINES = 12
"""Of what a run said, in which the message that ended it is looked for."""
PR_SET_PDEATHSIG = 1


@dataclass
class Running:
    """A cell's process."""

    cell: Cell
    process: "subprocess.Popen[bytes]"
    log: Path
    slot: int
    log_begin: int
    begin: float = field(default_factory=time.monotonic)


@dataclass(frozen=True)
class Outcome:
    """What became of a cell."""

    cell: Cell
    standing: Standing
    code: int | None = None
    """Exit code of the process; None when there was nothing to do."""
    error: str = ""
    """Why it failed; empty when it is finished."""
    seconds: float = 0.0

    @property
    def finished(self) -> bool:
        return self.standing.state == "finished"


def run_cells(
    cells: Sequence[Cell],
    *,
    planned: Sequence[Cell] = (),
    jobs: int = 1,
    note: Callable[[str], None] = print,
    show: Callable[[str], None] | None = None,
) -> list[Outcome]:
    """Run what is missing of `cells` (all in one folder); an outcome for each cell, in their order.

    Args:
        planned: all cells of the folder's plan, where `cells` are some of them.
        jobs: processes at a time.
        note: takes a line whenever a cell begins or ends.
        show: takes a line on how far it is, twice a second; without it `note` gets one a minute.

    Raises:
        ConfigError: another process runs this comparison, its folder cannot be written, or there
            are fewer GPUs than jobs.
        KeyboardInterrupt: a signal; the processes have ended by then.
    """
    folder = cells[0].dir.parent
    with ExitStack() as stack:
        with writable("compare.dir"):
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(folder, note, key="compare.dir"))
        return _Runner(cells, planned or cells, folder, jobs, note, show).run()


class _Runner:
    def __init__(
        self,
        cells: Sequence[Cell],
        planned: Sequence[Cell],
        folder: Path,
        jobs: int,
        note: Callable[[str], None],
        show: Callable[[str], None] | None,
    ) -> None:
        self.cells, self.planned, self.folder = cells, planned, folder
        self.note, self.show = note, show
        self.jobs = jobs
        self.slots: list[str | None] = []
        self.running: list[Running] = []
        self.outcomes: dict[str, Outcome] = {}
        self.attempts: dict[str, Any] = read_plan(folder).get("cells", {})
        self._told = time.monotonic()
        self._held: dict[str, float] = {}

    def run(self) -> list[Outcome]:
        waiting = []
        for cell in self.cells:
            found = standing(cell)
            if found.state == "finished":
                self.outcomes[cell.name] = Outcome(cell, found)
            else:
                waiting.append(cell)
        jobs = max(min(self.jobs, len(waiting)), 1)
        self.slots = gpu_slots(jobs) if any(map(_wants_gpus, waiting)) else [None] * jobs
        self._note_others()
        write_plan(self.folder, self.planned, self.attempts)
        if self.outcomes:
            self.note(f"{len(self.outcomes)} of {len(self.cells)} runs are there already")
        try:
            while waiting or self.running:
                ready = (cell for cell in waiting if not self._is_left(cell))
                for cell in list(islice(ready, len(self.slots) - len(self.running))):
                    waiting.remove(cell)
                    if cell.name in self._held and standing(cell).state == "finished":
                        self.outcomes[cell.name] = Outcome(cell, standing(cell))
                    else:
                        self._start(cell)
                time.sleep(POLL_S)
                self._collect()
                self._tell(waiting)
        except BaseException:
            self._stop()
            raise
        return [self.outcomes[cell.name] for cell in self.cells]

    def _note_others(self) -> None:
        planned = {cell.name for cell in self.planned}
        if others := [name for name in self.attempts if name not in planned]:
            self.note(
                f"{self.folder} has {len(others)} more runs of an earlier command, which this one "
                f"leaves out ({others[0]}{', ...' if len(others) > 1 else ''}): for a page of all, "
                "give it their strategies, axes and seeds as well"
            )

    def _is_left(self, cell: Cell) -> bool:
        """Whether the run that a killed comparison left is still at its end in the cell's folder.
        Longer than it may take, nobody waits: the cell's own process says who has the folder."""
        if not is_held(cell.dir):
            return False
        if cell.name not in self._held:
            self._held[cell.name] = time.monotonic()
            self.note(f"{cell.name} waits: another process has its folder")
        limit_s = cell.config.checkpoint.grace_s + LEAVE_S
        return time.monotonic() - self._held[cell.name] < limit_s

    def _start(self, cell: Cell) -> None:
        logs = self.folder / "logs"
        logs.mkdir(exist_ok=True)
        path = logs / f"{cell.name}.log"
        taken = {each.slot for each in self.running}
        slot = next(i for i in range(len(self.slots)) if i not in taken)
        gpus = self.slots[slot]
        environment = os.environ | ({"CUDA_VISIBLE_DEVICES": gpus} if gpus is not None else {})
        command = [sys.executable, "-m", "mgsrl.cli", *cell.command[1:]]
        with path.open("ab") as log:
            begin = log.tell()
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
                preexec_fn=_end_with_parent,
            )
        self.running.append(Running(cell, process, path, slot, begin))
        found = standing(cell)
        how = "goes on" if found.state == "begun" else "begins"
        self.note(f"{cell.name} {how}{f' after {found.steps} steps' if found.steps else ''}")

    def _collect(self) -> None:
        for each in [each for each in self.running if each.process.poll() is not None]:
            self.running.remove(each)
            self._ended(each)

    def _ended(self, each: Running) -> None:
        cell, code = each.cell, each.process.returncode
        found = standing(cell)
        error = "" if code == 0 else _reason(each, code) or found.error
        if code == 0 and found.state != "finished":
            error = f"it ended with {found.steps} of {cell.config.train.num_steps} steps"
        seconds = time.monotonic() - each.begin
        self.outcomes[cell.name] = Outcome(cell, found, code, error, seconds)
        before = self.attempts.get(cell.name, {}).get("attempts", 0)
        entry = {"attempts": before + 1, "exit": code, "error": error or None}
        self.attempts[cell.name] = entry
        write_plan(self.folder, self.planned, self.attempts)
        done = sum(outcome.finished for outcome in self.outcomes.values())
        where = f"[{done}/{len(self.cells)}]"
        if error:
            self.note(f"{where} {cell.name} FAILED: {error}\n    {each.log}")
        else:
            self.note(f"{where} {cell.name} finished in {seconds_text(seconds)}")

    def _tell(self, waiting: Sequence[Cell]) -> None:
        line = ", ".join(
            f"{each.cell.name} {standing(each.cell).steps}/{each.cell.config.train.num_steps}"
            for each in self.running
        )
        if self.show is not None:
            self.show(f"{line}{self._left(waiting)}")
        elif self.running and time.monotonic() - self._told >= TOLD_EVERY_S:
            self._told = time.monotonic()
            self.note(f"    {line}{self._left(waiting)}")

    def _left(self, waiting: Sequence[Cell]) -> str:
        """How many wait, and how long it takes at the pace of those that ended here."""
        took = [o.seconds for o in self.outcomes.values() if o.finished and o.code is not None]
        if not took:
            return f"; {len(waiting)} wait" if waiting else ""
        mean = sum(took) / len(took)
        begun = sum(max(mean - (time.monotonic() - each.begin), 0) for each in self.running)
        left = (begun + mean * len(waiting)) / len(self.slots)
        return f"; {len(waiting)} wait, about {seconds_text(left)} left"

    def _stop(self) -> None:
        """Tell all processes to end, and wait for them; a second signal hurries them."""
        if not self.running:
            return
        limit_s = max(each.cell.config.checkpoint.grace_s for each in self.running) + LEAVE_S
        names = ", ".join(each.cell.name for each in self.running)
        self.note(f"stopping {names}: at most {limit_s:.0f} s; the same command goes on from there")
        try:
            self._tell_to_end(limit_s)
        except KeyboardInterrupt:
            self._tell_to_end(LAST_S)
        finally:
            for each in [each for each in self.running if each.process.poll() is None]:
                with suppress(OSError):
                    os.killpg(each.process.pid, signal.SIGKILL)
                each.process.wait()
            write_plan(self.folder, self.planned, self.attempts)

    def _tell_to_end(self, limit_s: float) -> None:
        end = time.monotonic() + limit_s
        for each in self.running:
            with suppress(OSError):
                each.process.terminate()
        while any(each.process.poll() is None for each in self.running):
            if time.monotonic() > end:
                return
            time.sleep(POLL_S)


def gpu_slots(jobs: int) -> list[str | None]:
    """What `CUDA_VISIBLE_DEVICES` each of `jobs` processes gets; None leaves it as it is.

    Raises:
        ConfigError: there are fewer GPUs than jobs.
    """
    if jobs == 1 or not has_gpu_device():
        return [None] * jobs
    devices = sorted(path.name.removeprefix("nvidia") for path in Path("/dev").glob("nvidia[0-9]*"))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = devices if visible is None else [name for name in visible.split(",") if name.strip()]
    if len(names) < jobs:
        raise ConfigError(
            "--jobs is more than there are GPUs.",
            expected=f"at most {max(len(names), 1)}: every run has GPUs of its own",
            found=f"--jobs {jobs}",
            todo=f"--jobs {max(len(names), 1)}",
        )
    share = len(names) // jobs
    return [",".join(names[i * share : (i + 1) * share]) for i in range(jobs)]


def _wants_gpus(cell: Cell) -> bool:
    rewards = (domain.reward.num_gpus for domain in cell.config.domains.values())
    return cell.config.learner.device != "cpu" or any(rewards)


_libc = ctypes.CDLL(None) if sys.platform == "linux" else None
"""Loaded before a fork: between fork and exec nothing may be."""


def _end_with_parent() -> None:
    if _libc is not None:
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _reason(each: Running, code: int) -> str:
    """The last message of mgsrl in what this attempt wrote, its problem and what was found."""
    with suppress(OSError), each.log.open("rb") as file:
        file.seek(each.log_begin)
        text = file.read().decode(errors="replace")
        lines = [line.strip() for line in text.splitlines() if line.strip()][-LAST_LINES:]
        starts = [i for i, line in enumerate(lines) if line.startswith("mgsrl: ")]
        if starts:
            told = lines[starts[-1] : starts[-1] + 4]
            found = [line for line in told[1:] if line.startswith("found:")]
            return " ".join(" ".join([told[0].removeprefix("mgsrl: "), *found]).split())
        if lines:
            return f"exit code {code}: {lines[-1]}"
    return f"exit code {code}" if code >= 0 else f"killed by {signal.Signals(-code).name}"
