"""Checkpoints without learners, written at once."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from mgsrl.training.checkpoint import Draft


def save_checkpoint(
    folder: Path,
    step: int,
    state: dict[str, Any],
    write_learner: Callable[[Path], object],
    *,
    config_yaml: str = "",
    num_bytes: int = 0,
) -> Path:
    """Write `folder/step_N`; `write_learner` fills the given folder with the learners' shards."""
    draft = Draft(folder, step, num_bytes=num_bytes)
    with draft.writing():
        draft.add(state, config_yaml)
        write_learner(draft.learner)
    return draft.complete()
