#!/usr/bin/env python
"""Throughput and latency of the rule-based rewards on the CPU, with and without hostile items.

Each line of the table is one kind of reward on synthetic responses:

  rows/s          through `mgsrl score` with 1 and with 2 workers, start-up of the workers left out
                  (the difference of a long and a short file)
  p50, p99, max   milliseconds per item, one item at a time in one process

Hostile items are texts that would run for ever in a computer algebra system; each costs its time
limit and a new verifier process. Left out: reward models, whose time is the model's.
"""

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mgsrl.config.reward import RewardConfig
from mgsrl.rewards.actor import RewardWorker
from mgsrl.rewards.protocol import Response
from mgsrl.scoring.score_file import default_reward, score_file

HOSTILE = r"\boxed{9^{9^{9^{9}}}}"
CONSTRAINTS: list[tuple[str, dict[str, Any]]] = [
    ("punctuation:no_comma", {}),
    ("length_constraints:number_words", {"num_words": 60, "relation": "at least"}),
    ("length_constraints:number_sentences", {"num_sentences": 4, "relation": "less than"}),
    ("keywords:frequency", {"keyword": "tree", "frequency": 2, "relation": "at least"}),
    ("language:response_language", {"language": "en"}),
    ("detectable_format:title", {}),
]


def math_rows(count: int, hostile_every: int, seed: int = 0) -> Iterator[dict[str, Any]]:
    rng = random.Random(seed)
    for index in range(count):
        a, b = rng.randint(2, 99), rng.randint(2, 99)
        shown = rng.choice([rf"\frac{{{a}}}{{{b}}}", str(a + b), rf"{a}\sqrt{{{b}}}", f"{a}.5"])
        text = rf"We get \boxed{{{shown}}}." if index % 2 else f"So the answer is ${shown}$."
        if hostile_every and index % hostile_every == hostile_every - 1:
            text = HOSTILE
        yield {"prompt": "?", "response": f"<response>{text}</response>", "answer": shown}


def constraint_rows(count: int, seed: int = 0) -> Iterator[dict[str, Any]]:
    rng = random.Random(seed)
    words = [
        "the",
        "tree",
        "stands",
        "in",
        "a",
        "quiet",
        "garden",
        "and",
        "waits",
        "for",
        "rain",
        "while",
        "birds",
        "sing",
    ]
    for _ in range(count):
        chosen = rng.sample(CONSTRAINTS, 3)
        text = ". ".join(" ".join(rng.choices(words, k=12)).capitalize() for _ in range(12))
        yield {
            "prompt": "?",
            "response": f"<response>{text}.</response>",
            "instruction_id_list": [id_ for id_, _ in chosen],
            "kwargs": [kwargs for _, kwargs in chosen],
        }


def latencies(kind: str, rows: list[dict[str, Any]], time_limit_s: float) -> list[float]:
    """Seconds per item, one at a time; the first items warm up and do not count."""
    reward = RewardWorker(RewardConfig.of(kind, time_limit_s=time_limit_s))
    seconds = []
    try:
        for row in rows:
            item = Response((), row["response"], row)
            start = time.perf_counter()
            reward.score([item])
            seconds.append(time.perf_counter() - start)
    finally:
        reward.close()
    return seconds[20:]


def seconds_to_score(domain: str, rows: list[dict[str, Any]], workers: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "in.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        start = time.perf_counter()
        score_file(default_reward(domain), path, Path(folder) / "out.jsonl", workers=workers)
        return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument(
        "--hostile-every", type=int, default=200, help="one hostile item in so many"
    )
    parser.add_argument("--json", type=Path, default=None, help="write the figures to this file")
    args = parser.parse_args()
    limit_s = RewardConfig().options.time_limit_s
    cases = {
        "math": ("math", "math", list(math_rows(args.rows, 0))),
        "math + hostile": ("math", "math", list(math_rows(args.rows, args.hostile_every))),
        "constraints": ("instruction_following", "constraints", list(constraint_rows(args.rows))),
    }
    figures: dict[str, dict[str, float]] = {}
    print(f"{'':16}{'rows/s':>9}{'2 workers':>11}{'p50 ms':>9}{'p99 ms':>9}{'max ms':>9}")
    for name, (domain, kind, rows) in cases.items():
        short = rows[: args.rows // 10]
        rates = [
            (len(rows) - len(short))
            / (seconds_to_score(domain, rows, workers) - seconds_to_score(domain, short, workers))
            for workers in (1, 2)
        ]
        seconds = sorted(latencies(kind, rows, limit_s))
        figures[name] = {
            "rows_per_s": rates[0],
            "rows_per_s_2_workers": rates[1],
            "p50_ms": 1e3 * statistics.median(seconds),
            "p99_ms": 1e3 * seconds[int(0.99 * len(seconds))],
            "max_ms": 1e3 * seconds[-1],
        }
        values = list(figures[name].values())
        print(
            f"{name:16}{values[0]:9.0f}{values[1]:11.0f}" + "".join(f"{v:9.2f}" for v in values[2:])
        )
    if args.json is not None:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
