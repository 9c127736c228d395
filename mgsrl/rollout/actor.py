"""The rollout actor: one engine in one Ray process, and the helper that makes pools of them.

`RolloutWorker` is a plain class (tests use it without Ray); `rollout_pools` wraps it in actors
with the threads, GPUs and environment that its engine needs.
"""

import logging
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
import torch

from mgsrl.cluster.placement import Seat
from mgsrl.cluster.pool import ActorPool
from mgsrl.cluster.preflight import usable_cores
from mgsrl.config.model_facts import ModelFacts, model_facts
from mgsrl.config.model_path import POCKET_POLICY, resolve_model_path
from mgsrl.config.rollout import ENGINES, RolloutConfig
from mgsrl.errors import ConfigError, InvariantError, UserError
from mgsrl.rollout.decoding import Decoder
from mgsrl.rollout.engine import Engine, EngineSpec, rollout_engine
from mgsrl.rollout.residency import Residency
from mgsrl.rollout.running import RunningEngine, Taken
from mgsrl.sync.backend import choose_transfer
from mgsrl.sync.fingerprint import Seen
from mgsrl.types import GenerationRequest, Rollout

SMALL_HIDDEN_SIZE = 512
"""Below this width one CPU thread is fastest: the barriers of a second one cost more than it
computes, and under load (learner and reward workers share the cores) tens of times more."""


def make_engine(spec: EngineSpec) -> Engine:
    """The engine named by `config.engine`, loaded."""
    path = resolve_model_path(spec.model_path, "policy.path", POCKET_POLICY)
    decoder = Decoder(path, trust_remote_code=spec.trust_remote_code)
    return rollout_engine(spec.config.engine).load(replace(spec, model_path=path), decoder)


class RolloutWorker:
    """One engine behind the methods that pools, samplers and weight senders call."""

    def __init__(self, spec: EngineSpec) -> None:
        logging.getLogger("transformers").setLevel(logging.ERROR)
        started = time.monotonic()
        self.spec = spec
        self._mistake: UserError | None = None
        self._residency = Residency()
        try:
            self._running = RunningEngine(lambda: make_engine(spec))
        except UserError as error:
            # Raised here it would reach the driver as the death of an actor, without its message.
            self._mistake = error
        self._start_s = time.monotonic() - started

    def ready(self) -> dict[str, Any]:
        """Engine facts for `run.json`; returns once the engine is loaded.

        Raises the user's mistakes that loading showed.
        """
        import psutil

        if self._mistake is not None:
            raise self._mistake
        return {
            "engine": self.spec.config.engine,
            "device": self.spec.device,
            "host": platform.node(),
            "pid": os.getpid(),
            "start_s": round(self._start_s, 2),
            "rss_gib": round(psutil.Process().memory_info().rss / 2**30, 3),
            "threads": self._running.call(torch.get_num_threads),
        }

    @property
    def engine(self) -> Engine:
        return self._running.engine

    def submit(
        self, step: int, requests: Sequence[GenerationRequest], urgent: bool = False
    ) -> None:
        """What `RunningEngine.submit` does; and so for `take`."""
        self._residency.need("submit")
        self._running.submit(step, requests, urgent)

    def take(self, step: int, wait_s: float) -> Taken:
        return self._running.take(step, wait_s)

    def generate(self, requests: Sequence[GenerationRequest]) -> list[Rollout]:
        """From end to end, beside what was submitted."""
        self._residency.need("generate")
        return self._running.call(self.engine.generate, requests)

    def logprobs(
        self, sequences: Sequence[Sequence[int]], temperature: float = 1.0
    ) -> list[list[float]]:
        self._residency.need("logprobs")
        return self._running.call(self.engine.logprobs, sequences, temperature)

    def probe(self, version: int, published: Sequence[str]) -> list[Seen]:
        self._residency.need("probe")
        return self._running.call(self.engine.probe, version, published)

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        self._running.call(self.engine.init_weight_transfer_engine, init_info)

    def start_weight_update(self) -> None:
        """What was submitted stands still until the update is finished."""
        self._residency.need_weights("start_weight_update")
        self._running.pause()
        self._running.call(self.engine.start_weight_update)

    def update_weights(self, update_info: dict[str, Any]) -> None:
        self._running.call(self.engine.update_weights, update_info)

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        self._running.call(self.engine.finish_weight_update, weight_version)
        self._residency.filled()
        self._running.resume()

    def sleep(self, level: int) -> None:
        """See `Engine.sleep`; raises `InvariantError` unless everything is awake and done."""
        if not self._running.is_idle:
            raise InvariantError("sleep of an engine that has requests")
        self._residency.sleep(level)
        self._running.call(self.engine.sleep, level)

    def wake_up(self, tags: Sequence[str]) -> None:
        """See `Engine.wake_up`; raises `InvariantError` in another order than `residency` has."""
        if waking := self._residency.wake(tags):
            self._running.call(self.engine.wake_up, waking)

    def close(self) -> None:
        self._running.call(self.engine.close)


def check_engine(
    config: RolloutConfig,
    device: str | None = None,
    *,
    colocated: bool = False,
    facts: ModelFacts | None = None,
) -> type[Engine]:
    """The engine's class, unless it cannot start here. Imports nothing heavy; takes no time.

    Args:
        device: `"cpu"` or `"cuda"` where the workers will compute; None when it is not known yet
            (then what depends on it is left for `rollout_pools`).
        colocated: it will share the learners' GPUs.
        facts: of the policy, where they are known.

    Raises:
        ConfigError: there is no such engine, a library that it needs is missing, or
            `rollout.sync.transfer` cannot work with it or on this device.
    """
    engine = rollout_engine(config.engine)
    if device is not None:
        transfer_of(config, device, colocated=colocated, facts=facts)
    engine.check(device)
    return engine


def transfer_of(
    config: RolloutConfig,
    device: str,
    *,
    colocated: bool = False,
    facts: ModelFacts | None = None,
) -> str:
    """`choose_transfer`, where `auto` is the object store for engines that know no other, or lose
    weights of the policy by it.

    Raises:
        ConfigError: also where it is such a one that is asked for.
    """
    transfer = choose_transfer(config.sync.transfer, device, colocated=colocated)
    engine = rollout_engine(config.engine)
    lost = engine.lost_in_transfer(facts) if facts is not None else ""
    if transfer == "object_store" or (getattr(engine, transfer) and not lost):
        return transfer
    if config.sync.transfer != "auto":
        why = f", by which {lost} would stay as they were before training" if lost else ""
        raise ConfigError(
            f"rollout.engine={config.engine} does not take weights by {transfer.upper()}.",
            expected="rollout.sync.transfer=auto or object_store",
            found=f"rollout.sync.transfer={transfer}{why}",
            todo="set rollout.sync.transfer=auto",
        )
    return "object_store"


def check_tensor_parallel(config: RolloutConfig, device: str) -> None:
    """ConfigError for tensor parallelism without GPUs or an engine that knows it."""
    parallel = config.tensor_parallel_size
    if parallel > 1 and (device == "cpu" or not rollout_engine(config.engine).splits):
        raise ConfigError(
            "rollout.tensor_parallel_size splits one engine over several GPUs.",
            expected="1 without GPUs or with an engine that cannot be split (transformers)",
            found=f"{parallel} on {device} with rollout.engine={config.engine}",
            todo="set rollout.tensor_parallel_size=1",
        )


def gpus_per_worker(config: RolloutConfig) -> float:
    """GPUs that one worker reserves; a tensor-parallel engine takes whole ones."""
    return max(config.num_gpus or 0.0, float(config.tensor_parallel_size))


def cpu_threads(
    model_path: str, workers_per_machine: int, *, trust_remote_code: bool = False
) -> int:
    """CPU threads per worker: one for small models, else an equal share of the cores."""
    if Path(model_path).is_dir():
        hidden = model_facts(model_path, trust_remote_code=trust_remote_code).hidden_size
        if hidden is not None and hidden < SMALL_HIDDEN_SIZE:
            return 1
    return max(1, usable_cores() // max(1, workers_per_machine))


def worker_environment(spec: EngineSpec) -> dict[str, str]:
    """Environment of one actor, set before it imports anything."""
    env = {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    if spec.device == "cpu":
        # Waiting threads sleep instead of spinning on cores that other actors need.
        env |= {"OMP_NUM_THREADS": str(max(1, spec.threads)), "OMP_WAIT_POLICY": "PASSIVE"}
    return env | rollout_engine(spec.config.engine).environment(spec.config, spec.device)


def rollout_pools(
    spec: EngineSpec, domains: Mapping[str, int], seats: Sequence[Seat] = ()
) -> dict[str, ActorPool]:
    """Pools of rollout actors by domain; under `assignment=shared` all domains share one.

    Args:
        spec: what the workers load; its `threads` is filled in here when 0.
        domains: `dedicated` workers per domain (`domains.<name>.num_workers`).
        seats: where each worker goes, one domain's after the other's; without them Ray finds GPUs.

    Raises:
        MissingPathError: there is no model at `spec.model_path`.
        ConfigError: see `check_engine` and `Engine.check_model`. All before any actor starts.
    """
    config = spec.config
    engine = check_engine(config, spec.device, colocated=spec.sleeps)
    path = resolve_model_path(spec.model_path, "policy.path", POCKET_POLICY)
    facts = model_facts(path, trust_remote_code=spec.trust_remote_code)
    engine.check_model(facts, spec.device)
    transfer = transfer_of(config, spec.device, colocated=spec.sleeps, facts=facts)
    located = replace(
        config,
        engine=ENGINES.located(config.engine),
        sync=replace(config.sync, transfer=transfer),
    )
    spec = replace(spec, model_path=path, config=located)
    if config.assignment == "shared":
        sizes = {"rollout": config.num_workers}
    else:
        sizes = {f"rollout/{domain}": count for domain, count in domains.items()}
    options, spec = _actor_options(spec, sum(sizes.values()))
    environment = worker_environment(spec)
    free = iter(seats or [Seat()] * sum(sizes.values()))

    def maker(size: int) -> Callable[[int], Any]:
        own = [next(free) for _ in range(size)]

        def make(slot: int) -> Any:
            there = options | own[slot].options_with(environment)
            return ray.remote(RolloutWorker).options(**there).remote(spec)

        return make

    pools = {
        name: ActorPool(
            name,
            maker(size),
            size,
            key="rollout",
            max_restarts=config.max_restarts,
            restart_window=config.restart_window,
            start_limit_s=config.start_limit_s,
        )
        for name, size in sizes.items()
    }
    if config.assignment == "shared":
        return dict.fromkeys(domains, pools["rollout"])
    return {domain: pools[f"rollout/{domain}"] for domain in domains}


def _actor_options(spec: EngineSpec, num_workers: int) -> tuple[dict[str, Any], EngineSpec]:
    if spec.device == "cpu" and spec.threads == 0:
        threads = cpu_threads(
            spec.model_path, num_workers, trust_remote_code=spec.trust_remote_code
        )
        spec = replace(spec, threads=threads)
    options: dict[str, Any] = {
        # Rollouts, rewards and learning take turns on a CPU machine, so cores are not reserved.
        "num_cpus": 0 if spec.device == "cpu" else 1,
        "num_gpus": 0 if spec.device == "cpu" else gpus_per_worker(spec.config),
        "max_restarts": 0,
    }
    return options, spec
