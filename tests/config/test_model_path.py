"""What `policy.path` and a reward model's `path` may be."""

from pathlib import Path

import pytest

from mgsrl.config.model_path import POCKET_POLICY, POCKET_REWARD_MODEL, resolve_model_path
from mgsrl.errors import MissingPathError


def resolve(path: str, key: str = "policy.path") -> str:
    return resolve_model_path(path, key, POCKET_POLICY)


@pytest.mark.parametrize("pocket", [POCKET_POLICY, POCKET_REWARD_MODEL])
def test_pocket_is_in_the_package(pocket: str) -> None:
    folder = Path(resolve_model_path("pocket", "policy.path", pocket))
    assert folder.name == pocket
    assert (folder / "config.json").is_file()


def test_a_pocket_model_that_was_not_installed() -> None:
    with pytest.raises(MissingPathError, match="bundled pocket poodle is not installed"):
        resolve_model_path("pocket", "policy.path", "pocket_poodle")


def test_local_folders_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "models" / "mine"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for path in ("models/mine", "./models/mine", "~/models/mine", "models/../models/mine"):
        assert resolve(path) == str(folder.resolve())


def test_hub_ids_pass() -> None:
    assert resolve("Qwen/Qwen2.5-7B") == "Qwen/Qwen2.5-7B"


def test_what_is_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "empty").mkdir(parents=True)
    (tmp_path / "models" / "weights.bin").write_text("")
    for path, found in {
        "": "it is empty",
        "nowhere": "nothing there",
        "./nowhere": "nothing there",
        "/nowhere/model": "nothing there",
        "~no-such-user/model": "nothing there",
        "a/b/c": "nothing there",
        "models": "empty, weights.bin",
        "models/empty": "nothing in it",
        "models/weights.bin": "a file",
        "models/mistyped": "nothing there",  # the folder models/ is here: no hub id
    }.items():
        with pytest.raises(MissingPathError, match=r"(?s)chat\.path.*expected:.*to do:") as caught:
            resolve(path, "chat.path")
        assert found in str(caught.value), path
