"""Checkpoints without learners, written at once."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from mgsrl.config.compose import compose_config, config_to_yaml
from mgsrl.training.checkpoint import Draft
from mgsrl.training.fingerprint import fingerprint


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


def save_run(folder: Path, policy: Path, trained: Mapping[str, Tensor], step: int = 3) -> Path:
    """A run folder as `mgsrl train` leaves it, of a policy and the weights that became of it; one
    that is there goes on."""

    def write_learner(learner: Path) -> None:
        shards = {f"{n}|0|{t.numel()}|master": t.flatten() for n, t in trained.items()}
        save_file(shards, learner / "rank_0.safetensors")
        facts = {"format": 1, "world_size": 1, "num_updates": 1, "reference_moved": False}
        (learner / "learner.json").write_text(json.dumps(facts))

    overrides = [f"policy.path={policy}", f"run.dir={folder}", "policy.date=2026-11-26"]
    text = config_to_yaml(compose_config(overrides))
    folder.mkdir(exist_ok=True)
    (folder / "config.yaml").write_text(text)
    state = {"policy": fingerprint(str(policy))}
    save_checkpoint(folder / "checkpoints", step, state, write_learner, config_yaml=text)
    return folder
