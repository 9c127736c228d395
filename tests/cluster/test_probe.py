"""What a machine says about itself."""

import socket
from pathlib import Path

from mgsrl.cluster.probe import Probe, code_version, memory_gib, outline, versions


def test_the_outline_of_a_folder_tells_two_models_apart(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    for folder in (first, second):
        (folder / "tokenizer").mkdir(parents=True)
        (folder / "weights").write_bytes(b"w" * 300_000)
        (folder / "tokenizer/merges").write_text("a b")
    assert outline(first) == outline(second)
    assert "2 files, 0.3 MiB" in outline(first)
    for place in (0, 150_000, 299_999):  # the middle of a file is not read
        changed = bytearray(b"w" * 300_000)
        changed[place] = 0
        (second / "weights").write_bytes(changed)
        assert (outline(first) == outline(second)) is (place == 150_000)
    (second / "weights").write_bytes(b"w" * 299_999)
    assert outline(first) != outline(second)
    assert outline(first / "weights").startswith("1 files")
    assert outline(tmp_path / "nothing") == ""


def test_the_code_of_a_package_has_a_digest() -> None:
    assert code_version("mgsrl") == versions()["mgsrl"] != "not installed"
    assert code_version("tests") != code_version("mgsrl")
    assert code_version("no_such_package") == "not installed"


def test_a_door_is_found_open_or_closed() -> None:
    probe = Probe("127.0.0.1")
    port = probe.listen()
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # taken, and nobody listens
        closed = unused.getsockname()[1]
        assert probe.reach([("127.0.0.1", port)]) == {}
        assert probe.reach([("127.0.0.1", closed)]) == {"127.0.0.1": "Connection refused"}


def test_a_folder_that_is_another_one_shows(tmp_path: Path) -> None:
    probe = Probe("127.0.0.1")
    (tmp_path / "word").write_text("word")
    assert probe.share(str(tmp_path), "word", "answer") == ""
    assert (tmp_path / "answer").read_text() == "word"
    assert probe.share(str(tmp_path / "other"), "word", "answer") == "there is no such folder"
    assert probe.share(str(tmp_path), "other", "answer") == "No such file or directory"


def test_memory_is_what_the_machine_has() -> None:
    free, total = memory_gib()
    assert 0 < free < total
