"""The run folder before a run: whose it is, where to go on, and that nobody else writes it."""

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mgsrl.config import Config
from mgsrl.config.compose import config_from_yaml, config_to_yaml, differences
from mgsrl.errors import ConfigError, MissingPathError, explain
from mgsrl.train.checkpoint import Checkpoint, load_checkpoint, newest_checkpoint

# What may change between a run and its continuation: it does not change the numbers.
FREE_KEYS = (
    "resume",
    "run.",
    "trackers.",
    "checkpoint.",
    "cluster.",
    "evaluate.",
    "train.num_steps",
    "max_abstained_share",
    "learner.time_limit_s",
    "learner.assert_purity",
    "rollout.time_limit_s",
    "rollout.start_limit_s",
    "rollout.max_restarts",
)


@contextmanager
def run_folder(config: Config, note: Callable[[str], None]) -> Iterator[Checkpoint | None]:
    """Hold `config.run.dir` for this process and yield the checkpoint to go on from.

    With `resume=never` an old folder is renamed, never deleted. The resolved configuration is
    written as `config.yaml`.

    Raises:
        ConfigError: another process trains in it, or its run had another configuration.
        CheckpointError: `resume=PATH` names a damaged checkpoint.
    """
    folder = Path(config.run.dir)
    if config.resume == "never":
        _set_aside(folder, note)
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        checkpoint = _find(config, folder, note)
        if checkpoint is not None:
            _check_same_run(config, checkpoint)
        draft = folder / ".config.yaml.tmp"
        draft.write_text(config_to_yaml(config))
        draft.replace(folder / "config.yaml")
        yield checkpoint


def _find(config: Config, folder: Path, note: Callable[[str], None]) -> Checkpoint | None:
    if config.resume in ("auto", "never"):
        return newest_checkpoint(folder / "checkpoints", note)
    path = Path(config.resume)
    if not path.is_dir():
        raise MissingPathError(
            explain(
                "resume names no checkpoint.",
                expected="auto, never or a folder such as runs/NAME/checkpoints/step_10",
                found=config.resume,
                todo="correct the path",
            )
        )
    return load_checkpoint(path)


def _check_same_run(config: Config, checkpoint: Checkpoint) -> None:
    saved = checkpoint.path.parent.parent / "config.yaml"
    if not saved.is_file():
        return
    changed = differences(config_from_yaml(saved), config, ignore=FREE_KEYS)
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
