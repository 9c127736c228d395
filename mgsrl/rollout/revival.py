"""Weights for rollout workers that were made anew while the learners are at work.

Rollouts are made in the background, and a worker that dies there is replaced there; but weights
come from the learners, whose verbs are collectives, and within a step they hold weights of no
version. So the background only says that a worker wants weights and waits; the loop's thread sends
them where it waits for rollouts itself: then the learners stand still.
"""

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from mgsrl.errors import WaitTimeoutError, WorkerDiedError


class Revival:
    """What the pools call when they replaced a worker.

    Args:
        send: sends one worker the current weights; called in the thread that made this object.
    """

    def __init__(self, send: Callable[[Any], None] | None = None) -> None:
        self._send = send
        self._owner = threading.get_ident()
        self._changed = threading.Condition()
        self._waiting: deque[tuple[Any, Future[None]]] = deque()
        self._stopped = False

    def __call__(self, handle: Any) -> None:
        """Return once `handle` has its weights; raises `WorkerDiedError` if it cannot have any."""
        if self._send is None:
            return
        if threading.get_ident() == self._owner:
            self._send(handle)
            return
        sent = Future[None]()
        with self._changed:
            if self._stopped:
                raise WorkerDiedError("the rollout workers were stopped")
            self._waiting.append((handle, sent))
            self._changed.notify_all()
        sent.result()

    def wait(self, work: "Future[Any]") -> None:
        """Wait in the loop's thread until background work is done; meanwhile send weights to the
        workers that want them."""
        work.add_done_callback(lambda _: self._wake())
        while True:
            with self._changed:
                self._changed.wait_for(lambda: work.done() or self._waiting)
                if work.done():
                    return
                handle, sent = self._waiting.popleft()
            self._serve(handle, sent)

    def stop(self) -> None:
        """Nobody will get weights any more; safe to call twice."""
        with self._changed:
            self._stopped = True
            while self._waiting:
                stopped = WorkerDiedError("the rollout workers were stopped")
                self._waiting.popleft()[1].set_exception(stopped)

    def _serve(self, handle: Any, sent: "Future[None]") -> None:
        assert self._send is not None
        try:
            self._send(handle)
        except BaseException as error:
            sent.set_exception(error)
            if not isinstance(error, WorkerDiedError | WaitTimeoutError):  # its pool tries again
                raise
        else:
            sent.set_result(None)

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()
