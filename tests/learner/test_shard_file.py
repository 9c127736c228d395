"""One rank's shards on their way to the disk."""

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mgsrl.files.hashed import FileFacts, facts_of
from mgsrl.learner import shard_file
from mgsrl.learner.shard_file import ShardFile, Written


def _tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    flat = torch.randn(5000, generator=generator)
    return {
        "layer.weight|0|3000|master": flat[:3000],  # views of one storage, as a flat group has
        "layer.weight|0|3000|exp_avg": flat[1000:4000],
        "embed|7|8|master": flat[4999:],
        "a|0|33|reference": flat[:33].bfloat16(),
        "é|3|3|master": flat[:0],
    }


@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("piece", [64, 1 << 26])
def test_the_file_is_the_library_s(
    tmp_path: Path, background: bool, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_file, "PIECE", piece)
    tensors = _tensors()
    ours = ShardFile(tmp_path / "ours", tensors, {"learner.json": b"{}"})
    ours.write(background=background)
    written = ours.outcome(wait=background)
    save_file({key: tensor.clone() for key, tensor in tensors.items()}, tmp_path / "theirs")
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()
    facts = {name: facts_of(tmp_path / name) for name in ("ours", "learner.json")}
    assert written == Written(facts)
    for key, tensor in load_file(tmp_path / "ours").items():
        assert torch.equal(tensor, tensors[key])


@pytest.mark.parametrize("free", [True, False])
def test_in_the_background_memory_decides_what_waits(
    tmp_path: Path, free: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With room, all is copied before anything is written; without, two pieces at most wait."""
    monkeypatch.setattr(shard_file, "PIECE", 400)
    monkeypatch.setattr(shard_file, "free_memory_gib", lambda: 1e9 if free else 0.0)
    tensors, most = {"w|0|1000|master": torch.ones(1000)}, 0
    file = ShardFile(tmp_path / "file", tensors, {})
    hand_over = file._hand_over

    def counted(piece: Any) -> None:
        nonlocal most
        hand_over(piece)
        most = max(most, len(file._waiting))

    monkeypatch.setattr(file, "_hand_over", counted)
    file.write(background=True)
    tensors["w|0|1000|master"].zero_()
    assert file.outcome(wait=True) == Written({"file": facts_of(tmp_path / "file")})
    assert most == 11 if free else most <= 3
    assert load_file(tmp_path / "file")["w|0|1000|master"].sum() == 1000


@pytest.mark.parametrize("background", [False, True])
def test_a_full_disk_is_an_answer_and_another_error_an_error(
    small_disk: Path, background: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_file, "PIECE", 1 << 20)
    threads = set(threading.enumerate())
    tensors = {"w|0|4000000|master": torch.ones(4_000_000)}
    file = ShardFile(small_disk / "file", tensors, {})
    file.write(background=background)
    written = file.outcome(wait=True)
    assert written is not None
    assert written.files == {}
    assert written.problem is not None
    assert written.problem.startswith("No space left")

    def broken(self: Any, header: bytes) -> FileFacts:
        raise ZeroDivisionError

    monkeypatch.setattr(shard_file, "hashed_file", broken)
    file = ShardFile(small_disk / "file", tensors, {})
    file.write(background=background)
    with pytest.raises((ZeroDivisionError, TypeError)):
        file.outcome(wait=True)
    assert set(threading.enumerate()) <= threads, "the writer ended"
