"""What of an engine is in memory, and what may be asked of it then.

An engine that shares its GPU gives weights and KV cache back while the learner works. The way back:
weights (after level 2 without content) -> new weights -> KV cache -> rollouts. On a CPU vLLM's
own sleep does nothing, and on a GPU another order computes with what lies in the memory, or hangs;
so the order is held here, for every engine and on every device.
"""

from collections.abc import Sequence

from mgsrl.errors import InvariantError

WEIGHTS, KV_CACHE = "weights", "kv_cache"
PARTS = (WEIGHTS, KV_CACHE)
"""vLLM's tags of what sleeps, in the order in which they wake."""


class Residency:
    """The parts of one engine that are asleep; all are awake at first."""

    def __init__(self) -> None:
        self.asleep: frozenset[str] = frozenset()
        self.empty = False
        """The weights were dropped, and no complete update came since."""

    def sleep(self, level: int) -> None:
        """Everything is given back; level 2 drops the weights, 1 keeps them in host memory."""
        self.need("sleep")
        self.asleep = frozenset(PARTS)
        self.empty = level == 2

    def wake(self, tags: Sequence[str]) -> list[str]:
        """The parts among `tags` that have to be woken; an engine that is new was never asleep."""
        waking = [tag for tag in PARTS if tag in tags and tag in self.asleep]
        if KV_CACHE in waking and WEIGHTS not in tags:
            self.need_weights("wake_up(kv_cache)")
            if self.empty:
                raise InvariantError("wake_up(kv_cache) should follow an update: weights are empty")
        self.asleep -= frozenset(waking)
        return waking

    def filled(self) -> None:
        """A complete update arrived."""
        self.empty = False

    def need_weights(self, verb: str) -> None:
        """Raise `InvariantError` unless there is memory for weights."""
        if WEIGHTS in self.asleep:
            raise InvariantError(f"{verb} of an engine whose weights are asleep")

    def need(self, verb: str) -> None:
        """Raise `InvariantError` unless all is awake and the weights have content."""
        if self.asleep or self.empty:
            what = f"{' and '.join(sorted(self.asleep))} asleep" if self.asleep else "no weights"
            raise InvariantError(f"{verb} of an engine with {what}")
