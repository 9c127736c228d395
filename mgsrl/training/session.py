"""How one process's part of a run ends, or goes on: said once in `run.json`, and to the user."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ray.exceptions import RayError

from mgsrl.cluster.again import run_again
from mgsrl.cluster.signals import stopped_by, stopping
from mgsrl.errors import MgsrlError, RayDiedError, UserError, WorkerDiedError, one_line
from mgsrl.obs.run_record import finish_run_record, record_restart
from mgsrl.training.restart import Restarts
from mgsrl.training.run import Run


class GoOn(Exception):  # no error: the answer to one
    """The run goes on from a checkpoint after the error that is its cause."""


@dataclass
class Session:
    """What `run.json` will say of this process."""

    folder: Path
    first_step: int
    begin: float
    """By the monotonic clock."""
    restarts: Restarts
    note: Callable[[str], None]
    resume: str
    """`auto`, `never` or the path of a checkpoint: where this process began."""
    run: Run | None = None
    ran: bool = False
    """Whether the run was ever up in this process."""
    ray_death: Callable[[], str | None] = lambda: None
    """Whether one of Ray's own processes died, in a sentence."""
    ended: bool = False
    failed: bool = False
    """It ended by an error that was not Ray's death."""
    _leaving: threading.Lock = field(default_factory=threading.Lock)
    """The watch's thread and the main one may both have noticed that Ray died."""

    @contextmanager
    def recorded(self, *, last: bool = False) -> Iterator[None]:
        """An error inside ends the session, or is answered by `GoOn`.

        Args:
            last: nobody is left outside to go on.
        """
        try:
            yield
        except GoOn:
            raise
        except BaseException as error:
            if self.run is not None:
                self.ran = True
                self.run.journal.backlog.close()
                self.run.journal.trackers.close()
            death = self.ray_death()
            lost = death is not None and isinstance(error, MgsrlError | RayError)
            open_ = not self.ended and not last and death is None
            heals = open_ and self.restarts.may_heal(error, ran=self.ran)
            if not self.ended and stopping() and (lost or heals):
                # A signal waited for the end of the step, or killed what is missing now.
                self.note(f"told to stop, it does not begin again after: {one_line(error)}")
                self._record(KeyboardInterrupt())
                raise KeyboardInterrupt from error
            if heals and self._goes_on(error):
                self.run = None
                raise GoOn from error
            again = isinstance(error, RayDiedError) and bool(self.restarts.deaths)  # at its start
            self.failed |= not self.ended and death is None and not again
            self._record(error)
            if lost and death is not None:
                raise RayDiedError(death) from error  # an actor's loss is only its consequence
            if heals and isinstance(error, UserError):  # for want of a machine: nobody's mistake
                raise WorkerDiedError(str(error)) from error
            raise

    @property
    def step(self) -> int:
        """Steps done."""
        return self.run.step if self.run is not None else self.first_step

    def _goes_on(self, error: BaseException) -> bool:
        which = self.restarts.count(self.step)
        if which is None:
            self.note(self.restarts.too_many)
            return False
        begin = self.restarts.first_step()
        problem = f"{type(error).__name__}: {error}"
        self.note(f"{problem}\n  {which}: from step {begin}, {self.step} were done")
        self._write(
            lambda: record_restart(self.folder, step=self.step, from_step=begin, reason=problem)
        )
        self.first_step = begin
        return True

    def begin_again(self, reason: str = "") -> None:
        """Ray died. Where this process may be replaced, this does not return.

        Args:
            reason: what happened, where that was not said yet.
        """
        if not self.restarts.may_replace or self.failed or stopping():
            return
        with self._leaving:
            if reason:
                print(f"mgsrl: {reason}", file=sys.stderr)
            which = self.restarts.count(self.step)
            if which is None:
                print(f"mgsrl: {self.restarts.too_many}", file=sys.stderr)
                return
            print(f"mgsrl: it does so now ({which})", file=sys.stderr)
            own = self.restarts.has_own_checkpoint() or self.resume == "never"
            run_again({"deaths": self.restarts.deaths, "resume": "auto" if own else self.resume})

    def _record(self, error: BaseException) -> None:
        if isinstance(error, KeyboardInterrupt):
            self.end("interrupted", f"stopped by {stopped_by()}")
        else:
            self.fail(self.ray_death() or f"{type(error).__name__}: {error}")

    def fail(self, reason: str) -> None:
        """End as failed."""
        self.end("failed", reason)

    def end(self, status: str, error: str | None = None) -> None:
        """Write it down, unless it was."""
        with self._leaving:
            if self.ended:
                return
            self.ended = True
            self._write(
                lambda: finish_run_record(
                    self.folder,
                    status=status,
                    last_step=self.step,
                    error=error,
                    seconds=time.monotonic() - self.begin,
                )
            )

    def _write(self, write: Callable[[], object]) -> None:
        """A disk that does not take it must not hide the error."""
        try:
            write()
        except OSError as problem:
            print(f"mgsrl: run.json does not say how the run ended: {problem}", file=sys.stderr)
