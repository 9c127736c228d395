"""How long a step, a run and a checkpoint would take, from the configuration alone.

Responses of made-up lengths are dealt to engines and learner ranks by the code that deals real ones
(`rollout/dispatch.py`, `data/dealing.py`); `cluster/roofline.py` says what their computation takes.
Stages are those of the metrics `time/<stage>`. What is assumed is in `Forecast.assumptions`.

Left out: start-up, evaluations' scoring, workers that die, rewards of servers elsewhere.
"""

import math
import random
import re
from dataclasses import dataclass

from mgsrl.cluster import roofline
from mgsrl.cluster.hardware import GB, Cores, Hardware
from mgsrl.cluster.memory import BYTES, GIB
from mgsrl.cluster.roofline import Engine, Learner, Rates, Ring, Share
from mgsrl.config import Config
from mgsrl.config.model_path import POCKET_REWARD_MODEL
from mgsrl.data.dealing import Limit, Sample, deal, span
from mgsrl.learner.checkpoint import BYTES_PER_PARAMETER
from mgsrl.learner.policy import packs_rows
from mgsrl.rewards.factory import rewards_of
from mgsrl.rollout.actor import SMALL_HIDDEN_SIZE, transfer_of
from mgsrl.rollout.dispatch import Order
from mgsrl.rollout.dispatch import deal as deal_orders
from mgsrl.training.estimate import Estimate
from mgsrl.training.machine import weights_gib
from mgsrl.training.places import placed_rollout, rollout_workers
from mgsrl.types import GenerationRequest, Prompt, Rollout, Sampling

DISK_GBS = 1.0
"""Of a machine, to the shared disk of a checkpoint."""
DRIVER_S, DRIVER_TOKEN_S = 0.07e-3, 0.55e-6
"""The driver's own, of a response and of its tokens: responses out of their pickles, advantages,
packing, metrics (`scripts/scale.py driver`)."""
OVERLAPPED = ("logprob", "backward", "surgery", "step")
"""What rollouts ahead of the learners hide behind."""


@dataclass(frozen=True)
class Lengths:
    """Mean tokens of a prompt and of a response; None: half of their limits."""

    prompt: int | None = None
    response: int | None = None


@dataclass(frozen=True)
class Forecast:
    seconds: dict[str, float]
    """By stage of a step, the largest one."""
    hidden: float
    """Seconds of rollouts that the learners' work covers (`rollout.staleness`)."""
    prompt_tokens: int
    response_tokens: int
    """Of one, mean."""
    tokens: int
    """Response tokens of a step."""
    computed: int
    """Tokens that the learner computes of it, shared prompts once."""
    micro_steps: int
    checkpoint_bytes: int
    checkpoint_s: float
    """Until it is on the disk."""
    checkpoint_wait_s: float
    """Of it, what training waits for: with `checkpoint.background` for the copy in host memory,
    and for the rest of the checkpoint before, if that takes longer than the steps between."""
    num_steps: int
    evaluations: int
    evaluation_s: float
    checkpoints: int
    assumptions: tuple[str, ...]

    @property
    def step_s(self) -> float:
        return sum(self.seconds.values()) - self.hidden

    @property
    def grace_s(self) -> float:
        """The least `checkpoint.grace_s` for a run of this size: a checkpoint that is being written
        when the signal comes, that of the last step after it, and a fifth more."""
        return 10 * math.ceil(2 * 1.2 * self.checkpoint_s / 10)

    @property
    def hours(self) -> float:
        extra = self.evaluations * self.evaluation_s + self.checkpoints * self.checkpoint_wait_s
        return (self.num_steps * self.step_s + extra + self.checkpoint_s) / 3600


def forecast(
    config: Config, found: Estimate, hardware: Hardware, cores: Cores, lengths: Lengths
) -> Forecast | None:
    """Of the run that `found` is the memory of; None for a card whose rates are not known.

    Args:
        cores: of this machine; for a run without GPUs, and for what runs beside them.
    """
    if found.device == "cuda" and hardware.gpu is None:
        return None
    return _Forecaster(config, found, hardware, cores, lengths).result()


class _Forecaster:
    def __init__(
        self, config: Config, found: Estimate, hardware: Hardware, cores: Cores, lengths: Lengths
    ) -> None:
        self.config, self.found, self.hardware, self.cores = config, found, hardware, cores
        self.on_gpu = found.device == "cuda"
        self.scores_on_cores = False
        self.workers = rollout_workers(config)
        self.limits = config.response_limits
        self.prompt = lengths.prompt or max(1, config.data.max_prompt_tokens // 2)
        self.means = {
            name: max(1, min(lengths.response or limit // 2, limit))
            for name, limit in self.limits.items()
        }
        self.share = packs_rows(
            config.learner.share_prompts, found.shape.not_packed, config.policy.path
        )

    def rates(self, ranks: int, *, threads: float | None = None) -> Rates:
        """Of one of so many processes that work side by side."""
        if self.on_gpu:
            assert self.hardware.gpu is not None
            return roofline.gpu_rates(self.hardware.gpu, eager=self.config.rollout.enforce_eager)
        cores = self.cores.count / ranks if threads is None else threads
        return roofline.cpu_rates(self.cores, min(1.0, cores / self.cores.count))

    def lengths_of(self, count: int, name: str) -> list[int]:
        """Response lengths of a domain: even from the least to the most, in any order."""
        mean, limit = self.means[name], self.limits[name]
        spread = min(mean - 1, limit - mean)
        step = 2 * spread / max(1, count - 1)
        lengths = [round(mean - spread + n * step) for n in range(count)]
        random.Random(0).shuffle(lengths)
        return lengths

    def result(self) -> Forecast:
        config, batch = self.config, self.found.batch
        quotas = {n: batch[f"prompts of {n}"] for n in config.domains if f"prompts of {n}" in batch}
        groups = {name: self.groups(name, count) for name, count in quotas.items()}
        tokens = sum(len(s.rollout.token_ids) for of in groups.values() for g in of for s in g)
        seconds = {"rollout": self.rollout(groups), "reward": self.reward(quotas)}
        learner, share = self.learner(), self.learner_share(groups)
        distilled = any(algo.teacher for algo in config.algos.values())
        reference = (config.regularised + distilled) * learner.reference(share)
        updates = config.algo.updates_per_batch
        seconds |= {
            "logprob": reference,
            "backward": updates * learner.backward(share),
            "surgery": updates * learner.surgery(),
            "step": updates * learner.step(),
            "sync": self.sync(learner.ring),
            "other": DRIVER_S * batch["responses"] + DRIVER_TOKEN_S * tokens,
        }
        hidden = 0.0
        if config.rollout.staleness and self.found.turns is None:
            hidden = min(seconds["rollout"], sum(seconds[stage] for stage in OVERLAPPED))
        size = BYTES_PER_PARAMETER * self.found.shape.trained
        steps, every = config.train.num_steps, config.checkpoint.every
        to_disk = size / (DISK_GBS * GB * self.learner_nodes)
        between = (every or steps) * (sum(seconds.values()) - hidden)
        return Forecast(
            seconds=seconds,
            hidden=hidden,
            prompt_tokens=self.prompt,
            response_tokens=round(tokens / max(1, batch["responses"])),
            tokens=tokens,
            computed=self.computed,
            micro_steps=share.micro_steps,
            checkpoint_bytes=size,
            checkpoint_s=to_disk,
            checkpoint_wait_s=self.waits(size, to_disk, between),
            num_steps=steps,
            evaluations=self.evaluations(),
            evaluation_s=self.evaluation(),
            checkpoints=-(-steps // every) if every else 1,
            assumptions=self.assumptions(),
        )

    def waits(self, size: int, to_disk: float, between: float) -> float:
        """What a checkpoint of `size` costs training, `between` seconds after the one before."""
        if not self.config.checkpoint.background:
            return to_disk
        rate = roofline.HOST_GBS * GB if self.on_gpu else self.cores.memory_gbs * GB
        copy = size / self.config.learner.world_size / rate
        return copy + max(0.0, to_disk - between)

    def groups(self, name: str, count: int) -> list[list[Sample]]:
        """So many prompts of a domain with their responses."""
        samples = self.config.algo.samples_per_prompt
        lengths = iter(self.lengths_of(count * samples, name))
        made = []
        for number in range(count):
            prompt = Prompt(f"{name}/{number}", name, (), range(self.prompt))  # type: ignore[arg-type]
            made.append([_sample(prompt, next(lengths)) for _ in range(samples)])
        return made

    # ---- rollouts ----------------------------------------------------------------------------

    def rollout(self, groups: dict[str, list[list[Sample]]]) -> float:
        """The slowest engine's."""
        if self.config.rollout.assignment == "dedicated":
            return max(
                (
                    self._shares([of], self.config.domains[n].num_workers)
                    for n, of in groups.items()
                ),
                default=0.0,
            )
        return self._shares(list(groups.values()), self.workers)

    def _shares(self, groups: list[list[list[Sample]]], workers: int) -> float:
        orders, lengths = [], {}
        for of_domain in groups:
            tokens = sum(len(s.rollout.token_ids) for g in of_domain for s in g)
            mean = tokens / max(1, sum(map(len, of_domain)))
            for group in of_domain:
                request = GenerationRequest(
                    group[0].prompt.id, group[0].prompt.token_ids, 0, Sampling(1.0, 1)
                )
                orders.append(Order(0, (request,) * len(group), mean))
                lengths[group[0].prompt.id] = [len(s.rollout.token_ids) for s in group]
        engine = self.engine()
        slowest = 0.0
        for share in deal_orders(orders, workers):
            own = [float(n) for order in share for n in lengths[order.requests[0].id]]
            prompts = self.prompt * len(share)
            slowest = max(
                slowest, engine.prefill(prompts, self.prompt) + engine.decode(own, self.prompt)
            )
        return slowest

    def engine(self) -> Engine:
        rollout, shape = self.config.rollout, self.found.shape
        threads = 1.0 if shape.hidden_size < SMALL_HIDDEN_SIZE else None
        cached = rollout.max_prompts_in_flight
        if self.found.engine is not None:  # mean lengths: what is cached at once, not at most
            tokens = (
                self.found.cached_sequences * self.found.batch["tokens of the longest sequence"]
            )
            typical = self.prompt / self.config.algo.samples_per_prompt + max(self.means.values())
            cached = max(1, min(cached, int(tokens / typical)))
        return Engine(
            shape=shape,
            rates=self.rates(self.workers, threads=threads),
            dtype=rollout.dtype,
            parallel=rollout.tensor_parallel_size,
            most=cached,
        )

    def evaluations(self) -> int:
        every = self.config.evaluate.every
        if not self.config.evaluate.prompts_per_domain:
            return 0
        return 1 + (-(-self.config.train.num_steps // every) if every else 1)

    def evaluation(self) -> float:
        evaluate = self.config.evaluate
        lengths, engine = list[float](), self.engine()
        for name, domain in self.config.domains.items():
            if domain.heldout is not None and evaluate.prompts_per_domain:
                limit = domain.heldout.limit or evaluate.prompts_per_domain
                count = min(limit, evaluate.prompts_per_domain) * evaluate.samples_per_prompt
                lengths += map(float, self.lengths_of(count, name))
        own = lengths[:: self.workers]
        return engine.prefill(self.prompt * len(own), self.prompt) + engine.decode(own, self.prompt)

    # ---- rewards -----------------------------------------------------------------------------

    def reward(self, quotas: dict[str, int]) -> float:
        """The slowest domain's: they are scored side by side."""
        slowest = 0.0
        for name, count in quotas.items():
            reward = self.config.domains[name].reward
            responses = count * self.config.algo.samples_per_prompt
            seconds = roofline.VERIFY_S * responses
            paths = [each.model_path for each in rewards_of(reward)]
            if any(paths):
                length = self.prompt + self.means[name]
                seconds = self._model_s(max(paths), responses, length, reward.num_gpus)
            slowest = max(slowest, seconds / max(1, reward.num_workers))
        return slowest

    def _model_s(self, path: str, responses: int, length: int, gpus: float) -> float:
        """Of a reward model as large as its files are, or its name says, or else as the policy."""
        size = re.search(r"(\d+(?:\.\d+)?)[bB]\b", path)
        parameters = float(size[1]) * 1e9 if size else float(self.found.shape.body)
        if here := weights_gib(path, POCKET_REWARD_MODEL):
            parameters = here * GIB / 4
        if gpus and self.on_gpu:
            rate = self.rates(1).generated * min(1.0, gpus)
        else:
            rate = roofline.cpu_rates(self.cores, 1.0).generated
            self.scores_on_cores = True
        return 2 * parameters * responses * length / rate

    # ---- learners ----------------------------------------------------------------------------

    @property
    def per_node(self) -> int:
        """Learner ranks of one machine."""
        if not self.on_gpu or not self.hardware.gpus_per_node:
            return self.config.learner.world_size
        return min(self.config.learner.world_size, self.hardware.gpus_per_node)

    @property
    def learner_nodes(self) -> int:
        return -(-self.config.learner.world_size // self.per_node)

    def learner(self) -> Learner:
        learner, surgery = self.config.learner, self.config.surgery
        ranks = learner.world_size
        return Learner(
            shape=self.found.shape,
            rates=self.rates(ranks),
            ring=Ring(ranks, self.per_node),
            dtype=learner.dtype,
            zero_stage=learner.zero_stage,
            recomputes=learner.gradient_checkpointing,
            rows=self.found.batch["domains"],
            row_dtype=surgery.buffer_dtype,
        )

    def learner_share(self, groups: dict[str, list[list[Sample]]]) -> Share:
        """Of the slowest rank, dealt as a run deals."""
        learner = self.config.learner
        limit = Limit(learner.micro_batch_size, learner.tokens_per_micro_batch, self.share)
        tokens = steps = computed = 0
        responses = pairs = 0.0
        for of_domain in groups.values():
            dealt = deal(of_domain, limit, learner.world_size)
            tokens += span(dealt, limit)
            steps += len(dealt)
            for pieces in (pieces for ranks in dealt for pieces in ranks):
                computed += limit.cost(pieces)
                for piece in pieces:
                    alone = 1 if self.share else len(piece)
                    pairs += alone * self.prompt**2 / 2
                    for sample in piece:
                        length = len(sample.rollout.token_ids)
                        responses += length
                        pairs += length * (self.prompt + length / 2)
        self.computed = computed
        part = tokens / max(1, computed)  # of the slowest rank
        return Share(tokens, round(responses * part), pairs * part, steps)

    # ---- weights -----------------------------------------------------------------------------

    def sync(self, ring: Ring) -> float:
        """Gathering, sending, the comparison of all bits, and the canary's forward pass."""
        config, rates = self.config, self.rates(1)
        size = BYTES[config.learner.dtype] * self.found.shape.parameters
        seconds = ring.seconds(rates, size) if config.learner.zero_stage == 3 else 0.0
        shared = self.found.turns is not None
        rollout = placed_rollout(config, self.found.device, colocated=shared)
        transfer = transfer_of(rollout, self.found.device, colocated=shared)
        sent = BYTES[config.rollout.dtype] * self.found.shape.parameters
        if transfer == "object_store":
            rate = roofline.STORE_GBS * GB if self.on_gpu else rates.memory / 4
            seconds += sent * self.workers / rate
        elif transfer == "ipc":
            seconds += 2 * sent / rates.memory
        else:
            alone = self.found.gpus <= max(1, self.hardware.gpus_per_node)
            seconds += sent / (rates.link if alone else min(rates.link, rates.network))
        seconds += 2 * sent / (roofline.STREAMED * rates.memory)
        if config.learner.offload_during_rollout and shared:
            seconds += 2 * (12 * self.learner().own + size) / (roofline.HOST_GBS * GB)
        canary = 128  # tokens in all, on both sides
        return seconds + 2 * (
            2 * self.found.shape.body * canary / rates.generated + rates.iteration_s
        )

    def assumptions(self) -> tuple[str, ...]:
        mean = ", ".join(sorted({f"{m:,}" for m in self.means.values()}))
        gpu = self.hardware.gpu if self.on_gpu else None
        beside = gpu and self.scores_on_cores
        return (
            f"prompts of {self.prompt:,} tokens, responses of {mean} in the mean, spread evenly "
            "around it (--prompt-tokens, --response-tokens)",
            *(roofline.gpu_assumptions(gpu) if gpu else roofline.cpu_assumptions(self.cores)),
            *([roofline.beside_assumption(self.cores)] if beside else ()),
            f"a checkpoint at {DISK_GBS:g} GB/s of each machine with learners",
        )


def _sample(prompt: Prompt, length: int) -> Sample:
    return Sample(prompt, Rollout("", range(length), (), "", "stop", 0), 1.0)  # type: ignore[arg-type]
