"""An engine in a process beside the learner's, on one device, as in `placement=colocated`.

On a GPU vLLM gets new weights by CUDA IPC; otherwise they go through the pipe.
"""

import multiprocessing
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gpu_checks.models import pocket, start_worker
from gpu_checks.record import GIB, Record, Setting
from gpu_checks.updates import train_step

SHARE = 0.3
"""Of the GPU's memory, for weights and KV cache."""


class EngineProcess:
    """The engine's verbs, called in its process; what weight senders want of a client."""

    next_version: int | None = None
    """Of the update under way; vLLM's own senders do not pass it on."""

    def __init__(self, spec: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, spec), daemon=True)
        self._process.start()
        theirs.close()
        self._answer()

    def __getattr__(self, verb: str) -> Any:
        def call(*args: Any) -> Any:
            self._pipe.send((verb, args))
            return self._answer()

        return call

    def finish_weight_update(self, version: str | None = None) -> None:
        self._pipe.send(("finish_weight_update", (version or str(self.next_version),)))
        self._answer()

    def stop(self) -> None:
        self._pipe.close()
        self._process.join(30)
        self._process.kill()

    def _answer(self) -> Any:
        error, value = self._pipe.recv()
        if error:
            raise RuntimeError(error)
        return value


def serve(pipe: Any, spec: Any) -> None:
    """Until the other end closes."""
    from mgsrl.rollout.decoding import Decoder
    from mgsrl.rollout.engine import rollout_engine

    engine, verb = None, ""
    while True:
        try:
            if engine is None:
                kind = rollout_engine(spec.config.engine)
                engine, value = kind.load(spec, Decoder(spec.model_path)), None
            else:
                verb, args = pipe.recv()
                value = getattr(engine, verb)(*args)
            pipe.send(("", value))
        except EOFError:
            break
        except Exception as error:
            pipe.send((f"{verb}: {type(error).__name__}: {error}", None))
            if engine is None:
                return
    engine.close()


def beside(setting: Setting, record: Record, engine: str) -> None:
    from mgsrl.config.rollout import RolloutConfig, SyncConfig
    from mgsrl.rollout.engine import EngineSpec, rollout_engine
    from mgsrl.sync.publication import Publication
    from tests.learner.parts import Case

    kind, dtype = rollout_engine(engine), "bfloat16" if setting.on_gpu else "float32"
    transfer = "ipc" if setting.on_gpu and kind.ipc else "object_store"
    config = RolloutConfig(
        engine=engine,
        dtype=dtype,
        gpu_memory_utilization=SHARE,
        sync=SyncConfig(transfer=transfer),
    )
    spec = EngineSpec(config, pocket(), 256, device=setting.device.type, sleeps=True)
    begin = time.perf_counter()
    process = EngineProcess(spec)
    try:
        record.measure(f"{engine}: start", time.perf_counter() - begin, "s")
        case = Case(dtype=dtype, kl_coef=0.0)
        worker = start_worker(setting, Path(pocket()), case)
        publication = Publication(
            worker.source,
            worker.policy,
            as_checkpoint=kind.takes_checkpoints,
            engine_dtype=getattr(torch, dtype),
            keep=True,
        )
        check = Checks(setting, record, engine, case, process, worker, publication)
        check.sender = sender(transfer, publication, process)
        for name in ("responses", "new_weights", "level_2", "level_1"):
            with record.caught(f"{engine}: {name}"):
                getattr(check, name)()
    finally:
        process.stop()


def sender(transfer: str, publication: Any, process: EngineProcess) -> Any:
    if transfer == "ipc":
        from mgsrl.sync.ipc import IpcSender

        return IpcSender(publication, process, 0)
    from mgsrl.sync.object_store import ObjectStoreSender

    return ObjectStoreSender(publication, process, True)


@dataclass
class Checks:
    """What is asked of the engine, one after the other."""

    setting: Setting
    record: Record
    name: str
    case: Any
    engine: EngineProcess
    worker: Any
    publication: Any
    sender: Any = None
    version: int = 0

    def responses(self) -> None:
        """Of the weights that it loaded: what it reports is what the learner computes."""
        rollouts = self.generate()
        begin = time.perf_counter()
        rollouts = self.generate()  # the first call warms up
        tokens = sum(len(r.token_ids) for r in rollouts)
        self.measure("tokens", tokens / (time.perf_counter() - begin), "tokens/s")
        whole = [[*q.token_ids, *r.token_ids] for q, r in zip(self.requests, rollouts)]
        learned = self.worker.logprobs(whole, 1.0)
        pairs = [
            (a, b)
            for q, r, row in zip(self.requests, rollouts, learned, strict=True)
            for a, b in zip(r.logprobs, row[len(q.token_ids) :], strict=True)
        ]
        error = sum(abs(a - b) for a, b in pairs) / len(pairs)
        self.at_most("sampled tokens against the learner, mean", error, self.limit, "nats")

    def new_weights(self) -> None:
        self.train_and_publish()
        self.canary("after an update")

    def level_2(self) -> None:
        """The weights are dropped, and sent again before the cache is there."""
        before = self.free_gib()
        self.engine.sleep(2)
        if self.setting.on_gpu and self.name == "vllm":
            left = 1 - (self.free_gib() - before) / self.share()
            self.at_most("share of its memory that sleep leaves taken", left, 0.5)
        self.engine.wake_up(["weights"])
        self.train_and_publish()
        self.engine.wake_up(["kv_cache"])
        self.canary("after sleep level 2")

    def level_1(self) -> None:
        tokens = [r.token_ids for r in self.generate()]
        self.engine.sleep(1)
        self.engine.wake_up(["weights", "kv_cache"])
        again = [r.token_ids for r in self.generate()]
        self.equal("equal tokens after sleep level 1", again == tokens, True)

    # ---- parts -------------------------------------------------------------------------------

    def measure(self, what: str, found: float, unit: str = "") -> None:
        self.record.measure(f"{self.name}: {what}", found, unit)

    def at_most(self, what: str, found: float, limit: float, unit: str = "") -> None:
        self.record.at_most(f"{self.name}: {what}", found, limit, unit)

    def equal(self, what: str, found: object, expected: object) -> None:
        self.record.equal(f"{self.name}: {what}", found, expected)

    @property
    def limit(self) -> float:
        return 0.1 if self.case.dtype == "bfloat16" else 1e-4

    @property
    def requests(self) -> list[Any]:
        from mgsrl.types import GenerationRequest, Sampling

        sampling = Sampling(temperature=1.0, max_new_tokens=48)
        prompts = [tuple(range(5, 9 + seed % 7)) for seed in range(32)]
        return [GenerationRequest(str(n), p, n, sampling) for n, p in enumerate(prompts)]

    def generate(self) -> list[Any]:
        return self.engine.generate(self.requests)

    def train_and_publish(self) -> None:
        train_step(self.worker, self.case, self.version)
        self.version += 1
        self.setting.wait()
        begin = time.perf_counter()
        self.publication.version = self.version
        self.sender.send_weights(self.version)
        self.measure(f"publication {self.version}", time.perf_counter() - begin, "s")

    def canary(self, when: str) -> None:
        from mgsrl.sync.canary import compare_logprobs
        from mgsrl.sync.fingerprint import compare

        published = self.publication.fingerprints
        proof = compare(self.engine.probe(self.version, list(published)), published)
        self.equal(f"stale parameters {when}", list(proof.stale), [])
        self.at_most(f"parameters unseen {when}", len(proof.unseen), 0)
        sequences = [[*q.token_ids, *range(20, 40)] for q in self.requests[:4]]
        error = compare_logprobs(
            self.engine.logprobs(sequences, 1.0), self.worker.logprobs(sequences, 1.0)
        )
        self.at_most(f"canary {when}, mean", error.mean, self.limit, "nats")

    def free_gib(self) -> float:
        return torch.cuda.mem_get_info()[0] / GIB if self.setting.on_gpu else 0.0

    def share(self) -> float:
        return SHARE * torch.cuda.mem_get_info()[1] / GIB
