#!/usr/bin/env python
"""How long a step takes here and in TRL's `GRPOTrainer`, on one machine, in one run.

Both train the same model in float32 on the same prompts: three a step, one of each domain, with
eight samples each, and the same learning rate. Two processes stay alive and take turns, some steps
the one, some steps the other, while the other waits without using the processor, so that whatever
else the machine does hits both alike. The model's end-of-sequence token is replaced by one that it
never samples, so that every response has the same length; rewards are a checksum of the response,
so that no group is without a gradient and no side pays for a verifier.

    mgsrl data prepare smollm2                         # ./models/SmolLM2-135M-Instruct
    python scripts/bench_vs_trl.py --json ratio.json
    python scripts/bench_vs_trl.py --kl 0.001 --prompts mine.jsonl learner.micro_batch_size=8
    python scripts/bench_vs_trl.py --tiny              # the bundled model: is the script right?

Ours is the recipe `smollm2_mgs` (surgery, weight sync and canary included); what does not begin
with `--` are overrides of it. `ratio` of the JSON file is TRL's median step over ours.

TRL is what the present environment holds if its version is right; otherwise pip puts it, and what
it needs and does not find, into a folder of its own. It generates with transformers: its
vLLM mode (`colocate`) starts on a CPU with vLLM 0.32, later than the versions it is made for, and
ends at the first loading of new weights. Left out: several GPUs.
"""

import argparse
import importlib.metadata
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path
from select import select
from typing import Any, Self

import psutil

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

from bench_step import STAGES, summarize, total_memory  # noqa: E402

from mgsrl.errors import ConfigError, DataError, MissingPathError, UserError  # noqa: E402

SIDE = ROOT / "scripts" / "bench_vs_trl_side.py"
TRL_VERSION = "1.16.0"
NEEDED = {"accelerate": "1.15.0", "datasets": "5.2.0"}
"""What TRL needs beside PyTorch and transformers."""
DOMAINS = ("math", "chat", "instruction_following")
EXTRACTS = ROOT / "tests" / "data" / "extracts"
TEXTS = {
    "math": (EXTRACTS / "math" / "gsm8k_train.jsonl", "question"),
    "chat": (EXTRACTS / "chat" / "wildchat_if_train.parquet", "prompt"),
    "instruction_following": (EXTRACTS / "if" / "ifeval_input.jsonl", "prompt"),
}
"""GSM8K, questions in WildChat's layout, IFEval."""
REWARDS = """import zlib


def score(response):
    return zlib.crc32(response.encode()) % 997 / 997
"""
STEP_LIMIT_S = 1800.0
INSTALL_LIMIT_S = 900


def main() -> int:
    options, overrides = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the processes are ended then, too
    try:
        figures = compare(options, overrides)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    show(figures)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 0


def arguments() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", type=Path, default=Path("models/SmolLM2-135M-Instruct"), help="its folder")
    add("--tiny", action="store_true", help="the bundled model and prompts of its own")
    add("--prompts", type=Path, help="JSON lines with `prompt`, a text or messages, and `domain`")
    add("--kl", type=float, default=0.0, help="coefficient of the KL term; 0 is off")
    add("--lr", type=float, default=1e-5)
    add("--samples", type=int, default=8, help="of each of the three prompts of a step")
    add("--new-tokens", type=int, default=64)
    add("--max-prompt-tokens", type=int, default=256, help="longer prompts are left out")
    add("--steps", type=int, default=6, help="measured, of each side")
    add("--block", type=int, default=1, help="steps of one side before the other's turn")
    add("--warm-up", type=int, default=2, help="first steps of each side, not measured")
    add("--trl-batch", type=int, default=8, help="samples of one backward pass of TRL")
    add("--env", type=Path, help="folder for TRL (default: in ~/.cache/mgsrl)")
    add("--json", type=Path, help="also write the figures to this file")
    options, overrides = parser.parse_known_args()
    if unknown := [text for text in overrides if text.startswith("-") or "=" not in text]:
        parser.error(f"neither an option nor KEY=VALUE: {' '.join(unknown)}")
    if min(options.steps, options.block, options.samples, options.new_tokens) < 1:
        parser.error("--steps, --block, --samples and --new-tokens should be at least 1")
    if 3 * options.samples % options.trl_batch:
        parser.error(f"--trl-batch should divide the {3 * options.samples} samples of a step")
    return options, overrides


# ---- the extra environment -----------------------------------------------------------------------


def trl_folder(wanted: Path | None) -> Path | None:
    """The folder that TRL is imported from; None where the present environment has it.

    Raises:
        MissingPathError: it cannot be installed.
    """
    if wanted is None and installed("trl") == TRL_VERSION:
        return None
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    folder = wanted or cache / "mgsrl" / f"trl-{TRL_VERSION}"
    if (folder / f"trl-{TRL_VERSION}.dist-info").is_dir():
        return folder
    packages = [f"trl=={TRL_VERSION}"]
    packages += [f"{name}=={pin}" for name, pin in NEEDED.items() if installed(name) is None]
    # Without dependencies: torch and transformers must stay the ones that both sides use.
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-input"]
    command += ["--upgrade", "--target", str(folder), *packages]
    print(f"installing {', '.join(packages)} in {folder}", flush=True)
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_LIMIT_S)
        reason = (done.stderr.strip().splitlines() or [""])[-1] if done.returncode else ""
    except subprocess.TimeoutExpired:
        reason = f"no answer within {INSTALL_LIMIT_S} s"
    if reason:
        raise MissingPathError(
            f"TRL {TRL_VERSION} could not be installed.",
            expected="pip and a package index within reach",
            found=reason[:300],
            todo=f"pip install --no-deps --target DIR {' '.join(packages)}, then --env DIR",
        )
    return folder


def installed(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


# ---- what both sides get -------------------------------------------------------------------------


def prepare(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """The model without an end and the prompts of every step, as files in `work`."""
    from transformers import AutoTokenizer

    from mgsrl.config.model_path import POCKET_POLICY, resolve_model_path

    path = "pocket" if options.tiny else str(options.model)
    source = resolve_model_path(path, "--model", POCKET_POLICY)
    tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)

    def template(messages: list[dict[str, str]]) -> list[int]:
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    steps = options.warm_up + options.steps
    texts = texts_of(options)
    chosen: dict[str, list[Any]] = {}
    for domain, values in texts.items():
        messages = [
            [{"role": "user", "content": v}] if isinstance(v, str) else list(v) for v in values
        ]
        short = [m for m in messages if len(template(m)) <= options.max_prompt_tokens]
        if not short:
            raise DataError(
                f"No prompt of {domain} is short enough.",
                expected=f"at least one of {options.max_prompt_tokens} tokens or fewer",
                found=f"{len(messages)} prompts, all longer" if messages else "no prompts",
                todo="raise --max-prompt-tokens, or name other --prompts",
            )
        chosen[domain] = list(islice(cycle(short), steps + 1))
    for domain, rows in chosen.items():
        lines = (json.dumps({"prompt": messages}) + "\n" for messages in rows)
        (work / f"{domain}.jsonl").write_text("".join(lines))
    tokens = [len(template(m)) for rows in chosen.values() for m in rows[:steps]]
    (work / "rewards.py").write_text(REWARDS)
    first = [template(rows[0]) for rows in chosen.values()]
    without_end(source, tokenizer, work / "model", first)
    return {
        "work": str(work),
        "experiment": "pocket_mgs" if options.tiny else "smollm2_mgs",
        "steps": steps,
        "prompt_tokens_per_step": options.samples * sum(tokens) / steps,
        **{k: getattr(options, k) for k in ("kl", "lr", "samples", "new_tokens", "trl_batch")},
        "max_prompt_tokens": options.max_prompt_tokens,
    }


def texts_of(options: argparse.Namespace) -> dict[str, list[Any]]:
    """Prompts, texts or messages, by domain."""
    from mgsrl.files.records import read_records

    def rows(path: Path) -> Iterator[dict[str, Any]]:
        return (r for _, r in read_records(path, key="--prompts") if isinstance(r, dict))

    if options.tiny and not options.prompts:
        from mgsrl.data.pocket import pocket_rows

        return {d: [r["messages"] for r in pocket_rows(d, "train", 40, 0)] for d in DOMAINS}
    if not options.prompts:
        return {name: [r[column] for r in rows(path)] for name, (path, column) in TEXTS.items()}
    found: dict[str, list[Any]] = {name: [] for name in DOMAINS}
    for index, row in enumerate(rows(options.prompts)):
        domain = row.get("domain", DOMAINS[index % len(DOMAINS)])
        if domain not in found or not row.get("prompt"):
            raise DataError(
                f"{options.prompts}, row {index + 1} is no prompt.",
                expected=f"`prompt`, and no `domain` or one of {', '.join(DOMAINS)}",
                found=str(row)[:120],
                todo="mend the row",
            )
        found[domain].append(row["prompt"])
    return found


def without_end(source: str, tokenizer: Any, folder: Path, prompts: list[list[int]]) -> None:
    """A copy of a model (its weights linked) whose end-of-sequence token is one that it is least
    likely to sample after `prompts`: every response runs to the limit, in any framework."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

    model = AutoModelForCausalLM.from_pretrained(source, trust_remote_code=False).float().eval()
    with torch.no_grad():
        likely_V = torch.stack(
            [model(torch.tensor([p])).logits[0].log_softmax(-1).amax(0) for p in prompts]
        ).amax(0)
    likely_V[torch.tensor([*tokenizer.all_special_ids, *set().union(*prompts)])] = 0.0
    likely_V = likely_V[: len(tokenizer)]
    end = int(likely_V.argmin())
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(end)
    tokenizer.save_pretrained(folder)
    config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    config.eos_token_id = end
    config.save_pretrained(folder)
    GenerationConfig(eos_token_id=end, pad_token_id=tokenizer.pad_token_id).save_pretrained(folder)
    for weights in Path(source).glob("*.safetensors*"):
        (folder / weights.name).symlink_to(weights.resolve())


# ---- taking turns --------------------------------------------------------------------------------


@dataclass
class Side:
    """A process that trains one step whenever it is told to."""

    name: str
    process: subprocess.Popen[bytes]
    go: int
    """Its end of the pipe that says so."""
    reports: int
    log: Path
    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    idle_cpu_seconds: float = 0.0
    """Used while the other side trained."""
    peak: int = 0
    facts: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def start(cls, name: str, setting: dict[str, Any], folder: Path | None) -> Self:
        work = Path(setting["work"])
        (work / f"{name}.json").write_text(json.dumps(setting))
        (their_go, go), (reports, their_reports) = os.pipe(), os.pipe()
        path = os.pathsep.join([*([str(folder)] if folder else []), str(ROOT)])
        env = {**os.environ, "PYTHONPATH": path, "WANDB_MODE": "disabled", "DS_BUILD_OPS": "0"}
        log = work / f"{name}.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, str(SIDE), name, str(work), str(their_go), str(their_reports)],
                pass_fds=(their_go, their_reports),
                stdout=out,
                stderr=subprocess.STDOUT,
                env=env,
                cwd=work,
            )
        os.close(their_go)
        os.close(their_reports)
        return cls(name, process, go, reports, log)

    def wait(self) -> None:
        """Until it is ready for its next step."""
        text = b""
        while not text.endswith(b"\n"):
            ready, _, _ = select([self.reports], [], [], STEP_LIMIT_S)
            part = os.read(self.reports, 4096) if ready else b""
            if not part:
                tail = self.log.read_text(errors="replace")[-3000:]
                why = "ended" if ready else f"said nothing for {STEP_LIMIT_S:.0f} s"
                raise SystemExit(f"--- the end of {self.name}'s output\n{tail}\n{self.name} {why}")
            text += part
        self.facts |= json.loads(text)

    def step(self, others: list["Side"], measured: bool) -> None:
        idle = [other.cpu() for other in others]
        cpu, begin = self.cpu(), time.perf_counter()
        with self.watched():
            os.write(self.go, b"1")
            self.wait()
        if measured:
            self.seconds.append(time.perf_counter() - begin)
            self.cpu_seconds.append(self.cpu() - cpu)
            for other, before in zip(others, idle, strict=True):
                other.idle_cpu_seconds += other.cpu() - before

    def cpu(self) -> float:
        """Processor seconds so far, of all its processes."""
        total = 0.0
        for process in family(self.process.pid):
            try:
                times = process.cpu_times()
                total += times.user + times.system
            except psutil.NoSuchProcess:
                continue
        return total

    @contextmanager
    def watched(self) -> Iterator[None]:
        done = threading.Event()

        def look() -> None:
            while not done.wait(1.0):
                self.peak = max(self.peak, total_memory(self.process.pid))

        thread = threading.Thread(target=look)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
            self.peak = max(self.peak, total_memory(self.process.pid))

    def stop(self) -> None:
        os.close(self.go)  # nobody will say go: it ends
        left = family(self.process.pid)
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            for process in reversed(left):
                if process.is_running():
                    process.kill()
            self.process.wait()
        os.close(self.reports)


def family(pid: int) -> list[psutil.Process]:
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def compare(options: argparse.Namespace, overrides: list[str]) -> dict[str, Any]:
    """The figures of both sides.

    Raises:
        UserError: no model, no prompts, no TRL.
    """
    if options.json and not options.json.absolute().parent.is_dir():
        raise ConfigError(
            "--json cannot be written.",
            expected="a file in a folder that is there",
            found=str(options.json),
            todo="choose another file",
        )
    folder = trl_folder(options.env)
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        work = Path(scratch)
        setting = prepare(options, work) | {"overrides": overrides}
        sides = []
        for name in ("mgsrl", "trl"):
            side = Side.start(name, setting, folder if name == "trl" else None)
            stack.callback(side.stop)
            side.wait()
            print(f"{name} is ready", flush=True)
            sides.append(side)
        take_turns(sides, options)
        rows = [json.loads(line) for line in (work / "run" / "metrics.jsonl").open()]
    return summary(options, setting, sides, rows[options.warm_up :])


def take_turns(sides: list[Side], options: argparse.Namespace) -> None:
    left, measured = options.warm_up, False
    while left:
        block = min(options.block, left) if measured else left
        for side in sides:
            for _ in range(block):
                side.step([other for other in sides if other is not side], measured)
                spent = f"{side.seconds[-1]:.1f} s" if measured else "warm"
                print(f"{side.name}: {spent}", flush=True)
        left -= block
        if not left and not measured:
            left, measured = options.steps, True


def summary(
    options: argparse.Namespace,
    setting: dict[str, Any],
    sides: list[Side],
    rows: list[dict[str, Any]],
) -> dict[str, Any]:
    ours, trl = sides
    ours.facts["response_tokens_per_step"] = statistics.mean(
        options.samples * sum(row[f"response_length/{domain}"] for domain in DOMAINS)
        for row in rows
    )
    figures: dict[str, Any] = {
        "ratio": statistics.median(trl.seconds) / statistics.median(ours.seconds),
        "ratio_cpu": statistics.median(trl.cpu_seconds) / statistics.median(ours.cpu_seconds),
        "setting": {k: v for k, v in setting.items() if k != "work"} | {"tiny": options.tiny},
        "versions": {p: installed(p) for p in ("torch", "transformers", "deepspeed")}
        | {"trl": TRL_VERSION},
        "stages": summarize(rows)["seconds"],
    }
    for side in sides:
        figures[side.name] = {
            "median_s": statistics.median(side.seconds),
            "seconds": side.seconds,
            "cpu_median_s": statistics.median(side.cpu_seconds),
            "idle_cpu_s": side.idle_cpu_seconds,
            "peak_memory_gib": side.peak / 2**30,
            "prompt_tokens_per_step": setting["prompt_tokens_per_step"],
            **side.facts,
        }
    return figures


def show(figures: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 100)
    table = Table(title="a step, median", show_footer=True)
    for name, footer in (("", "TRL / mgsrl"), ("mgsrl", ""), ("TRL", f"{figures['ratio']:.2f}")):
        table.add_column(name, footer, justify="right" if name else "left")
    for label, key, digits in (
        ("seconds", "median_s", 2),
        ("processor seconds", "cpu_median_s", 2),
        ("processor seconds while waiting, all", "idle_cpu_s", 2),
        ("peak memory, GiB", "peak_memory_gib", 2),
        ("response tokens trained", "response_tokens_per_step", 0),
        ("prompt tokens, once for each sample", "prompt_tokens_per_step", 0),
    ):
        table.add_row(label, *(f"{figures[s][key]:.{digits}f}" for s in ("mgsrl", "trl")))
    console.print(table)
    stages = ", ".join(f"{name} {figures['stages'][name]:.2f}" for name in STAGES)
    console.print(f"mgsrl's stages, seconds: {stages}")


if __name__ == "__main__":
    sys.exit(main())
