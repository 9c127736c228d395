#!/usr/bin/env python
"""What does one micro-batch cost the learner, with its prompt computed once and with each response?

Forward and backward of one group of responses to one prompt, in turns in one process:

  packed  the learner's row, the prompt once before its responses
  padded  the learner with learner.share_prompts=never
  plain   the model's own layers, causal attention and cross-entropy on as many tokens as the
          packed row has: what nothing that computes them can do without

    python scripts/bench_prompts.py models/SmolLM2-135M-Instruct
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

from mgsrl.config.policy import PolicyConfig  # noqa: E402
from mgsrl.data.token_row import lay_out  # noqa: E402
from mgsrl.learner.policy import load_forward, load_policy  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a Hugging Face folder")
    parser.add_argument("--prompt", type=int, default=150, help="tokens")
    parser.add_argument("--responses", type=int, nargs="+", default=[64] * 8, help="tokens of each")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=0, help="0: torch's choice")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    works = {
        "packed": learner(options, "always"),
        "padded": learner(options, "never"),
        "plain": plain(options),
    }
    wall: dict[str, list[float]] = {name: [] for name in works}
    cpu: dict[str, list[float]] = {name: [] for name in works}
    for number in range(options.rounds + 1):
        for name, work in works.items():
            begin, begin_cpu = time.perf_counter(), time.process_time()
            work()
            spent, spent_cpu = time.perf_counter() - begin, time.process_time() - begin_cpu
            note = "" if number else " (warms up)"
            print(f"{name}: {spent:.2f} s, {spent_cpu:.2f} of processors{note}", file=sys.stderr)
            if number:
                wall[name].append(spent)
                cpu[name].append(spent_cpu)
    found: dict[str, Any] = {
        name: {"wall_s": statistics.median(wall[name]), "cpu_s": statistics.median(cpu[name])}
        for name in works
    }
    for name in ("packed", "padded"):
        ratios = [a / b for a, b in zip(cpu[name], cpu["plain"])]
        found[name]["cpu_over_plain"] = statistics.median(ratios)
    for name, figures in found.items():
        print(name, *(f"{key} {value:.3f}" for key, value in figures.items()), sep="  ")
    if options.json:
        options.json.write_text(json.dumps(found))


def sequences(options: argparse.Namespace) -> list[tuple[list[int], list[int]]]:
    generator = torch.Generator().manual_seed(0)

    def draw(length: int) -> list[int]:
        return torch.randint(1000, (length,), generator=generator).tolist()

    prompt = draw(options.prompt)
    return [(prompt, draw(length)) for length in options.responses]


def learner(options: argparse.Namespace, share_prompts: str) -> Callable[[], None]:
    forward = load_forward(PolicyConfig(path=options.model), torch.float32, share_prompts).train()
    row_T, layout = lay_out(sequences(options))
    lengths_B1 = torch.tensor(options.responses)[:, None]
    mask_BL = (torch.arange(max(options.responses)) < lengths_B1).float()

    def work() -> None:
        logprobs_BL, _ = forward(row_T, layout, mask_BL, 1.0)
        logprobs_BL.sum().backward()
        forward.zero_grad()

    return work


def plain(options: argparse.Namespace) -> Callable[[], None]:
    model: Any = load_policy(PolicyConfig(path=options.model), torch.float32).train()
    row_T, _ = lay_out(sequences(options))

    def work() -> None:
        hidden_TH = model.base_model(input_ids=row_T[None], use_cache=False)[0][0]
        logits_TV = model.get_output_embeddings()(hidden_TH[options.prompt - 1 : -1])
        loss = torch.nn.functional.cross_entropy(
            logits_TV, row_T[options.prompt :], reduction="sum"
        )
        loss.backward()
        model.zero_grad()

    return work


if __name__ == "__main__":
    main()
