#!/usr/bin/env python
"""How much of vLLM's own speed rollouts reach: the sampler beside `LLM.generate`, in turns.

Both make the same responses with the same engine, in one rollout worker: the same prompts of the
configuration, settings and seeds, so the tokens must be equal. The one is called inside the worker
with everything at once; the other goes the way of a training step (requests to the worker,
responses back and into groups). The model's start, and a first round of each, are not counted.

    python scripts/bench_rollouts.py                                 # the bundled default
    python scripts/bench_rollouts.py --rounds 6 +experiment=smollm2_mgs algo.prompts_per_domain=8
    python scripts/bench_rollouts.py --json rollouts.json rollout.max_new_tokens=256

`ratio` is the raw call's median time over the sampler's; `cpu_ratio` the same of processor time
(of worker and driver together), which other programs on the machine disturb less.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import ray

from mgsrl.cluster.preflight import choose_device
from mgsrl.cluster.session import ray_session
from mgsrl.cluster.wait import get
from mgsrl.config.compose import compose_config
from mgsrl.errors import UserError
from mgsrl.rollout.actor import rollout_pools
from mgsrl.rollout.engine import EngineSpec
from mgsrl.rollout.sampler import Groups, Sampler
from mgsrl.training.plan import plan
from mgsrl.types import GenerationRequest, Prompt

LIMIT_S = 1800.0


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="rounds that count")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options, overrides = parser.parse_known_args()
    try:
        figures = compare(options.rounds, overrides)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    for name, value in figures.items():
        print(f"{name:28} {value:.4g}" if isinstance(value, float) else f"{name:28} {value}")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 0


def compare(rounds: int, overrides: list[str]) -> dict[str, Any]:
    """Figures of alternating rounds, one worker."""
    config = compose_config(["rollout.assignment=shared", *overrides, "rollout.num_workers=1"])
    ready = plan(config)
    longest = max(sampling.max_new_tokens for sampling in ready.sampling.values())
    with ray_session(config.cluster):
        device = choose_device(config.learner.device, int(ray.cluster_resources().get("GPU", 0)))
        spec = EngineSpec(
            config.rollout,
            ready.model_path,
            config.data.max_prompt_tokens + longest,
            device,
            config.policy.trust_remote_code,
        )
        sampler = Sampler(
            rollout_pools(spec, dict.fromkeys(config.domains, 1)),
            ready.sampling,
            samples_per_prompt=config.algo.samples_per_prompt,
            seed=config.seed,
            limit_s=LIMIT_S,
        )
        try:
            (facts,) = sampler.wait_ready()
            worker = psutil.Process(facts["pid"])
            ways = {"raw": raw, "sampler": groups}
            times: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
            tokens = 0
            for step in range(rounds + 1):
                prompts = ready.mixture.next_prompts(ready.schedule.phase(0).quotas)
                made = {}
                for way in sorted(ways, reverse=step % 2 == 1):
                    begin, cpu = time.monotonic(), _cpu(worker)
                    made[way] = ways[way](sampler, prompts, step)
                    times[way].append((time.monotonic() - begin, _cpu(worker) - cpu))
                if made["raw"] != made["sampler"]:
                    raise SystemExit(f"round {step}: the two made different responses")
                tokens += sum(map(len, made["raw"])) if step else 0
            return _figures(times, tokens, rounds) | {"engine": config.rollout.engine}
        finally:
            sampler.stop()


def raw(sampler: Sampler, prompts: dict[str, list[Prompt]], step: int) -> list[tuple[int, ...]]:
    """Everything at once, inside the worker."""
    requests = [
        sampler._request(prompt, sampler.sampling[domain], step, sample)
        for domain, of_domain in prompts.items()
        for prompt in of_domain
        for sample in range(sampler.samples_per_prompt)
    ]

    def call(worker: Any, given: list[GenerationRequest]) -> list[tuple[int, ...]]:
        def generate() -> list[tuple[int, ...]]:
            engine = worker.engine
            if not hasattr(engine, "llm"):
                return [rollout.token_ids for rollout in engine.generate(given)]
            engine.llm.reset_prefix_cache()
            outputs = engine.llm.generate(
                [{"prompt_token_ids": list(request.token_ids)} for request in given],
                [engine._sampling_params(request.sampling, request.seed) for request in given],
                use_tqdm=False,
            )
            return [tuple(output.outputs[0].token_ids) for output in outputs]

        return worker._running.call(generate)  # type: ignore[no-any-return]

    (handle,) = sampler.handles
    made: list[tuple[int, ...]] = get(
        handle.__ray_call__.remote(call, requests), LIMIT_S, "the raw responses", "LIMIT_S"
    )
    return made


def groups(sampler: Sampler, prompts: dict[str, list[Prompt]], step: int) -> list[tuple[int, ...]]:
    """As a training step does."""
    made: Groups = sampler.rollout(prompts, step)
    return [r.token_ids for of_domain in made.values() for g in of_domain for r in g.rollouts]


def _cpu(worker: psutil.Process) -> float:
    of_worker = worker.cpu_times()
    return float(of_worker.user + of_worker.system) + time.process_time()


def _figures(
    times: dict[str, list[tuple[float, float]]], tokens: int, rounds: int
) -> dict[str, Any]:
    wall = {way: statistics.median(t for t, _ in rows[1:]) for way, rows in times.items()}
    cpu = {way: statistics.median(c for _, c in rows[1:]) for way, rows in times.items()}
    return {
        "ratio": wall["raw"] / wall["sampler"],
        "cpu_ratio": cpu["raw"] / cpu["sampler"],
        "raw_seconds": wall["raw"],
        "sampler_seconds": wall["sampler"],
        "tokens_per_round": tokens / rounds,
        "sampler_tokens_per_second": tokens / rounds / wall["sampler"],
        "rounds": rounds,
    }


if __name__ == "__main__":
    sys.exit(main())
