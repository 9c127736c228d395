"""The learner's line to all rollout actors: vLLM's `VLLMWeightSyncClient`, with time limits.

vLLM's own `RayVLLMWeightSyncClient` waits without a limit, sends a payload once per actor and
gives every actor the same NCCL rank offset; hence this one.

An actor that dies during an update is left out of the rest of it and counted: the learners'
ranks are in the middle of collectives, and the other actors want to end the update properly. Where
the actors are ranks of one group that waits for all of them (NCCL), the first loss is everybody's.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

import ray

from mgsrl.cluster.wait import get
from mgsrl.errors import GroupBrokenError, WaitTimeoutError, WorkerDiedError

LIMIT_KEY = "rollout.sync.time_limit_s"


class RolloutClient:
    """Weight-sync calls to a list of rollout actors, all in parallel.

    Args:
        handles: actors with the four weight methods (`rollout.actor.RolloutWorker`).
        limit_s: longest wait for one call on all actors, in seconds.
        ranks_per_worker: tensor-parallel ranks behind one actor.
        busy_limit_s: the same for calls that may find an actor at work; None is `limit_s`.
    """

    def __init__(
        self,
        handles: Sequence[Any],
        limit_s: float,
        *,
        ranks_per_worker: int = 1,
        busy_limit_s: float | None = None,
    ) -> None:
        self.handles = list(handles)
        self.limit_s = limit_s
        self.busy_limit_s = busy_limit_s or limit_s
        self.ranks_per_worker = ranks_per_worker
        self.lost: list[int] = []
        """Positions in the original `handles` of those that died or did not answer in time."""
        self._positions = list(range(len(self.handles)))
        self.next_version: int | None = None
        """Version of the update under way, for senders that do not pass it on (vLLM's NCCL)."""
        self.one_group = False
        """The actors are ranks of one group: who is lost takes the others along."""
        self.broken = False
        """That has happened."""
        self.on_break: Callable[[], None] | None = None
        """Called, once, when it happens; in whatever thread waits for the actors."""

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """Open the transfer on every actor; under NCCL each gets its own rank offset."""
        infos = []
        for index in range(len(self.handles)):
            info = dict(init_info)
            if "rank_offset" in info:
                info["rank_offset"] += index * self.ranks_per_worker
            infos.append((info,))
        self._each("init_weight_transfer_engine", infos, self.busy_limit_s)

    def start_weight_update(self) -> None:
        self._each("start_weight_update", [()] * len(self.handles), self.busy_limit_s)

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """Hand one payload to every actor: one copy into the object store, read by all.

        The copy is freed when the call returns and the actors have let go of it.
        """
        self._all("update_weights", ray.put(update_info))

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        if weight_version is None and self.next_version is not None:
            weight_version = str(self.next_version)
        self._all("finish_weight_update", weight_version)

    def _all(self, method: str, *args: Any) -> None:
        self._each(method, [args] * len(self.handles), self.limit_s)

    def _each(self, method: str, args: Sequence[tuple[Any, ...]], limit_s: float) -> None:
        """Call every actor that is left; drop those that do not answer."""
        if self.broken:
            raise GroupBrokenError(f"{method} after the group of the rollout workers broke")
        refs = [getattr(handle, method).remote(*own) for handle, own in zip(self.handles, args)]
        if self.one_group:
            self._all_or_none(refs, method, limit_s)
            return
        alive = []
        for position, handle, ref in zip(self._positions, self.handles, refs):
            try:
                get(ref, limit_s, f"{method} on a rollout worker", LIMIT_KEY)
                alive.append((position, handle))
            except (WorkerDiedError, WaitTimeoutError):
                self.lost.append(position)
        self._positions = [position for position, _ in alive]
        self.handles = [handle for _, handle in alive]

    def _all_or_none(self, refs: list[Any], method: str, limit_s: float) -> None:
        """Wait until every actor has answered, or the first is lost or fails.

        Raises:
            GroupBrokenError: one died, or the time ran out. All are `lost`.
            Exception: what one of them raised; the group is broken too.
        """
        end = time.monotonic() + limit_s
        try:
            while refs:
                ready, refs = ray.wait(refs, timeout=max(0.0, end - time.monotonic()))
                what = f"{method} on a rollout worker"
                get(ready[0] if ready else refs[0], limit_s if ready else 0.0, what, LIMIT_KEY)
        except Exception as error:
            self.broken = True
            self.lost, self.handles, self._positions = self._positions, [], []
            if self.on_break is not None:
                self.on_break()
            if isinstance(error, WorkerDiedError | WaitTimeoutError):
                raise GroupBrokenError(f"the group broke in {method}: {error}") from error
            raise
