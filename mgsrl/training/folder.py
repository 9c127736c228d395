"""The run folder before a run: whose it is, where to go on, and that nobody else writes it."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from mgsrl.config.compose import config_from_yaml
from mgsrl.config.quoting import as_override
from mgsrl.config.resume import Change
from mgsrl.errors import CheckpointError, ConfigError, MissingPathError, UserError
from mgsrl.files.jsonl import write_atomic
from mgsrl.obs.rewind import last_logged_step
from mgsrl.obs.run_record import check_record_version, recorded_checkpoint, went_on_from
from mgsrl.training.checkpoint import (
    CONFIG,
    Checkpoint,
    checkpoint_steps,
    load_checkpoint,
    newest_checkpoint,
)
from mgsrl.training.lock import LOCK, locked, writable

Compare = Callable[[Path], Sequence[Change]]
"""What differs between the configuration in a file and this run's."""


@contextmanager
def run_folder(
    folder: Path, resume: str, changes: Compare, note: Callable[[str], None]
) -> Iterator[Checkpoint | None]:
    """Hold `folder` for this process and yield the checkpoint to go on from.

    With `resume=never` an old folder is renamed, never deleted. Nothing of a run is written here:
    what is found later may still forbid going on, and then its folder stays as it was;
    one that was not there is gone again.

    Args:
        resume: `auto`, `never` or the path of a checkpoint: to begin there, or to go on with what
            began there.
        changes: what differs between an older `config.yaml` and this run.
        note: receives what the user should know.

    Raises:
        ConfigError: the folder cannot be written, another process trains in it, or its run had
            another configuration.
        NewerVersionError: a newer mgsrl wrote it, or one of its checkpoints.
        CheckpointError: the run made steps and no checkpoint of it can be used, or `resume=PATH`
            names a damaged one.
    """
    with ExitStack() as stack:
        with writable():
            if resume == "never":
                _set_aside(folder, note)
            is_new = not folder.exists()
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(folder, note))
        try:
            check_record_version(folder)
            checkpoint = _find(resume, folder, changes, note)
            if checkpoint is not None:
                check_record_version(checkpoint.path.parent.parent)
                _check_same_run(checkpoint.path, checkpoint.config_file, changes, note)
            yield checkpoint
        except UserError:
            if is_new:
                _remove_unused(folder)
            raise


def _remove_unused(folder: Path) -> None:
    """`mgsrl compare runs/*` would stumble over a folder without a run; other files stay."""
    with suppress(OSError):  # the refusal is what matters
        if all(file.name == LOCK for file in folder.iterdir()):
            (folder / LOCK).unlink()
            folder.rmdir()


def write_config(folder: Path, config_yaml: str) -> None:
    """Write the resolved configuration of a run that begins or goes on.

    Raises:
        ConfigError: the folder cannot be written.
    """
    with writable():
        write_atomic(folder / CONFIG, config_yaml)


def bring_back_config(folder: Path, checkpoint: Checkpoint) -> None:
    """For a run that is finished: its configuration stays, or is the checkpoint's when damaged.

    Raises:
        ConfigError: the folder cannot be written.
    """
    try:
        config_from_yaml(folder / CONFIG)
    except UserError:
        write_config(folder, checkpoint.config_file.read_text(encoding="utf-8"))


def _find(
    resume: str, folder: Path, changes: Compare, note: Callable[[str], None]
) -> Checkpoint | None:
    if resume in ("auto", "never"):
        found = newest_checkpoint(folder / "checkpoints", note)
        steps = last_logged_step(folder) if found is None else 0
        if found is None and (steps or recorded_checkpoint(folder)):
            _check_nothing_is_lost(folder, steps)
            _check_same_run(folder, folder / CONFIG, changes, note)
            note(
                f"{steps} steps are logged, but no checkpoint was written before the run stopped: "
                "it begins again"
            )
        return found
    if (own := _own_since(resume, folder, note)) is not None:
        return own
    path = Path(os.path.expanduser(resume))
    if not path.is_dir() or (path / "checkpoints").is_dir():
        raise MissingPathError(
            "resume names no checkpoint.",
            expected="auto, never or a folder such as runs/NAME/checkpoints/step_10",
            found=f"{resume} (a run folder)" if path.is_dir() else resume,
            todo=_checkpoints_of(path) or "correct the path",
        )
    return load_checkpoint(path)


def named_path(resume: str) -> Path | None:
    """The checkpoint that `resume=PATH` names."""
    return None if resume in ("auto", "never") else Path(os.path.expanduser(resume)).resolve()


def _own_since(resume: str, folder: Path, note: Callable[[str], None]) -> Checkpoint | None:
    """The newest checkpoint of a run that went on from `resume` in this folder before: the same
    command again (a job that is requeued) must not do its steps again."""
    before = went_on_from(folder)
    if before is None or before[0] != str(named_path(resume)):
        return None
    found = newest_checkpoint(folder / "checkpoints", note)
    if found is None or found.step <= before[1]:
        return None
    note(
        f"this run went on from {resume} before: now it does from its own {found.path.name} (to "
        f"begin there once more, move later checkpoints out of {found.path.parent})"
    )
    return found


def _checkpoints_of(folder: Path) -> str:
    """What to say instead where `folder` is a run folder, of all its checkpoints the newest."""
    steps = checkpoint_steps(folder / "checkpoints")
    return f"set resume={folder / 'checkpoints' / f'step_{steps[-1]}'}" if steps else ""


def _check_nothing_is_lost(folder: Path, steps: int) -> None:
    """Without a checkpoint a run that logged `steps` steps was stopped before its first one, or it
    lost them. Starting the latter anew would take its logs back to step 0."""
    saved = recorded_checkpoint(folder)
    if saved == 0:
        return
    last = "run.json does not say of which" if saved is None else f"run.json knows of step_{saved}"
    raise CheckpointError(
        f"{folder} holds a run whose checkpoints are gone.",
        expected=f"checkpoints/step_N: {steps} steps are logged; {last}",
        found="none",
        todo="bring the folder checkpoints back, name a checkpoint elsewhere (resume=PATH), or "
        "set the whole run aside and start anew (resume=never)",
    )


def _check_same_run(
    whose: Path, saved: Path, changes: Compare, note: Callable[[str], None]
) -> None:
    """Refuse a run whose numbers would be others; what else changed is shown, all of it."""
    if not saved.is_file():
        raise CheckpointError(
            f"Nobody knows the configuration behind {whose}.",
            expected=str(saved),
            found="no such file",
            todo="bring it back, or start anew (resume=never)",
        )
    changed = changes(saved)
    diff = "\n".join(map(str, changed))
    if refused := [change.key for change in changed if change.refused]:
        raise ConfigError(
            f"{whose} is of a run with another configuration.",
            expected="the same configuration, so that resuming equals never having stopped",
            found=diff.replace("\n", "\n            "),
            todo="choose another run.dir, resume=never to set the old run aside, or go on with "
            f"another experiment from here: {as_override('resume.allow', refused)}",
        )
    if changed:
        note(f"resuming with a changed configuration (old -> new):\n{diff}".replace("\n", "\n  "))


def _set_aside(folder: Path, note: Callable[[str], None]) -> None:
    if not folder.is_dir() or all(path.name == LOCK for path in folder.iterdir()):
        return
    if not (folder / CONFIG).is_file():
        raise ConfigError(
            "resume=never sets an old run folder aside, and this is none.",
            expected="a folder with config.yaml, an empty one or none",
            found=str(folder),
            todo="choose another run.dir",
        )
    with locked(folder):
        number = 1
        while (old := folder.with_name(f"{folder.name}.old-{number}")).exists():
            number += 1
        folder.rename(old)
    note(f"resume=never: the old run is now {old}")
