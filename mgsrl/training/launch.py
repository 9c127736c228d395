"""One training run: from the checked configuration to the report."""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any, TypeVar

from mgsrl.cluster.again import left_behind
from mgsrl.cluster.session import ray_session
from mgsrl.config import Config
from mgsrl.config.compose import config_from_yaml, config_to_yaml
from mgsrl.config.resume import Change, other_data_allowed, resume_changes
from mgsrl.errors import RayDiedError, file_problem
from mgsrl.obs.console import Console
from mgsrl.obs.run_record import begin_run_record, changed_plugins, status_of
from mgsrl.plugins import plugin_files
from mgsrl.report.extra import INSTALL, can_draw
from mgsrl.report.page import build_report
from mgsrl.training.build import build, first_checkpoint_bytes
from mgsrl.training.checkpoint import Checkpoint, check_disk, checkpoint_bytes
from mgsrl.training.fingerprint import Models
from mgsrl.training.folder import bring_back_config, named_path, run_folder, write_config
from mgsrl.training.interrupt import interruptible, last_step_saved
from mgsrl.training.loop import train
from mgsrl.training.machine import check_fits
from mgsrl.training.plan import Plan, plan
from mgsrl.training.restart import Restarts
from mgsrl.training.session import GoOn, Session

T = TypeVar("T")
NO_REPORT = f"report not written: {INSTALL}"


def launch(config: Config, command: Sequence[str] = ()) -> None:
    """Train (or go on training) and write the report; the last line says where it is.

    Args:
        command: the command line that does the same, for `run.json` and for how to go on.
    """
    begin, left = time.monotonic(), left_behind()
    config.resume.checkpoint = left.get("resume", config.resume.checkpoint)
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
        if checkpoint is not None and _is_finished(folder, checkpoint, config.train.num_steps):
            bring_back_config(folder, checkpoint)
            print(f"{folder} is finished ({checkpoint.step} steps); resume=never starts it anew")
        else:
            with interruptible(folder, command):
                _train(config, checkpoint, begin, command, left, changed)
        report = _report(folder)
    print(f"done in {(time.monotonic() - begin) / 60:.1f} min; {report}")


def _is_finished(folder: Path, checkpoint: Checkpoint, num_steps: int) -> bool:
    """Whether nothing is left to do. A run that was stopped behind its last step, in its last
    evaluation, still has that; one whose `run.json` is gone counts as one that ended."""
    beyond = checkpoint.step - num_steps
    return beyond > 0 or (beyond == 0 and status_of(folder) in (None, "finished"))


def _report(folder: Path) -> str:
    """Where the report is, or why there is none: the run is done all the same."""
    try:
        return f"report: {build_report(folder).resolve()}" if can_draw() else NO_REPORT
    except OSError as error:
        return f"report not written: {file_problem(error)}"


def _train(
    config: Config,
    checkpoint: Checkpoint | None,
    begin: float,
    command: Sequence[str],
    left: Mapping[str, Any],
    changed: Sequence[Change] = (),
) -> None:
    first_step = checkpoint.step if checkpoint else 0
    folder = Path(config.run.dir)
    with Console(config.trackers.console, config.train.num_steps, first_step=first_step) as console:
        # Checked before the seconds that loading takes.
        cluster = replace(config.cluster, num_gpus=check_fits(config))
        ready, models, told = _loaded(config, checkpoint, console)
        plugins = plugin_files()
        other = changed_plugins(folder, plugins)
        for note in (*ready.notes, *other, *told):
            console.note(note)
        checkpoints = folder / "checkpoints"
        size = checkpoint_bytes(checkpoints) or first_checkpoint_bytes(config, models)
        kept = config.checkpoint.most_kept(config.train.num_steps)
        check_disk(checkpoints, size, kept, console.note)
        # From here on something is written: until now the folder is as an earlier process left it.
        write_config(folder, config_to_yaml(config))
        named = named_path(config.resume.checkpoint)
        begin_run_record(
            folder,
            first_step=first_step,
            command=command,
            seconds_ago=time.monotonic() - begin,
            plugins=plugins,
            changed=[str(change) for change in changed],
            named=named if checkpoint and checkpoint.path.resolve() == named else None,
        )
        deaths = list(left.get("deaths", []))
        restarts = Restarts(
            config.learner, config.cluster, folder, checkpoint, deaths, console.note
        )
        if deaths:
            restarts.pause()
        session = Session(
            folder, first_step, begin, restarts, console.note, resume=config.resume.checkpoint
        )
        ray_of_ours = ray_session(cluster, session.fail, session.begin_again)
        try:
            with (
                session.recorded(last=True),
                _shown(console, "starting Ray", ray_of_ours) as session.ray_death,
            ):
                while not _tried(config, ready, checkpoint, console, models, session):
                    checkpoint = restarts.checkpoint()
                    restarts.pause()
                    ready, models, _ = _loaded(config, checkpoint, console)
        except RayDiedError as error:
            session.begin_again(str(error))
            raise


def _loaded(
    config: Config, checkpoint: Checkpoint | None, console: Console
) -> tuple[Plan, Models, list[str]]:
    """Model and data as at `checkpoint`, and what is to be said of the difference."""
    told = list[str]()
    with console.stage("loading model and data"):
        ready = plan(config)
        models = Models.of(ready.model_path, config.domains, config.resume.allow, ready.teachers)
        models.state()  # read now, not in the first checkpoint's way
        if checkpoint is not None:
            others = ready.mixture.restore(
                checkpoint.state["mixture"],
                lambda source: other_data_allowed(config.resume.allow, source),
            )
            told += [f"{name} has other prompts than it had (resume.allow)" for name in others]
            told += models.check(checkpoint.state)
    return ready, models, told


def _tried(
    config: Config,
    ready: Plan,
    checkpoint: Checkpoint | None,
    console: Console,
    models: Models,
    session: Session,
) -> bool:
    """Train to the last step; False when something died and the run goes on from a checkpoint."""
    try:
        with session.recorded():
            session.restarts.see_machines()
            with (
                build(config, ready, checkpoint, console, models) as run,
                session.recorded(),  # before the actors are stopped, which may hang
            ):
                session.run = run
                with last_step_saved(run):
                    train(run)
                session.end("finished")
    except GoOn:
        return False
    return True


@contextmanager
def _shown(console: Console, text: str, context: AbstractContextManager[T]) -> Iterator[T]:
    """`context`, whose beginning is a stage of the console."""
    with ExitStack() as stack:
        with console.stage(text):
            value = stack.enter_context(context)
        yield value
