#!/usr/bin/env python
"""What `mgsrl plan` says of memory, against learner processes measured on this machine's CPU.

A process per rank (no Ray) does two whole steps with made-up responses of equal lengths. Measured
is its peak resident memory during the second step (`VmHWM` of /proc, set back before each part of
it) above what it held with everything imported and nothing loaded. The plan's figure is that of
`mgsrl/cluster/memory.py` for the same configuration and the same tokens.

    python scripts/plan_check.py                                    # the bundled model
    python scripts/plan_check.py --model models/SmolLM2-135M-Instruct --json memory.json

`mgsrl/assets/plan_measured.json` is such a table; the plan prints its range.
"""

import argparse
import gc
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

from gpu_checks.speed import Load, make_groups  # noqa: E402

from mgsrl.config.model_path import POCKET_POLICY, resolve_model_path  # noqa: E402
from tests.learner.parts import DOMAINS, Case, make_spec, spawn  # noqa: E402

MIB = 2**20
STAGES, RANKS = (0, 1, 2, 3), (1, 2)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="pocket", help="folder of a policy")
    parser.add_argument("--name", help="under which its shape is known (default: the folder's)")
    parser.add_argument("--stages", type=int, nargs="*", default=STAGES, help="ZeRO stages")
    parser.add_argument("--ranks", type=int, nargs="*", default=RANKS, help="world sizes")
    parser.add_argument("--micro-batch", type=int, default=4, help="sequences")
    parser.add_argument("--tokens", type=int, default=64, help="of a prompt, and of a response")
    parser.add_argument("--prompts", type=int, default=1, help="prompts of each domain")
    parser.add_argument("--checkpointing", action="store_true", help="recompute activations")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    options.model = Path(resolve_model_path(options.model, "--model", POCKET_POLICY))
    rows = []
    for ranks in options.ranks:
        for stage in options.stages:
            rows.append(compare(options, stage, ranks))
            print(json.dumps(rows[-1]), flush=True)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


def compare(options: argparse.Namespace, stage: int, ranks: int) -> dict[str, Any]:
    """One row of the table."""
    from mgsrl.cluster.memory import Load as Planned
    from mgsrl.cluster.memory import learner_memory
    from mgsrl.config.model_shape import model_shape

    load = Load("", options.micro_batch, options.prompts, 4, options.tokens, options.tokens)
    case = Case(
        zero_stage=stage,
        kl_coef=0.01,
        gradient_checkpointing=options.checkpointing,
        micro_batch_size=options.micro_batch,
    )
    (found, *_) = spawn(measure, ranks, options.model, case, load)
    spec = make_spec(options.model, case, ranks)
    planned = Planned(
        len(DOMAINS), True, found["tokens"], entropy=case.entropy_coef > 0, cuda=False
    )
    memory = learner_memory(model_shape(str(options.model)), spec.learner, spec.surgery, planned)
    phase, peak = memory.peak
    held = memory.held_bytes + sum(memory.host.values())
    return {
        "model": options.name or options.model.name,
        "zero_stage": stage,
        "world_size": ranks,
        "checkpointing": options.checkpointing,
        "tokens": found["tokens"],
        "measured": round(found["peak"] / MIB),
        "planned": round(peak / MIB),
        "error": round(peak / found["peak"] - 1, 3),
        "held_measured_mib": round(found["held"] / MIB),
        "held_planned_mib": round(held / MIB),
        "held_live_mib": round(found["live"] / MIB),
        "phase": phase,
        "phases": {
            name: round((memory.held_bytes + sum(terms.values())) / MIB)
            for name, terms in memory.phases.items()
        },
        "parts": {name: round(value / MIB) for name, value in found["parts"].items()},
    }


def measure(rank: int, world_size: int, address: str, model: Path, case: Case, load: Load) -> Any:
    """Of one rank, in bytes."""
    import deepspeed  # noqa: F401
    import torch
    from transformers.models.llama import modeling_llama  # noqa: F401

    from mgsrl.data.packing import Packing, pack
    from mgsrl.learner.worker import LearnerWorker
    from tests.learner.parts import TEMPERATURES

    worker: Any = LearnerWorker(make_spec(model, case, world_size), rank, world_size, "cpu", 1)
    gc.collect()
    base = status("VmRSS")
    worker.start(address)
    groups = make_groups(load, worker.policy.config.vocab_size)
    batch = pack(
        groups,
        Packing(
            micro_batch_size=load.micro_batch_size,
            world_size=world_size,
            max_response_length=load.response_tokens,
            temperatures=TEMPERATURES,
            share_prompts=True,
        ),
    )
    parts: dict[str, int] = {}

    def part(name: str, work: Callable[[], object]) -> None:
        Path("/proc/self/clear_refs").write_text("5")
        work()
        parts[name] = max(parts.get(name, 0), status("VmHWM") - base)

    for step in (0, 1):
        parts.clear()
        part("load", lambda: worker.load_batch(batch.per_rank[rank], batch.totals))
        for domain in batch.domains:
            part("accumulate", lambda domain=domain: worker.accumulate(domain))
        part("resolve", lambda step=step: worker.resolve_conflicts(step))
        part("step", lambda step=step: worker.optimizer_step(step))
    worker._batch = {}
    gc.collect()
    tokens = max(len(b.token_ids_T) for of in batch.per_rank[rank].values() for b in of)
    storages = {
        s.data_ptr(): s.nbytes()
        for s in (t.untyped_storage() for t in gc.get_objects() if isinstance(t, torch.Tensor))
    }
    held = status("VmRSS") - base
    worker.stop()
    return {
        "peak": max(parts.values()),
        "held": held,
        "live": sum(storages.values()),
        "parts": parts,
        "tokens": tokens,
    }


def status(name: str) -> int:
    """Bytes, of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise KeyError(name)


if __name__ == "__main__":
    sys.exit(main())
