"""The learner's line to all rollout actors: vLLM's `VLLMWeightSyncClient`, with time limits.

vLLM's own `RayVLLMWeightSyncClient` waits without a limit, sends a payload once per actor and
gives every actor the same NCCL rank offset; hence this one.

An actor that dies during an update is left out of the rest of it and counted: the learners'
ranks are in the middle of collectives, and the other actors want to end the update properly.
"""

from collections.abc import Sequence
from typing import Any

import ray

from mgsrl.cluster.wait import get
from mgsrl.errors import WaitTimeoutError, WorkerDiedError


class RolloutClient:
    """Weight-sync calls to a list of rollout actors, all in parallel.

    Args:
        handles: actors with the four weight methods (`rollout.actor.RolloutWorker`).
        limit_s: longest wait for one call on all actors, in seconds.
        ranks_per_worker: tensor-parallel ranks behind one actor.
    """

    def __init__(
        self, handles: Sequence[Any], limit_s: float, *, ranks_per_worker: int = 1
    ) -> None:
        self.handles = list(handles)
        self.limit_s = limit_s
        self.ranks_per_worker = ranks_per_worker
        self.lost: list[int] = []
        """Positions in the original `handles` of those that died or did not answer in time."""
        self._positions = list(range(len(self.handles)))
        self.next_version: int | None = None
        """Version of the update under way, for senders that do not pass it on (vLLM's NCCL)."""

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """Open the transfer on every actor; under NCCL each gets its own rank offset."""
        infos = []
        for index in range(len(self.handles)):
            info = dict(init_info)
            if "rank_offset" in info:
                info["rank_offset"] += index * self.ranks_per_worker
            infos.append((info,))
        self._each("init_weight_transfer_engine", infos)

    def start_weight_update(self) -> None:
        self._all("start_weight_update")

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
        self._each(method, [args] * len(self.handles))

    def _each(self, method: str, args: Sequence[tuple[Any, ...]]) -> None:
        """Call every actor that is left; drop those that do not answer."""
        refs = [getattr(handle, method).remote(*own) for handle, own in zip(self.handles, args)]
        alive = []
        for position, handle, ref in zip(self._positions, self.handles, refs):
            try:
                get(ref, self.limit_s, f"{method} on a rollout worker", "rollout.time_limit_s")
                alive.append((position, handle))
            except (WorkerDiedError, WaitTimeoutError):
                self.lost.append(position)
        self._positions = [position for position, _ in alive]
        self.handles = [handle for _, handle in alive]
