"""All learner ranks as one object: what the training loop talks to.

Each verb runs on every rank at once and is bounded by `learner.time_limit_s`. The ranks share
one model, so a rank that dies or fails cannot be replaced alone: the others would wait for it
inside a collective. All are killed; the error says why, with the end of the dead one's log. Going
on from the last checkpoint is not decided here (`training/restart.py`).
"""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ray

from mgsrl.cluster.logs import Log, last_lines
from mgsrl.cluster.placement import Seat
from mgsrl.cluster.preflight import choose_device, usable_cores
from mgsrl.cluster.wait import get, short_reason, timed_out
from mgsrl.data.packing import PackedBatch
from mgsrl.errors import InvariantError, LearnerDiedError, MgsrlError, StorageError, WorkerDiedError
from mgsrl.files.hashed import FileFacts
from mgsrl.learner.policy import resolve_policy
from mgsrl.learner.runtime import LOOPBACK
from mgsrl.learner.shard_file import Written
from mgsrl.learner.spec import Engines, LearnerSpec
from mgsrl.learner.worker import LearnerWorker
from mgsrl.sync.fingerprint import Published
from mgsrl.types import DomainStats, StepProbe, StepStats, SurgeryReport

LIMIT_KEY = "learner.time_limit_s"
COLLECTIVE_TIMED_OUT = re.compile(r"timed out|time.?out", re.IGNORECASE)
"""What gloo, NCCL and torch's store say when the other ranks did not come."""
PEER_LOST = re.compile(r"connection (closed|reset)|broken pipe|remote process exited", re.I)
"""What they say when the connection to another rank is lost."""
DEATH_NOTICE_S = 10.0
"""How long Ray may take to notice that an actor's process is gone."""


class LearnerGroup:
    """The learner actors.

    Args:
        spec: what is trained and how.
        loopback: all ranks are on this machine; they talk over the loopback interface only.
        engines: what takes the weights; None for one with the defaults.
        seats: where each rank goes; without them Ray finds a GPU for each, if there are any.
    """

    def __init__(
        self,
        spec: LearnerSpec,
        *,
        loopback: bool = True,
        engines: Engines | None = None,
        seats: Sequence[Seat] = (),
    ) -> None:
        config = spec.learner
        resolve_policy(spec.policy.path)  # a wrong path is said at once, before any actor starts
        self._limit_s = config.time_limit_s
        self._engines = engines or Engines()
        self.world_size = config.world_size
        self.device = choose_device(config.device, ray.cluster_resources().get("GPU", 0.0))
        threads = config.threads_per_rank or _threads(config.world_size)
        options: dict[str, Any] = {
            # The ranks share the machine's cores by threads; a reserved core each could leave a
            # laptop without room for the other actors, and Ray would wait for it for ever.
            "num_cpus": 0,
            "num_gpus": 1.0 if self.device == "cuda" else 0,
            "max_restarts": 0,
        }
        actor = ray.remote(LearnerWorker)
        self.handles: list[Any] = []
        for rank in range(config.world_size):
            seat = seats[rank] if seats else Seat()
            own_gpu = seat.options.get("num_gpus", 1.0) >= 1
            environment = rank_environment(self.device, threads, own_gpu=own_gpu)
            own = options | seat.options_with(environment)
            self.handles.append(
                actor.options(**own).remote(spec, rank, config.world_size, self.device, threads)
            )
        self._logs: list[Log] = []
        self._logs = [facts["log"] for facts in self._all("ready", what="the learners to start")]
        host = LOOPBACK if loopback else self._first("node_address")
        self._all("start", self._first("offer_address", host), what="the learners to load")

    @property
    def addresses(self) -> list[str]:
        """Of the machine of each rank."""
        return [log.address for log in self._logs]

    # ---- one update ------------------------------------------------------------------------

    def load_batch(self, batch: PackedBatch) -> None:
        """Hand every rank its micro-batches; reference and old log-probabilities are computed."""
        if len(batch.per_rank) != self.world_size:
            raise InvariantError(
                f"a batch packed for {len(batch.per_rank)} ranks, there are {self.world_size}"
            )
        self._each(
            "load_batch", [(part, batch.totals, batch.half_sizes) for part in batch.per_rank]
        )

    def accumulate(self, domain: str) -> DomainStats:
        """Forward, loss and backward of one domain; its gradient is kept apart."""
        return self._all("accumulate", domain)[0]

    def resolve_conflicts(self, step: int) -> SurgeryReport:
        """Gradient surgery: the domains' gradients become one."""
        return self._all("resolve_conflicts", step)[0]

    def probe_steps(self, step: int) -> StepProbe | None:
        """Try the steps that could follow, of a batch packed in halves, and take them back."""
        return self._all("probe_steps", step)[0]

    def optimizer_step(self, step: int) -> StepStats:
        """Clip by the global norm and step."""
        return self._all("optimizer_step", step)[0]

    # ---- weights ---------------------------------------------------------------------------

    def connect_rollouts(self, handles: Sequence[Any], transfer: str) -> None:
        """Tell the learners who receives their weights, and how they travel."""
        self._all("connect_rollouts", list(handles), transfer, self._engines)

    def publish(self, version: int) -> list[int]:
        """Send the current weights to the rollout actors as `version`.

        Returns:
            Positions of the rollout actors that died meanwhile; see `LearnerWorker.publish`.
        """
        return self._all("publish", version)[0]

    def logprobs(self, sequences: Sequence[Sequence[int]], temperature: float) -> list[list[float]]:
        """Log-probability of every token given its prefix (first = 0.0), as the engine scores."""
        return self._all("logprobs", list(sequences), temperature)[0]

    def fingerprints(self) -> Published:
        """Of what was last published, under the names it was sent by."""
        return self._all("fingerprints")[0]

    def rest(self) -> None:
        """Leave the GPUs to the engines; see `LearnerWorker.rest`."""
        self._all("rest")

    def resume(self) -> None:
        """Take the GPUs again."""
        self._all("resume")

    # ---- state -----------------------------------------------------------------------------

    def save(self, path: str | Path, *, background: bool = False) -> None:
        """Write the learners' part of a checkpoint into the existing folder `path`; in the
        background, return when the state is copied. `saved` tells how it ends."""
        self._all("save", str(path), background)

    def saved(self, *, wait: bool = True) -> dict[str, FileFacts] | None:
        """The files of the last `save` by name, each on the disk; None while it is under way.

        Raises:
            StorageError: the disk did not take them; the learners live on.
        """
        parts: list[Written | None] = self._all("saved", wait, what="the learners' shards")
        written = [part for part in parts if part is not None]
        if len(written) < len(parts):
            return None
        problems = [part.problem for part in written if part.problem]
        if problems:
            raise StorageError(f"the learners' shards could not be written: {problems[0]}")
        return {name: facts for part in written for name, facts in part.files.items()}

    def load(self, path: str | Path) -> None:
        """Continue from a checkpoint."""
        self._all("load", str(path))

    def reset_optimizer(self) -> None:
        """Fresh AdamW moments."""
        self._all("reset_optimizer")

    def move_reference(self) -> None:
        """Make the current policy the reference of the KL term."""
        self._all("move_reference")

    def stop(self) -> None:
        """Kill the actors; safe to call twice."""
        for handle in self.handles:
            ray.kill(handle, no_restart=True)
        self.handles = []

    # ---- calls -----------------------------------------------------------------------------

    def _all(self, method: str, *args: Any, what: str = "") -> list[Any]:
        return self._each(method, [args] * self.world_size, what)

    def _first(self, method: str, *args: Any) -> Any:
        return self._each(method, [args])[0]

    def _each(self, method: str, args: Sequence[tuple[Any, ...]], what: str = "") -> list[Any]:
        """`method` on every rank that has arguments, the first ones; results by rank.

        Whatever goes wrong on one rank ends all of them: they cannot go on without it.
        """
        if not self.handles:
            raise LearnerDiedError(f"the learners are stopped; cannot {method}")
        refs = [getattr(handle, method).remote(*own) for handle, own in zip(self.handles, args)]
        try:
            return get(refs, self._limit_s, what or f"{method} on the learners", LIMIT_KEY)
        except (MgsrlError, ray.exceptions.RayError) as error:
            # The survivors of a dead rank fail too ("connection closed by peer"), perhaps first.
            ours, seen = isinstance(error, MgsrlError), isinstance(error, WorkerDiedError)
            deaths = {}
            if seen or not ours:
                deaths = _deaths(refs, 0.0 if seen else DEATH_NOTICE_S)
            self.stop()
            if not deaths and not seen:
                last = [] if ours else str(error).strip().splitlines()[-1:]
                if not ours and collective_timed_out(error):
                    problem = f"the learner ranks waited for each other in {method}: {last[0]}"
                    raise timed_out(problem, LIMIT_KEY) from error
                if not PEER_LOST.search("".join(last)):
                    raise
            raise LearnerDiedError(self._told(method, deaths, error)) from error

    def _told(self, method: str, deaths: Mapping[int, Exception], error: Exception) -> str:
        """Who died, of what, and the end of its log."""
        rank, reason = next(iter(deaths.items()), (None, error))
        problem = f"A learner died during {method} ({short_reason(reason)})"
        if rank is None or rank >= len(self._logs):
            return problem
        log = self._logs[rank]
        told = [f"{problem}: rank {rank}, {log}"]
        if lines := last_lines(log):
            told += [f"  the last lines of {log.path}:", *(f"    | {line}" for line in lines)]
        return "\n".join(told)


def rank_environment(device: str, threads: int, *, own_gpu: bool) -> dict[str, str]:
    """Environment of one rank's process, set before it imports anything."""
    env = {
        "DS_ACCELERATOR": device,
        "OMP_NUM_THREADS": str(threads),
        # Waiting threads sleep instead of spinning on cores that others need.
        "OMP_WAIT_POLICY": "PASSIVE",
        "TOKENIZERS_PARALLELISM": "false",
    }
    # Rows of every length leave holes between the allocator's fixed segments. A rank that shares
    # its GPU hands its weights on by CUDA IPC, which opens such memory many times slower.
    names = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF")
    if device == "cuda" and own_gpu and not any(name in os.environ for name in names):
        env[names[0]] = "expandable_segments:True"
    return env


def collective_timed_out(error: Exception) -> bool:
    """Whether a call that failed says that other ranks did not come. Its traceback does not count:
    `timeout` is an argument in the lines of many a frame."""
    return COLLECTIVE_TIMED_OUT.search(str(getattr(error, "cause", None) or error)) is not None


def _deaths(refs: Sequence[Any], limit_s: float) -> dict[int, Exception]:
    """By rank, why the actors behind the calls died (the others get `limit_s` to end)."""
    deaths: dict[int, Exception] = {}
    ended = ray.wait(list(refs), num_returns=len(refs), timeout=limit_s)[0]
    for rank, ref in enumerate(refs):
        try:
            if ref in ended:
                ray.get(ref, timeout=DEATH_NOTICE_S)
        except ray.exceptions.RayActorError as error:
            deaths[rank] = error
        except ray.exceptions.RayError:
            continue  # it failed, alive
    return deaths


def _threads(world_size: int) -> int:
    """CPU threads per rank when the ranks spread evenly over the machines."""
    machines = max(1, sum(1 for node in ray.nodes() if node["Alive"]))
    return max(1, usable_cores() // -(-world_size // machines))
