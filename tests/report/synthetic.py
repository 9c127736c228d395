"""A realistic run folder, written through the real writers, for tests of the report."""

import math
import random
from pathlib import Path
from typing import Any

import torch

from mgsrl.config import AlgoConfig, Config, DomainConfig, SourceConfig, TrainConfig
from mgsrl.config.compose import config_to_yaml
from mgsrl.config.strategy import StrategyConfig
from mgsrl.config.surgery import SurgeryConfig
from mgsrl.obs.evaluation_log import EvalResult, append_evaluations
from mgsrl.obs.metrics import step_scalars
from mgsrl.obs.rollout_log import write_rollouts
from mgsrl.obs.run_record import begin_run_record, finish_run_record, write_run_record
from mgsrl.obs.surgery_log import write_surgery
from mgsrl.obs.trackers import JsonlTracker
from mgsrl.surgery import resolve
from mgsrl.surgery.report import surgery_report
from mgsrl.surgery.step_probe import with_probe
from mgsrl.types import DomainStats, Prompt, Reward, Rollout, RolloutGroup, StepProbe, StepStats

DOMAINS = ("math", "chat", "instruction_following")
START = {"math": 0.40, "chat": 0.27, "instruction_following": 0.41}
END = {"math": 0.63, "chat": 0.60, "instruction_following": 0.72}
QUESTIONS = {
    "math": "Tom has 12 apples & buys 7 more. How many apples does he have now?",
    "chat": "Tell me about rivers.",
    "instruction_following": "Write about the sea. Use the word <salt> & at most 20 words.",
}
SECONDS = {
    "rollout": 2.4,
    "reward": 0.3,
    "logprob": 0.25,
    "backward": 1.1,
    "surgery": 0.03,
    "step": 0.05,
    "sync": 0.25,
    "other": 0.2,
}


def make_runs(folder: Path, **options: Any) -> list[Path]:
    """Two seeds of each of two strategies; `options` as of `make_run`."""
    return [
        make_run(folder / f"{name}-{seed}", seed=seed, strategy=name, layers=1, **options)
        for name in ("mgs", "mixed")
        for seed in range(2)
    ]


def make_run(
    run_dir: Path,
    *,
    steps: int = 30,
    seed: int = 0,
    strategy: str = "mgs",
    layers: int = 4,
    domains: tuple[str, ...] = DOMAINS,
    finished: bool = True,
    probe_every: int = 0,
    adaptive: bool = False,
    masked: bool = False,
) -> Path:
    """Write a run of `steps` steps; `finished=False` leaves it as a kill would; `probe_every`
    steps, reliability is measured and steps are tried; `adaptive` with the shares of a
    curriculum, `masked` with those that a mask of the importance weight left out."""
    rng = random.Random(f"{seed} {strategy}")
    run_dir.mkdir(parents=True)
    config = Config(
        seed=seed,
        domains={d: DomainConfig(source=SourceConfig()) for d in domains},
        strategy=StrategyConfig(name=strategy),
        train=TrainConfig(num_steps=30),
        algo=AlgoConfig(kl_coef=0.005),
    )
    (run_dir / "config.yaml").write_text(config_to_yaml(config))
    command = ["mgsrl", "train", f"strategy={strategy}", f"seed={seed}"]
    begin_run_record(run_dir, first_step=0, command=command)
    write_run_record(
        run_dir,
        engines={"rollout": "vllm", "learner": "DeepSpeed ZeRO-2, cpu", "transfer": "object_store"},
        placement={
            "rollout_workers": [{"engine": "vllm", "device": "cpu"}],
            "learner_ranks": 1,
            "reward_workers": 3,
        },
    )
    append_evaluations(run_dir, [_evaluation(rng, 0, d, steps) for d in domains])
    tracker = JsonlTracker(run_dir)
    for step in range(1, steps + 1):
        probed = bool(probe_every) and step % probe_every == 0
        shares = {f"mixture/share/{d}": 1 / len(domains) for d in domains if adaptive}
        shares |= {f"importance_masked/{d}": 0.01 * rng.random() for d in domains if masked}
        _one_step(run_dir, tracker, rng, step, steps, layers, domains, probed, shares)
    tracker.close()
    if finished:
        append_evaluations(run_dir, [_evaluation(rng, steps, d, steps) for d in domains])
        finish_run_record(run_dir, status="finished", last_step=steps)
    return run_dir


def _one_step(run_dir, tracker, rng, step, steps, layers, domains, probed, shares):
    groups = {d: [_group(rng, d, i, step, steps) for i in range(8)] for d in domains}
    report = _probed_surgery(step, layers, domains) if probed else _surgery(step, layers, domains)
    noise = {k: v * rng.uniform(0.85, 1.2) * (2.5 if step == 1 else 1) for k, v in SECONDS.items()}
    scalars = step_scalars(
        groups=groups,
        domain_stats={d: _stats(rng, i, step) for i, d in enumerate(domains)},
        surgery=report,
        step=StepStats(0.8, 2e-4, False),
        times={**{f"time/{k}": v for k, v in noise.items()}, "time/total": sum(noise.values())},
        weight_version=step,
        canary_error=4e-7 * rng.uniform(0.8, 1.3),
        mixture=shares,
    )
    tracker.log(step, scalars)
    write_rollouts(run_dir, step, groups, 2)
    if len(domains) > 1:
        write_surgery(run_dir, step, report, {d: 1500 + 300 * i for i, d in enumerate(domains)})


def _level(domain, step, steps):
    return START[domain] + (END[domain] - START[domain]) * (1 - math.exp(-3 * step / max(steps, 1)))


def _evaluation(rng, step, domain, steps):
    mean = _level(domain, step, steps) + rng.gauss(0, 0.015)
    return EvalResult(step, domain, mean, 0.026, 128, 256, 27.0 + step / 20, 0.97, 0.0)


def _group(rng, domain, index, step, steps):
    level = _level(domain, step, steps)
    prompt = Prompt(
        f"{domain}-{step}-{index}",
        domain,
        ({"role": "user", "content": QUESTIONS[domain]},),
        tuple(range(20)),
    )
    lengths = [max(4, int(rng.gauss(28, 5))) for _ in range(8)]
    rollouts = tuple(
        Rollout(
            f"{prompt.id}-{s}",
            tuple(range(n)),
            (-0.4,) * n,
            "<think>\n12 + 7 = 19 </think><response>It is \\boxed{19} & <b>done</b></response>",
            "length" if n > 38 else "stop",
            step - 1,
        )
        for s, n in enumerate(lengths)
    )
    if domain == "math":
        values = [float(rng.random() < level) for _ in lengths]
    else:
        values = [min(1.0, max(0.0, rng.gauss(level, 0.2))) for _ in lengths]
    centre = sum(values) / len(values)
    rewards = tuple(Reward(v, details={"extracted": "19"}) for v in values)
    return RolloutGroup(prompt, rollouts, rewards, tuple(v - centre for v in values))


def _stats(rng, index, step):
    return DomainStats(
        loss=rng.gauss(0, 0.01),
        kl=0.0008 * step * (1 + 0.4 * index) * rng.uniform(0.8, 1.2),
        entropy=1.6 - 0.02 * step + 0.2 * index + rng.gauss(0, 0.03),
        mismatch=3e-7 * rng.uniform(0.7, 1.5),
        clip_fraction=0.0,
        truncated_fraction=0.0,
        num_tokens=1800,
        num_sequences=64,
        mismatch_kl=1e-12 * rng.uniform(0.7, 1.5),
        importance_ess=1.0 - 1e-9 * rng.uniform(0.7, 1.5),
    )


def _modules(layers):
    inside = [f"layers.{i}.{k}" for i in range(layers) for k in ("attention", "mlp", "norms")]
    return ["embeddings", *inside, "final_norm", "lm_head"]


def _probed_surgery(step, layers, domains):
    """Halves with a signal that grows with the layer and conflicts in the MLPs."""
    generator = torch.Generator().manual_seed(step)
    modules, count = _modules(layers), len(domains)
    signal = torch.eye(count, 48, dtype=torch.float64).repeat(len(modules), 1, 1)
    for m, module in enumerate(modules):
        signal[m] *= 2 + m / 4
        if "mlp" in module:
            signal[m, 1] -= 0.6 * signal[m, 0]
    noise = torch.randn(2, len(modules), count, 48, generator=generator, dtype=torch.float64)
    rows = torch.cat([signal / 2 + 0.5 * noise[0], signal / 2 + 0.5 * noise[1]], 1)
    report = resolve(rows @ rows.mT, domains, modules, SurgeryConfig(), step, [(8, 8)] * count)
    lots = torch.randn(2, count + 2, count, generator=generator, dtype=torch.float64)
    predicted = -1e-4 * torch.eye(count + 2, count).roll(1, 0).double() + 2e-5 * lots[0]
    predicted[0] = predicted[1:-1].sum(0)
    change = predicted + 2e-5 * (1 + 0.3 * lots[1].abs())
    norms = torch.full((count + 2,), 0.02, dtype=torch.float64)
    return with_probe(report, StepProbe(tuple(domains), change, predicted, norms))


def _surgery(step, layers, domains):
    modules = _modules(layers)
    generator = torch.Generator().manual_seed(step)
    shape = (len(modules), len(domains), 64)
    vectors = torch.randn(shape, generator=generator, dtype=torch.float64)
    vectors += 0.3 * torch.randn(shape[0], 1, 64, generator=generator, dtype=torch.float64)
    gram = vectors @ vectors.mT
    identity = torch.eye(len(domains), dtype=torch.float64).expand_as(gram)
    return surgery_report(domains, modules, gram, torch.ones(shape[:2]), identity)
