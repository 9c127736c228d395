"""Shared parts of the learner tests: batches, specifications, and a textbook of the method.

The textbook is written from the formulas alone: full logits, float64, one gradient vector per
domain, PCGrad on explicit vectors (averaged over all orders), `torch.optim.AdamW`.
"""

import itertools
import multiprocessing
import os
import random
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from mgsrl.algo.losses import only_advantages_teach
from mgsrl.config.algo import AlgoConfig
from mgsrl.config.learner import LearnerConfig, OptimizerConfig
from mgsrl.config.policy import LoraConfig, PolicyConfig
from mgsrl.config.surgery import ReliabilityConfig, SurgeryConfig
from mgsrl.data.packing import PackedBatch, Packing, pack
from mgsrl.learner.spec import LearnerSpec
from mgsrl.types import Prompt, Reward, Rollout, RolloutGroup

DOMAINS = ("math", "chat", "instructions")
SELF = "self"
TEMPERATURES = {"math": 0.7, "chat": 1.0, "instructions": 1.3}
LIMIT = 16
Groups = dict[str, list[RolloutGroup]]
Scored = Callable[[Groups], Groups]
"""Gives groups their advantages; without one they are drawn."""


def make_groups(
    vocab_size: int, seed: int = 0, silent: Sequence[str] = ()
) -> dict[str, list[RolloutGroup]]:
    """Three domains of 2, 3 and 1 prompts with 4, 2 and 3 responses each, of 1-9 tokens.

    In the `silent` ones all advantages are 0. If there are any, so are those of the first prompt of
    the others, and those of the last response to their other prompts.
    """
    rng = random.Random(seed)
    groups: dict[str, list[RolloutGroup]] = {}
    for domain, num_prompts, size in zip(DOMAINS, (2, 3, 1), (4, 2, 3)):
        groups[domain] = []
        for index in range(num_prompts):
            prompt_ids = [rng.randrange(vocab_size) for _ in range(rng.randint(2, 6))]
            prompt = Prompt(str(index), domain, (), tuple(prompt_ids))
            rollouts = []
            for _ in range(size):
                tokens = [rng.randrange(vocab_size) for _ in range(rng.randint(1, 9))]
                logprobs = tuple(-rng.uniform(3.0, 8.0) for _ in tokens)
                rollouts.append(Rollout("r", tuple(tokens), logprobs, "", "stop", 0))
            advantages = tuple(rng.gauss(0.0, 1.0) for _ in rollouts)
            rewards = (Reward(1.0),) * size
            if domain in silent or (silent and index == 0 and num_prompts > 1):
                advantages = (0.0,) * size
            elif silent:
                advantages = (*advantages[:-1], 0.0)
            groups[domain].append(RolloutGroup(prompt, tuple(rollouts), rewards, advantages))
    return groups


def make_batch(
    vocab_size: int,
    world_size: int,
    micro_batch_size: int,
    seed: int = 0,
    domains: Sequence[str] = DOMAINS,
    halves: bool = False,
    *,
    silent: Sequence[str] = (),
    scored: Scored = dict,
    **packing: Any,
) -> PackedBatch:
    groups = scored(make_groups(vocab_size, seed, silent))
    return pack(
        {domain: groups[domain] for domain in domains},
        Packing(
            micro_batch_size=micro_batch_size,
            world_size=world_size,
            max_response_length=LIMIT,
            temperatures=TEMPERATURES,
            **{"share_prompts": True, **packing},
        ),
        halves=halves,
    )


@dataclass(frozen=True)
class Case:
    """What a test varies."""

    zero_stage: int = 2
    micro_batch_size: int = 4
    dtype: str = "float32"
    method: str = "pcgrad"
    granularity: str = "module"
    kl_coef: float = 0.01
    entropy_coef: float = 0.0
    updates_per_batch: int = 1
    gradient_checkpointing: bool = False
    offload_optimizer: bool = False
    offload_reference: bool = False
    max_grad_norm: float = 0.05
    eps: float = 1e-4
    """Adam's first step is lr * g / (|g| + eps): not blind to small errors, nor to be so small
    beside the gradient's norm that the rounding of an element near zero is all that is seen."""
    lr: float = 1e-2  # updates well above the rounding of fp32 weights
    weight_decay: float = 0.01
    domains: tuple[str, ...] = DOMAINS
    measure_only: bool = False
    gate: str = "off"
    reliability_every: int = 0
    buffer_dtype: str = "float32"
    buffer_device: str = "same"
    share_prompts: str = "auto"
    tokens_per_micro_batch: int | None = None
    silent: tuple[str, ...] = ()
    """See `make_groups`."""
    frozen: str = ""
    """Parameters with this in their name are not trained."""
    lora: LoraConfig = field(default_factory=LoraConfig)
    own: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What domains have of `algo` for themselves; `SELF` is the model itself."""
    slow: bool = False
    """Its tests are marked so."""


def algo_of(case: Case, model: Path, domain: str = "") -> AlgoConfig:
    usual = AlgoConfig(
        kl_coef=case.kl_coef,
        entropy_coef=case.entropy_coef,
        updates_per_batch=case.updates_per_batch,
    )
    own = case.own.get(domain, {})
    return replace(usual, **{k: str(model) if v == SELF else v for k, v in own.items()})


def dead_group_weights(case: Case) -> dict[str, float]:
    return {
        d: own["dead_group_weight"] for d, own in case.own.items() if "dead_group_weight" in own
    }


def spared(spec: LearnerSpec) -> list[str]:
    """The domains in which advantages of 0 teach nothing."""
    return [domain for domain in DOMAINS if only_advantages_teach(spec.algos[domain])]


def make_spec(model: Path, case: Case, world_size: int) -> LearnerSpec:
    return LearnerSpec(
        policy=PolicyConfig(path=str(model), lora=case.lora),
        learner=LearnerConfig(
            world_size=world_size,
            zero_stage=case.zero_stage,
            device="cpu",
            dtype=case.dtype,
            micro_batch_size=case.micro_batch_size,
            tokens_per_micro_batch=case.tokens_per_micro_batch,
            share_prompts=case.share_prompts,
            gradient_checkpointing=case.gradient_checkpointing,
            offload_optimizer=case.offload_optimizer,
            offload_reference=case.offload_reference,
            optimizer=OptimizerConfig(
                lr=case.lr,
                eps=case.eps,
                weight_decay=case.weight_decay,
                max_grad_norm=case.max_grad_norm,
                warmup_steps=2,
                schedule="cosine",
            ),
            time_limit_s=120.0,
        ),
        algos={d: algo_of(case, model, d) for d in (*DOMAINS, *case.domains)},
        surgery=SurgeryConfig(
            method=case.method,
            granularity=case.granularity,
            order="all",
            measure_only=case.measure_only,
            gate=case.gate,
            reliability=ReliabilityConfig(every=case.reliability_every),
            buffer_dtype=case.buffer_dtype,
            buffer_device=case.buffer_device,
        ),
        seed=7,
        num_steps=10,
        updates_per_batch=case.updates_per_batch,
    )


def one_step(worker: Any, batch: PackedBatch, rank: int, step: int) -> tuple[Any, Any, Any]:
    """(domain stats, report, step stats) of one batch."""
    worker.load_batch(batch.per_rank[rank], batch.totals, batch.half_sizes)
    for _ in range(worker._spec.updates_per_batch):
        losses = {domain: worker.accumulate(domain) for domain in batch.domains}
        report = worker.resolve_conflicts(step)
        stats = worker.optimizer_step(step)
    return losses, report, stats


def whole_weights(worker: Any) -> dict[str, torch.Tensor]:
    """Copies of all weights (a collective under ZeRO-3)."""
    return {name: tensor.clone() for name, tensor in worker.source}


def save_all(worker: Any, folder: Path) -> None:
    """Every rank's part of a checkpoint is on the disk afterwards."""
    folder.mkdir(exist_ok=True)
    worker.save(str(folder))
    written = worker.saved()
    assert written is not None
    assert written.problem is None
    torch.distributed.barrier()


def spawn(work: Callable[..., Any], world_size: int, *args: Any) -> list[Any]:
    """`work(rank, world_size, address, *args)` in as many processes; the results by rank.

    They are forked from a process that has imported what they need and done nothing else: imports
    were half of the time of these tests.
    """
    multiprocessing.set_forkserver_preload(["tests.learner.preloaded"])
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.start_processes(
            _child, (work, world_size, folder, args), world_size, start_method="forkserver"
        )
        assert not (Path(folder) / "compiled").exists(), "a learner needs no compiler"
        return [
            torch.load(Path(folder) / f"result_{rank}.pt", weights_only=False)
            for rank in range(world_size)
        ]


def _child(
    rank: int, work: Callable[..., Any], world_size: int, folder: str, args: tuple[Any, ...]
) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["TORCH_EXTENSIONS_DIR"] = f"{folder}/compiled"
    torch.set_num_threads(1)
    result = work(rank, world_size, f"file://{folder}/rendezvous", *args)
    torch.save(result, Path(folder) / f"result_{rank}.pt")


# ---- the textbook ------------------------------------------------------------------------------


def textbook(
    model_path: Path,
    case: Case,
    num_steps: int,
    module_of: dict[str, str],
    adapters: dict[str, torch.Tensor] | None = None,
    scored: Scored = dict,
) -> tuple[dict[str, torch.Tensor], list[float]]:
    """(weights, gradient norms) after `num_steps`, all in float64; with `adapters` (their initial
    values by name) these are the weights."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float64)
    frozen = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float64)
    everything = dict(model.named_parameters())
    if adapters is not None:
        everything = {n: torch.nn.Parameter(p.double()) for n, p in adapters.items()}
        model = _Adapted(model, everything, case.lora.alpha / case.lora.rank)
    params = {n: p for n, p in everything.items() if not case.frozen or case.frozen not in n}
    module_of = {name: module_of[name] for name in params}
    spec = make_spec(model_path, case, 1)
    opt = spec.learner.optimizer
    optimizer = torch.optim.AdamW(
        params.values(), lr=opt.lr, eps=opt.eps, weight_decay=opt.weight_decay
    )
    norms, dead = [], dead_group_weights(case)
    for step in range(num_steps):
        groups = scored(make_groups(model.config.vocab_size, step, case.silent))
        samples = {
            d: list(_samples(groups[d], TEMPERATURES[d], dead.get(d, 1.0))) for d in case.domains
        }
        rows = [sample for of_domain in samples.values() for sample in of_domain]
        sizes = (sum(len(s[1]) * s[5] for s in rows), sum(s[5] for s in rows))
        old = {d: [_logprobs(model, s)[0].detach() for s in samples[d]] for d in case.domains}
        for _ in range(case.updates_per_batch):
            vectors = {}
            for domain in case.domains:
                algo = algo_of(case, model_path, domain)
                loss = _loss(model, frozen, samples[domain], old[domain], algo, sizes)
                grads = torch.autograd.grad(loss, list(params.values()))
                vectors[domain] = dict(zip(params, grads))
            method = "none" if case.measure_only else case.method
            update = resolve(list(vectors.values()), module_of, method)
            norm = torch.sqrt(sum((g * g).sum() for g in update.values())).item()
            norms.append(norm)
            scale = min(1.0, case.max_grad_norm / (norm + 1e-6)) if case.max_grad_norm else 1.0
            for name, param in params.items():
                param.grad = update[name] * scale
            optimizer.param_groups[0]["lr"] = _lr(opt, step, spec.num_steps)
            optimizer.step()
    return {name: p.detach().clone() for name, p in everything.items()}, norms


class _Adapted:
    """`model` with `W + scaling B A` in the place of every W that has an A and a B."""

    def __init__(self, model: Any, adapters: dict[str, Any], scaling: float) -> None:
        self.config = model.config
        self._model, self._adapters, self._scaling = model.requires_grad_(False), adapters, scaling

    def __call__(self, **inputs: Any) -> Any:
        weights = {}
        for name, a in self._adapters.items():
            if ".lora_A.default." in name:
                b = self._adapters[name.replace(".lora_A.", ".lora_B.")]
                base = name.replace(".lora_A.default.", ".")
                weights[base] = self._model.get_parameter(base) + self._scaling * b @ a
        return torch.func.functional_call(self._model, weights, (), inputs)


def _samples(groups: Sequence[RolloutGroup], temperature: float, dead: float = 1.0) -> Any:
    for group in groups:
        for rollout, advantage in zip(group.rollouts, group.advantages):
            yield (
                group.prompt.token_ids,
                rollout.token_ids,
                rollout.logprobs,
                advantage,
                temperature,
                1.0 if any(group.advantages) else dead,
            )


def _logprobs(model: Any, sample: Any) -> tuple[torch.Tensor, torch.Tensor]:
    prompt, response, _, _, temperature, _ = sample
    ids = torch.tensor([prompt + response])
    logits = model(input_ids=ids).logits[0, len(prompt) - 1 : -1] / temperature
    table = torch.log_softmax(logits, -1)
    entropy = -(table.exp() * table).sum(-1)
    return table[torch.arange(len(response)), torch.tensor(response)], entropy


def importance(
    old_logp: torch.Tensor, engine: Sequence[float], algo: AlgoConfig
) -> tuple[torch.Tensor, torch.Tensor]:
    """A response's importance weights, and which of its tokens the mask keeps."""
    ratio = (old_logp - torch.tensor(engine, dtype=torch.float64)).exp()
    product = ratio.prod()
    of = {"token": ratio, "sequence": product, "geometric": product ** (1 / len(ratio))}
    weight = kept = torch.ones_like(ratio)
    if algo.importance_cap is not None:
        weight = of[algo.importance_level].clamp(max=algo.importance_cap).expand_as(ratio)
    if algo.importance_mask != "none":
        (low, high), measured = algo.importance_bounds, of[algo.importance_mask]
        kept = ((low <= measured) & (measured <= high)).double().expand_as(ratio)
    return weight * kept, kept


def _loss(
    model: Any, frozen: Any, samples: Any, old: Any, algo: AlgoConfig, sizes: tuple[float, float]
) -> torch.Tensor:
    """A domain's part; `sizes` are the batch's tokens and sequences."""
    total, (num_tokens, num_sequences) = torch.zeros((), dtype=torch.float64), sizes
    for sample, old_logp in zip(samples, old):
        advantage = sample[3]
        logp, entropy = _logprobs(model, sample)
        with torch.no_grad():
            ref, _ = _logprobs(frozen, sample)
        if algo.teacher:  # the same model
            advantage = algo.reward_coef * advantage + algo.teacher_coef * (ref - old_logp)
        weight, _ = importance(old_logp, sample[2], algo)
        ratio, bounds = (logp - old_logp).exp(), (1 - algo.clip_low, 1 + algo.clip_high)
        surrogate = -torch.minimum(ratio * advantage, ratio.clamp(*bounds) * advantage)
        if algo.loss == "cispo":
            surrogate = -ratio.detach().clamp(*bounds) * advantage * logp
        # Clamped as in the published recipe's trainer (see algo/kl.py).
        kl = ((ref - logp).exp() - (ref - logp) - 1).clamp(0, 10)
        loss = weight * surrogate + algo.kl_coef * kl - algo.entropy_coef * entropy
        over = {
            "token_mean": num_tokens,
            "sequence_mean": len(logp) * num_sequences,
            "sequence_sum_norm": LIMIT * num_sequences,
        }
        total = total + sample[5] * loss.sum() / over[algo.aggregation]
    return total


def resolve(
    gradients: list[dict[str, torch.Tensor]], module_of: dict[str, str], method: str
) -> dict[str, torch.Tensor]:
    """PCGrad (Yu et al. 2020) per module on flat vectors, averaged over all projection orders."""
    update: dict[str, torch.Tensor] = {}
    for module in dict.fromkeys(module_of.values()):
        names = [name for name in module_of if module_of[name] == module]
        vectors = [torch.cat([g[n].reshape(-1) for n in names]) for g in gradients]
        total = torch.zeros_like(vectors[0])
        for d, vector in enumerate(vectors):
            if method == "none":
                total += vector
                continue
            others = [e for e in range(len(vectors)) if e != d]
            orders = list(itertools.permutations(others))
            for order in orders:
                projected = vector.clone()
                for e in order:
                    inner = projected @ vectors[e]
                    if inner < 0:
                        projected -= inner / (vectors[e] @ vectors[e]) * vectors[e]
                total += projected / len(orders)
        sizes = [gradients[0][n].numel() for n in names]
        for name, part in zip(names, total.split(sizes)):
            update[name] = part.view_as(gradients[0][name])
    return update


def _lr(opt: OptimizerConfig, step: int, num_steps: int) -> float:
    import math

    if step < opt.warmup_steps:
        return opt.lr * (step + 1) / opt.warmup_steps
    progress = (step - opt.warmup_steps) / (num_steps - opt.warmup_steps)
    return opt.lr * 0.5 * (1 + math.cos(math.pi * progress))


def relative_error(found: dict[str, torch.Tensor], start: Any, expected: Any) -> float:
    """|found - expected| / |expected - start| over all parameters: the error of the update."""
    error = sum(((found[n].double() - expected[n].double()) ** 2).sum() for n in expected)
    size = sum(((expected[n].double() - start[n].double()) ** 2).sum() for n in expected)
    return float((error / size).sqrt())


__all__ = [name for name in dir() if not name.startswith("_")] + ["replace"]
