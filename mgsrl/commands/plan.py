"""`mgsrl plan`: what would run where, memory per GPU, sizes of a step. Starts and loads nothing."""

import argparse
import json
from typing import TYPE_CHECKING, Any

from mgsrl.commands.options import add_overrides, composed
from mgsrl.errors import ConfigError

if TYPE_CHECKING:
    from mgsrl.cluster.memory import Memory
    from mgsrl.training.estimate import Estimate

HELP = "say what would run where, and what it takes of a GPU; starts nothing"
EPILOG = """\
examples:
  mgsrl plan                                        the default run on this machine
  mgsrl plan +experiment=qwen_mgs                   for GPUs of 80 GB, wherever one is
  mgsrl plan +experiment=qwen_mgs --gpu-gib 47.5    for others
  mgsrl plan +experiment=qwen_mgs learner.world_size=8 --json

Only the configuration and the policy's config.json are read; for the hub ids that the recipes name
no network is needed (SmolLM2 is a folder: `mgsrl data prepare smollm2` first). Memory is arithmetic
(docs/troubleshooting.md, "Sizing").
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    add_overrides(parser, "Hydra overrides")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")
    parser.add_argument(
        "--gpu-gib",
        type=float,
        metavar="N",
        help="memory of one GPU in GiB (default: this machine's, or 79, an 80 GB one's)",
    )


def run(options: argparse.Namespace) -> None:
    if options.gpu_gib is not None and not 0 < options.gpu_gib < float("inf"):
        raise ConfigError(
            "--gpu-gib cannot be.",
            expected="the memory of one GPU in GiB, above 0",
            found=f"{options.gpu_gib:g}",
            todo="correct it, for example --gpu-gib 79",
        )
    config = composed(options)  # mistakes in it before torch is imported
    import torch

    from mgsrl.training.estimate import GPU_GIB, estimate

    num_gpus, gpu_gib = torch.cuda.device_count(), options.gpu_gib
    if gpu_gib is None:
        gpu_gib = GPU_GIB
        if num_gpus:
            gpu_gib = torch.cuda.get_device_properties(0).total_memory / 2**30
    found = estimate(config, num_gpus, gpu_gib)
    if options.json:
        print(json.dumps(_record(found, gpu_gib), indent=2))
    else:
        _print(found, gpu_gib)


def _record(found: "Estimate", gpu_gib: float) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "device": found.device,
        "gpus": found.gpus,
        "gpu_gib": gpu_gib,
        "model": asdict(found.shape),
        "placement": [asdict(place) for place in found.places],
        "batch": found.batch,
        "learner_rank": _memory_record(found.learner),
        "engine_gpu": found.engine and _memory_record(found.engine),
        "cached_sequences": found.cached_sequences,
        "turns_bytes": found.turns,
    }


def _memory_record(memory: "Memory") -> dict[str, Any]:
    phase, peak = memory.peak
    return {
        "held_bytes": dict(memory.held),
        "phase_bytes": {name: dict(terms) for name, terms in memory.phases.items()},
        "host_bytes": dict(memory.host),
        "peak_phase": phase,
        "peak_gib": round(peak / 2**30, 2),
    }


def _print(found: "Estimate", gpu_gib: float) -> None:
    from mgsrl.obs.terminal import output

    console, shape = output(), found.shape
    trained = "" if shape.trained == shape.parameters else f", {shape.trained:,} of them trained"
    console.print(f"model: {shape.parameters:,} parameters{trained}, from {shape.source}")
    if found.sharing is not None:
        console.print(found.sharing)
    console.print(_table("placement", _placement(found), ("process", "number", "GPUs each")))
    console.print(
        _table("a step, at most", [(k, f"{v:,}") for k, v in found.batch.items()], ("", ""))
    )
    console.print(_table("one learner rank", _rows(found.learner), ("", "GiB")))
    if found.engine is not None:
        console.print(_table("one GPU of an engine", _rows(found.engine), ("", "GiB")))
        console.print(f"its cache holds {found.cached_sequences:,} sequences of full length")
    for line in _verdicts(found, gpu_gib):
        console.print(line)


def _placement(found: "Estimate") -> list[tuple[str, ...]]:
    rows = [(p.what, str(p.count), f"{p.gpus_each:g}") for p in found.places]
    return [*rows, ("GPUs in all", "", f"{found.gpus:g}")]


def _rows(memory: "Memory") -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [(name, _gib(size)) for name, size in memory.held.items()]
    if memory.phases:
        rows.append(("= held between steps", _gib(memory.held_bytes)))
        for phase, terms in memory.phases.items():
            rows.append((f"{phase}: in all", _gib(memory.held_bytes + sum(terms.values()))))
            rows += [(f"  + {name}", _gib(size)) for name, size in terms.items()]
    rows += [(f"{name} (the machine's memory)", _gib(size)) for name, size in memory.host.items()]
    return rows


def _verdicts(found: "Estimate", gpu_gib: float) -> list[str]:
    phase, peak = found.learner.peak
    where = f"of {gpu_gib:.1f}" if found.device == "cuda" else "of the machine's memory"
    lines = [f"a learner rank needs {_gib(peak)} GiB {where} ({phase})"]
    if found.device == "cuda" and peak > gpu_gib * 2**30:
        lines[0] += ": IT DOES NOT FIT (docs/troubleshooting.md, Sizing)"
    for turn, size in (found.turns or {}).items():
        misfit = ": IT DOES NOT FIT" if size > gpu_gib * 2**30 else ""
        lines.append(f"on a shared GPU {turn} takes {_gib(size)} GiB of {gpu_gib:.1f}{misfit}")
    if found.engine is not None and not found.cached_sequences:
        lines.append("the engine's weights leave NO ROOM for a sequence of full length")
    return lines


def _table(title: str, rows: list[tuple[str, ...]], columns: tuple[str, ...]) -> Any:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(
        title=title,
        title_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
        show_header=any(columns),
    )
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left", header_style="bold")
    for row in rows:
        table.add_row(*row)
    return table


def _gib(size: float) -> str:
    return f"{size / 2**30:.2f}"
