#!/usr/bin/env python
"""Times gradient surgery on gradients of SmolLM2-135M's shape, on the CPU.

Three things in one process, interleaved, each the minimum over the repeats:

  surgery   gramian + surgery_weights + combine_, as the learner calls them
  loop      PCGrad per parameter tensor by the operations of the method's public code: clones, a
            cosine per pair of domains, a projection per conflict, host read-backs of each number
  traffic   what moving the bytes costs alone: all D gradients are read for the Gramian, D - 1 of
            them again for the combination, and one is read and written in place. The reads are
            divided by the best rate of kernels that only read (sum, dot), the row in place by the
            rate of scaling a row in place, probed in the same run. (Reading and writing have
            rates of their own: 31 GB/s, and 52 GB/s of both ways together, on the 2-core virtual
            machine on which this was written. `bandwidth_bytes_per_s` is that of the mix.)

The loop is timed twice: `loop_seconds` is its first call, whose temporaries (ten times the size of
the gradients) are new memory, and `loop_seconds_reused_memory` the best call, when the allocator
happens to hand out the same pages again. It moves about 88 N values for three domains against 7 N
here, which bounds the second speed-up to 12 or 13 where memory is the limit; page faults make up
the rest. Surgery itself allocates nothing and has one time.

Left out: the all-reduce of the Gramian (M D^2 numbers) and the D gradient shards themselves,
which training with D domains needs anyway.
"""

import argparse
import json
import random
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import torch
from torch import Tensor

from mgsrl.obs.run_record import cpu_name
from mgsrl.surgery import combine_, gramian, module_map, surgery_weights

HIDDEN, INTERMEDIATE, KV_HEADS, HEAD_DIM = 576, 1536, 3, 64
LAYERS, VOCAB = 30, 49152
"""The published configuration of SmolLM2-135M: 9 heads of 64, 3 key-value heads, tied."""
BYTES = 4
CLOCK: Callable[[], float] = time.perf_counter


def parameter_sizes(layers: int, vocab: int = VOCAB) -> dict[str, int]:
    """Parameter name -> number of elements (135M in all with the defaults)."""
    kv = KV_HEADS * HEAD_DIM
    block = {
        "self_attn.q_proj": HIDDEN * HIDDEN,
        "self_attn.k_proj": HIDDEN * kv,
        "self_attn.v_proj": HIDDEN * kv,
        "self_attn.o_proj": HIDDEN * HIDDEN,
        "mlp.gate_proj": HIDDEN * INTERMEDIATE,
        "mlp.up_proj": HIDDEN * INTERMEDIATE,
        "mlp.down_proj": HIDDEN * INTERMEDIATE,
        "input_layernorm": HIDDEN,
        "post_attention_layernorm": HIDDEN,
    }
    sizes = {"model.embed_tokens.weight": vocab * HIDDEN}
    for layer in range(layers):
        sizes |= {f"model.layers.{layer}.{name}.weight": size for name, size in block.items()}
    return sizes | {"model.norm.weight": HIDDEN}


@dataclass(frozen=True)
class Problem:
    """Random gradients of D domains in one [D, N] buffer, and how it is cut."""

    gradients_DN: Tensor
    columns: dict[str, tuple[int, int]]
    """Parameter name -> first and end column."""
    module_of: dict[str, str]

    @property
    def modules(self) -> list[str]:
        return list(dict.fromkeys(self.module_of.values()))

    def pieces(self) -> list[tuple[int, Tensor]]:
        index = {module: i for i, module in enumerate(self.modules)}
        return [
            (index[self.module_of[name]], self.gradients_DN[:, a:b])
            for name, (a, b) in self.columns.items()
        ]


def make_problem(sizes: dict[str, int], num_domains: int, granularity: str = "module") -> Problem:
    columns, end = {}, 0
    for name, size in sizes.items():
        columns[name] = (end, end + size)
        end += size
    gradients = torch.empty(num_domains, end)
    for d, row in enumerate(gradients):
        row.normal_(std=1e-3, generator=torch.Generator().manual_seed(d))
    return Problem(gradients, columns, module_map(list(sizes), granularity))


def surgery(problem: Problem, step: int = 0) -> None:
    pieces = problem.pieces()
    gram_MDD = gramian(pieces, len(problem.modules))
    combine_(pieces, surgery_weights(gram_MDD, seed=step))


def per_tensor_loop(problem: Problem) -> dict[str, Tensor]:
    """PCGrad one parameter tensor at a time, by the operations of the method's public code: the
    yardstick. Products are made before they are summed, and every number is read back."""
    rng = random.Random(0)
    merged: dict[str, Tensor] = {}
    for name, (a, b) in problem.columns.items():
        gradients = [row[a:b].clone() for row in problem.gradients_DN]
        count = len(gradients)
        for one, other in combinations(gradients, 2):  # for the log
            inner, norms = torch.sum(one * other), [torch.norm(one), torch.norm(other)]
            if all(norm > 1e-8 for norm in norms):
                (inner / (norms[0] * norms[1])).item()
        projected = [gradient.clone() for gradient in gradients]
        for d in torch.randperm(count).tolist():
            for e in rng.sample([e for e in range(count) if e != d], count - 1):
                inner = torch.sum(projected[d] * gradients[e])
                if inner < 0:
                    square = torch.sum(gradients[e] * gradients[e])
                    if square > 1e-12:
                        projected[d].sub_((inner / square) * gradients[e])
        merged[name] = torch.zeros_like(projected[0])
        for gradient in projected:
            merged[name].add_(gradient)
    return merged


def timed(work: Callable[[], object]) -> float:
    start = CLOCK()
    work()
    return CLOCK() - start


def bandwidth_probes(problem: Problem) -> dict[str, tuple[int, Callable[[], object]]]:
    """Name -> (bytes moved, streaming kernel); `update` reads and writes, the others read."""
    everything, row, other = (
        problem.gradients_DN,
        problem.gradients_DN[0],
        problem.gradients_DN[-1],
    )
    size = row.numel() * BYTES
    return {
        "sum": (everything.numel() * BYTES, everything.sum),
        "dot": (2 * size, lambda: torch.dot(row, other)),
        "update": (2 * size, lambda: row.mul_(1.0)),
    }


def measure(problem: Problem, repeats: int, loop_repeats: int) -> dict[str, float]:
    """Seconds of everything, minima over interleaved repeats; bandwidths in bytes/s."""
    num_domains, columns = problem.gradients_DN.shape
    loops = [timed(lambda: per_tensor_loop(problem)) for _ in range(loop_repeats)]
    probes = bandwidth_probes(problem)
    parts: dict[str, Callable[[], object]] = {
        "surgery": lambda: surgery(problem),
        "gramian": lambda: gramian(problem.pieces(), len(problem.modules)),
    }
    parts |= {f"probe {name}": kernel for name, (_, kernel) in probes.items()}
    best = dict.fromkeys(parts, float("inf"))
    for _ in range(repeats + 1):  # the first round warms up and cannot be the minimum for long
        for name, work in parts.items():
            best[name] = min(best[name], timed(work))
    rates = {name: size / best[f"probe {name}"] for name, (size, _) in probes.items()}
    row = columns * BYTES
    read_bytes, update_bytes = (2 * num_domains - 1) * row, 2 * row
    traffic = read_bytes / max(rates["sum"], rates["dot"]) + update_bytes / rates["update"]
    result = {
        "seconds": best["surgery"],
        "gramian_seconds": best["gramian"],
        "memory_traffic_seconds": traffic,
        "bandwidth_bytes_per_s": (read_bytes + update_bytes) / traffic,
        **{f"bandwidth {name} GB/s": rate / 1e9 for name, rate in rates.items()},
    }
    result["ratio_to_memory_traffic"] = result["seconds"] / traffic
    if loops:
        result["loop_seconds"] = loops[0]
        result["loop_seconds_reused_memory"] = min(loops)
        result["speedup_over_loop"] = loops[0] / best["surgery"]
        result["speedup_over_loop_reused_memory"] = min(loops) / best["surgery"]
    return result


def extra_bytes(problem: Problem) -> int:
    """Growth of the process's peak resident memory during surgery (Linux; else of ru_maxrss)."""
    surgery(problem)  # libraries allocate their work space at the first call
    try:
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak to the current size
        before = _status_bytes("VmRSS")
        surgery(problem)
        return max(0, _status_bytes("VmHWM") - before)
    except OSError:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        surgery(problem)
        return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024


def _status_bytes(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key + ":"))


def growth(layers: int, vocab: int, repeats: int) -> list[dict[str, object]]:
    """How the time grows with domains, parameters and modules; a third of the model at most."""
    part = max(layers // 3, 1)
    runs = [("domains", part, d, "module") for d in range(2, 9)]
    runs += [("parameters", max(layers * k // 4, 1), 3, "module") for k in (1, 2, 3, 4)]
    runs += [("modules", part, 3, g) for g in ("global", "layer", "module", "parameter")]
    rows: list[dict[str, object]] = []
    for what, num_layers, num_domains, granularity in runs:
        problem = make_problem(parameter_sizes(num_layers, vocab), num_domains, granularity)
        result = measure(problem, repeats, loop_repeats=0)
        rows.append(
            {
                "grows": what,
                "domains": num_domains,
                "parameters": problem.gradients_DN.shape[1],
                "modules": len(problem.modules),
                "seconds": result["seconds"],
                "ratio_to_memory_traffic": result["ratio_to_memory_traffic"],
            }
        )
    return rows


def print_tables(result: dict[str, object], rows: list[dict[str, object]]) -> None:
    for key, value in result.items():
        print(f"{key:32s} {value:.4g}" if isinstance(value, float) else f"{key:32s} {value}")
    if rows:
        print(f"\n{'grows':12s}{'D':>4s}{'parameters':>13s}{'modules':>9s}{'ms':>9s}{'ratio':>8s}")
    for row in rows:
        print(
            f"{row['grows']:12}{row['domains']:4}{row['parameters']:13,}{row['modules']:9}"
            f"{1e3 * float(str(row['seconds'])):9.1f}"
            f"{float(str(row['ratio_to_memory_traffic'])):8.2f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--domains", type=int, default=3, help="D, the number of domains")
    parser.add_argument("--layers", type=int, default=LAYERS, help="transformer layers")
    parser.add_argument("--vocab", type=int, default=VOCAB, help="rows of the embedding")
    parser.add_argument("--granularity", default="module", help="as surgery.granularity")
    parser.add_argument("--repeats", type=int, default=10, help="repeats of which the best counts")
    parser.add_argument("--loop-repeats", type=int, default=4, help="repeats of the slow loop")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (0: torch's default)")
    parser.add_argument("--no-growth", action="store_true", help="only the main measurement")
    parser.add_argument("--json", type=Path, default=None, help="write the figures to this file")
    parser.add_argument(
        "--cpu-time",
        action="store_true",
        help="one thread, and CPU time instead of wall time: for machines busy with other work",
    )
    args = parser.parse_args()
    if args.cpu_time:
        global CLOCK
        CLOCK, args.threads = time.process_time, 1
    if args.threads:
        torch.set_num_threads(args.threads)
    problem = make_problem(parameter_sizes(args.layers, args.vocab), args.domains, args.granularity)
    result: dict[str, object] = {
        "processor": cpu_name(),  # kernels and caches differ between makers
        "domains": args.domains,
        "parameters": problem.gradients_DN.shape[1],
        "modules": len(problem.modules),
        "threads": torch.get_num_threads(),
        "clock": "cpu" if args.cpu_time else "wall",
        **measure(problem, args.repeats, args.loop_repeats),
        "extra_bytes": extra_bytes(problem),
    }
    del problem
    rows = [] if args.no_growth else growth(args.layers, args.vocab, args.repeats)
    print_tables(result, rows)
    if args.json is not None:
        args.json.write_text(json.dumps({**result, "growth": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
