"""Starts real `mgsrl train` processes on the bundled model, small and fast."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

SMALL = (
    "rollout.engine=transformers",
    "rollout.max_new_tokens=24",
    "algo.prompts_per_domain=2",
    "algo.samples_per_prompt=4",
    "learner.micro_batch_size=8",
    "evaluate.prompts_per_domain=4",
    "evaluate.samples_per_prompt=1",
    "checkpoint.every=1",
    "trackers.wandb=disabled",
    "cluster.object_store_gib=0.2",
)


HEADLESS = Path(__file__).parent / "headless"
"""Drawing is a sixth of what so short a run computes."""


def without_pictures() -> dict[str, str]:
    """The environment of a node that only trains: no matplotlib."""
    places = filter(None, (str(HEADLESS), os.environ.get("PYTHONPATH")))
    return {**os.environ, "PYTHONPATH": os.pathsep.join(places)}


def start(folder: Path, *overrides: str, pictures: bool = False) -> subprocess.Popen[str]:
    """`mgsrl train` in the background, its output in `folder`.log."""
    log = folder.with_suffix(".log").open("a")
    command = [sys.executable, "-m", "mgsrl.cli", "train", *SMALL, f"run.dir={folder}", *overrides]
    return subprocess.Popen(
        command,
        stdout=log,
        stderr=subprocess.STDOUT,
        text=True,
        env=None if pictures else without_pictures(),
        preexec_fn=_heed_ctrl_c,
    )


def _heed_ctrl_c() -> None:
    """Background shells have their children ignore SIGINT; a terminal's do not."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def train(folder: Path, *overrides: str, limit_s: float = 240, pictures: bool = False) -> str:
    """Run to the end; the output. Fails the test when the exit code is not 0."""
    process = start(folder, *overrides, pictures=pictures)
    code = process.wait(timeout=limit_s)
    output = folder.with_suffix(".log").read_text()
    assert code == 0, output
    return output


def metrics(folder: Path) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl without what a clock decides."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    clock = ("time/", "throughput/", "timestamp", "rollout/engine_busy")
    return [{k: v for k, v in row.items() if not k.startswith(clock)} for row in rows]


def trained(folder: Path, step: int = 6) -> bytes:
    """What a checkpoint holds of the learner: weights and optimizer, one rank's."""
    return (folder / f"checkpoints/step_{step}/learner/rank_0.safetensors").read_bytes()


def wait_for(condition: Callable[[], bool], what: str, limit_s: float = 180) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {limit_s:.0f} s for {what}"
        time.sleep(0.2)


def steps_done(folder: Path) -> int:
    path = folder / "metrics.jsonl"
    return len(path.read_text().splitlines()) if path.is_file() else 0


def descendants(process: "subprocess.Popen[str]") -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def actor(process: "subprocess.Popen[str]", name: str) -> psutil.Process:
    """The Ray worker process that runs the actor class `name`."""
    found = [child for child in descendants(process) if f"ray::{name}" in _title(child)]
    assert found, f"no process of {name} among {[_title(child) for child in descendants(process)]}"
    return found[0]


def none_left(processes: list[psutil.Process], limit_s: float = 30) -> None:
    """Assert that all of `processes` end."""
    _, alive = psutil.wait_procs(processes, timeout=limit_s)
    alive = [p for p in alive if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
    assert not alive, [_title(process) for process in alive]


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline()) or process.name()
    except psutil.Error:
        return ""
