"""Records that the tests of this room share."""

import torch

from mgsrl.types import (
    DomainStats,
    Prompt,
    Reward,
    Rollout,
    RolloutGroup,
    StepStats,
    SurgeryReport,
)


def group(domain="math", index=0, values=(1.0, 0.0), advantages=(1.0, -1.0), lengths=(3, 5)):
    prompt = Prompt(
        id=f"{domain}-{index}",
        domain=domain,
        messages=({"role": "user", "content": "What is 1 + 1?"},),
        token_ids=(1, 2, 3),
    )
    rollouts = tuple(
        Rollout(
            request_id=f"{domain}-{index}-{sample}",
            token_ids=tuple(range(length)),
            logprobs=(-0.5,) * length,
            text=f"<think>\n1</think><response>{sample}</response>",
            finish_reason="length" if sample % 2 else "stop",
            weight_version=4,
        )
        for sample, length in enumerate(lengths)
    )
    rewards = tuple(
        Reward(
            value=v,
            format_ok=v != 0.0,
            details={"extracted": "2"},
            error=None if v is not None else "time-out",
        )
        for v in values
    )
    return RolloutGroup(prompt, rollouts, rewards, tuple(advantages))


def domain_stats():
    return DomainStats(
        loss=0.1,
        kl=0.002,
        entropy=1.5,
        mismatch=1e-5,
        clip_fraction=0.0,
        truncated_fraction=0.0,
        num_tokens=100,
        num_sequences=10,
        mismatch_kl=1e-9,
        importance_ess=1.0,
    )


def step_stats(skipped=False):
    return StepStats(grad_norm=0.7, learning_rate=2e-4, skipped=skipped)


def surgery_report(domains=("math", "chat", "if"), modules=("layers.0.attention", "layers.0.mlp")):
    generator = torch.Generator().manual_seed(0)
    d = len(domains)
    vectors = torch.randn(len(modules), d, 7, generator=generator, dtype=torch.float64)
    gram = vectors @ vectors.mT
    kinds = tuple(module.rpartition(".")[2] for module in modules)
    scalars = {"surgery/conflict_rate": 0.25}
    scalars |= {f"surgery/conflict_rate/{kind}": 0.5 for kind in kinds}
    for i, a in enumerate(domains):
        scalars[f"surgery/projected_share/{a}"] = 0.1
        scalars[f"grad_norm/{a}"] = 1.0
        for j in range(i + 1, d):
            scalars[f"surgery/cosine/{a}-{domains[j]}"] = -0.5 + 0.1 * i
    weights = torch.ones(len(modules), d)
    projected = torch.linspace(0, 0.9, weights.numel(), dtype=torch.float64).view_as(weights)
    return SurgeryReport(
        tuple(domains), tuple(modules), gram, weights, scalars, kinds=kinds, projected_MD=projected
    )
