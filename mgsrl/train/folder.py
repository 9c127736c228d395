"""The run folder before a run: whose it is, where to go on, and that nobody else writes it."""

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mgsrl.errors import ConfigError, MissingPathError, explain
from mgsrl.obs.jsonl import write_atomic
from mgsrl.train.checkpoint import Checkpoint, load_checkpoint, newest_checkpoint


@contextmanager
def run_folder(
    folder: Path,
    resume: str,
    config_yaml: str,
    changes: Callable[[Path], list[str]],
    note: Callable[[str], None],
) -> Iterator[Checkpoint | None]:
    """Hold `folder` for this process and yield the checkpoint to go on from.

    With `resume=never` an old folder is renamed, never deleted. The resolved configuration is
    written as `config.yaml`.

    Args:
        resume: `auto`, `never` or the path of a checkpoint.
        changes: what differs between an older `config.yaml` and this run, line by line.
        note: receives what the user should know.

    Raises:
        ConfigError: another process trains in it, or its run had another configuration.
        CheckpointError: `resume=PATH` names a damaged checkpoint.
    """
    if resume == "never":
        _set_aside(folder, note)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            explain(
                "run.dir cannot be made.",
                expected="a folder, or a place where one can be made",
                found=str(error),
                todo="choose another run.dir",
            )
        ) from error
    with _locked(folder):
        checkpoint = _find(resume, folder, note)
        if checkpoint is not None:
            _check_same_run(checkpoint.path.parent.parent / "config.yaml", changes)
        write_atomic(folder / "config.yaml", config_yaml)
        yield checkpoint


def _find(resume: str, folder: Path, note: Callable[[str], None]) -> Checkpoint | None:
    if resume in ("auto", "never"):
        return newest_checkpoint(folder / "checkpoints", note)
    path = Path(resume)
    if not path.is_dir():
        raise MissingPathError(
            explain(
                "resume names no checkpoint.",
                expected="auto, never or a folder such as runs/NAME/checkpoints/step_10",
                found=resume,
                todo="correct the path",
            )
        )
    return load_checkpoint(path)


def _check_same_run(saved: Path, changes: Callable[[Path], list[str]]) -> None:
    changed = changes(saved) if saved.is_file() else []
    if changed:
        raise ConfigError(
            explain(
                f"{saved.parent} holds a run with another configuration.",
                expected="the same configuration, so that resuming equals never having stopped",
                found="; ".join(changed[:8]) + (" ..." if len(changed) > 8 else ""),
                todo="choose another run.dir, or resume=never to set the old run aside",
            )
        )


def _set_aside(folder: Path, note: Callable[[str], None]) -> None:
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    if not (folder / "config.yaml").is_file():
        raise ConfigError(
            explain(
                "resume=never sets an old run folder aside, and this is none.",
                expected="a folder with config.yaml, an empty one or none",
                found=str(folder),
                todo="choose another run.dir",
            )
        )
    with _locked(folder):
        number = 1
        while (old := folder.with_name(f"{folder.name}.old-{number}")).exists():
            number += 1
        folder.rename(old)
    note(f"resume=never: the old run is now {old}")


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """An advisory lock that the kernel drops when the process ends, however it ends."""
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(
                explain(
                    f"{folder} is in use.",
                    expected="one process per run folder",
                    found="another mgsrl process holds it",
                    todo="wait for it, stop it, or choose another run.dir",
                )
            ) from error
        yield
