"""What one machine can hold, and whether Ray finds a place on it."""

import os
import socket
from pathlib import Path

import pytest

from mgsrl.cluster.demand import Demand, check_demand, check_threads
from mgsrl.cluster.session import LONGEST_SOCKET, check_address, check_temp_dir
from mgsrl.errors import ConfigError


def workers(count: int, gib: float = 1.5) -> list[Demand]:
    return [
        Demand("rollout workers", "rollout.num_workers", count, gib),
        Demand("learner ranks", "learner.world_size", 1, 0.3),
    ]


def test_too_many_processes_are_refused() -> None:
    check_demand(workers(31), cores=2, memory_gib=64)
    with pytest.raises(ConfigError) as caught:
        check_demand(workers(1000), cores=2, memory_gib=1e6)
    message = str(caught.value)
    assert "at most 32 actors on 2 CPU cores" in message
    assert "1001: 1000 rollout workers" in message
    assert "lower rollout.num_workers" in message


@pytest.mark.parametrize(
    ("count", "store", "key"),
    [(17, 1.0, "rollout.num_workers"), (1, 100.0, "cluster.object_store_gib")],
)
def test_too_much_memory_is_refused(count: int, store: float, key: str) -> None:
    with pytest.raises(ConfigError, match=rf"at most 24\.0 GiB(?s:.)*lower {key}"):
        check_demand(workers(count), cores=8, memory_gib=24, other_gib=store)
    check_demand(workers(14), cores=8, memory_gib=24, other_gib=1.0)


def test_too_many_threads_are_refused() -> None:
    check_threads("learner.threads_per_rank", 8, 2)
    with pytest.raises(ConfigError, match=r"learner\.threads_per_rank=0"):
        check_threads("learner.threads_per_rank", 1000, 2)


@pytest.mark.parametrize("name", ["RAY_TMPDIR", "TMPDIR"])
def test_a_long_folder_for_temporary_files_is_refused(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv(name, "/tmp/" + "x" * 100)
    with pytest.raises(ConfigError) as caught:
        check_temp_dir()
    assert f"{name} is /tmp/xxx" in str(caught.value)
    assert "export RAY_TMPDIR=/tmp " in str(caught.value)
    monkeypatch.setenv("RAY_TMPDIR", "/tmp")  # as the message says
    check_temp_dir()


def test_the_limit_is_the_one_of_a_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    room = 107 - len(f"/{LONGEST_SOCKET}")
    for length, fits in ((room, True), (room + 1, False)):
        folder = "/tmp/" + "y" * (length - 5)
        monkeypatch.setenv("RAY_TMPDIR", folder)
        path = f"{folder}/{LONGEST_SOCKET}"
        with socket.socket(socket.AF_UNIX) as unix, pytest.raises(OSError) as caught:  # noqa: PT012
            unix.bind(path)  # the folder is not there
            pytest.fail("bound")
        assert ("AF_UNIX path too long" in str(caught.value)) is not fits
        if fits:
            check_temp_dir()
        else:
            with pytest.raises(ConfigError):
                check_temp_dir()


def test_names_of_sockets_are_rays() -> None:
    """The longest one that a running Ray of this version makes is no longer than assumed."""
    from ray._private.utils import validate_socket_filepath

    validate_socket_filepath("/" + "z" * 106)
    with pytest.raises(OSError):
        validate_socket_filepath("/" + "z" * 107)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o500)
    monkeypatch.setenv("RAY_TMPDIR", str(folder / "new"))
    with pytest.raises(ConfigError, match="cannot be written"):
        check_temp_dir()


def test_a_file_is_no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", "/dev/null/x")
    with pytest.raises(ConfigError, match="/dev/null is a file"):
        check_temp_dir()


def test_an_address_where_nothing_listens() -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
        with pytest.raises(ConfigError, match=r"cluster\.address does not answer"):
            check_address(f"127.0.0.1:{port}")
        listening.listen()
        check_address(f"127.0.0.1:{port}")
    check_address("auto")
    for address in ("127.0.0.1:99999", "no-such-host.invalid:6379"):
        with pytest.raises(ConfigError):
            check_address(address)


def test_a_cluster_is_as_large_as_its_machines() -> None:
    check_demand(workers(60), cores=4, memory_gib=200, machines=2)
    with pytest.raises(ConfigError) as caught:
        check_demand(workers(64), cores=4, memory_gib=200, machines=2)
    message = str(caught.value)
    assert "than the cluster of 2 machines can hold" in message
    assert "lower rollout.num_workers, or make the cluster larger" in message
    with pytest.raises(
        ConfigError, match=r"at least 90\.3 GiB(?s:.)*make the cluster larger"
    ) as told:
        check_demand(workers(60), cores=4, memory_gib=48, machines=2)
    assert "object_store" not in str(told.value)
