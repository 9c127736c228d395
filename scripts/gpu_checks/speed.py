"""Seconds, tokens/s, arithmetic and memory of a step with random weights of published shapes.

Model FLOP utilisation: the arithmetic that the mathematics asks for, over the time and the card's
peak for dense bfloat16 products. For every token of every sequence 2 operations per weight of the
body forward and 4 backward, 2 more for the reference; the head for response tokens alone; attention
`4 x layers x width` operations per pair of tokens that see each other, three times for the policy
and once for the reference. What is computed once and used several times (a shared prompt) counts as
often as it is used, what is computed twice (activations again) once.
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from gpu_checks.models import model_config, save_model, start_worker
from gpu_checks.record import GIB, Record, Setting, release
from mgsrl.cluster.hardware import gpu_of_card


@dataclass(frozen=True)
class Load:
    """One step's work."""

    shape: str
    micro_batch_size: int
    prompts: int = 8
    samples: int = 8
    prompt_tokens: int = 512
    response_tokens: int = 512
    options: Mapping[str, Any] = field(default_factory=dict)
    """Of the tests' `Case`."""
    learner: Mapping[str, Any] = field(default_factory=dict)
    """Of the learner's configuration."""

    @property
    def sequences(self) -> int:
        return 3 * self.prompts * self.samples

    @property
    def length(self) -> int:
        return self.prompt_tokens + self.response_tokens

    @property
    def shares_prompts(self) -> bool:
        return self.learner.get("share_prompts") != "never"

    @property
    def name(self) -> str:
        options = {**self.options, **self.learner}
        return ", ".join([self.shape, *(f"{k}={v}" for k, v in options.items())])


def loads(device: str, quick: bool) -> list[Load]:
    """One process each."""
    if device == "cpu":
        return [Load("tiny", 4, prompts=2, samples=2, prompt_tokens=16, response_tokens=16)]
    small = Load("SmolLM2-135M", 16)
    if quick:
        return [small]
    return [
        Load("Qwen2.5-1.5B", 8),
        Load("Qwen2.5-0.5B", 16),
        small,
        replace(small, learner={"share_prompts": "never"}),
        replace(small, learner={"offload_during_rollout": True}),
        replace(small, options={"buffer_device": "cpu"}),
        replace(small, options={"offload_optimizer": True}),
    ]


def speed(setting: Setting, record: Record, index: int) -> None:
    load = loads(setting.device.type, setting.quick)[index]
    with record.caught(f"step of {load.name}"):
        whole_step(setting, record, load)


def make_groups(load: Load, vocab: int) -> Mapping[str, Any]:
    """Random tokens of equal lengths: no padding, so tokens/s are real ones."""
    from mgsrl.types import Prompt, Reward, Rollout, RolloutGroup
    from tests.learner.parts import DOMAINS

    generator = torch.Generator().manual_seed(0)

    def tokens(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(3, vocab, (count,), generator=generator).tolist())

    def group(domain: str, index: int) -> Any:
        prompt = Prompt(str(index), domain, (), tokens(load.prompt_tokens))
        logprobs = (-math.log(vocab),) * load.response_tokens
        rollouts = tuple(
            Rollout(str(sample), tokens(load.response_tokens), logprobs, "", "stop", 0)
            for sample in range(load.samples)
        )
        advantages = tuple(torch.randn(load.samples, generator=generator).tolist())
        return RolloutGroup(prompt, rollouts, (Reward(1.0),) * load.samples, advantages)

    return {domain: [group(domain, n) for n in range(load.prompts)] for domain in DOMAINS}


def whole_step(setting: Setting, record: Record, load: Load) -> None:
    device, name = setting.device, load.name
    config = model_config(load.shape)
    folder = save_model(setting.scratch / load.shape, config, torch.bfloat16, device)
    release()
    worker, batch, size = warmed_up(setting, record, load, folder, config.vocab_size)
    parameters = sum(p.numel() for p in worker.policy.parameters())
    runs = [timed_step(setting, worker, batch, step) for step in (1, 2)]
    spent = {part: min(run[part] for run in runs) for part in runs[0]}
    total = sum(spent.values())
    tokens = load.sequences * load.length
    record.measure(f"{name}: sequences of a micro-batch", size)
    rows = computed_tokens(load, batch)
    record.measure(f"{name}: tokens computed, of those used", 100 * sum(rows) / tokens, "%")
    for part, value in spent.items():
        record.measure(f"{name}: {part}", value, "s")
    record.measure(f"{name}: whole step", total, "s")
    record.measure(f"{name}: tokens", tokens / total, "tokens/s")
    record.measure(f"{name}: share of surgery", 100 * spent["resolve"] / total, "%")
    arithmetic(record, name, operations(config, load, parameters) / total, setting.on_gpu)
    memory(setting, record, load, worker, folder, max(rows))


def warmed_up(
    setting: Setting, record: Record, load: Load, folder: Path, vocab: int
) -> tuple[Any, Any, int]:
    """(worker, batch, sequences of a micro-batch) after a first step, which allocates AdamW's
    moments, with the most sequences that fit: half as many as long as there is no memory.

    Each try has a worker of its own: DeepSpeed takes no backward after one that broke off.
    """
    from tests.learner.parts import Case

    groups, size = make_groups(load, vocab), load.micro_batch_size
    case = Case(dtype="bfloat16", kl_coef=0.001, lr=1e-6, **load.options)
    while True:
        release()
        begin = time.perf_counter()
        worker = start_worker(setting, folder, case, **load.learner)
        record.measure(f"{load.name}: start", time.perf_counter() - begin, "s")
        batch = packed(load, groups, size)
        try:
            if setting.on_gpu:
                torch.cuda.reset_peak_memory_stats()
            timed_step(setting, worker, batch, 0)
            return worker, batch, size
        except torch.OutOfMemoryError:
            record.measure(f"{load.name}: no memory for micro-batches of", size, "sequences")
            size //= 2
            if not size:
                raise
        # After the exception, whose frames hold all of it; by itself the engine would stay.
        worker._engine.destroy()
        del worker, batch


def packed(load: Load, groups: Mapping[str, Any], size: int) -> Any:
    from mgsrl.data.packing import Packing, pack
    from tests.learner.parts import TEMPERATURES

    return pack(
        groups,
        Packing(
            micro_batch_size=size,
            world_size=1,
            max_response_length=load.response_tokens,
            temperatures=TEMPERATURES,
            share_prompts=load.shares_prompts,
        ),
    )


def computed_tokens(load: Load, batch: Any) -> list[int]:
    """Of each micro-batch."""
    micro_batches = [b for of_domain in batch.per_rank[0].values() for b in of_domain]
    if load.shares_prompts:
        return [len(b.token_ids_T) for b in micro_batches]
    return [len(b.advantages_B) * load.length for b in micro_batches]


def arithmetic(record: Record, name: str, rate: float, on_gpu: bool) -> None:
    record.measure(f"{name}: arithmetic", rate / 1e12, "TFLOP/s")
    if on_gpu:
        card = torch.cuda.get_device_name()
        gpu = gpu_of_card(card, 0)
        found = 100 * rate / gpu.tflops / 1e12 if gpu else f"no peak known of {card}"
        record.measure(f"{name}: model FLOP utilisation", found, "%" if gpu else "")


def operations(config: Any, load: Load, parameters: int) -> float:
    """Of one step with a reference; see the module."""
    head = config.vocab_size * config.hidden_size
    body = parameters - head * (1 if config.tie_word_embeddings else 2)
    pairs = load.length * (load.length + 1) / 2
    forward = 2 * body * load.length + 2 * head * load.response_tokens
    forward += 4 * config.num_hidden_layers * config.hidden_size * pairs
    return 4 * load.sequences * forward  # forward, backward (twice it), the reference's forward


def timed_step(setting: Setting, worker: Any, batch: Any, step: int) -> dict[str, float]:
    times: dict[str, float] = {}

    def timed(part: str, work: Callable[[], object]) -> None:
        setting.wait()
        begin = time.perf_counter()
        work()
        setting.wait()
        times[part] = times.get(part, 0.0) + time.perf_counter() - begin

    timed("load", lambda: worker.load_batch(batch.per_rank[0], batch.totals))
    for domain in batch.domains:
        timed("accumulate", lambda domain=domain: worker.accumulate(domain))
    timed("resolve", lambda: worker.resolve_conflicts(step))
    timed("optimizer step", lambda: worker.optimizer_step(step))
    return times


def room(planned: int) -> float:
    """Bytes that a plan may be off by: cuBLAS's workspaces count as held, of small models too."""
    return max(0.05 * planned, 0.1 * GIB)


def memory(
    setting: Setting, record: Record, load: Load, worker: Any, folder: Path, longest: int
) -> None:
    """What a GPU holds between steps, and at most, against what `mgsrl plan` says."""
    from mgsrl.cluster import memory as planned
    from mgsrl.config.model_shape import model_shape

    if not setting.on_gpu:
        return
    spec = worker._spec
    expected = planned.learner_memory(
        model_shape(str(folder)), spec.learner, spec.surgery, planned.Load(3, True, longest)
    )
    context = expected.held["CUDA context"]  # not PyTorch's
    held, peak = torch.cuda.memory_allocated(), torch.cuda.max_memory_allocated()
    phase, highest = expected.peak
    record.measure(f"{load.name}: held between steps", held / GIB, "GiB")
    plan = expected.held_bytes - context
    off, most = abs(held - plan) / GIB, room(plan) / GIB
    record.at_most(f"{load.name}: held against the plan, off by", off, most, "GiB")
    record.measure(f"{load.name}: peak", peak / GIB, "GiB")
    record.measure(f"{load.name}: peak by the plan ({phase})", (highest - context) / GIB, "GiB")
    begin = time.perf_counter()
    worker.rest()
    rested = time.perf_counter()
    held = torch.cuda.memory_allocated()
    worker.resume()
    setting.wait()
    record.measure(f"{load.name}: held while engines work", held / GIB, "GiB")
    record.measure(f"{load.name}: giving it back", rested - begin, "s")
    record.measure(f"{load.name}: taking it again", time.perf_counter() - rested, "s")
