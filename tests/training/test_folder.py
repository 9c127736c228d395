"""The run folder: one process at a time, never another run's, nothing deleted."""

import contextlib
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from mgsrl.config.compose import compose_config, config_from_yaml, config_to_yaml
from mgsrl.config.resume import ANOTHER, Change, resume_changes
from mgsrl.errors import (
    CheckpointError,
    ConfigError,
    MissingPathError,
    NewerVersionError,
    UserError,
)
from mgsrl.files.jsonl import dump_line
from mgsrl.obs.run_record import begin_run_record, record_checkpoint
from mgsrl.training.checkpoint import Checkpoint, load_checkpoint
from mgsrl.training.folder import bring_back_config, run_folder, write_config
from tests.checkpoints import save_checkpoint

OTHER_SEED = Change("seed", "0 -> 1", ANOTHER)


def _open(
    folder: Path, resume: str = "auto", changed: tuple[Change, ...] = ()
) -> Checkpoint | None:
    notes: list[str] = []
    with run_folder(folder, resume, lambda _: list(changed), notes.append) as found:
        write_config(folder, "seed: 0\n")
        return found


def _save(folder: Path, step: int, config_yaml: str = "") -> Path:
    return save_checkpoint(
        folder / "checkpoints",
        step,
        {},
        lambda path: (path / "w").write_text("w") and None,
        config_yaml=config_yaml,
    )


def _log(folder: Path, steps: int) -> None:
    rows = [{"step": step, "reward/math": 0.5} for step in range(1, steps + 1)]
    (folder / "metrics.jsonl").write_text("".join(map(dump_line, rows)))


def _state(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_new_folder_has_nothing_to_go_on_from(tmp_path: Path) -> None:
    assert _open(tmp_path / "new") is None


def test_auto_goes_on_from_the_newest_and_a_path_from_that_one(tmp_path: Path) -> None:
    _open(tmp_path)
    older, newer = _save(tmp_path, 3), _save(tmp_path, 6)
    for resume, step in (("auto", 6), (str(older), 3), (str(newer), 6)):
        found = _open(tmp_path, resume)
        assert found is not None
        assert found.step == step


def test_a_path_is_begun_at_once_and_then_gone_on_from(tmp_path: Path) -> None:
    """The same command again, as of a job that is requeued, does nothing again."""
    folder, path = tmp_path / "run", str(_save(tmp_path / "other", 3, "seed: 0\n"))

    def begin(resume: str) -> int:
        found = _open(folder, resume)
        step = found.step if found else 0
        named = Path(resume).resolve() if found and str(found.path) == resume else None
        begin_run_record(folder, first_step=step, named=named)
        return step

    assert [begin(path), begin(path)] == [3, 3]  # stopped before it saved anything
    _save(folder, 5)
    record_checkpoint(folder, 5)
    shutil.rmtree(path)  # of a run that goes on it is not needed any more
    assert [begin(path), begin("auto"), begin(path)] == [5, 5, 5]
    other = str(_save(tmp_path / "other", 4, "seed: 0\n"))
    assert begin(other) == 4
    assert begin(other) == 4, "step_5 is of the run that was left"
    shutil.rmtree(folder / "checkpoints" / "step_5")
    _save(folder, 6)
    record_checkpoint(folder, 6)
    assert begin(other) == 6
    (folder / "checkpoints" / "step_6").rename(tmp_path / "step_6")
    assert begin(other) == 4


def test_what_began_anew_does_not_go_on_from_a_path(tmp_path: Path) -> None:
    folder, path = tmp_path / "run", _save(tmp_path / "other", 3, "seed: 0\n")
    _open(folder)
    begin_run_record(folder, first_step=3, named=path)
    begin_run_record(folder, first_step=0)  # resume=auto found no checkpoint
    _save(folder, 5)
    record_checkpoint(folder, 5)
    found = _open(folder, str(path))
    assert found is not None
    assert found.step == 3


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
        _open(tmp_path, changed=(OTHER_SEED,))


def test_a_refusal_shows_all_that_changed_and_the_words_that_allow_it(tmp_path: Path) -> None:
    old = compose_config([])
    write_config(tmp_path, config_to_yaml(old))
    _save(tmp_path, 3, config_to_yaml(old))
    words, notes = ["algo.clip_low=0.1", "seed=1", "train.num_steps=60"], list[str]()

    def changes(saved: Path) -> list[Change]:
        return resume_changes(config_from_yaml(saved), compose_config(words))

    with pytest.raises(ConfigError) as caught, run_folder(tmp_path, "auto", changes, notes.append):
        pass
    shown = ("algo.clip_low: 0.2 -> 0.1", "seed: 0 -> 1", "train.num_steps: 30 -> 60")
    assert all(line in str(caught.value) for line in shown)
    assert notes == []
    words += re.findall(r"'(resume\.allow=.*?)'", str(caught.value))
    with run_folder(tmp_path, "auto", changes, notes.append) as found:
        assert found is not None
    (note,) = notes
    assert all(f"\n  {line} [" in note for line in shown)
    assert note.count("(resume.allow)") == 2


def test_a_configuration_that_can_be_read_is_not_exchanged(tmp_path: Path) -> None:
    found = load_checkpoint(_save(tmp_path, 3, config_to_yaml(compose_config([]))))
    own = config_to_yaml(compose_config(["trackers.console=false"]))
    write_config(tmp_path, own)
    bring_back_config(tmp_path, found)
    assert (tmp_path / "config.yaml").read_text() == own


def test_never_after_a_start_that_was_refused(tmp_path: Path) -> None:
    for _ in range(2):
        with run_folder(tmp_path / "run", "never", lambda _: [], print) as found:
            assert found is None
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_one_process_per_folder(tmp_path: Path) -> None:
    with (
        run_folder(tmp_path, "auto", lambda _: [], print),
        pytest.raises(ConfigError, match="in use"),
    ):
        _open(tmp_path)


def test_what_cannot_be_a_folder_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ConfigError, match=r"run\.dir cannot be written"):
            _open(folder)
    with pytest.raises(MissingPathError, match="resume names no checkpoint"):
        _open(tmp_path, str(tmp_path / "absent"))


def test_lost_checkpoints_are_refused_and_nothing_is_touched(tmp_path: Path) -> None:
    _open(tmp_path)
    begin_run_record(tmp_path, first_step=0)
    _log(tmp_path, 6)
    for step in (3, 6):
        _save(tmp_path, step)
        record_checkpoint(tmp_path, step)
    for loss in ("damaged", "removed"):
        for shard in tmp_path.glob("checkpoints/*/learner/w"):
            shard.write_text("")
        if loss == "removed":
            shutil.rmtree(tmp_path / "checkpoints")
        before = _state(tmp_path)
        with pytest.raises(CheckpointError) as caught:
            _open(tmp_path)
        for way in ("resume=PATH", "resume=never"):
            assert way in str(caught.value)
        assert _state(tmp_path) == before
    log = tmp_path / "metrics.jsonl"
    rows = log.read_bytes()
    log.unlink()
    with pytest.raises(CheckpointError, match=r"run\.json knows of step_6"):
        _open(tmp_path)
    log.write_bytes(rows)
    (tmp_path / "run.json").unlink()  # nobody can say that there never was one
    with pytest.raises(CheckpointError, match="6 steps are logged"):
        _open(tmp_path)
    assert _open(tmp_path, "never") is None


def test_a_run_that_was_stopped_before_its_first_checkpoint_begins_again(tmp_path: Path) -> None:
    _open(tmp_path)
    begin_run_record(tmp_path, first_step=0)
    _log(tmp_path, 4)
    notes: list[str] = []
    with run_folder(tmp_path, "auto", lambda _: [], notes.append) as found:
        assert found is None
    assert notes == [
        "4 steps are logged, but no checkpoint was written before the run stopped: it begins again"
    ]
    with pytest.raises(ConfigError, match="seed: 0 -> 1"):  # not over the logs of another run
        _open(tmp_path, changed=(OTHER_SEED,))


def test_a_damaged_log_is_named(tmp_path: Path) -> None:
    _open(tmp_path)
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"st\n{"step": 3}\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl is damaged(.|\n)*line 2"):
        _open(tmp_path)


SMALL_CONFIG = b"seed: 0\ndomains: {math: {reward: {gate: null}}}\n"


def test_every_flipped_byte_of_a_configuration_is_harmless_or_named(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_bytes(SMALL_CONFIG)
    config = config_from_yaml(file)
    messages = []
    for position, byte in enumerate(SMALL_CONFIG):
        for flip in (0x01, 0x80):
            changed = bytes([byte ^ flip])
            file.write_bytes(SMALL_CONFIG[:position] + changed + SMALL_CONFIG[position + 1 :])
            try:
                resume_changes(config_from_yaml(file), config)
            except ConfigError as error:
                messages.append(str(error))
    assert all(str(file) in message and "damaged" in message for message in messages)
    assert len(messages) >= len(SMALL_CONFIG), "a byte that is no UTF-8 at least"


@pytest.mark.parametrize("text", ["", "\n", "# nothing\n", "3", "[]", "- a", "seed: {", "seed: x"])
def test_an_emptied_or_torn_configuration_is_named_as_damaged(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"config\.yaml is damaged"):
        config_from_yaml(tmp_path / "config.yaml")


def test_a_damaged_configuration_of_the_folder_costs_nothing(tmp_path: Path) -> None:
    config = compose_config([])
    yaml = config_to_yaml(config)

    def changes(saved: Path) -> list[Change]:
        return resume_changes(config_from_yaml(saved), config)

    (tmp_path / "config.yaml").write_text(yaml)
    _save(tmp_path, 3, yaml)
    for text in ("", yaml[: len(yaml) // 2] + "{", "\udcff"):
        (tmp_path / "config.yaml").write_text(text, errors="surrogateescape")
        with run_folder(tmp_path, "auto", changes, print) as found:
            assert found is not None
            bring_back_config(tmp_path, found)
        assert (tmp_path / "config.yaml").read_text() == yaml
    (tmp_path / "config.yaml").write_text("")
    (tmp_path / "checkpoints" / "step_3" / "config.yaml").unlink()  # an older version's
    manifest = tmp_path / "checkpoints" / "step_3" / "manifest.json"
    manifest.unlink()
    shutil.rmtree(tmp_path / "checkpoints")
    _save(tmp_path, 3)
    with (
        pytest.raises(ConfigError, match="is damaged"),
        run_folder(tmp_path, "auto", changes, print),
    ):
        pass


def test_a_disk_that_takes_nothing_is_one_message(small_disk: Path) -> None:
    with contextlib.suppress(OSError):
        (small_disk / "ballast").write_bytes(bytes(8 << 20))
    (small_disk / "run").mkdir()
    with pytest.raises(ConfigError, match=r"run\.dir cannot be written(.|\n)*No space left"):
        _open(small_disk / "run")
    (small_disk / "ballast").unlink()
    _open(small_disk / "run")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    for resume in ("auto", "never"):
        for folder in ("run", "new"):
            if (resume, folder) != ("never", "run"):
                with pytest.raises(ConfigError, match=r"cannot be written(.|\n)*Read-only"):
                    _open(small_disk / folder, resume)
    with pytest.raises(ConfigError, match=r"cannot be written(.|\n)*Read-only"):
        _open(small_disk / "run", "never")


@pytest.mark.parametrize("there_before", [False, True])
def test_a_refused_run_leaves_no_new_folder(there_before: bool, tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "r"
    if there_before:
        folder.mkdir(parents=True)
    with pytest.raises(MissingPathError, match="resume names no checkpoint"):
        _open(folder, "nowhere")
    with (
        pytest.raises(ConfigError, match="later"),
        run_folder(folder, "auto", lambda _: [], print),
    ):
        raise ConfigError("later")
    assert folder.exists() == there_before


def test_a_run_that_is_refused_late_or_fails_keeps_its_folder(tmp_path: Path) -> None:
    for error, name in ((ConfigError, "run.json"), (RuntimeError, "config.yaml")):
        folder = tmp_path / name
        with (
            contextlib.suppress(error),
            run_folder(folder, "auto", lambda _: [], print),
        ):
            (folder / name).touch()
            raise error("late")
        assert (folder / name).exists()


def test_resuming_from_a_run_folder_names_its_newest_checkpoint(tmp_path: Path) -> None:
    _save(tmp_path / "old", 3)
    newest = _save(tmp_path / "old", 12)
    with pytest.raises(MissingPathError) as caught:
        _open(tmp_path / "new", str(tmp_path / "old"))
    assert f"set resume={newest}" in str(caught.value)


@pytest.mark.parametrize("what", ["run.json", "checkpoints/step_6/manifest.json"])
def test_a_newer_versions_folder_is_left_alone(what: str, tmp_path: Path) -> None:
    _open(tmp_path)
    begin_run_record(tmp_path, first_step=0)
    for step in (3, 6):
        _save(tmp_path, step)
    newer = json.loads((tmp_path / what).read_text())
    (tmp_path / what).write_text(json.dumps(newer | {"format": newer["format"] + 1}))
    before = _state(tmp_path)
    with pytest.raises(NewerVersionError, match="newer version"):
        _open(tmp_path)
    assert _state(tmp_path) == before
