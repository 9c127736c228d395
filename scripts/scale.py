#!/usr/bin/env python
"""Figures of docs/scale.md that need no GPU: the driver's own work, and engines' long tails.

    python scripts/scale.py driver                       # responses x tokens, processor seconds
    python scripts/scale.py driver --sizes 10000x1000 --ranks 64
    python scripts/scale.py tail                         # what the longest responses cost

`driver` makes up scored groups (3 domains, 8 responses to a prompt of 128 tokens) and runs on them
what the driver of a run runs between its calls, engines and learners left out: requests and their
seeds, dealing to workers, responses out of their pickles, advantages, packing, batches into pickles
for the learners, metrics. Each size is a process of its own; memory is what the groups hold.

`tail` deals responses of log-normal lengths to engines as a run does and lets the roofline decode
them: the seconds of the slowest engine over those of the mean one, and over those without a tail.
"""

import argparse
import gc
import json
import pickle
import random
import sys
import time
from collections.abc import Callable
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

SIZES = ("1000x100", "10000x100", "10000x1000", "100000x100")
SAMPLES, PROMPT = 8, 128
DOMAINS = ("math", "chat", "instruction_following")
ENGINES = (1, 4, 16, 64, 256)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("driver", "tail"))
    parser.add_argument("--sizes", nargs="*", default=SIZES, help="RESPONSESxTOKENS")
    parser.add_argument("--ranks", type=int, default=8, help="learner ranks")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    if options.what == "tail":
        rows = tails()
    else:
        rows = []
        with get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
            for size in options.sizes:
                responses, tokens = map(int, size.split("x"))
                rows.append(pool.apply(driver, (responses, tokens, options.ranks)))
                print(json.dumps(rows[-1]), flush=True)
    print("\n" + markdown(rows))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


def markdown(rows: list[dict[str, Any]]) -> str:
    names = list(rows[0])
    lines = [
        names,
        ["---"] * len(names),
        *([f"{row[name]:,.4g}" for name in names] for row in rows),
    ]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


# ---- the driver --------------------------------------------------------------------------------


def driver(responses: int, tokens: int, ranks: int) -> dict[str, Any]:
    """Processor seconds of each part, for one step."""
    from mgsrl.algo.advantages import with_advantages
    from mgsrl.config import AlgoConfig
    from mgsrl.data.packing import Packing, pack
    from mgsrl.obs.metrics import rollout_metrics
    from mgsrl.rollout.dispatch import deal

    spent: dict[str, float] = {}

    def timed(name: str, work: Callable[[], Any]) -> Any:
        gc.collect()
        begin = time.process_time()
        result = work()
        spent[name] = spent.get(name, 0.0) + time.process_time() - begin
        return result

    process, before = psutil.Process(), psutil.Process().memory_info().rss
    prompts = made_up_prompts(responses // SAMPLES)
    orders = timed("requests", lambda: requests_of(prompts, tokens))
    timed("dealing", lambda: deal(orders, ranks))
    made = pickle.dumps(made_up_responses(orders, tokens), protocol=5)
    rollouts = timed("unpickling", partial(pickle.loads, made))
    size = len(made)
    del made
    groups = made_up_groups(prompts, rollouts)
    del rollouts
    gc.collect()
    held = process.memory_info().rss - before
    groups = timed("advantages", lambda: with_advantages(groups, AlgoConfig()))
    packing = Packing(
        micro_batch_size=0,
        world_size=ranks,
        max_response_length=tokens,
        temperatures=dict.fromkeys(DOMAINS, 1.0),
        tokens_per_micro_batch=max(8192, 8 * tokens + PROMPT),
        share_prompts=True,
    )
    batch = timed("packing", lambda: pack(groups, packing))
    parts = timed("pickling", lambda: [pickle.dumps(part, protocol=5) for part in batch.per_rank])
    sent = sum(map(len, parts))
    timed("metrics", lambda: rollout_metrics(groups))
    return {
        "responses": responses,
        "tokens": tokens,
        "ranks": ranks,
        **{name: round(value, 3) for name, value in spent.items()},
        "seconds": round(sum(spent.values()), 3),
        "MB received": round(size / 1e6),
        "MB sent": round(sent / 1e6),
        "MB held": round(held / 1e6),
    }


def requests_of(prompts: list[Any], tokens: int) -> list[Any]:
    from mgsrl.rollout.dispatch import Order
    from mgsrl.rollout.sampler import request_seed
    from mgsrl.types import GenerationRequest, Sampling

    sampling = Sampling(1.0, tokens)
    return [
        Order(
            0,
            tuple(
                GenerationRequest(
                    f"0/{prompt.domain}/{prompt.id}/{sample}",
                    prompt.token_ids,
                    request_seed(0, 0, f"{prompt.domain}/{prompt.id}", sample),
                    sampling,
                )
                for sample in range(SAMPLES)
            ),
            float(tokens),
        )
        for prompt in prompts
    ]


def made_up_prompts(count: int) -> list[Any]:
    from mgsrl.types import Prompt

    draw = random.Random(0)
    return [
        Prompt(str(n), DOMAINS[n % 3], (), tuple(draw.randrange(150_000) for _ in range(PROMPT)))
        for n in range(count)
    ]


def made_up_responses(orders: list[Any], tokens: int) -> list[Any]:
    from mgsrl.types import Rollout

    draw = random.Random(1)
    ids = [draw.randrange(150_000) for _ in range(2 * tokens)]
    probs = [draw.random() - 1 for _ in range(2 * tokens)]
    made = []
    for request in (request for order in orders for request in order.requests):
        start, length = draw.randrange(tokens), draw.randint(max(1, tokens // 2), tokens)
        made.append(
            Rollout(
                request.id,
                tuple(n + 1 for n in ids[start : start + length]),  # objects of its own
                tuple(p - 1e-3 for p in probs[start : start + length]),
                "x" * (4 * length),
                "stop",
                0,
            )
        )
    return made


def made_up_groups(prompts: list[Any], rollouts: list[Any]) -> dict[str, list[Any]]:
    from mgsrl.types import Reward, RolloutGroup

    draw, groups = random.Random(2), {domain: [] for domain in DOMAINS}
    for number, prompt in enumerate(prompts):
        own = tuple(rollouts[number * SAMPLES : (number + 1) * SAMPLES])
        rewards = tuple(Reward(draw.random()) for _ in own)
        groups[prompt.domain].append(RolloutGroup(prompt, own, rewards))
    return groups


# ---- engines -----------------------------------------------------------------------------------


def tails() -> list[dict[str, Any]]:
    """64 responses an engine (8 prompts) of a 7B model on an H100, at most 4,096 tokens."""
    from mgsrl.cluster.hardware import GPUS
    from mgsrl.cluster.roofline import Engine, gpu_rates
    from mgsrl.config.model_shape import model_shape
    from mgsrl.rollout.dispatch import Order, deal
    from mgsrl.types import GenerationRequest, Sampling

    engine = Engine(
        model_shape("Qwen/Qwen2.5-7B"),
        gpu_rates(GPUS["H100-80GB"], eager=False),
        dtype="bfloat16",
        parallel=1,
        most=256,
    )
    rows = []
    for engines in ENGINES:
        draw, lengths, orders = random.Random(0), {}, []
        for number in range(8 * engines):
            request = GenerationRequest(str(number), tuple(range(PROMPT)), 0, Sampling(1.0, 4096))
            # Mean about 900 tokens; prompts differ, and so do responses to one prompt.
            middle = draw.gauss(6.4, 0.6)
            lengths[request.id] = [
                min(4096.0, max(16.0, 2.718281828 ** (middle + draw.gauss(0, 0.5))))
                for _ in range(SAMPLES)
            ]
            orders.append(Order(0, (request,) * SAMPLES, 900.0))
        seconds, even = [], []
        for share in deal(orders, engines):
            own = [n for order in share for n in lengths[order.requests[0].id]]
            seconds.append(engine.decode(own, PROMPT))
            even.append(engine.decode([sum(own) / len(own)] * len(own), PROMPT))
        mean = sum(seconds) / engines
        rows.append(
            {
                "engines": engines,
                "responses": 64 * engines,
                "mean s": round(mean, 1),
                "slowest s": round(max(seconds), 1),
                "slowest / mean": round(max(seconds) / mean, 2),
                "slowest / all of mean length": round(max(seconds) / (sum(even) / engines), 2),
            }
        )
    return rows


if __name__ == "__main__":
    sys.exit(main())
