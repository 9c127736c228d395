"""The run folder: one process at a time, never another run's, nothing deleted."""

from pathlib import Path

import pytest

from mgsrl.errors import ConfigError, MissingPathError
from mgsrl.train.checkpoint import Checkpoint, save_checkpoint
from mgsrl.train.folder import run_folder


def _open(folder: Path, resume: str = "auto", changed: tuple[str, ...] = ()) -> Checkpoint | None:
    notes: list[str] = []
    with run_folder(folder, resume, "seed: 0\n", lambda _: list(changed), notes.append) as found:
        assert (folder / "config.yaml").read_text() == "seed: 0\n"
        return found


def _save(folder: Path, step: int) -> Path:
    return save_checkpoint(
        folder / "checkpoints", step, {}, lambda path: (path / "w").write_text("w") and None
    )


def test_a_new_folder_has_nothing_to_go_on_from(tmp_path: Path) -> None:
    assert _open(tmp_path / "new") is None


def test_auto_goes_on_from_the_newest_and_a_path_from_that_one(tmp_path: Path) -> None:
    _open(tmp_path)
    older, newer = _save(tmp_path, 3), _save(tmp_path, 6)
    for resume, step in (("auto", 6), (str(older), 3), (str(newer), 6)):
        found = _open(tmp_path, resume)
        assert found is not None
        assert found.step == step


def test_never_renames_and_deletes_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    for number in (1, 2):
        _open(folder)
        _save(folder, 3)
        assert _open(folder, "never") is None
        assert (tmp_path / f"run.old-{number}" / "checkpoints" / "step_3").is_dir()


def test_never_leaves_a_folder_alone_that_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("three years")
    with pytest.raises(ConfigError, match="this is none"):
        _open(tmp_path, "never")
    assert (tmp_path / "thesis.tex").is_file()


def test_another_configuration_is_refused(tmp_path: Path) -> None:
    _open(tmp_path)
    _save(tmp_path, 3)
    with pytest.raises(ConfigError, match="seed: 0 -> 1"):
        _open(tmp_path, changed=("seed: 0 -> 1",))


def test_one_process_per_folder(tmp_path: Path) -> None:
    with (
        run_folder(tmp_path, "auto", "", lambda _: [], print),
        pytest.raises(ConfigError, match="in use"),
    ):
        _open(tmp_path)


def test_what_cannot_be_a_folder_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ConfigError, match=r"run\.dir cannot be made"):
            _open(folder)
    with pytest.raises(MissingPathError, match="resume names no checkpoint"):
        _open(tmp_path, str(tmp_path / "absent"))
