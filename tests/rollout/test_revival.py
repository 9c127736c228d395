"""Weights for workers that are made anew in the background: sent by the loop's thread alone."""

import threading
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from mgsrl.errors import LearnerDiedError, WorkerDiedError
from mgsrl.rollout.revival import Revival


@pytest.fixture
def background() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(4)


def test_the_loops_thread_sends_while_it_waits(background: ThreadPoolExecutor) -> None:
    senders: list[tuple[str, int]] = []
    revival = Revival(lambda handle: senders.append((handle, threading.get_ident())))
    work = background.submit(lambda: [revival(name) for name in ("a", "b")])
    revival.wait(work)
    revival("c")  # a worker that the loop itself replaced
    assert senders == [(name, threading.get_ident()) for name in ("a", "b", "c")]


def test_a_worker_that_dies_again_is_its_pools_affair(background: ThreadPoolExecutor) -> None:
    tries: list[str] = []

    def send(handle: str) -> None:
        tries.append(handle)
        if len(tries) == 1:
            raise WorkerDiedError("again")

    revival = Revival(send)

    def pool() -> None:
        with pytest.raises(WorkerDiedError, match="again"):
            revival("a")
        revival("b")

    work = background.submit(pool)
    revival.wait(work)
    work.result()
    assert tries == ["a", "b"]


def test_a_learner_that_dies_ends_both(background: ThreadPoolExecutor) -> None:
    def send(_handle: str) -> None:
        raise LearnerDiedError("gone")

    revival = Revival(send)
    work = background.submit(revival, "a")
    with pytest.raises(LearnerDiedError):
        revival.wait(work)
    with pytest.raises(LearnerDiedError):
        work.result(10)


def test_stopping_lets_nobody_wait(background: ThreadPoolExecutor) -> None:
    revival = Revival(lambda _: None)
    work: Future[None] = background.submit(revival, "a")
    revival.stop()
    late = background.submit(revival, "b")
    for each in (work, late):
        with pytest.raises(WorkerDiedError, match="stopped"):
            each.result(10)
