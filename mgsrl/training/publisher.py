"""Weights to the rollout workers, and the proof that they arrived.

After every publish the engines' weights are compared with what was sent, bit for bit, and the
log-probabilities of a few sequences with the learner's (`sync/canary`). A worker found dead is
replaced and everything is sent again.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from mgsrl.cluster.wait import get
from mgsrl.config import SyncConfig
from mgsrl.errors import WorkerDiedError
from mgsrl.learner.group import LearnerGroup
from mgsrl.rollout.dispatch import LIMIT_KEY
from mgsrl.rollout.sampler import Sampler
from mgsrl.sync.canary import MAX_TOKENS, check_canary, compare_logprobs, named, pick_sequences
from mgsrl.sync.client import LIMIT_KEY as SYNC_KEY
from mgsrl.sync.fingerprint import Proof, compare
from mgsrl.training.choreography import Choreography


@dataclass
class Publisher:
    """Sends weight versions from the learners to the rollout workers."""

    sampler: Sampler
    learners: LearnerGroup
    sync: SyncConfig
    rounds: bool
    """Learner or engine computes in bfloat16."""
    note: Callable[[str], None]
    """Tells the user."""
    max_tokens: int = MAX_TOKENS
    """Of the sequences that the canary compares; engines need room for one more."""
    turns: Choreography = field(default_factory=Choreography)
    """Where engines share the learners' GPUs: who has them."""
    canary_error: float = 0.0
    """Of the last publish: mean |log p_engine - log p_learner| in nats, the worst worker's."""
    version: int = 0
    """The weight version that the learners hold: the number of steps done."""
    _sequences: list[tuple[int, ...]] = field(default_factory=list)
    """What the canary compares."""
    _connected: list[Any] = field(default_factory=list)
    _baseline: float | None = None
    """The canary's error after the first publish of this process."""
    _said: set[str] = field(default_factory=set)

    def publish(self, version: int, candidates: Sequence[Sequence[int]]) -> None:
        """Send the learners' weights as `version` to every rollout worker and prove it.

        A worker found dead is replaced and everything is sent again; a learner's death is final.

        Args:
            candidates: token sequences of which the canary compares a few.
        """
        self.version = version
        self._sequences = pick_sequences(candidates, self.sync.canary_sequences, self.max_tokens)
        self.turns.sync()
        while True:
            handles = self.sampler.handles
            self._connect(handles)
            lost = self.learners.publish(version)
            for position in lost:
                reason = f"it, or an NCCL peer, died or took {SYNC_KEY} while weights were sent"
                self.sampler.replace(handles[position], reason)
            if lost:
                continue
            self.turns.roll()
            try:
                self._check_canary(handles)
                return
            except WorkerDiedError:
                if not sum(pool.revive_dead() for pool in self.sampler.distinct_pools):
                    raise

    def republish(self, handle: Any) -> None:
        """A rollout worker was replaced: send it the learners' version, and prove that too."""
        # By CUDA IPC to all: what a learner rank exports is freed once its own engine opened it.
        handles = self.sampler.handles if self.sync.transfer == "ipc" else [handle]
        self._connect(handles)
        lost = self.learners.publish(self.version)
        if any(handles[position] is handle for position in lost):
            raise WorkerDiedError("the new rollout worker died while weights were sent to it")
        self._check_canary([handle])  # others that died are found by whoever needs them

    def _connect(self, handles: Sequence[Any]) -> None:
        if handles != self._connected:
            self.learners.connect_rollouts(handles, self.sync.transfer)
            self._connected = list(handles)

    def _check_canary(self, handles: Sequence[Any]) -> None:
        """Engines and learners compute side by side."""
        published = self.learners.fingerprints()
        names = list(published)
        scores = [handle.logprobs.remote(self._sequences, 1.0) for handle in handles]
        probes = [handle.probe.remote(self.version, names) for handle in handles]
        expected = self.learners.logprobs(self._sequences, temperature=1.0)
        limit_s = self.sampler.limit_s
        scored = get(scores, limit_s, "the canary's log-probabilities", LIMIT_KEY)
        seen = get(probes, limit_s, "the engines' fingerprints", LIMIT_KEY)
        errors = [compare_logprobs(logprobs, expected) for logprobs in scored]
        proofs = [compare(report, published) for report in seen]
        self.canary_error = max(error.mean for error in errors)
        for slot, (error, proof) in enumerate(zip(errors, proofs)):
            known = check_canary(
                error,
                proof,
                threshold=self.sync.canary_threshold,
                rounds=self.rounds,
                baseline=self._baseline,
                weight_version=self.version,
                worker=f"rollout worker {slot}",
            )
            self._say_once("jump", known)
        if self._baseline is None:
            self._baseline = self.canary_error
            self._say_once("unseen", unseen_note(proofs[0]))

    def _say_once(self, what: str, text: str | None) -> None:
        if text is not None and what not in self._said:
            self._said.add(what)
            self.note(text)


def unseen_note(proof: Proof) -> str | None:
    """What the user should know of parameters that no fingerprint covers."""
    if not proof.unseen:
        return None
    return (
        f"{proof.num_seen} of {proof.num_seen + len(proof.unseen)} parameters are compared bit for "
        f"bit after every publish; the engine keeps the others out of sight, and only "
        f"log-probabilities watch over them: {named(proof.unseen)}"
    )
