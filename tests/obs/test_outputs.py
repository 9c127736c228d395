"""Where commands write: what is read stays, what exists needs force, folders are not invented."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from mgsrl.errors import ConfigError
from mgsrl.obs.outputs import output_file, output_folder, replaced_folder, shared_folder

Write = Callable[..., Path]


def folder(path: Path, **options: object) -> Path:
    is_ours = lambda each: (each / "ours").exists()  # noqa: E731
    return output_folder(path, "OUT", is_ours=is_ours, kind="our kind", **options)  # type: ignore[arg-type]


def file(path: Path | str, **options: object) -> Path:
    return output_file(path, "OUT", **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("name", ["x", "./x", "sub/../x", "symbolic", "hard", "symbolic_folder/x"])
def test_what_is_read_is_never_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, force: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    source = tmp_path / "x"
    source.write_text("rows")
    (tmp_path / "sub").mkdir()
    os.symlink(source, tmp_path / "symbolic")
    os.symlink(tmp_path, tmp_path / "symbolic_folder")
    os.link(source, tmp_path / "hard")
    with pytest.raises(ConfigError, match=r"(?s)OUT .*which is read.*force does not help"):
        file(name, inputs=[source], force=force)
    with pytest.raises(ConfigError, match=r"(?s)which is read"):
        folder(tmp_path, inputs=[source], force=force)  # it is in there
    assert source.read_text() == "rows"


def test_what_exists_needs_force(tmp_path: Path) -> None:
    path = tmp_path / "out"
    assert file(path, inputs=["a/hub-id", tmp_path / "none"]) == path
    path.write_text("123")
    with pytest.raises(ConfigError, match=r"(?s)OUT .*found: +3 bytes.*--force"):
        file(path)
    assert file(path, force=True) == path
    assert path.read_text() == "123"  # checking changes nothing
    dangling = tmp_path / "dangling"
    os.symlink(tmp_path / "nowhere", dangling)
    with pytest.raises(ConfigError, match="--force"):
        file(dangling)


@pytest.mark.parametrize("force", [False, True])
def test_what_is_no_file_is_refused(tmp_path: Path, force: bool) -> None:
    with pytest.raises(ConfigError, match="a folder"):
        file(tmp_path, force=force)
    with pytest.raises(ConfigError, match="a device"):
        file("/dev/null", force=force)


def test_missing_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"(?s)no folder .*none.*mkdir -p"):
        file(tmp_path / "none" / "out")
    for check in (folder, lambda path: shared_folder(path, "OUT")):
        with pytest.raises(ConfigError, match=r"(?s)found: +nothing of /no-such-folder"):
            check(Path("/no-such-folder/deep/er"))
        assert check(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    assert not (tmp_path / "a").exists()
    monkeypatch.setenv("HOME", str(tmp_path))
    assert file("~/out") == tmp_path / "out"
    assert shared_folder("~/data", "OUT") == tmp_path / "data"


def test_folders_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everywhere
    for check in (file, folder, lambda path: shared_folder(path, "OUT")):
        with pytest.raises(ConfigError, match="read-only"):
            check(tmp_path / "out")


def test_a_folder_is_replaced_only_by_its_own_kind(tmp_path: Path) -> None:
    path = tmp_path / "out"
    assert folder(path) == path
    path.mkdir()
    assert folder(path) == path  # empty
    (path / "thesis.tex").write_text("years")
    for force in (False, True):
        with pytest.raises(ConfigError, match="something else"):
            folder(path, force=force)
    (path / "ours").write_text("")
    with pytest.raises(ConfigError, match="--force"):
        folder(path)
    assert folder(path, force=True) == path
    plain = tmp_path / "plain"
    plain.write_text("")
    for check in (lambda p: folder(p, force=True), lambda p: shared_folder(p, "OUT")):
        with pytest.raises(ConfigError, match="a file"):
            check(plain)


def test_the_old_folder_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "out"
    with replaced_folder(path) as draft:
        draft.mkdir()
        (draft / "a").write_text("1")
    with pytest.raises(KeyError), replaced_folder(path) as draft:  # noqa: PT012
        draft.mkdir()
        raise KeyError
    assert (path / "a").read_text() == "1"
    assert [entry.name for entry in path.parent.iterdir()] == ["out"]
    with replaced_folder(path) as draft:
        draft.mkdir()
        (draft / "b").write_text("2")
    assert [entry.name for entry in path.iterdir()] == ["b"]
    assert [entry.name for entry in path.parent.iterdir()] == ["out"]
