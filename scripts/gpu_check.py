#!/usr/bin/env python
"""Is the learner right on this card, and how fast is it?

One process drives the learner on one GPU (NCCL, world size 1) through what a training step does,
without rollout engines, and holds the results against float64 on the CPU:

  kernels  Gramian and combination of gradients, fingerprints of weights, log-probabilities in
           chunks: against float64, and in multiples of the time that moving the bytes takes
  engines  log-probabilities of learner and transformers engine; weights equal to the bit; the
           bundled reward model
  updates  whole updates over ZeRO stages, types, adapters, offload, kinds of gradient buffers,
           with a checkpoint's round trip: against a textbook of the method and against the CPU
  speed    seconds, tokens/s and memory of a step with random weights of published shapes

    python scripts/gpu_check.py                      # five minutes on an H200
    python scripts/gpu_check.py --quick --out check.json
    python scripts/gpu_check.py --device cpu --quick

Every section is a process of its own with a time limit, every check in it is caught alone. The
exit code is 1 when a check fails. Left out: several GPUs, vLLM, Ray.
"""

import argparse
import contextlib
import gc
import json
import math
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # the package and the tests' textbook, of this clone
os.environ.setdefault("DS_BUILD_OPS", "0")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch  # noqa: E402

GIB = 2**30
EXACT, ROUNDED, BF16 = 1e-5, 1e-2, 0.1
"""Errors of an update, relative: in float32; with gradients kept in bfloat16; computed in bfloat16
(measured on CPUs: 3e-6, 2e-3, 0.04)."""


# ---- what is recorded ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Figure:
    section: str
    name: str
    found: float | str
    unit: str = ""
    expected: str = ""
    """Empty for a measurement."""
    passed: bool = True


class Record:
    """The figures of one section, on disk after each one: a section may be killed."""

    def __init__(self, section: str, path: Path) -> None:
        self._section, self._path = section, path
        self._figures: list[Figure] = []

    def measure(self, name: str, found: float | str, unit: str = "") -> None:
        self._add(Figure(self._section, name, found, unit))

    def at_most(self, name: str, found: float, limit: float, unit: str = "") -> None:
        """A check; nan fails."""
        self._add(
            Figure(self._section, name, found, unit, f"at most {limit:g}", bool(found <= limit))
        )

    def equal(self, name: str, found: object, expected: object) -> None:
        self._add(
            Figure(self._section, name, str(found), "", str(expected), bool(found == expected))
        )

    @contextlib.contextmanager
    def caught(self, name: str) -> Iterator[None]:
        """An exception is a failed check, and the next one runs."""
        try:
            yield
        except Exception as error:
            traceback.print_exc()
            found = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            self._add(Figure(self._section, name, found, "", "no exception", False))
        release()

    def _add(self, figure: Figure) -> None:
        self._figures.append(figure)
        self._path.write_text(json.dumps([asdict(f) for f in self._figures]))


@dataclass(frozen=True)
class Setting:
    device: torch.device
    quick: bool
    scratch: Path
    """Shared by the sections."""


def release() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def seconds(device: torch.device, work: Callable[[], object], repeats: int = 7) -> float:
    """Median wall time, the device's work included, after two calls that warm up."""
    times = []
    for _ in range(repeats + 2):
        wait(device)
        begin = time.perf_counter()
        work()
        wait(device)
        times.append(time.perf_counter() - begin)
    return sorted(times[2:])[repeats // 2]


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    expected = expected.double()
    return float((found.double() - expected).norm() / expected.norm())


# ---- models --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shape:
    model_type: str
    hidden: int
    inner: int
    layers: int
    heads: int
    kv_heads: int
    vocab: int


SHAPES = {
    "tiny": Shape("llama", 64, 128, 2, 2, 1, 300),
    "tiny Qwen2": Shape("qwen2", 64, 128, 2, 2, 1, 300),
    "SmolLM2-135M": Shape("llama", 576, 1536, 30, 9, 3, 49152),
    "Qwen2.5-0.5B": Shape("qwen2", 896, 4864, 24, 14, 2, 151936),
    "Qwen2.5-1.5B": Shape("qwen2", 1536, 8960, 28, 12, 2, 151936),
}
"""The published configurations; weights are random."""


def model_config(shape: str, tied: bool = True) -> Any:
    from transformers import AutoConfig

    s = SHAPES[shape]
    return AutoConfig.for_model(
        s.model_type,
        hidden_size=s.hidden,
        intermediate_size=s.inner,
        num_hidden_layers=s.layers,
        num_attention_heads=s.heads,
        num_key_value_heads=s.kv_heads,
        vocab_size=s.vocab,
        max_position_embeddings=4096,
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
    )


def save_model(folder: Path, config: Any, dtype: torch.dtype, device: torch.device) -> Path:
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=False)
    if config.vocab_size < 1000:  # a plain random model is almost uniform, its layers unimportant
        with torch.no_grad():
            for name, value in model.named_parameters():
                if value.ndim == 2:
                    value.mul_(4.0 if "embed" in name else 8.0)
                if name.endswith("bias"):
                    value.normal_()
    model.to("cpu").save_pretrained(folder)
    return folder


# ---- kernels -------------------------------------------------------------------------------------


def kernels(setting: Setting, record: Record) -> None:
    rate = copy_rate(setting, record)
    shapes = ["tiny"] if setting.device.type == "cpu" else ["Qwen2.5-0.5B", "Qwen2.5-1.5B"]
    for shape in shapes[: 1 if setting.quick else 2]:
        columns = columns_of(shape)
        for dtype in (torch.float32, torch.bfloat16):
            for num_domains in (3,) if setting.quick else (2, 3, 8):
                name = f"{shape} {str(dtype)[6:]} D={num_domains}"
                with record.caught(f"surgery {name}"):
                    surgery_kernels(setting, record, name, columns, dtype, num_domains, rate)
    with record.caught("rows beyond 2^31 elements"):
        if setting.device.type == "cuda" and not setting.quick:
            long_rows(setting, record)
    with record.caught("fingerprint"):
        fingerprints(setting, record)
    for dtype in (torch.float32, torch.bfloat16):
        with record.caught(f"log-probabilities in chunks {dtype}"):
            token_logprobs(setting, record, dtype)


def copy_rate(setting: Setting, record: Record) -> float:
    """Bytes per second, read and written, of copying a large buffer."""
    numel = 1 << (30 if setting.device.type == "cuda" else 24)
    source = torch.rand(numel, device=setting.device)
    target = torch.empty_like(source)
    rate = 2 * numel * 4 / seconds(setting.device, lambda: target.copy_(source))
    record.measure("copy", rate / 1e9, "GB/s")
    record.measure("sum", numel * 4 / seconds(setting.device, source.sum) / 1e9, "GB/s")
    if setting.device.type == "cuda":
        a, b = torch.rand(2, 8192, 8192, device=setting.device).bfloat16()
        spent = seconds(setting.device, lambda: a @ b)
        record.measure("bfloat16 product 8192^3", 2 * 8192**3 / spent / 1e12, "TFLOP/s")
    return rate


def columns_of(shape: str) -> list[tuple[int, int, int]]:
    """(module, first, end column) of the parameters of a model, laid end to end."""
    from transformers import AutoModelForCausalLM

    from mgsrl.surgery import module_map

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(model_config(shape), trust_remote_code=False)
    sizes = {name: param.numel() for name, param in model.named_parameters()}
    module_of = module_map(list(sizes))
    index = {module: i for i, module in enumerate(dict.fromkeys(module_of.values()))}
    columns, end = [], 0
    for name, size in sizes.items():
        columns.append((index[module_of[name]], end, end + size))
        end += size
    return columns


def surgery_kernels(
    setting: Setting,
    record: Record,
    name: str,
    columns: list[tuple[int, int, int]],
    dtype: torch.dtype,
    num_domains: int,
    rate: float,
) -> None:
    from mgsrl.surgery.gramian import combine_, combine_into, gramian

    device, total = setting.device, columns[-1][2]
    rows_DN = torch.empty(num_domains, total, device=device, dtype=dtype).normal_()
    rows_DN[1] += rows_DN[0]  # not orthogonal, or a product of two rows is all rounding
    pieces = [(module, rows_DN[:, a:b]) for module, a, b in columns]
    num_modules = columns[-1][0] + 1
    expected_MDD = exact_gramian(pieces, num_modules)
    found_MDD = gramian(pieces, num_modules).to(device)
    scale_MD = expected_MDD.diagonal(dim1=1, dim2=2).sqrt()
    errors = (found_MDD - expected_MDD).abs() / (scale_MD[:, :, None] * scale_MD[:, None, :])
    record.at_most(f"Gramian {name}: error of a cosine", errors.max().item(), 1e-6)
    size = rows_DN.element_size()
    spent = seconds(device, lambda: gramian(pieces, num_modules))
    record.measure(f"Gramian {name}", 1e3 * spent, "ms")
    record.measure(f"Gramian {name}: times its reading", spent * rate / (rows_DN.numel() * size))

    weights_MD = torch.rand(num_modules, num_domains, dtype=torch.float64) - 0.25
    expected_N = exact_combination(pieces, weights_MD, total)
    if dtype == torch.float32:
        spent = seconds(device, lambda: combine_(pieces, torch.ones_like(weights_MD)), 3)
        rows_DN[0] = exact_row(rows_DN, 3 + 2)  # the calls above added the others to it
        combine_(pieces, weights_MD)
        found_N = rows_DN[0]
        moved = (num_domains + 1) * total * size
    else:
        found_N = torch.zeros(total, device=device)
        targets = [found_N[a:b] for _, a, b in columns]
        spent = seconds(device, lambda: combine_into(pieces, weights_MD, targets), 3)
        moved = (num_domains * size + 4) * total
    record.at_most(f"combination {name}: error", relative(found_N, expected_N), 1e-6)
    record.measure(f"combination {name}", 1e3 * spent, "ms")
    record.measure(f"combination {name}: times its bytes", spent * rate / moved)


def exact_row(rows_DN: torch.Tensor, times: int) -> torch.Tensor:
    """Row 0 before `times` sums of all rows into it."""
    return rows_DN[0] - times * rows_DN[1:].sum(0)


def exact_gramian(pieces: Sequence[tuple[int, torch.Tensor]], num_modules: int) -> torch.Tensor:
    """Products and sums in float64, pair by pair."""
    num_domains, device = pieces[0][1].shape[0], pieces[0][1].device
    gram_MDD = torch.zeros(num_modules, num_domains, num_domains, device=device).double()
    for module, piece in pieces:
        for part in piece.split(1 << 24, dim=1):
            wide = part.double()
            for d in range(num_domains):
                gram_MDD[module, d] += (wide[d] * wide).sum(1)
    return gram_MDD


def exact_combination(
    pieces: Sequence[tuple[int, torch.Tensor]], weights_MD: torch.Tensor, total: int
) -> torch.Tensor:
    parts = []
    for module, piece in pieces:
        weights = weights_MD[module].to(piece.device)
        parts += [
            sum(w * row.double() for w, row in zip(weights, part)).float()
            for part in piece.split(1 << 24, dim=1)
        ]
    joined = torch.cat(parts)
    assert len(joined) == total
    return joined


def long_rows(setting: Setting, record: Record) -> None:
    """Rows that are further apart than a 32-bit leading dimension of BLAS reaches."""
    from mgsrl.surgery.gramian import combine_, gramian

    total = 2**31 + 2**20
    rows_DN = torch.ones(2, total, device=setting.device)
    pieces = [(0, rows_DN[:, : 2**31 - 5]), (1, rows_DN[:, 2**31 - 5 :])]
    sizes = torch.tensor([2.0**31 - 5, 2**20 + 5], dtype=torch.float64)
    record.at_most(
        "Gramian of rows beyond 2^31 elements: error",
        (gramian(pieces, 2).cpu() - sizes[:, None, None]).abs().max().item(),
        1.0,
    )
    combine_(pieces, torch.tensor([[2.0, 3.0], [1.0, 0.5]], dtype=torch.float64))
    ends = rows_DN[0, [0, 2**31 - 6, 2**31 - 5, total - 1]].tolist()
    record.equal("combination of rows beyond 2^31 elements", ends, [5.0, 5.0, 1.5, 1.5])


def fingerprints(setting: Setting, record: Record) -> None:
    from mgsrl.sync.fingerprint import fingerprint, square_sum

    for dtype in (torch.float32, torch.bfloat16):
        values = torch.randn(1537, 4099, generator=torch.Generator().manual_seed(1)).to(dtype)
        values[3, 5], values[7, 9] = 0.0, 1e-40
        there = values.to(setting.device)
        record.equal(
            f"fingerprint {dtype} is the CPU's",
            fingerprint(there, 3) == fingerprint(values, 3),
            True,
        )
        large = there.repeat(1 if setting.device.type == "cpu" else 64, 1)
        spent = seconds(setting.device, lambda large=large: int(square_sum(large)), 3)
        rate = large.numel() * large.element_size() / spent
        record.measure(f"fingerprint {dtype}", 1e12 / rate, "ms/GB")


def token_logprobs(setting: Setting, record: Record, dtype: torch.dtype) -> None:
    from mgsrl.learner.forward import TokenLogprobs

    torch.manual_seed(0)
    hidden = torch.randn(301, 64).to(setting.device, dtype)
    weight = torch.randn(5003, 64).div(4).to(setting.device, dtype)
    targets = torch.randint(5003, (301,), device=setting.device)
    outward = torch.randn(2, 301).to(setting.device)

    def gradients(wide: bool, chunk: int) -> list[torch.Tensor]:
        inputs = [t.double() if wide else t.clone() for t in (hidden, weight)]
        inputs = [t.detach().requires_grad_() for t in inputs]
        if wide:
            table = torch.log_softmax(inputs[0] @ inputs[1].T / 0.7, -1)
            logprobs = table.gather(1, targets[:, None]).squeeze(1)
            entropy = -(table.exp() * table).sum(1)
        else:
            logprobs, entropy = TokenLogprobs.apply(*inputs, None, targets, 0.7, chunk)
        grads = torch.autograd.grad((logprobs * outward[0] + entropy * outward[1]).sum(), inputs)
        return [logprobs.detach(), entropy.detach(), *grads]

    expected = gradients(True, 0)
    for chunk in (1000, 64, 7):
        found = gradients(False, chunk)
        for what, a, b in zip(
            ("log-probability", "entropy", "d hidden", "d weight"), found, expected
        ):
            room = 1e-4 if a.dtype == torch.float32 else 1e-2  # outputs are always float32
            record.at_most(f"{what} {str(dtype)[6:]} in chunks of {chunk}", relative(a, b), room)


# ---- engines -------------------------------------------------------------------------------------


def engines(setting: Setting, record: Record) -> None:
    for dtype in ("float32", "bfloat16"):
        with record.caught(f"training and evaluation {dtype}"):
            own_logits(setting, record, dtype)
        with record.caught(f"engine and learner {dtype}"):
            engine_and_learner(setting, record, dtype)
    with record.caught("reward model"):
        reward_model(setting, record)


def own_logits(setting: Setting, record: Record, dtype: str) -> None:
    """The learner's forward in training mode against the model's own logits in evaluation."""
    from mgsrl.config.model_path import POCKET_POLICY, resolve_model_path
    from mgsrl.config.policy import PolicyConfig
    from mgsrl.learner.policy import load_forward

    path = resolve_model_path("pocket", "policy.path", POCKET_POLICY)
    config = PolicyConfig(path=path)
    kind = getattr(torch, dtype)
    forward = load_forward(config, kind).to(setting.device).train()
    from mgsrl.config.model_load import load_causal_lm

    own = load_causal_lm(path, kind, trust_remote_code=False).to(setting.device).eval()
    torch.manual_seed(1)
    tokens_BL = torch.randint(3, own.config.vocab_size, (4, 61), device=setting.device)
    mask_BL = torch.ones(4, 61, device=setting.device)
    mask_BL[:, :20] = 0
    with torch.no_grad():
        found_BL, _ = forward(tokens_BL, mask_BL, 1.0)
        logits = own(input_ids=tokens_BL).logits[:, :-1].float()
    expected_BL = torch.log_softmax(logits, -1).gather(2, tokens_BL[:, 1:, None]).squeeze(2)
    errors = (found_BL[:, 1:] - expected_BL).abs()[mask_BL[:, 1:] > 0]
    limit = 1e-4 if dtype == "float32" else 0.1
    record.at_most(
        f"training against evaluation {dtype}, mean", errors.mean().item(), limit, "nats"
    )


def engine_and_learner(setting: Setting, record: Record, dtype: str) -> None:
    from mgsrl.config.model_path import POCKET_POLICY, resolve_model_path
    from mgsrl.config.rollout import RolloutConfig
    from mgsrl.rollout.decoding import Decoder
    from mgsrl.rollout.transformers_engine import TransformersEngine
    from mgsrl.sync.fingerprint import fingerprint
    from mgsrl.types import GenerationRequest, Sampling
    from tests.learner.parts import Case

    path = resolve_model_path("pocket", "policy.path", POCKET_POLICY)
    decoder = Decoder(path)
    engine = TransformersEngine(
        path,
        RolloutConfig(engine="transformers", dtype=dtype),
        decoder,
        device=setting.device.type,
    )
    sampling = Sampling(temperature=0.8, max_new_tokens=24)
    prompt = decoder.tokenizer("What is 2 plus 3?")["input_ids"]
    requests = [
        GenerationRequest(str(seed), tuple(prompt[: 3 + seed % 5]), seed, sampling)
        for seed in range(8 if setting.quick else 32)
    ]
    begin = time.perf_counter()
    rollouts = engine.generate(requests)
    record.measure(f"transformers engine {dtype}", time.perf_counter() - begin, "s")
    worker = start_worker(setting, Path(path), Case(dtype=dtype, kl_coef=0.0))
    sequences = [[*q.token_ids, *r.token_ids] for q, r in zip(requests, rollouts)]
    learned = worker.logprobs(sequences, sampling.temperature)
    differences = torch.tensor(
        [
            abs(a - b)
            for q, r, row in zip(requests, rollouts, learned)
            for a, b in zip(r.logprobs, row[len(q.token_ids) :], strict=True)
        ]
    )
    limit = 1e-4 if dtype == "float32" else 0.1
    name = f"engine against learner {dtype}"
    record.at_most(f"{name}, mean", differences.mean().item(), limit, "nats")
    record.measure(f"{name}, largest", differences.max().item(), "nats")
    held = {seen.name: seen.whole for seen in engine.probe(5, [])}
    sent = {name: fingerprint(value, 5).whole for name, value in worker.source}
    unequal = [name for name, whole in held.items() if sent.get(name, whole) != whole]
    record.equal(f"weights of engine and learner {dtype} that differ", unequal, [])


def reward_model(setting: Setting, record: Record) -> None:
    from mgsrl.config import RewardConfig
    from mgsrl.rewards.actor import RewardWorker
    from mgsrl.rewards.protocol import Response

    answers = ("It is 5.", "", "Five apples, since 2 + 3 = 5.", "No.", "5 5 5 5 5", "The sea.")
    items = [
        Response(({"role": "user", "content": "What is 2 + 3?"},), f"<response>{a}</response>")
        for a in answers
    ]
    on_gpu = setting.device.type == "cuda"
    config = RewardConfig.of("reward_model", path="pocket")
    scores = [
        torch.tensor([r.value for r in RewardWorker(replace(config, num_gpus=gpus)).score(items)])
        for gpus in ((0.0, 1.0) if on_gpu else (0.0, 0.0))
    ]
    error = (scores[0] - scores[1]).abs().max().item()
    record.at_most("reward model on this device against the CPU", error, 0.1 if on_gpu else 0.0)
    record.measure("reward model: spread of its scores", scores[0].std().item())


# ---- updates -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trial:
    """One case of the tests' textbook."""

    model: str
    case: Any
    limit: float = EXACT


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
        "stage 2, one micro-batch": Trial("llama", small),
        "no surgery": Trial("llama", replace(base, method="none")),
        "one domain": Trial("llama", replace(base, domains=("chat",))),
        "gradients on the CPU": Trial("llama", replace(base, buffer_device="cpu")),
        "gradients in bfloat16": Trial("llama", replace(base, buffer_dtype="bfloat16"), ROUNDED),
        "offload 2": Trial("llama", replace(base, offload_optimizer=True)),
        "adapters, stage 2": Trial("llama", lora),
        "bfloat16, stage 2": Trial("llama", bf16, BF16),
    }
    if quick:
        return found
    for stage in (1, 3):
        found[f"offload {stage}"] = Trial(
            "llama", replace(base, zero_stage=stage, offload_optimizer=True)
        )
        found[f"bfloat16, stage {stage}"] = Trial("llama", replace(bf16, zero_stage=stage), BF16)
    for stage in (0, 1, 3):
        found[f"adapters, stage {stage}"] = Trial("llama", replace(lora, zero_stage=stage))
    return found | {
        "stage 1": Trial("llama", replace(base, zero_stage=1)),
        "stage 2, sequences one by one": Trial("llama", replace(base, micro_batch_size=1)),
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


def start_worker(setting: Setting, model: Path, case: Any) -> Any:
    """A learner that is the only rank."""
    from mgsrl.learner.worker import LearnerWorker
    from tests.learner.parts import make_spec

    # On a CPU one thread: these models are tiny, and the reference runs beside the GPU's sections.
    threads = 1 if setting.device.type == "cpu" else 0
    worker = LearnerWorker(make_spec(model, case, 1), 0, 1, setting.device.type, threads)
    worker.start(f"file://{setting.scratch}/rendezvous_{os.getpid()}")
    return worker


def train_step(worker: Any, case: Any, step: int) -> Any:
    from tests.learner.parts import make_batch, one_step

    halves = worker._spec.surgery.measures_reliability(step + 1)
    batch = make_batch(
        worker.policy.config.vocab_size, 1, case.micro_batch_size, step, case.domains, halves
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
    setting: Setting, model: Path, case: Any
) -> tuple[Any, Weights, Weights, list[float]]:
    """(worker, masters before, masters after `STEPS` steps, gradient norms)."""
    worker = start_worker(setting, model, case)
    before = masters(worker)
    norms = [train_step(worker, case, step).grad_norm for step in range(STEPS)]
    return worker, before, masters(worker), norms


def reference(setting: Setting, record: Record) -> None:
    """Textbook and learner on the CPU, for `updates` to compare with."""
    from mgsrl.surgery import module_map
    from tests.learner.parts import textbook

    models = {}
    for name, shape, tied in (("llama", "tiny", False), ("qwen2", "tiny Qwen2", True)):
        config = model_config(shape, tied)
        models[name] = save_model(
            setting.scratch / name, config, torch.float32, torch.device("cpu")
        )
    results: dict[str, Any] = {}
    books: dict[str, Any] = {}
    for name, trial in trials(setting.quick).items():
        with record.caught(f"reference of {name}"):
            case, plain = trial.case, replace(trial.case, dtype="float32", buffer_dtype="float32")
            worker, before, after, _ = run_trial(setting, models[trial.model], plain)
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
                books[key] = textbook(models[trial.model], case, STEPS, modules, adapters)
            weights, norms = books[key]
            change = {n: weights[n].double() - before[n].double() for n in before}
            on_cpu = {n: after[n].double() - before[n].double() for n in before}
            results[name] = {"textbook": change, "cpu": on_cpu, "norms": norms}
            record.at_most(f"{name}: CPU against the textbook", change_error(on_cpu, change), EXACT)
    torch.save(results, setting.scratch / "reference.pt.part")
    (setting.scratch / "reference.pt.part").rename(setting.scratch / "reference.pt")


def change_error(found: Weights, expected: Weights) -> float:
    error = sum((found[n] - expected[n]).square().sum().item() for n in expected)
    return math.sqrt(error / sum(e.square().sum().item() for e in expected.values()))


def updates(setting: Setting, record: Record) -> None:
    known = torch.load(setting.scratch / "reference.pt", weights_only=True)
    for name, trial in trials(setting.quick).items():
        with record.caught(f"update: {name}"):
            if name not in known:
                raise RuntimeError("the CPU gave no result to compare with")
            update(setting, record, name, trial, known[name])
    with record.caught("poisoned and impure batches"):
        refused_batches(setting, record)


def update(setting: Setting, record: Record, name: str, trial: Trial, known: Any) -> None:
    from tests.learner.parts import whole_weights

    case = trial.case
    worker, before, after, norms = run_trial(setting, setting.scratch / trial.model, case)
    change = {n: after[n].double() - before[n].double() for n in before}
    record.at_most(f"{name}: textbook", change_error(change, known["textbook"]), trial.limit)
    if setting.device.type == "cuda" and trial.limit == EXACT:
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
    train_step(worker, case, STEPS)
    went_on = masters(worker)
    worker.load(str(folder))
    loaded = masters(worker)
    unequal = [n for n in after if not torch.equal(loaded[n], after[n])]
    record.equal(f"{name}: differs after loading", unequal, [])
    train_step(worker, case, STEPS)
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


# ---- speed ---------------------------------------------------------------------------------------


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

    @property
    def name(self) -> str:
        return ", ".join([self.shape, *(f"{k}={v}" for k, v in self.options.items())])


def loads(device: str, quick: bool) -> list[Load]:
    if device == "cpu":
        return [Load("tiny", 4, prompts=2, samples=2, prompt_tokens=16, response_tokens=16)]
    small = Load("SmolLM2-135M", 16)
    return (
        [small]
        if quick
        else [
            small,
            Load("Qwen2.5-0.5B", 16),
            Load("Qwen2.5-1.5B", 8),
            replace(small, options={"buffer_device": "cpu"}),
            replace(small, options={"offload_optimizer": True}),
        ]
    )


def speed(setting: Setting, record: Record, index: int) -> None:
    load = loads(setting.device.type, setting.quick)[index]
    with record.caught(f"step of {load.name}"):
        whole_step(setting, record, load)


def make_groups(load: Load, vocab: int) -> Mapping[str, Any]:
    """Random tokens of equal lengths: no padding, so tokens/s are real ones."""
    from mgsrl.types import Prompt, Reward, Rollout, RolloutGroup
    from tests.learner.parts import DOMAINS

    generator = torch.Generator().manual_seed(0)
    groups: dict[str, list[Any]] = {}
    for domain in DOMAINS:
        groups[domain] = []
        for index in range(load.prompts):
            tokens = torch.randint(3, vocab, (load.prompt_tokens,), generator=generator).tolist()
            rollouts = [
                Rollout(
                    str(sample),
                    tuple(
                        torch.randint(
                            3, vocab, (load.response_tokens,), generator=generator
                        ).tolist()
                    ),
                    (-math.log(vocab),) * load.response_tokens,
                    "",
                    "stop",
                    0,
                )
                for sample in range(load.samples)
            ]
            advantages = torch.randn(load.samples, generator=generator).tolist()
            groups[domain].append(
                RolloutGroup(
                    Prompt(str(index), domain, (), tuple(tokens)),
                    tuple(rollouts),
                    (Reward(1.0),) * load.samples,
                    tuple(advantages),
                )
            )
    return groups


def whole_step(setting: Setting, record: Record, load: Load) -> None:
    from mgsrl.data.packing import Packing, pack
    from tests.learner.parts import TEMPERATURES, Case

    device, name = setting.device, load.name
    config = model_config(load.shape)
    folder = save_model(setting.scratch / load.shape, config, torch.bfloat16, device)
    release()
    begin = time.perf_counter()
    case = Case(dtype="bfloat16", kl_coef=0.001, lr=1e-6, **load.options)
    worker = start_worker(setting, folder, case)
    record.measure(f"{name}: start", time.perf_counter() - begin, "s")
    parameters = sum(p.numel() for p in worker.policy.parameters())
    groups, size = make_groups(load, config.vocab_size), load.micro_batch_size
    while True:
        batch = pack(
            groups,
            Packing(
                micro_batch_size=size,
                world_size=1,
                max_response_length=load.response_tokens,
                pad_token_id=0,
                temperatures=TEMPERATURES,
            ),
        )
        try:
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
            timed_step(setting, worker, batch, 0)  # warms up, and allocates AdamW's moments
            break
        except torch.cuda.OutOfMemoryError:
            record.measure(f"{name}: no memory for micro-batches of", size, "sequences")
            size //= 2
            if not size:
                raise
            worker.grads.restart()
            release()
    runs = [timed_step(setting, worker, batch, step) for step in (1, 2)]
    spent = {part: min(run[part] for run in runs) for part in runs[0]}
    total = sum(spent.values())
    tokens = 3 * load.prompts * load.samples * (load.prompt_tokens + load.response_tokens)
    record.measure(f"{name}: sequences of a micro-batch", size)
    for part, value in spent.items():
        record.measure(f"{name}: {part}", value, "s")
    record.measure(f"{name}: whole step", total, "s")
    record.measure(f"{name}: tokens", tokens / total, "tokens/s")
    record.measure(f"{name}: share of surgery", 100 * spent["resolve"] / total, "%")
    # Forward and backward of the policy, forward of the reference.
    record.measure(f"{name}: arithmetic", 8 * parameters * tokens / total / 1e12, "TFLOP/s")
    memory(setting, record, load, parameters)


def timed_step(setting: Setting, worker: Any, batch: Any, step: int) -> dict[str, float]:
    times: dict[str, float] = {}

    def timed(part: str, work: Callable[[], object]) -> None:
        wait(setting.device)
        begin = time.perf_counter()
        work()
        wait(setting.device)
        times[part] = times.get(part, 0.0) + time.perf_counter() - begin

    timed("load", lambda: worker.load_batch(batch.per_rank[0], batch.totals))
    for domain in batch.domains:
        timed("accumulate", lambda domain=domain: worker.accumulate(domain))
    timed("resolve", lambda: worker.resolve_conflicts(step))
    timed("optimizer step", lambda: worker.optimizer_step(step))
    return times


def memory(setting: Setting, record: Record, load: Load, parameters: int) -> None:
    """What a GPU holds between steps against the arithmetic: bfloat16 weights and reference,
    float32 masters, two moments, three gradient rows."""
    if setting.device.type != "cuda":
        return
    name, offload = load.name, "offload_optimizer" in load.options
    states = 0 if offload else 4 + 8
    rows = 0 if offload or "buffer_device" in load.options else 3 * 4
    expected = parameters * (2 + 2 + states + rows)
    held, peak = torch.cuda.memory_allocated(), torch.cuda.max_memory_allocated()
    record.measure(f"{name}: held between steps", held / GIB, "GiB")
    record.measure(f"{name}: held, by arithmetic", expected / GIB, "GiB")
    record.measure(f"{name}: peak", peak / GIB, "GiB")


# ---- the whole -----------------------------------------------------------------------------------

SECTIONS: dict[str, Callable[[Setting, Record], None]] = {
    "kernels": kernels,
    "engines": engines,
    "updates": updates,
    "reference": reference,
    **{f"speed {i}": partial(speed, index=i) for i in range(len(loads("cuda", False)))},
}
LIMITS_S = {"kernels": 150, "engines": 150, "updates": 240, "speed": 120}
"""Of one process; a load of `speed` is one."""


def versions(device: str) -> dict[str, str]:
    from mgsrl.obs.run_record import cpu_name

    found = {name: metadata.version(name) for name in ("torch", "transformers", "deepspeed")}
    on_gpu = device == "cuda"
    return {
        "card": torch.cuda.get_device_name() if on_gpu else "none",
        "processor": cpu_name(),
        "python": sys.version.split()[0],
        "tf32": str(torch.backends.cuda.matmul.allow_tf32),
        "cuda": str(torch.version.cuda),
        **found,
    }


def child(section: str, options: argparse.Namespace, scratch: Path, device: str) -> Any:
    command = [sys.executable, __file__, "--section", section, "--device", device]
    command += ["--scratch", str(scratch), *(["--quick"] if options.quick else [])]
    log = (scratch / f"{section}.log").open("w")
    # Transformers imports DeepSpeed, which takes the first device that it sees.
    env = {**os.environ, "DS_ACCELERATOR": device}
    if device == "cpu":
        env["CUDA_VISIBLE_DEVICES"] = ""
    return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=env)


def finish(section: str, process: Any, limit_s: float, scratch: Path) -> list[dict[str, Any]]:
    """The figures of a section; how it ended is one of them if it did not end well."""
    try:
        ended = f"exit code {process.wait(limit_s)}"
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        ended = f"killed after {limit_s:.0f} s"
    path = scratch / f"{section}.json"
    found = json.loads(path.read_text()) if path.exists() else []
    if ended != "exit code 0":
        tail = (scratch / f"{section}.log").read_text()[-1500:]
        print(f"--- the end of {section}'s output\n{tail}", file=sys.stderr)
        found.append(asdict(Figure(section, "whole section", ended, "", "exit code 0", False)))
    return found


def sections(options: argparse.Namespace) -> list[str]:
    """A process for each; of `speed` one for each load, so that none holds another's memory."""
    steps = range(len(loads(options.device, options.quick)))
    names = ["kernels", "engines", "updates", *(f"speed {i}" for i in steps)]
    return [name for name in names if name.split()[0] in options.only]


def run_sections(options: argparse.Namespace, scratch: Path) -> list[dict[str, Any]]:
    figures: list[dict[str, Any]] = []
    side = None
    try:
        for section in sections(options):
            if side is None and section != "kernels" and "updates" in options.only:
                # Beside the sections that time nothing: it takes all cores.
                side = child("reference", options, scratch, "cpu")
            limit_s = LIMITS_S[section.split()[0]]
            if section == "updates":
                figures += finish("reference", side, limit_s, scratch)
            begin = time.perf_counter()
            process = child(section, options, scratch, options.device)
            figures += finish(section, process, limit_s, scratch)
            spent = time.perf_counter() - begin
            figures.append(asdict(Figure(section, "whole section", spent, "s")))
            print(f"{section}: {spent:.0f} s", file=sys.stderr, flush=True)
    finally:
        if side:
            side.kill()
    return figures


def show(facts: Mapping[str, str], figures: Sequence[Mapping[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=", ".join(f"{key} {value}" for key, value in facts.items()))
    for column in ("section", "what", "found", "expected", ""):
        table.add_column(column, overflow="fold")
    for f in figures:
        found = f"{f['found']:.4g}" if isinstance(f["found"], float) else str(f["found"])
        verdict = "" if not f["expected"] else "ok" if f["passed"] else "FAILED"
        table.add_row(f["section"], f["name"], f"{found} {f['unit']}", f["expected"], verdict)
    console = Console(width=None if sys.stdout.isatty() else 132)
    console.print(table)
    for f in figures:
        if not f["passed"]:
            console.print(
                f"FAILED {f['section']}: {f['name']}: expected {f['expected']}, found {f['found']}",
                markup=False,
            )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", choices=("cuda", "cpu"), default=default)
    parser.add_argument("--quick", action="store_true", help="fewer cases, one small shape")
    parser.add_argument("--out", type=Path, help="also write the figures to this JSON file")
    parser.add_argument("--only", nargs="+", choices=LIMITS_S, default=list(LIMITS_S))
    parser.add_argument("--section", choices=SECTIONS, help=argparse.SUPPRESS)
    parser.add_argument("--scratch", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.section:
        setting = Setting(torch.device(options.device), options.quick, options.scratch)
        record = Record(options.section, options.scratch / f"{options.section}.json")
        with record.caught("whole section"):
            SECTIONS[options.section](setting, record)
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        return 0
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch sees no GPU here")
    facts = versions(options.device)
    with tempfile.TemporaryDirectory() as scratch:
        figures = run_sections(options, Path(scratch))
    show(facts, figures)
    if options.out:
        options.out.write_text(json.dumps({**facts, "figures": figures}, indent=1) + "\n")
    return 0 if all(f["passed"] for f in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
