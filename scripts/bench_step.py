#!/usr/bin/env python
"""Where the time of a training step goes, and how much memory a run takes.

Runs `mgsrl train` with the given overrides in a temporary folder, leaves the first steps out
(caches warm up) and prints seconds per stage, tokens per second and the peak proportional set
size (shared pages counted once) of all processes together.

    python scripts/bench_step.py                              # the bundled default, 8 steps
    python scripts/bench_step.py --steps 4 +experiment=smollm2_mgs
    python scripts/bench_step.py --json bench.json learner.world_size=2
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from mgsrl.obs.timers import STAGES as TIMED  # noqa: E402

STAGES = (*TIMED, "other")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=8, help="steps to run")
    parser.add_argument("--warm-up", type=int, default=2, help="first steps left out")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options, overrides = parser.parse_known_args()
    if options.steps <= options.warm_up:
        parser.error("--steps should be larger than --warm-up")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "run"
        peak, minutes = run(folder, options.steps, overrides)
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    figures = summarize(rows[options.warm_up :]) | {
        "peak_memory_gib": round(peak / 2**30, 2),
        "wall_minutes": round(minutes, 2),
    }
    show(figures)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 0


def run(folder: Path, steps: int, overrides: list[str]) -> tuple[int, float]:
    """(peak bytes of all processes, minutes) of one run."""
    command = [
        *(sys.executable, "-m", "mgsrl.cli", "train", *overrides),
        *(f"run.dir={folder}", f"train.num_steps={steps}", "trackers.wandb=disabled"),
        *("evaluate.prompts_per_domain=0", "checkpoint.every=0"),
    ]
    begin, peak = time.monotonic(), 0
    process = subprocess.Popen(command)
    while process.poll() is None:
        peak = max(peak, total_memory(process.pid))
        time.sleep(2)
    if process.returncode != 0:
        raise SystemExit(process.returncode)
    return peak, (time.monotonic() - begin) / 60


def total_memory(pid: int) -> int:
    """Proportional set size of a process and its descendants, bytes."""
    try:
        root = psutil.Process(pid)
        family = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    total = 0
    for process in family:
        try:
            total += process.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue  # ended between the listing and the look
    return total


def summarize(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over the steps: seconds and share per stage."""
    step = statistics.mean(row["time/total"] for row in rows)
    seconds = {stage: statistics.mean(row[f"time/{stage}"] for row in rows) for stage in STAGES}
    return {
        "steps_measured": len(rows),
        "seconds_per_step": step,
        "tokens_per_second": statistics.mean(row["throughput/tokens_per_second"] for row in rows),
        "seconds": seconds,
        "share": {stage: value / step for stage, value in seconds.items()},
    }


def show(figures: dict[str, Any]) -> None:
    table = Table(title=f"mean of {figures['steps_measured']} steps", show_footer=True)
    table.add_column("stage", "total")
    table.add_column("seconds", f"{figures['seconds_per_step']:.3f}", justify="right")
    table.add_column("share", "100 %", justify="right")
    for stage in STAGES:
        share = f"{100 * figures['share'][stage]:.1f} %"
        table.add_row(stage, f"{figures['seconds'][stage]:.3f}", share)
    console = Console()
    console.print(table)
    console.print(
        f"{figures['tokens_per_second']:.0f} response tokens/s, "
        f"peak memory {figures['peak_memory_gib']} GiB over all processes, "
        f"{figures['wall_minutes']} min with start-up"
    )


if __name__ == "__main__":
    sys.exit(main())
