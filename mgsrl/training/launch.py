"""One training run: from the checked configuration to the report."""

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import TypeVar

from ray.exceptions import RayError

from mgsrl.cluster.session import ray_session
from mgsrl.cluster.signals import stopped_by
from mgsrl.config import Config
from mgsrl.config.compose import config_from_yaml, config_to_yaml
from mgsrl.config.resume import Change, other_data_allowed, resume_changes
from mgsrl.errors import MgsrlError, RayDiedError, disk_problem, one_line
from mgsrl.obs.console import Console
from mgsrl.obs.run_record import begin_run_record, changed_plugins, finish_run_record
from mgsrl.plugins import plugin_files
from mgsrl.report.extra import INSTALL, can_draw
from mgsrl.report.page import build_report
from mgsrl.training.build import build, first_checkpoint_bytes
from mgsrl.training.checkpoint import Checkpoint, check_disk, checkpoint_bytes
from mgsrl.training.fingerprint import PolicyIdentity
from mgsrl.training.folder import bring_back_config, run_folder, write_config
from mgsrl.training.interrupt import interruptible, last_step_saved
from mgsrl.training.loop import train
from mgsrl.training.machine import check_fits
from mgsrl.training.plan import plan
from mgsrl.training.run import Run

T = TypeVar("T")
NO_REPORT = f"report not written: {INSTALL}"


def launch(config: Config, command: Sequence[str] = ()) -> None:
    """Train (or go on training) and write the report; the last line says where it is.

    Args:
        command: the command line that does the same, for `run.json` and for how to go on.
    """
    begin = time.monotonic()
    # Absolute from here on: actors have working directories of their own.
    config.run.dir = str(Path(os.path.expanduser(config.run.dir)).resolve())
    folder, notes, changed = Path(config.run.dir), list[str](), list[Change]()

    def changes(saved: Path) -> list[Change]:
        old = config_from_yaml(saved)
        config.policy.date = config.policy.date or old.policy.date  # a run keeps its first day
        changed[:] = resume_changes(old, config)
        return changed

    with run_folder(folder, config.resume.checkpoint, changes, notes.append) as checkpoint:
        config.policy.date = config.policy.date or date.today().isoformat()
        for note in notes:
            print(note)
        if checkpoint is not None and checkpoint.step >= config.train.num_steps:
            bring_back_config(folder, checkpoint)
            print(f"{folder} is finished ({checkpoint.step} steps); resume=never starts it anew")
        else:
            with interruptible(folder, command):
                _train(config, checkpoint, begin, command, changed)
        report = _report(folder)
    print(f"done in {(time.monotonic() - begin) / 60:.1f} min; {report}")


def _report(folder: Path) -> str:
    """Where the report is, or why there is none: the run is done all the same."""
    try:
        return f"report: {build_report(folder).resolve()}" if can_draw() else NO_REPORT
    except OSError as error:
        return f"report not written: {disk_problem(error) or one_line(error)}"


def _train(
    config: Config,
    checkpoint: Checkpoint | None,
    begin: float,
    command: Sequence[str],
    changed: Sequence[Change] = (),
) -> None:
    first_step = checkpoint.step if checkpoint else 0
    folder = Path(config.run.dir)
    with Console(config.trackers.console, config.train.num_steps, first_step=first_step) as console:
        # Checked before the seconds that loading takes.
        cluster = replace(config.cluster, num_gpus=check_fits(config))
        with console.stage("loading model and data"):
            ready = plan(config)
            policy = PolicyIdentity(ready.model_path)
            unknown, others = None, list[str]()
            if checkpoint is not None:
                others = ready.mixture.restore(
                    checkpoint.state["mixture"],
                    lambda source: other_data_allowed(config.resume.allow, source),
                )
                unknown = policy.check(checkpoint.state.get("policy"))
        plugins = plugin_files()
        other = changed_plugins(folder, plugins)
        new = [f"{name} has other prompts than it had (resume.allow)" for name in others]
        for note in (*ready.notes, *([unknown] if unknown else []), *other, *new):
            console.note(note)
        checkpoints = folder / "checkpoints"
        size = checkpoint_bytes(checkpoints) or first_checkpoint_bytes(config, policy)
        check_disk(checkpoints, size, config.checkpoint.keep, console.note)
        # From here on something is written: until now the folder is as an earlier process left it.
        write_config(folder, config_to_yaml(config))
        begin_run_record(
            folder,
            first_step=first_step,
            command=command,
            seconds_ago=time.monotonic() - begin,
            plugins=plugins,
            changed=[str(change) for change in changed],
        )
        session = _Session(folder, first_step, begin)
        with (
            session.recorded(),
            _shown(
                console, "starting Ray", ray_session(cluster, session.fail)
            ) as session.ray_death,
            build(config, ready, checkpoint, console, policy) as run,
            session.recorded(),  # before the actors are stopped, which may hang
        ):
            session.run = run
            with last_step_saved(run):
                train(run)
            session.end("finished")


@contextmanager
def _shown(console: Console, text: str, context: AbstractContextManager[T]) -> Iterator[T]:
    """`context`, whose beginning is a stage of the console."""
    with ExitStack() as stack:
        with console.stage(text):
            value = stack.enter_context(context)
        yield value


@dataclass
class _Session:
    """What `run.json` will say of how this process ended; said once."""

    folder: Path
    first_step: int
    begin: float
    """By the monotonic clock."""
    run: Run | None = None
    ray_death: Callable[[], str | None] = lambda: None
    """Whether one of Ray's own processes died, in a sentence."""
    ended: bool = False

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """An error inside ends the session."""
        try:
            yield
        except BaseException as error:
            self._record(error)
            if self.run is not None:
                self.run.journal.backlog.close()
                self.run.journal.trackers.close()
            death = self.ray_death()
            if death is not None and isinstance(error, MgsrlError | RayError):
                raise RayDiedError(death) from error  # an actor's loss is only its consequence
            raise

    def _record(self, error: BaseException) -> None:
        if isinstance(error, KeyboardInterrupt):
            self.end("interrupted", f"stopped by {stopped_by()}")
        else:
            self.fail(self.ray_death() or f"{type(error).__name__}: {error}")

    def fail(self, reason: str) -> None:
        """End as failed."""
        self.end("failed", reason)

    def end(self, status: str, error: str | None = None) -> None:
        """Write it down, unless it was; a disk that does not take that must not hide the error."""
        if self.ended:
            return
        self.ended = True
        step = self.run.step if self.run is not None else self.first_step
        try:
            finish_run_record(
                self.folder,
                status=status,
                last_step=step,
                error=error,
                seconds=time.monotonic() - self.begin,
            )
        except OSError as problem:
            print(f"mgsrl: run.json does not say how the run ended: {problem}", file=sys.stderr)
