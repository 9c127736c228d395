"""A start that is refused leaves the folder of the run as it was."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mgsrl.config.compose import compose_config, config_from_yaml
from mgsrl.errors import CheckpointError, ConfigError, UserError
from mgsrl.training import launch
from mgsrl.training.fingerprint import fingerprint
from mgsrl.training.plan import plan
from tests.checkpoints import save_checkpoint
from tests.training.test_fit import SMALL, edited


class Started(Exception):
    """Ray would start now."""


@pytest.fixture
def begin(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`mgsrl train` up to the first actor."""

    @contextmanager
    def stop(*_: Any) -> Iterator[None]:
        raise Started
        yield

    monkeypatch.setattr(launch, "ray_session", stop)
    return lambda overrides: launch.launch(compose_config(overrides))


@pytest.fixture
def begun(tiny_model: Path, tmp_path: Path, begin: Callable[..., None]) -> list[str]:
    """The overrides of a run with a checkpoint of step 1, in `run` beside `model` and `math`."""
    model = shutil.copytree(tiny_model, tmp_path / "model")
    rows = [{"id": str(n), "prompt": f"{n} + 1", "answer": str(n + 1)} for n in range(8)]
    (tmp_path / "math.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    overrides = [
        *SMALL,
        f"policy.path={model}",
        f"run.dir={tmp_path / 'run'}",
        "domains.math.source.kind=file",
        f"domains.math.source.path={tmp_path / 'math.jsonl'}",
    ]
    with pytest.raises(Started):
        begin(overrides)
    ready = plan(compose_config(overrides))
    state = {"mixture": ready.mixture.state(), "policy": fingerprint(str(model))}
    save_checkpoint(
        tmp_path / "run" / "checkpoints",
        1,
        state,
        lambda folder: (folder / "learner.json").write_text("{}") and None,
        config_yaml=(tmp_path / "run" / "config.yaml").read_text(),
    )
    return overrides


def other_data(folder: Path) -> None:
    file = folder / "math.jsonl"
    file.write_text(file.read_text().replace("7 + 1", "7 + 2"))


def other_weights(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    file = folder / "model" / "model.safetensors"
    tensors = load_file(file)
    name = next(iter(tensors))
    tensors[name] = tensors[name] * 1.5
    save_file(tensors, file, metadata={"format": "pt"})


def other_model(folder: Path) -> None:
    edited(folder / "model", folder / "model", "config.json", rms_norm_eps=0.1)


def no_data(folder: Path) -> None:
    (folder / "math.jsonl").unlink()


def short_context(folder: Path) -> None:
    edited(folder / "model", folder / "model", "config.json", max_position_embeddings=20)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (other_data, CheckpointError),
        (other_weights, CheckpointError),
        (other_model, CheckpointError),
        (no_data, UserError),
        (short_context, UserError),
    ],
)
def test_a_refused_resumption_changes_nothing(
    change: Callable[[Path], None],
    error: type[Exception],
    begun: list[str],
    begin: Callable[..., None],
    tmp_path: Path,
) -> None:
    change(tmp_path)
    before = contents(tmp_path / "run")
    with pytest.raises(error):
        begin([*begun, "run.name=another"])  # a key that may change
    assert contents(tmp_path / "run") == before


def test_a_machine_that_is_too_small_changes_nothing(
    begun: list[str], begin: Callable[..., None], tmp_path: Path
) -> None:
    before = contents(tmp_path / "run")
    with pytest.raises(ConfigError, match="more processes"):
        begin([*begun, "learner.world_size=4000"])
    assert contents(tmp_path / "run") == before


def test_a_long_temporary_folder_and_a_full_disk_change_nothing(
    begun: list[str],
    begin: Callable[..., None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = contents(tmp_path / "run")
    with monkeypatch.context() as long:
        long.setenv("RAY_TMPDIR", f"/tmp/{'t' * 100}")
        with pytest.raises(ConfigError, match="sockets do not fit"):
            begin(begun)
    monkeypatch.setattr(launch, "checkpoint_bytes", lambda folder: 2**60)
    with pytest.raises(ConfigError, match="no room for a checkpoint"):
        begin(begun)
    assert contents(tmp_path / "run") == before


def test_a_resumption_that_begins_writes_its_configuration(
    begun: list[str], begin: Callable[..., None], tmp_path: Path
) -> None:
    with pytest.raises(Started):
        begin([*begun, "run.name=another"])
    assert config_from_yaml(tmp_path / "run" / "config.yaml").run.name == "another"


def test_homes_of_nobody_are_plain_names(
    begin: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Started):
        begin([*SMALL, "run.dir=~nobody-of-this-name/run"])
    assert os.listdir(tmp_path) == ["~nobody-of-this-name"]
    with pytest.raises(UserError, match="resume names no checkpoint"):
        begin([*SMALL, f"run.dir={tmp_path / 'r'}", "resume=~nobody-of-this-name/step_1"])
