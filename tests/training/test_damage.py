"""Whatever happens to the files of checkpoints, the newest whole one is taken, the others named."""

import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mgsrl.errors import CheckpointError
from mgsrl.learner.shard_file import ShardFile
from mgsrl.training.checkpoint import (
    Draft,
    checkpoint_steps,
    load_checkpoint,
    newest_checkpoint,
    set_others_aside,
)

TRIALS = 100
STEPS = (1, 2, 3)


def _save(folder: Path, step: int) -> None:
    """Two ranks' real shards, the second one's in the background."""
    draft, written = Draft(folder, step), {}
    draft.add({"mixture": {}}, "seed: 0\n")
    for rank in (0, 1):
        tensors = {f"w|{rank * 3000}|{rank * 3000 + 3000}|master": torch.randn(3000)}
        beside = {} if rank else {"learner.json": b'{"format": 1}'}
        file = ShardFile(draft.learner / f"rank_{rank}.safetensors", tensors, beside)
        file.write(background=rank == 1)
        outcome = file.outcome(wait=True)
        assert outcome is not None
        written |= outcome.files
    draft.complete(written)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    for step in STEPS:
        _save(folder, step)
    return folder


def _truncated(file: Path, rng: random.Random) -> None:
    file.write_bytes(file.read_bytes()[: rng.randrange(file.stat().st_size)])


def _flipped(file: Path, rng: random.Random) -> None:
    content = bytearray(file.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    file.write_bytes(content)


def _hole(file: Path, rng: random.Random) -> None:
    """A block that never reached the disk reads as zeros."""
    content = bytearray(file.read_bytes())
    start = rng.randrange(len(content))
    content[start : start + 512] = bytes(len(content[start : start + 512]))
    file.write_bytes(content)


def _longer(file: Path, rng: random.Random) -> None:
    file.write_bytes(file.read_bytes() + rng.randbytes(rng.randint(1, 99)))


def _older(file: Path, rng: random.Random) -> None:
    """The file of the step before, as a copy that was interrupted leaves it."""
    before = file.parents[1 if file.parent.name == "learner" else 0]
    other = before.parent / f"step_{int(before.name[5:]) - 1}" / file.relative_to(before)
    file.unlink()
    if other.is_file():
        shutil.copy(other, file)


def _gone(file: Path, rng: random.Random) -> None:
    file.unlink()


DAMAGES: tuple[Callable[[Path, random.Random], None], ...] = (
    *(_truncated, _flipped, _hole, _longer, _older, _gone),
)


def test_random_damage_is_named_and_passed_over(whole: Path, tmp_path: Path) -> None:
    for trial in range(TRIALS):
        rng, folder = random.Random(trial), tmp_path / str(trial)
        shutil.copytree(whole, folder)
        for step in rng.sample(STEPS, rng.randint(1, 2)):
            files = sorted(p for p in (folder / f"step_{step}").rglob("*") if p.is_file())
            for file in rng.sample(files, rng.randint(1, 2)):
                rng.choice(DAMAGES)(file, rng)
        same = [step for step in STEPS if _content(folder, step) == _content(whole, step)]
        notes: list[str] = []
        found = newest_checkpoint(folder, notes.append)
        assert found is not None, trial
        if found.step not in same:  # only blanks of a manifest may change unseen
            changed = _content(folder, found.step).items() ^ _content(whole, found.step).items()
            assert {path.name for path, _ in changed} == {"manifest.json"}, trial
        assert found.step >= max(same), trial
        passed = [step for step in reversed(STEPS) if step > found.step]
        told = [note.split(":")[0].split(", ")[1] for note in notes]
        assert told == [f"step_{step}" for step in passed], trial
        for step in passed:
            with pytest.raises(CheckpointError, match="is damaged"):
                load_checkpoint(folder / f"step_{step}")
        shutil.rmtree(folder)


def _content(folder: Path, step: int) -> dict[Path, bytes]:
    path = folder / f"step_{step}"
    return {p.relative_to(path): p.read_bytes() for p in path.rglob("*") if p.is_file()}


KILLED = """
import sys, torch
from pathlib import Path
from mgsrl.learner import shard_file
from mgsrl.training.checkpoint import Draft

class Slow(shard_file.ShardFile):
    pieces = 0
    def _next(self):
        self.pieces += 1
        if self.pieces == 4:
            print("half", flush=True)
            sys.stdin.read()
        return super()._next()

shard_file.PIECE = 1 << 12
draft = Draft(Path(sys.argv[1]), 4)
draft.add({})
file = Slow(draft.learner / "rank_0.safetensors", {"w|0|9999|master": torch.ones(9999)}, {})
file.write(background=True)
draft.complete(file.outcome(wait=True).files)
"""


def test_kill_9_in_the_middle_of_a_background_save_leaves_the_one_before(
    whole: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "checkpoints"
    shutil.copytree(whole, folder)
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "half\n"
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    (draft,) = folder.glob(".step_4.*")
    assert (draft / "learner/rank_0.safetensors").is_file()
    notes: list[str] = []
    found = newest_checkpoint(folder, notes.append)
    assert found is not None
    assert (found.step, notes) == (3, [])
    set_others_aside(folder, 3, notes.append)
    assert notes == []
    assert not draft.exists()
    _save(folder, 4)
    assert checkpoint_steps(folder) == [1, 2, 3, 4]
