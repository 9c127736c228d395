"""Pools on a real local Ray: order, replacement of killed and stuck workers, errors in the work."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import ray

from mgsrl.cluster.pool import ActorPool
from mgsrl.cluster.session import ray_session
from mgsrl.cluster.wait import get
from mgsrl.config import ClusterConfig
from mgsrl.errors import UserError, WaitTimeoutError, WorkerDiedError

pytestmark = pytest.mark.ray_cluster
KEY = "test.limit_s"


class Plain:
    def __init__(self) -> None:
        self.restored = False

    def ready(self) -> dict[str, int]:
        return {"pid": os.getpid()}

    def restore(self) -> None:
        self.restored = True

    def square(self, x: int) -> tuple[int, bool]:
        return x * x, self.restored

    def die_once(self, marker: str, x: int) -> tuple[int, bool]:
        if x == 0 and not os.path.exists(marker):
            open(marker, "w").close()
            os._exit(1)
        return self.square(x)

    def hang_once(self, marker: str, x: int) -> tuple[int, bool]:
        if x == 0 and not os.path.exists(marker):
            open(marker, "w").close()
            time.sleep(60)
        return self.square(x)

    def die(self) -> None:
        os._exit(1)

    def refuse(self) -> None:
        raise UserError("bad input")


Squarer = ray.remote(num_cpus=0)(Plain)


@ray.remote(num_cpus=0)
class Slow(Plain):
    def ready(self) -> dict[str, int]:
        time.sleep(60)
        return super().ready()


@pytest.fixture(scope="module", autouse=True)
def session() -> Iterator[None]:
    with ray_session(ClusterConfig(object_store_gib=0.2)):
        yield


def _pool(size: int = 2, **options: int) -> ActorPool:
    pool = ActorPool(
        "test",
        lambda slot: Squarer.remote(),
        size,
        key="test",
        start_limit_s=60,
        on_restart=lambda handle: get(handle.restore.remote(), 30, "restore", KEY),
        **options,
    )
    pool.wait_ready()
    return pool


def test_nothing_listens_beyond_loopback() -> None:
    assert ray.util.get_node_ip_address() == "127.0.0.1"
    me = psutil.Process()
    listening = {
        connection.laddr.ip.removeprefix("::ffff:")
        for process in [me, *me.children(recursive=True)]
        for connection in process.net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening <= {"127.0.0.1", "::1"}, listening


def test_results_keep_the_order_and_report_progress() -> None:
    pool, seen = _pool(), []
    batches = [(x,) for x in range(9)]
    results = pool.map(
        "square", batches, limit_s=30, limit_key=KEY, on_done=lambda n, of: seen.append((n, of))
    )
    assert [value for value, _ in results] == [x * x for x in range(9)]
    assert seen == [(n, 9) for n in range(1, 10)]
    pool.stop()


@pytest.mark.parametrize("method", ["die_once", "hang_once"])
def test_a_dead_or_stuck_worker_loses_nothing(method: str, tmp_path: object) -> None:
    pool = _pool()
    marker = f"{tmp_path}/marker"
    results = pool.map(method, [(marker, x) for x in range(6)], limit_s=5, limit_key=KEY)
    assert [value for value, _ in results] == [x * x for x in range(6)]
    assert sum(pool.restarts) == 1
    calls = [handle.square.remote(1) for handle in pool.handles]
    restored = [done for _, done in get(calls, 30, "squares", KEY)]
    assert restored == [count == 1 for count in pool.restarts], "the new worker got no state"
    pool.stop()


@ray.remote(num_cpus=0)
class Starter(Plain):
    """Dies, or fails, in its constructor as long as there are less than `times` marks."""

    def __init__(self, folder: str, times: int, kind: str) -> None:
        super().__init__()
        marks = len(os.listdir(folder))
        if marks < times:
            open(f"{folder}/{marks}", "w").close()
            if kind == "raise":
                raise RuntimeError("no such architecture")
            os._exit(1)


def _starting(folder: Path, times: int, kind: str = "die") -> ActorPool:
    return ActorPool(
        "test",
        lambda slot: Squarer.remote() if slot else Starter.remote(str(folder), times, kind),
        2,
        key="test",
        start_limit_s=60,
        on_restart=lambda handle: get(handle.restore.remote(), 30, "restore", KEY),
    )


def test_a_worker_that_is_killed_as_it_starts_is_made_anew(tmp_path: Path) -> None:
    pool, notes = _starting(tmp_path, 2), list[str]()
    pool.note = notes.append
    pids = [facts["pid"] for facts in pool.wait_ready()]
    assert pids == [get(handle.ready.remote(), 30, "pid", KEY)["pid"] for handle in pool.handles]
    assert pool.restarts == [2, 0]
    assert [note.startswith("test worker 0 is replaced") for note in notes] == [True, True]
    calls = [handle.square.remote(3) for handle in pool.handles]
    assert get(calls, 30, "squares", KEY) == [(9, False)] * 2  # nothing was to be sent
    pool.stop()


@pytest.mark.parametrize(
    ("times", "kind", "message", "tries"),
    [(9, "die", "died 4 times within 100 steps", 4), (9, "raise", "no such architecture", 1)],
)
def test_a_start_that_cannot_go_well_is_given_up(
    tmp_path: Path, times: int, kind: str, message: str, tries: int
) -> None:
    pool = _starting(tmp_path, times, kind)
    with pytest.raises(WorkerDiedError, match=message):
        pool.wait_ready()
    assert len(os.listdir(tmp_path)) == tries
    pool.stop()


def test_a_start_that_takes_too_long_is_told(tmp_path: Path) -> None:
    pool = ActorPool("test", lambda slot: Slow.remote(), 1, key="test", start_limit_s=0.5)
    with pytest.raises(WaitTimeoutError, match=r"for the test workers(.|\n)*test\.start_limit_s"):
        pool.wait_ready()
    pool.stop()


def test_a_killed_idle_worker_is_revived() -> None:
    pool = _pool()
    pid = get(pool.handles[0].ready.remote(), 30, "pid", KEY)["pid"]
    psutil.Process(pid).kill()
    assert pool.revive_dead() == 1
    assert pool.revive_dead() == 0
    assert pool.map("square", [(2,), (3,)], limit_s=30, limit_key=KEY)
    pool.stop()


def test_replacing_and_stopping() -> None:
    pool = _pool()
    old = pool.handles[1]
    pool.replace(old, WorkerDiedError("it was slow"))
    assert old not in pool.handles
    assert get(pool.handles[1].square.remote(3), 30, "a square", KEY) == (9, True)
    pool.stop()
    with pytest.raises(WorkerDiedError, match="stopped"):
        pool._restart(0, WorkerDiedError("killed by stop"))


def test_replaced_workers_are_noted_in_one_line_with_reason_and_count() -> None:
    pool, notes = _pool(1), []
    pool.note = notes.append
    pid = get(pool.handles[0].ready.remote(), 30, "pid", KEY)["pid"]
    psutil.Process(pid).kill()
    assert pool.revive_dead() == 1
    (note,) = notes
    assert note.startswith("test worker 0 is replaced (1 of at most 3 times within 100 steps): ")
    assert "\n" not in note
    assert len(note) < 300
    assert "connection error" in note or "killed" in note
    pool.stop()


def test_old_deaths_are_forgiven_and_many_at_once_are_not() -> None:
    pool = _pool(1, max_restarts=1, restart_window=10)
    for step in (1, 11, 21):  # one in ten steps, for ever
        pool.new_step(step)
        pool.replace(pool.handles[0], WorkerDiedError("killed"))
    assert pool.restarts == [3]
    pool.new_step(30)
    with pytest.raises(WorkerDiedError, match=r"2 times within 10 steps(.|\n)*test\.max_restarts"):
        pool.replace(pool.handles[0], WorkerDiedError("killed again"))
    pool.stop()


def test_giving_up_names_the_limit_that_ran_out(tmp_path: object) -> None:
    pool = _pool(1, max_restarts=0)
    with pytest.raises(WorkerDiedError, match=r"raise test\.limit_s"):
        pool.map("hang_once", [(f"{tmp_path}/marker", 0)], limit_s=1, limit_key=KEY)
    pool.stop()


def test_giving_up_says_so() -> None:
    pool = _pool(1, max_restarts=1)
    with pytest.raises(WorkerDiedError, match="resumed with the same command"):
        pool.map("die", [()], limit_s=30, limit_key=KEY)
    pool.stop()


def test_an_error_in_the_work_is_not_a_death() -> None:
    pool = _pool(1)
    with pytest.raises(UserError, match="bad input"):
        pool.map("refuse", [()], limit_s=30, limit_key=KEY)
    assert pool.restarts == [0]
    pool.stop()


def test_waits_are_bounded_and_say_for_what(tmp_path: object) -> None:
    pool = _pool(1)
    ref = pool.handles[0].hang_once.remote(f"{tmp_path}/marker", 0)
    with pytest.raises(WaitTimeoutError, match=r"a slow square(.|\n)*raise test\.limit_s"):
        get(ref, 0.5, "a slow square", KEY)
    pool.stop()
