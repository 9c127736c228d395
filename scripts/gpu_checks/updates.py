"""Whole updates against a textbook of the method and against the CPU."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from gpu_checks.models import model_config, save_model, start_worker
from gpu_checks.record import Record, Setting

EXACT, ROUNDED, BF16 = 1e-5, 1e-2, 0.1
"""Errors of an update, relative: in float32; with gradients kept in bfloat16; computed in bfloat16
(measured on CPUs: 3e-6, 2e-3, 0.04)."""


@dataclass(frozen=True)
class Trial:
    """One case of the tests' textbook."""

    model: str
    case: Any
    limit: float = EXACT
    packing: Mapping[str, Any] = field(default_factory=dict)
    """How its batches are packed, beside the defaults."""
    learner: Mapping[str, Any] = field(default_factory=dict)
    """Keys of the learner that `Case` does not have."""


def trials(quick: bool) -> dict[str, Trial]:
    from mgsrl.config.policy import LoraConfig
    from tests.learner.parts import Case

    base, small = Case(), Case(micro_batch_size=16)
    lora = Case(lora=LoraConfig(rank=4, alpha=12.0), micro_batch_size=3)
    bf16 = Case(dtype="bfloat16", micro_batch_size=16)
    found = {
        "stage 0": Trial("llama", replace(base, zero_stage=0)),
        "stage 2": Trial("llama", base),
        "stage 3": Trial("llama", replace(base, zero_stage=3)),
        "offload 2": Trial("llama", replace(base, offload_optimizer=True)),
        "adapters, stage 2": Trial("llama", lora),
        "bfloat16, stage 2": Trial("llama", bf16, BF16),
    }
    if quick:
        return found
    resting: Any = {"learner": {"offload_during_rollout": True}}
    for stage in (1, 3):
        found[f"offload {stage}"] = Trial(
            "llama", replace(base, zero_stage=stage, offload_optimizer=True)
        )
        found[f"bfloat16, stage {stage}"] = Trial("llama", replace(bf16, zero_stage=stage), BF16)
    for stage in (0, 1, 3):
        found[f"adapters, stage {stage}"] = Trial("llama", replace(lora, zero_stage=stage))
    return found | {
        "stage 1": Trial("llama", replace(base, zero_stage=1)),
        "stage 2, one micro-batch": Trial("llama", small),
        "no surgery": Trial("llama", replace(base, method="none")),
        "one domain": Trial("llama", replace(base, domains=("chat",))),
        "gradients on the CPU": Trial("llama", replace(base, buffer_device="cpu")),
        "gradients in bfloat16": Trial("llama", replace(base, buffer_dtype="bfloat16"), ROUNDED),
        "stage 2, sequences one by one": Trial("llama", replace(base, micro_batch_size=1)),
        "token budget": Trial("llama", base, packing={"tokens_per_micro_batch": 24}),
        "responses without an advantage": Trial(
            "llama", replace(base, kl_coef=0.0, silent=("instructions",), zero_stage=3)
        ),
        "prompts not shared": Trial("llama", base, learner={"share_prompts": "never"}),
        **{
            f"rests on the host, stage {n}": Trial("llama", replace(base, zero_stage=n), **resting)
            for n in (0, 2, 3)
        },
        "rests on the host, bfloat16": Trial("llama", bf16, BF16, **resting),
        "Qwen2, stage 2": Trial("qwen2", base),
        "Qwen2, stage 3": Trial("qwen2", replace(base, zero_stage=3)),
        "one module": Trial("llama", replace(base, granularity="global")),
        "entropy bonus": Trial("llama", replace(base, entropy_coef=0.05)),
        "recomputed activations": Trial("llama", replace(base, gradient_checkpointing=True)),
        "two halves": Trial("llama", replace(base, reliability_every=1)),
        "two updates a batch": Trial(
            "llama", replace(base, updates_per_batch=2, zero_stage=3, lr=3e-3)
        ),
        "bfloat16, offload 2": Trial("llama", replace(bf16, offload_optimizer=True), BF16),
        "bfloat16, gradients on the CPU": Trial("llama", replace(bf16, buffer_device="cpu"), BF16),
        "bfloat16, gradients in bfloat16": Trial(
            "llama", replace(bf16, buffer_dtype="bfloat16"), BF16
        ),
        "bfloat16, adapters": Trial("llama", replace(lora, dtype="bfloat16"), BF16),
    }


STEPS = 2
Weights = dict[str, torch.Tensor]


def train_step(worker: Any, case: Any, step: int, packing: Mapping[str, Any] | None = None) -> Any:
    from mgsrl.data.packing import Packing, pack
    from tests.learner.parts import TEMPERATURES, make_groups, one_step, spared

    spec = worker._spec
    groups = make_groups(worker.policy.config.vocab_size, step, case.silent)
    wanted = Packing(
        micro_batch_size=case.micro_batch_size,
        world_size=1,
        max_response_length=16,
        temperatures=TEMPERATURES,
        only_advantages_teach=spared(spec),
        share_prompts=spec.learner.share_prompts != "never",
    )
    batch = pack(
        {domain: groups[domain] for domain in case.domains},
        replace(wanted, **(packing or {})),
        halves=spec.surgery.measures_reliability(step + 1),
    )
    return one_step(worker, batch, 0, step)[2]


def masters(worker: Any) -> Weights:
    """Float32 copies on the CPU of what the optimizer steps (the only rank has all of it)."""
    shapes = {n: getattr(p, "ds_shape", p.shape) for n, p in worker.policy.named_parameters()}
    return {
        shard.name: worker.layout.master(shard)
        .detach()
        .to("cpu", copy=True)
        .view(shapes[shard.name])
        for shard in worker.layout.shards
    }


def run_trial(
    setting: Setting, trial: Trial, case: Any
) -> tuple[Any, Weights, Weights, list[float]]:
    """(worker, masters before, masters after `STEPS` steps, gradient norms)."""
    worker = start_worker(setting, setting.scratch / trial.model, case, **trial.learner)
    before = masters(worker)
    norms = [train_step(worker, case, n, trial.packing).grad_norm for n in range(STEPS)]
    return worker, before, masters(worker), norms


def reference(setting: Setting, record: Record) -> None:
    """Textbook and learner on the CPU, for `updates` to compare with."""
    from mgsrl.surgery import module_map
    from tests.learner.parts import textbook

    for name, shape, tied in (("llama", "tiny", False), ("qwen2", "tiny Qwen2", True)):
        config = model_config(shape, tied)
        save_model(setting.scratch / name, config, torch.float32, torch.device("cpu"))
    results: dict[str, Any] = {}
    books: dict[str, Any] = {}
    for name, trial in trials(setting.quick).items():
        with record.caught(f"reference of {name}"):
            case, plain = trial.case, replace(trial.case, dtype="float32", buffer_dtype="float32")
            worker, before, after, _ = run_trial(setting, trial, plain)
            modules = module_map(list(before), case.granularity)
            del worker
            # What the method's mathematics does not know of shares one textbook.
            key = replace(
                plain,
                zero_stage=0,
                micro_batch_size=1,
                buffer_device="same",
                offload_optimizer=False,
                gradient_checkpointing=False,
                reliability_every=0,
            )
            key = f"{trial.model} {key}"
            if key not in books:
                adapters = before if case.lora.rank else None
                books[key] = textbook(setting.scratch / trial.model, case, STEPS, modules, adapters)
            weights, norms = books[key]
            change = {n: weights[n].double() - before[n].double() for n in before}
            on_cpu = {n: after[n].double() - before[n].double() for n in before}
            results[name] = {"textbook": change, "cpu": on_cpu, "norms": norms}
            record.at_most(f"{name}: CPU against the textbook", change_error(on_cpu, change), EXACT)
            keep(results, setting.scratch)


def keep(results: Mapping[str, Any], scratch: Path) -> None:
    """Whole, after each trial: what is there when the time is over is compared with."""
    part = scratch / "reference.pt.part"
    torch.save(results, part)
    part.rename(scratch / "reference.pt")


def kept(scratch: Path) -> dict[str, Any]:
    path = scratch / "reference.pt"
    return torch.load(path, weights_only=True) if path.exists() else {}


def change_error(found: Weights, expected: Weights) -> float:
    error = sum((found[n] - expected[n]).square().sum().item() for n in expected)
    return math.sqrt(error / sum(e.square().sum().item() for e in expected.values()))


def updates(setting: Setting, record: Record) -> None:
    known = kept(setting.scratch)
    for name, trial in trials(setting.quick).items():
        with record.caught(f"update: {name}"):
            if name not in known:
                raise RuntimeError("not compared: the CPU had no result in time")
            update(setting, record, name, trial, known[name])
    with record.caught("poisoned and impure batches"):
        refused_batches(setting, record)


def update(setting: Setting, record: Record, name: str, trial: Trial, known: Any) -> None:
    from tests.learner.parts import whole_weights

    case = trial.case
    worker, before, after, norms = run_trial(setting, trial, case)
    change = {n: after[n].double() - before[n].double() for n in before}
    record.at_most(f"{name}: textbook", change_error(change, known["textbook"]), trial.limit)
    if setting.on_gpu and trial.limit == EXACT:
        record.measure(f"{name}: CPU", change_error(change, known["cpu"]))
    wanted = known["norms"][:: case.updates_per_batch]
    if case.updates_per_batch == 1:
        worst = max(abs(a / b - 1) for a, b in zip(norms, wanted, strict=True))
        record.at_most(f"{name}: gradient norm", worst, trial.limit)
    if not case.lora.rank:
        weights = whole_weights(worker)
        kind = getattr(torch, case.dtype)
        stale = [n for n in after if not torch.equal(weights[n].cpu(), after[n].to(kind))]
        record.equal(f"{name}: weights other than the optimizer's", stale, [])
    folder = setting.scratch / "checkpoint"
    folder.mkdir(exist_ok=True)
    worker.save(str(folder))
    train_step(worker, case, STEPS, trial.packing)
    went_on = masters(worker)
    worker.load(str(folder))
    worker.rest()  # as while engines use its GPU
    worker.resume()
    loaded = masters(worker)
    unequal = [n for n in after if not torch.equal(loaded[n], after[n])]
    record.equal(f"{name}: differs after loading", unequal, [])
    train_step(worker, case, STEPS, trial.packing)
    again = masters(worker)
    size = {n: went_on[n].double() - after[n].double() for n in after}
    error = {n: again[n].double() - after[n].double() for n in after}
    record.at_most(f"{name}: step after loading", change_error(error, size), trial.limit)


def refused_batches(setting: Setting, record: Record) -> None:
    from mgsrl.errors import InvariantError
    from tests.learner.parts import Case, make_batch, one_step

    case = Case()
    worker = start_worker(setting, setting.scratch / "llama", case)
    batch = make_batch(worker.policy.config.vocab_size, 1, 4)
    poisoned = {
        domain: tuple(replace(b, advantages_B=b.advantages_B * math.nan) for b in batches)
        for domain, batches in batch.per_rank[0].items()
    }
    before = masters(worker)
    stats = one_step(worker, replace(batch, per_rank=(poisoned,)), 0, 0)[2]
    after = masters(worker)
    record.equal("a batch of nan is skipped", stats.skipped, True)
    record.equal("and changes nothing", all(torch.equal(before[n], after[n]) for n in before), True)
    impure = {**batch.per_rank[0], "math": batch.per_rank[0]["chat"]}
    worker.load_batch(impure, batch.totals)
    try:
        worker.accumulate("math")
        refused = False
    except InvariantError:
        refused = True
    record.equal("another domain's micro-batch is refused", refused, True)
