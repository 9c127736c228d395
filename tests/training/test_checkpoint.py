"""Checkpoints are complete or absent, whatever is torn off."""

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from mgsrl.config import CheckpointConfig
from mgsrl.errors import CheckpointError, ConfigError, MissingPathError, StorageError
from mgsrl.evaluate.pareto import BestStep
from mgsrl.files.hashed import facts_of
from mgsrl.training.checkpoint import (
    Draft,
    best_checkpoint,
    check_disk,
    checkpoint_bytes,
    checkpoint_steps,
    load_checkpoint,
    newest_checkpoint,
    prune_checkpoints,
    set_others_aside,
    write_best,
)
from tests.checkpoints import save_checkpoint


def _text(file: Path) -> None:
    file.write_text("weights")


def _write(folder: Path) -> None:
    (folder / "rank_0.safetensors").write_bytes(b"weights" * 100)


def test_round_trip(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, 3, {"mixture": {"a": 1}}, _write)
    assert path == tmp_path / "step_3"
    loaded = load_checkpoint(path)
    assert loaded.step == 3
    assert loaded.state["mixture"] == {"a": 1}


def test_it_holds_the_configuration_of_its_run(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    own = save_checkpoint(folder, 1, {}, _write, config_yaml="seed: 0\n")
    assert load_checkpoint(own).config_file.read_text() == "seed: 0\n"
    older = save_checkpoint(folder, 2, {}, _write)
    assert load_checkpoint(older).config_file == tmp_path / "config.yaml"


@pytest.mark.parametrize("name", ["manifest.json", "state.json", "config.yaml", "learner/s"])
def test_every_flipped_byte_is_damage_with_a_name_or_harmless(tmp_path: Path, name: str) -> None:
    path = save_checkpoint(
        tmp_path, 2, {"a": 1}, lambda folder: _text(folder / "s"), config_yaml="seed: 0\n"
    )
    file, whole = path / name, load_checkpoint(path)
    content = file.read_bytes()
    harmless, messages = 0, []
    for position, byte in enumerate(content):
        for flip in (0x01, 0x20, 0x80):
            file.write_bytes(content[:position] + bytes([byte ^ flip]) + content[position + 1 :])
            try:
                found = load_checkpoint(path)
            except CheckpointError as error:
                messages.append(str(error))
            else:
                assert found == whole
                harmless += 1
    assert all("damaged" in message and "found:" in message for message in messages)
    # Only of the manifest can some go unseen: blanks between its words.
    assert harmless == 0 if name != "manifest.json" else harmless < len(messages)
    file.write_bytes(b"")
    with pytest.raises(CheckpointError, match=name):
        load_checkpoint(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda files: files.clear(),
        lambda files: files.pop("state.json"),
        lambda files: files.pop("learner/rank_0.safetensors"),
        lambda files: files.update({"learner/../../x": {"size": 0, "sha256": "0" * 64}}),
        lambda files: files.update({"learner/" + "n" * 300: {"size": 0, "sha256": "0" * 64}}),
        lambda files: files.update({"learner/x": None}),
        lambda files: files["state.json"].update(size=True),
        lambda files: files["state.json"].update(sha256="0"),
    ],
)
def test_a_manifest_lists_what_must_be_there(
    tmp_path: Path, change: Callable[[dict[str, dict[str, object]]], object]
) -> None:
    path = save_checkpoint(tmp_path, 2, {}, _write)
    manifest = json.loads((path / "manifest.json").read_text())
    change(manifest["files"])
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match="is damaged"):
        load_checkpoint(path)


@pytest.mark.parametrize("text", ["[" * 100_000, "null", "[]", '{"format": 1}', "9" * 5000])
def test_any_manifest_is_read_or_damage(tmp_path: Path, text: str) -> None:
    path = save_checkpoint(tmp_path, 2, {}, _write)
    (path / "manifest.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"manifest\.json"):
        load_checkpoint(path)


@pytest.mark.parametrize("name", ["config.yaml", "learner/rank_1.safetensors", "extra"])
def test_a_file_that_no_manifest_lists_is_damage(tmp_path: Path, name: str) -> None:
    path = save_checkpoint(tmp_path, 2, {}, _write)
    (path / name).write_text("nobody knows whether this is whole")
    with pytest.raises(CheckpointError, match=f"{name} is not listed"):
        load_checkpoint(path)


def test_a_renamed_checkpoint_is_found_out(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 2, {}, _write).rename(tmp_path / "step_9")
    with pytest.raises(CheckpointError, match="is of step 2"):
        load_checkpoint(tmp_path / "step_9")
    (tmp_path / "step_9").rename(tmp_path / "my copy")
    assert load_checkpoint(tmp_path / "my copy").step == 2


def test_when_all_are_damaged_that_is_said(tmp_path: Path) -> None:
    for step in (1, 2):
        shard = save_checkpoint(tmp_path, step, {}, _write) / "learner" / "rank_0.safetensors"
        shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(CheckpointError) as caught:
        newest_checkpoint(tmp_path, print)
    message = str(caught.value)
    for part in ("step_2: learner/rank_0.safetensors has 600 bytes, not 700", "step_1: "):
        assert part in message
    assert all(way in message for way in ("from a copy", "resume=PATH", "resume=never"))


@pytest.mark.parametrize("damage", ["cut", "change", "remove", "manifest", "state"])
def test_damage_is_found_and_passed_over(tmp_path: Path, damage: str) -> None:
    save_checkpoint(tmp_path, 1, {}, _write)
    path = save_checkpoint(tmp_path, 2, {}, _write)
    shard = path / "learner" / "rank_0.safetensors"
    if damage == "cut":
        shard.write_bytes(shard.read_bytes()[:-1])
    elif damage == "change":
        shard.write_bytes(b"Weights" * 100)
    elif damage == "remove":
        shard.unlink()
    elif damage == "manifest":
        (path / "manifest.json").write_text("{")
    else:
        (path / "state.json").unlink()
    with pytest.raises(CheckpointError, match="expected"):
        load_checkpoint(path)
    notes: list[str] = []
    found = newest_checkpoint(tmp_path, notes.append)
    assert found is not None
    assert found.step == 1
    (note,) = notes
    file = {"manifest": "manifest.json", "state": "state.json"}.get(damage, shard.name)
    assert "step_2" in note
    assert file in note
    set_others_aside(tmp_path, 1, notes.append)
    assert checkpoint_steps(tmp_path) == [1]
    assert len(list(tmp_path.glob("step_2.*-1"))) == 1, "nothing is deleted"


def test_a_failed_save_leaves_the_old_one_and_the_next_save_clears_up(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        _write(folder)
        raise RuntimeError("disk full")

    save_checkpoint(tmp_path, 1, {}, _write)
    with pytest.raises(RuntimeError):
        save_checkpoint(tmp_path, 2, {}, fail)
    assert [path.name for path in tmp_path.iterdir()] == ["step_1"], "half a checkpoint is left"
    found = newest_checkpoint(tmp_path, print)
    assert found is not None
    assert found.step == 1
    for left in (".step_2.tmp", ".step_2.0f0f.tmp"):  # what a killed process leaves
        (tmp_path / left).mkdir()
    save_checkpoint(tmp_path, 3, {}, _write)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_1", "step_3"]


def test_what_was_written_and_is_not_there_is_no_checkpoint(tmp_path: Path) -> None:
    """A folder that only looks shared, or a listing that is older than the file."""
    save_checkpoint(tmp_path, 1, {}, _write)
    draft = Draft(tmp_path, 2)
    with draft.writing():
        draft.add({})
        _write(draft.learner)
    shard = facts_of(draft.learner / "rank_0.safetensors")
    with pytest.raises(StorageError, match=r"checkpoint 2 could not .*rank_1\.safetensors is miss"):
        draft.complete({"rank_0.safetensors": shard, "rank_1.safetensors": shard})
    assert [path.name for path in tmp_path.iterdir()] == ["step_1"]


def test_prune_keeps_the_newest_by_number(tmp_path: Path) -> None:
    for step in (2, 9, 10):
        save_checkpoint(tmp_path, step, {}, _write)
    prune_checkpoints(tmp_path, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_10", "step_9"]
    prune_checkpoints(tmp_path, 0)
    assert len(list(tmp_path.iterdir())) == 2


def test_prune_keeps_the_best_besides_the_newest(tmp_path: Path) -> None:
    for step in range(1, 6):
        save_checkpoint(tmp_path, step, {}, _write)
    prune_checkpoints(tmp_path, 2, best=2)
    assert checkpoint_steps(tmp_path) == [2, 4, 5]
    prune_checkpoints(tmp_path, 2, best=5)
    assert checkpoint_steps(tmp_path) == [4, 5]
    prune_checkpoints(tmp_path, 1, best=3)  # one that is not there
    assert checkpoint_steps(tmp_path) == [5]


def test_what_somebody_still_reads_does_not_end_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NFS keeps a file that is open under another name: its folder is not empty, hence stays."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOTEMPTY, "Directory not empty")

    for step in (1, 2):
        save_checkpoint(tmp_path, step, {}, _write)
    with monkeypatch.context() as patch:
        patch.setattr(os, "rmdir", refuse)
        prune_checkpoints(tmp_path, keep=1)
    assert checkpoint_steps(tmp_path) == [2]
    assert not (tmp_path / "step_1").exists()
    save_checkpoint(tmp_path, 3, {}, _write)
    assert {path.name for path in tmp_path.iterdir()} == {"step_2", "step_3"}


def test_damaged_ones_do_not_push_good_ones_out(tmp_path: Path) -> None:
    for step in (1, 2, 8, 9):
        save_checkpoint(tmp_path, step, {}, _write)
    for step in (8, 9):
        (tmp_path / f"step_{step}" / "state.json").unlink()
    prune_checkpoints(tmp_path, 1)
    assert checkpoint_steps(tmp_path) == [2]
    assert {path.name for path in tmp_path.iterdir()} == {"step_2", "step_8", "step_9"}


def test_a_full_disk_costs_the_new_one_only(small_disk: Path) -> None:
    old = save_checkpoint(small_disk, 1, {}, _write)
    with pytest.raises(StorageError, match=r"checkpoint 2 could not be written: No space left"):
        save_checkpoint(
            small_disk, 2, {}, lambda path: (path / "s").write_bytes(bytes(8 << 20)) and None
        )
    assert {path.name for path in small_disk.iterdir()} == {"step_1"}
    assert load_checkpoint(old).step == 1


def test_room_is_looked_for_before_anything_is_written(small_disk: Path) -> None:
    folder, notes = small_disk / "not yet" / "checkpoints", list[str]()
    free = shutil.disk_usage(small_disk).free
    check_disk(folder, free // 3, 2, notes.append)
    assert notes == []
    check_disk(folder, free // 2, 2, notes.append)
    assert len(notes) == 1
    assert "checkpoint.keep" in notes[0]
    with pytest.raises(ConfigError, match=r"no room(.|\n)*another run\.dir"):
        check_disk(folder, free + 1, 0, notes.append)
    path = save_checkpoint(small_disk, 1, {}, _write)
    assert (
        checkpoint_bytes(small_disk)
        == sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        - (path / "manifest.json").stat().st_size
    )
    with contextlib.suppress(OSError):
        (small_disk / "other").write_bytes(bytes(3 << 20))

    def never(path: Path) -> None:
        raise AssertionError("writing began")

    with pytest.raises(StorageError, match=r"was not begun: it takes about 0\.00195 GiB"):
        save_checkpoint(small_disk, 2, {}, never, num_bytes=2 << 20)


def test_the_best_is_named_until_there_is_none(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, 3, {}, _write)
    with pytest.raises(MissingPathError, match="leave --best out"):
        best_checkpoint(tmp_path)
    write_best(tmp_path, BestStep(3, 0.4, {"math": 0.5}, {"math": 0.1}))
    assert best_checkpoint(tmp_path) == path
    write_best(tmp_path, BestStep(4, 0.4, {"math": 0.5}, {"math": 0.1}))
    with pytest.raises(MissingPathError, match="step_4, which it names"):
        best_checkpoint(tmp_path)
    (tmp_path / "best.json").write_text("[]")
    with pytest.raises(MissingPathError, match="cannot be read"):
        best_checkpoint(tmp_path)
    write_best(tmp_path, None)
    write_best(tmp_path / "no folder", None)
    assert checkpoint_steps(tmp_path) == [3]
    assert not (tmp_path / "best.json").exists()


def test_going_on_from_an_older_one_sets_the_other_branch_aside(tmp_path: Path) -> None:
    for step in (10, 20, 30):
        save_checkpoint(tmp_path, step, {}, _write)
    notes: list[str] = []
    set_others_aside(tmp_path, 10, notes.append)
    assert len(notes) == 2
    save_checkpoint(tmp_path, 15, {}, _write)
    prune_checkpoints(tmp_path, 2)
    found = newest_checkpoint(tmp_path, print)
    assert found is not None
    assert found.step == 15
    assert (tmp_path / "step_10").is_dir()
    assert (tmp_path / "step_30.abandoned-1").is_dir()


def test_damaged_ones_are_set_aside_on_whichever_branch(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, step, {}, _write)
    for step in (1, 3):
        (tmp_path / f"step_{step}" / "state.json").unlink()
    notes: list[str] = []
    set_others_aside(tmp_path, 2, notes.append)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"step_1.damaged-1", "step_2", "step_3.damaged-1"}
    assert all(f"step_{n} is damaged" in note for n, note in zip((1, 3), notes, strict=True))


def test_of_those_set_aside_the_last_two_stay(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 1, {}, _write)
    for number in range(4):
        save_checkpoint(tmp_path, 2, {}, _write)
        if number % 2:
            (tmp_path / "step_2/state.json").unlink()
        set_others_aside(tmp_path, 1, lambda _: None)
    aside = {f"step_2.{why}-{n}" for n in (1, 2) for why in ("abandoned", "damaged")}
    assert aside < {path.name for path in tmp_path.iterdir()}
    prune_checkpoints(tmp_path, 0)
    assert aside < {path.name for path in tmp_path.iterdir()}
    prune_checkpoints(tmp_path, 1)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"step_1", "step_2.abandoned-2", "step_2.damaged-2"}


@pytest.mark.parametrize(
    ("keys", "kept"),
    [
        ({"every": 10}, 3),
        ({"every": 10, "keep_best": False}, 2),
        ({"every": 10, "keep_every": 20}, 8),
        ({"every": 10, "keep": 0}, 11),
        ({"every": 0}, 1),
        ({"every": 60, "keep": 5}, 2),
    ],
)
def test_how_many_a_run_keeps_at_most(keys: dict[str, int], kept: int) -> None:
    assert CheckpointConfig(**keys).most_kept(100) == kept  # type: ignore[arg-type]


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path / "checkpoints", print) is None
