"""Experiments outside the package: a file, a folder, `./configs`; and what is wrong with them."""

from pathlib import Path

import pytest

from mgsrl.config.compose import compose_config, config_dir
from mgsrl.errors import ConfigError, MissingPathError

MINE = """\
# One domain of mine
policy: {path: pocket}
train: {num_steps: 7}
domains:
  code:
    source: {kind: file, path: code.jsonl}
    reward: {kind: math}
"""


def write(path: Path, text: str = MINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file_is_an_experiment(tmp_path: Path) -> None:
    config = compose_config(["seed=3"], write(tmp_path / "a folder" / "mine, 1.yaml"))
    assert list(config.domains) == ["code"]
    assert (config.train.num_steps, config.seed) == (7, 3)


def test_a_path_may_be_a_text_and_overrides_may_not(tmp_path: Path) -> None:
    file = write(tmp_path / "experiment" / "mine.yaml")
    asked = (([], str(file), None), (["+experiment=mine"], None, str(tmp_path)))
    assert [list(compose_config(*each).domains) for each in asked] == [["code"], ["code"]]
    with pytest.raises(ConfigError, match=r"write \['seed=1'\]"):
        compose_config("seed=1")


def test_a_file_may_name_our_files_as_defaults(tmp_path: Path) -> None:
    text = "# @package _global_\ndefaults:\n  - pocket_mgs\n  - _self_\ntrain: {num_steps: 7}\n"
    config = compose_config([], write(tmp_path / "mine.yaml", text))
    ours = compose_config(["train.num_steps=7"])
    assert (config.domains, config.train) == (ours.domains, ours.train)


@pytest.mark.parametrize("here", [False, True], ids=["--config-dir", "./configs"])
def test_a_folder_beside_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, here: bool) -> None:
    folder = tmp_path / "configs"
    write(folder / "experiment" / "mine.yaml")
    write(folder / "experiment" / "broken.yaml", "a: [1\n")
    write(folder / "domains" / "lab.yaml", "math: {reward: {kind: math}}\n")
    write(folder / "strategy" / "lab.yaml", "surgery: {granularity: layer}\n")
    if here:
        monkeypatch.chdir(tmp_path)
    given = None if here else folder
    assert list(compose_config(["+experiment=mine"], folder=given).domains) == ["code"]
    with pytest.raises(ConfigError, match="flow sequence"):
        compose_config(["+experiment=broken"], folder=given)
    assert list(compose_config(["domains=lab"], folder=given).domains) == ["math"]
    assert compose_config(["strategy=lab"], folder=given).surgery.granularity == "layer"
    with pytest.raises(ConfigError, match="did you mean 'mine'"):
        compose_config(["+experiment=mein"], folder=given)
    monkeypatch.chdir("/")
    with pytest.raises(ConfigError, match="experiment=mine is no choice"):
        compose_config(["+experiment=mine"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- a\n- b\n", "KEY: VALUE"),
        ("", "NoneType"),
        ("a: [1\n", "cannot be read"),
        ("trian: {num_steps: 1}\n", "did you mean"),
        ("train: {num_steps: many}\n", "train.num_steps"),
        ("defaults:\n  - nowhere\n", "mine.yaml"),
        ("\x00", "cannot be read"),
    ],
)
def test_a_file_that_cannot_be(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        compose_config([], write(tmp_path / "mine.yaml", text))


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_what_editors_of_windows_write(tmp_path: Path, end: str) -> None:
    text = end.join(["\ufefftrain: {num_steps: 7}", "seed: 3", ""])
    config = compose_config([], write(tmp_path / "mine.yaml", text))
    assert (config.train.num_steps, config.seed) == (7, 3)


def test_files_and_folders_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(MissingPathError, match="--config names nothing"):
        compose_config([], tmp_path / "mine.yaml")
    with pytest.raises(MissingPathError, match="--config-dir names nothing"):
        compose_config([], folder=tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="holds no configuration"):
        compose_config([], folder=tmp_path)
    write(tmp_path / "strategy" / "mgs.yaml", "name: mgs\n")
    with pytest.raises(ConfigError, match="another name than mgs"):
        compose_config([], folder=tmp_path)


def test_our_own_folder_is_no_second_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(config_dir().parent)
    assert compose_config([], folder=config_dir()) == compose_config([])


def test_another_checkout_of_mgsrl_holds_no_files_of_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where an installed mgsrl is called in a clone of another version."""
    write(tmp_path / "configs" / "experiment" / "pocket_mgs.yaml", "train: {num_steps: 3}\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="another name than pocket_mgs"):
        compose_config([])
    write(tmp_path / "mgsrl" / "__init__.py", "")
    assert compose_config([]).train.num_steps != 3


def test_an_experiment_and_a_file_are_one_too_many(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="experiment is chosen twice"):
        compose_config(["+experiment=qwen_mgs"], write(tmp_path / "mine.yaml"))
