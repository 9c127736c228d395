"""Weights to the rollout workers, and the proof that they arrived.

After every publish the canary compares the log-probabilities of a few sequences (`sync/canary`);
a worker found dead is replaced and everything is sent again.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from mgsrl.cluster.wait import get
from mgsrl.config import SyncConfig
from mgsrl.errors import WorkerDiedError
from mgsrl.learner.group import LearnerGroup
from mgsrl.rollout.sampler import LIMIT_KEY, Sampler
from mgsrl.sync.canary import PROBE_SEED, Probe, check_canary, compare_logprobs, pick_sequences


@dataclass
class Publisher:
    """Sends weight versions from the learners to the rollout workers."""

    sampler: Sampler
    learners: LearnerGroup
    sync: SyncConfig
    canary_error: float = 0.0
    """Of the last publish: mean |log p_engine - log p_learner| in nats, the worst worker's."""
    version: int = 0
    """The weight version last published (the number of steps done)."""
    _sequences: list[tuple[int, ...]] = field(default_factory=list)
    """What the canary compares."""
    _connected: list[Any] = field(default_factory=list)

    def publish(self, version: int, candidates: Sequence[Sequence[int]]) -> None:
        """Send the learners' weights as `version` to every rollout worker and prove it.

        A worker found dead is replaced and everything is sent again; a learner's death is final.

        Args:
            candidates: token sequences of which the canary compares a few.
        """
        self.version = version
        self._sequences = pick_sequences(candidates, self.sync.canary_sequences)
        while True:
            handles = self.sampler.handles
            self._connect(handles)
            lost = self.learners.publish(version)
            for position in lost:
                reason = f"it died while weights were sent to it, or took longer than {LIMIT_KEY}"
                self.sampler.replace(handles[position], reason)
            if lost:
                continue
            try:
                self._check_canary(handles)
                return
            except WorkerDiedError:
                if not sum(pool.revive_dead() for pool in self.sampler.distinct_pools):
                    raise

    def republish(self, handle: Any) -> None:
        """A rollout worker was replaced: send it the current version, and prove that too."""
        self._connect([handle])
        if self.learners.publish(self.version):
            raise WorkerDiedError("the new rollout worker died while weights were sent to it")
        self._check_canary([handle])

    def _connect(self, handles: Sequence[Any]) -> None:
        if handles != self._connected:
            self.learners.connect_rollouts(handles, self.sync.transfer)
            self._connected = list(handles)

    def _check_canary(self, handles: Sequence[Any]) -> None:
        expected = self.learners.logprobs(self._sequences, temperature=1.0)
        limit_s = self.sampler.limit_s
        scored = get(
            [handle.score.remote(self._sequences, 1.0) for handle in handles],
            limit_s,
            "the canary's log-probabilities",
            LIMIT_KEY,
        )
        errors = [compare_logprobs(logprobs, expected) for logprobs in scored]
        self.canary_error = max(error.mean for error in errors)
        for slot, (handle, error) in enumerate(zip(handles, errors)):
            check_canary(
                error,
                threshold=self.sync.canary_threshold,
                weight_version=self.version,
                worker=f"rollout worker {slot}",
                probes=partial(self._probes, handle),
            )

    def _probes(self, handle: Any) -> tuple[Probe, Probe]:
        seen = handle.probe.remote(PROBE_SEED)
        engine = get(seen, self.sampler.limit_s, "the engine's probe", LIMIT_KEY)
        return engine, self.learners.probe()
