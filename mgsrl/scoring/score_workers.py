"""The workers of `score_file`, in order and with bounded memory, without Ray.

The math verifier and the constraint checker already are a process per object, so threads drive
them; a reward model is one object that batches.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from types import TracebackType
from typing import Self

from mgsrl.config.reward import RewardConfig
from mgsrl.rewards.actor import RewardWorker
from mgsrl.rewards.factory import make_reward
from mgsrl.rewards.protocol import Response, RewardItem
from mgsrl.scoring.score_rows import ScoreRow
from mgsrl.types import Reward

CHUNK_LIMIT_S = 3600.0


class ScoreWorkers:
    """A context manager around `workers` reward workers."""

    def __init__(
        self,
        config: RewardConfig,
        workers: int,
        special_tokens: Sequence[str] = (),
        date: str | None = None,
    ) -> None:
        self._special_tokens, self._date = tuple(special_tokens), date
        # A model makes its own batches, and there is memory for one.
        self.size = 1 if make_reward(config).model_path else workers
        self._config = config
        self._executor: ThreadPoolExecutor | None = None
        self._free: SimpleQueue[RewardWorker] = SimpleQueue()
        self._workers: list[RewardWorker] = []

    def __enter__(self) -> Self:
        self._workers = [
            RewardWorker(self._config, self._special_tokens, self._date) for _ in range(self.size)
        ]
        for worker in self._workers:
            worker.ready()
            self._free.put(worker)
        if self.size > 1:
            self._executor = ThreadPoolExecutor(self.size)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # First the workers: after an interrupt nobody waits for the rest of a slow chunk.
        for worker in self._workers:
            worker.close()
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)

    def score(self, chunks: Iterable[list[ScoreRow]]) -> Iterator[tuple[ScoreRow, Reward]]:
        """Rows with their rewards, in order; at most two chunks a worker are under way."""
        if self._executor is None:
            for chunk in chunks:
                yield from zip(chunk, self._score([row.item for row in chunk]), strict=True)
            return
        waiting: deque[tuple[list[ScoreRow], Future[list[Reward]]]] = deque()
        for chunk in chunks:
            waiting.append((chunk, self._executor.submit(self._score, [row.item for row in chunk])))
            if len(waiting) >= 2 * self.size:
                yield from _finished(*waiting.popleft())
        while waiting:
            yield from _finished(*waiting.popleft())

    def _score(self, items: list[Response | RewardItem]) -> list[Reward]:
        worker = self._free.get(timeout=CHUNK_LIMIT_S)
        try:
            return worker.score(items)
        finally:
            self._free.put(worker)


def _finished(
    chunk: list[ScoreRow], future: Future[list[Reward]]
) -> Iterator[tuple[ScoreRow, Reward]]:
    yield from zip(chunk, future.result(timeout=CHUNK_LIMIT_S), strict=True)
