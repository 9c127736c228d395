#!/usr/bin/env python
"""Trials of resuming: runs that are killed and go on, against the same run without a stop.

What is compared: metrics without clocks, evaluations, sampled responses, surgery's tables, and of
the last checkpoint the learner's files (weights, optimizer, reference) and the driver's state.
Every trial is a cell with a name; what is done is a line of `tests/resume_trials.jsonl`, so that a
call goes on where the last one stopped. `--docs` writes the table into `docs/resume.md`.

    python scripts/resume_trials.py --list               # the cells and what is known of them
    python scripts/resume_trials.py                      # all that are not done
    python scripts/resume_trials.py 'strategy/*' --again # these, once more
    python scripts/resume_trials.py --docs
"""

import argparse
import contextlib
import fnmatch
import hashlib
import json
import math
import os
import random
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from mgsrl.config.model_path import ASSETS, POCKET_POLICY, POCKET_REWARD_MODEL  # noqa: E402
from scripts.killed_train import UNMET  # noqa: E402
from scripts.pages import write_between  # noqa: E402

RESULTS = ROOT / "tests" / "resume_trials.jsonl"
PAGE = ROOT / "docs" / "resume.md"
MARKS = ("<!-- trials -->\n", "<!-- end of trials -->\n")
LIMIT_S = 1500.0
"""Of one `mgsrl train`, waiting for its turn on a busy machine included."""
STEPS = 6
SMALL = (
    *("rollout.max_new_tokens=24", "algo.prompts_per_domain=2", "algo.samples_per_prompt=4"),
    *("learner.micro_batch_size=8", "evaluate.prompts_per_domain=2"),
    *("evaluate.samples_per_prompt=1", "evaluate.every=3", "checkpoint.keep=0"),
    *("trackers.wandb=disabled", "cluster.object_store_gib=0.2", "trackers.samples_per_domain=99"),
)
STRATEGIES = (
    *("mgs", "mixed", "global_surgery", "norm_balanced", "sequential", "single"),
    "normalized_advantage",
)
TRANSFORMERS = "rollout.engine=transformers"
CLOCKS = ("time/", "throughput/", "timestamp", "rollout/engine_busy")
"""Metrics that a clock decides."""
IN_A_STEP = (
    *(f"begin {stage}" for stage in ("rollout", "reward", "logprob", "backward", "surgery")),
    *("begin step", "begin sync", "end sync", "open metrics.jsonl", "open surgery/step_#.parquet"),
)
"""Events of every step, see `killed_train.py`."""


@dataclass(frozen=True)
class Stop:
    """A session that is killed before an event."""

    event: str
    step: int
    overrides: tuple[str, ...] = ()
    """Of this session alone."""

    def __str__(self) -> str:
        return f"`{self.event}` of step {self.step}"


@dataclass(frozen=True)
class Cell:
    """One trial."""

    name: str
    overrides: tuple[str, ...]
    stops: tuple[Stop, ...] = ()
    last: tuple[str, ...] = ()
    """Overrides of the last session alone."""
    kills: int = 0
    """Instead of `stops`: so many at random times, drawn from the cell's name."""
    part: int | None = None
    """Instead of `stops`: one before every event of a start and of the steps, beginning with this
    one, but for the `PARTS - 1` after each."""
    zones: tuple[str, str] = ("", "")
    """Time zones of the first session (and of the run without a stop) and of the later ones. Where
    there are such, the templates of policy and reward model read the clock."""
    exact: bool = True
    """To the bit; otherwise metrics agree to `ROUNDING`."""
    steps: int = STEPS


CHAT_MODEL = "domains.chat.reward.path"
DATED = (
    "{%- if strftime_now is defined %}{%- set date_string = strftime_now('%d %b %Y %H:%M %s') %}"
    "{%- else %}{%- set date_string = '26 Jul 2024' %}{%- endif %}{{ date_string }}\n"
)
"""In front of a chat template."""
PARTS = 4
RHYTHM = 5
"""Steps within which everything that is done every few steps is done."""
ROUNDING = 1e-3
"""Largest difference of a metric, relative to 1 + its size, where ranks or ZeRO stages change."""


def cells() -> Iterator[Cell]:
    """All trials."""
    for strategy in STRATEGIES:
        for engine in ("transformers", "vllm"):
            for ranks in (1, 2):
                for staleness in (0, 1):
                    name = f"strategy/{strategy}/{engine}/ranks{ranks}/staleness{staleness}"
                    overrides = (
                        *(f"strategy={strategy}", f"rollout.engine={engine}"),
                        *(f"learner.world_size={ranks}", f"rollout.staleness={staleness}"),
                        "checkpoint.every=3",
                    )
                    stop = Stop(_rng(name).choice(IN_A_STEP), 4)
                    yield Cell(name, overrides, (stop,))
    phases = (
        "strategy=sequential",
        "strategy.reset_optimizer=true",
        "strategy.move_reference=true",
    )
    for ranks, zero, staleness in ((1, 2, 0), (2, 3, 1)):
        more = (f"learner.world_size={ranks}", f"learner.zero_stage={zero}")
        more += (f"rollout.staleness={staleness}", TRANSFORMERS)
        name = f"ranks{ranks}/zero{zero}/staleness{staleness}"
        border, inside = Stop("begin rollout", 3), Stop("begin sync", 4)
        yield Cell(f"phase border/{name}", (*phases, *more, "checkpoint.every=2"), (border,))
        yield Cell(f"inside a phase/{name}", (*phases, *more, "checkpoint.every=3"), (inside,))
        for what, size in (("epoch border", 6), ("step over two epochs", 5)):
            own = [f"domains.{d}.source.size={size}" for d in DOMAINS]
            overrides = (*own, *more, "checkpoint.every=3")
            yield Cell(f"{what}/{name}", overrides, (Stop("begin surgery", 4),))
    every = ("checkpoint.every=1", TRANSFORMERS)
    for what, more in OTHERS.items():
        yield Cell(f"with/{what}", (*more, *every), (Stop("end sync", 3), Stop("begin step", 5)))
    stops = (Stop("end sync", 2), Stop("begin step", 4))
    days = ("Etc/GMT+12", "Etc/GMT-14")  # 26 hours apart: never the same day
    yield Cell("with/another day in another time zone", every, stops, zones=days)
    for staleness in (0, 1):
        more = (*every, f"rollout.staleness={staleness}")
        for part in range(PARTS):
            name = f"every event/part {part + 1} of {PARTS}/staleness{staleness}"
            yield Cell(name, more, part=part, steps=32)
        for number in range(3):
            name = f"random times/{number}/staleness{staleness}"
            yield Cell(name, (*more, f"seed={number}"), kills=4)
    yield from _elastic()


DOMAINS = ("math", "chat", "instruction_following")
OTHERS = {
    "two updates a batch": ("algo.updates_per_batch=2",),
    "adapters": ("policy.lora.rank=4",),
    "standardised rewards": tuple(f"domains.{d}.reward.standardise=true" for d in DOMAINS),
    "several sources": (
        "+domains.math.extra_sources={more: {path: math, size: 50, weight: 2}}",
        "domains.instruction_following.schedule=[[0, 0], [2, 1]]",
        "data.prompts_per_step=5",
    ),
    "two rollout workers": ("rollout.num_workers=2",),
    "cosine schedule": ("learner.optimizer.schedule=cosine",),
    "bfloat16 rows of gradients": ("surgery.buffer_dtype=bfloat16",),
}


def _elastic() -> Iterator[Cell]:
    def layout(ranks: int, zero: int) -> tuple[str, ...]:
        return (f"learner.world_size={ranks}", f"learner.zero_stage={zero}")

    for number, (first, second, third) in enumerate(
        (
            (layout(1, 2), layout(2, 2), layout(1, 2)),
            (layout(1, 0), layout(2, 3), layout(1, 1)),
            (layout(2, 1), layout(1, 3), layout(2, 0)),
        )
    ):
        stops = (Stop("begin rollout", 3, first), Stop("begin rollout", 5, second))
        overrides = ("checkpoint.every=2", TRANSFORMERS)
        parts = [[each.partition("=")[2] for each in part] for part in (first, second, third)]
        name = ", ".join(f"ranks{ranks} zero{zero}" for ranks, zero in parts)
        yield Cell(f"elastic/{number}: {name}", overrides, stops, last=third, exact=False)


# ---- one trial -----------------------------------------------------------------------------------


class Trial:
    """The runs of one cell.

    Args:
        wrap: words before every command, such as a queue's.
    """

    def __init__(self, cell: Cell, scratch: Path, wrap: Sequence[str]) -> None:
        self.cell, self._wrap = cell, wrap
        self.whole, self.parts = scratch / "whole", scratch / "parts"
        self.done: list[str] = []
        """What was stopped where, and what the next session said it goes on from."""
        self._orphans: list[list[psutil.Process]] = []
        self._models = () if cell.zones == ("", "") else _dated_models(scratch)

    def run(self) -> dict[str, Any]:
        """The record of the trial."""
        begin = time.monotonic()
        try:
            self._train(self.whole, *self._listing())
            if self.cell.part is not None:
                self._at_every_event(self.cell.part)
            elif self.cell.kills:
                self._at_random_times(time.monotonic() - begin)
            else:
                for stop in self.cell.stops:
                    at = ("--at", stop.event, "--step", str(stop.step))
                    if not self._killed(str(stop), *at, *stop.overrides):
                        raise RuntimeError(f"{stop} never came")
            self._train(self.parts, *self.cell.last)
            self._note_resumed()
            found = differences(self.whole, self.parts, exact=self.cell.exact)
        finally:
            while self._orphans:
                self._reap()
        return {
            "cell": self.cell.name,
            "equal": not found,
            **({} if self.cell.exact else {"apart": apart(self.whole, self.parts)}),
            "differs": found,
            "stops": self.done,
            "seconds": round(time.monotonic() - begin),
            "date": time.strftime("%Y-%m-%d"),
            "commit": _commit(),
        }

    def _at_random_times(self, length_s: float) -> None:
        rng = _rng(self.cell.name)
        while len(self.done) < self.cell.kills:
            seconds = rng.uniform(0.1, 0.9) * length_s
            begin = time.monotonic()
            if self._killed(f"{seconds:.1f} s", after_s=seconds):
                continue
            if self.done:
                return
            length_s = time.monotonic() - begin  # the machine had less to do: again
            shutil.rmtree(self.parts)

    def _listing(self) -> tuple[str, ...]:
        file = self.whole.with_suffix(".events")
        return ("--list", str(file)) if self.cell.part is not None else ()

    def _at_every_event(self, part: int) -> None:
        lines = self.whole.with_suffix(".events").read_text().splitlines()
        first: dict[str, int] = {}
        for line in lines:
            step, _, event = line.partition(" ")
            first.setdefault(event, int(step))
        for event, step in [*first.items()][part::PARTS]:
            # Some come in a fresh folder only: the session ends when each rhythm had its turn.
            until = 0 if step == self.cell.steps else _steps_done(self.parts) + RHYTHM
            if not self._killed(f"`{event}`", "--at", event, "--until", str(until)):
                return

    def _killed(self, what: str, *arguments: str, after_s: float | None = None) -> bool:
        """A session that is to be killed; False when it came to its end."""
        code = self._session(self.parts, arguments, after_s)
        self._note_resumed()
        if code in (-9, 137) and UNMET not in self._log(self.parts):
            self.done.append(what)
        elif code not in (0, -9, 137):
            raise RuntimeError(f"{what}: exit code {code}\n{self._log(self.parts)[-2000:]}")
        return code != 0

    def _note_resumed(self) -> None:
        lines = [line for line in self._log(self.parts).splitlines() if "resumed after" in line]
        if lines and self.done and " -> " not in self.done[-1]:
            step = lines[-1].partition("after step ")[2].split()[0]
            self.done[-1] += f" -> {step}"

    def _train(self, folder: Path, *arguments: str) -> None:
        code = self._session(folder, arguments, None)
        if code != 0:
            raise RuntimeError(f"exit code {code}\n{self._log(folder)[-2000:]}")

    def _session(self, folder: Path, arguments: Sequence[str], after_s: float | None) -> int:
        if len(self._orphans) > 1:  # those of the session before may meet this one
            self._reap()
        overrides = [*SMALL, f"train.num_steps={self.cell.steps}", *self.cell.overrides]
        overrides += [*self._models, *arguments]
        zone = self.cell.zones[bool(self.done)]
        command = [sys.executable, str(ROOT / "scripts" / "killed_train.py")]
        with folder.with_suffix(".log").open("w") as log:
            process = subprocess.Popen(
                [*self._wrap, *command, f"run.dir={folder}", *overrides],
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | ({"TZ": zone} if zone else {}),
            )
        family: dict[int, psutil.Process] = {}
        begin, driver = time.monotonic(), None
        while (code := process.poll()) is None:
            with contextlib.suppress(psutil.Error):
                children = psutil.Process(process.pid).children(recursive=True)
                family |= {child.pid: child for child in children}
                driver = driver or _driver([psutil.Process(process.pid), *children])
            if driver is None:
                begin = time.monotonic() if after_s is not None else begin  # waits for its turn
            elif after_s is not None and time.monotonic() - begin > after_s:
                with contextlib.suppress(psutil.Error):
                    driver.kill()
            if time.monotonic() - begin > LIMIT_S:
                _kill([psutil.Process(process.pid), *family.values()])
                raise RuntimeError(f"no end within {LIMIT_S:.0f} s: {shlex.join(overrides)}")
            time.sleep(0.2)
        self._orphans.append(list(family.values()))
        return code

    def _reap(self) -> None:
        _kill(self._orphans.pop(0))

    @staticmethod
    def _log(folder: Path) -> str:
        path = folder.with_suffix(".log")
        return path.read_text(errors="replace") if path.is_file() else ""


def _steps_done(folder: Path) -> int:
    file = folder / "metrics.jsonl"
    return len(file.read_text().splitlines()) if file.is_file() else 0


def _dated_models(scratch: Path) -> tuple[str, ...]:
    """The bundled models with templates that read the clock as Llama 3.1's does, and the hour."""
    overrides = []
    for name, key in ((POCKET_POLICY, "policy.path"), (POCKET_REWARD_MODEL, CHAT_MODEL)):
        model = shutil.copytree(ASSETS / name, scratch / name)
        template = model / "chat_template.jinja"
        template.write_text(DATED + template.read_text())
        overrides.append(f"{key}={model}")
    return tuple(overrides)


def _driver(processes: Iterable[psutil.Process]) -> psutil.Process | None:
    """The one that runs `killed_train.py` itself, below whatever wraps it."""
    for process in processes:
        with contextlib.suppress(psutil.Error):
            if process.cmdline()[1:2] == [str(ROOT / "scripts" / "killed_train.py")]:
                return process
    return None


def _kill(processes: Iterable[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.Error):  # psutil knows a process by its start, too
            process.kill()


# ---- comparing -----------------------------------------------------------------------------------


def differences(whole: Path, parts: Path, *, exact: bool = True) -> list[str]:
    """What differs between two finished runs, the first of each kind; empty when nothing does."""
    found = list(_of_metrics(whole, parts, exact))
    if not exact:
        return found
    for name in ("evaluations.jsonl", "rollouts", "surgery"):
        found += _of_files(whole, parts, name, _content)
    last = max((whole / "checkpoints").glob("step_*"), key=lambda p: int(p.name[5:]))
    for name in ("learner", "state.json", "rollouts.jsonl"):
        found += _of_files(whole, parts, f"checkpoints/{last.name}/{name}", _content)
    return found


def apart(whole: Path, parts: Path) -> float:
    """The largest difference of a metric in any step, relative to 1 + its size."""
    rows = zip(_metrics(whole), _metrics(parts), strict=True)
    return max(_apart(a, b, key) for a, b in rows for key in a.keys() | b.keys() if _kept(key))


def _kept(key: str) -> bool:
    return not key.startswith("packing/")  # how the ranks divide the work


def _of_metrics(whole: Path, parts: Path, exact: bool) -> Iterator[str]:
    rows = [_metrics(folder) for folder in (whole, parts)]
    steps = [[row["step"] for row in of] for of in rows]
    if steps[0] != steps[1]:
        yield f"steps {steps[0]} and {steps[1]}"
        return
    for one, other in zip(*rows, strict=True):
        for key in one.keys() | other.keys():
            if exact and one.get(key) != other.get(key):
                yield f"step {one['step']}: {key} {one.get(key)} and {other.get(key)}"
                return
            if not exact and _kept(key) and _apart(one, other, key) > ROUNDING:
                yield f"step {one['step']}: {key} {one.get(key)} and {other.get(key)}"
                return


def _apart(one: dict[str, Any], other: dict[str, Any], key: str) -> float:
    a, b = one.get(key), other.get(key)
    if a is None or b is None:
        return 0.0 if a is b else math.inf
    return abs(a - b) / (1 + abs(a))


def _metrics(folder: Path) -> list[dict[str, Any]]:
    rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in row.items() if not k.startswith(CLOCKS)} for row in rows]


def _of_files(
    whole: Path, parts: Path, name: str, content: Callable[[Path], object]
) -> Iterator[str]:
    names = [
        {
            path.relative_to(folder).as_posix()
            for path in [folder / name, *(folder / name).rglob("*")]
            if path.is_file() and path.suffix != ".png"  # drawn, maybe at another step
        }
        for folder in (whole, parts)
    ]
    if odd := sorted(names[0] ^ names[1]):
        yield f"only one of them has {odd[0]}"
        return
    for file in sorted(names[0]):
        if content(whole / file) != content(parts / file):
            yield f"{file} differs"
            return


def _content(path: Path) -> object:
    if path.suffix == ".parquet":  # may hold the version of its writer
        import pyarrow.parquet

        return pyarrow.parquet.read_table(path).to_pydict()
    return hashlib.sha256(path.read_bytes()).hexdigest()


# ---- what is known -------------------------------------------------------------------------------


def records() -> dict[str, dict[str, Any]]:
    """By cell, the newest."""
    lines = RESULTS.read_text().splitlines() if RESULTS.is_file() else []
    return {record["cell"]: record for record in map(json.loads, lines)}


def remember(record: dict[str, Any]) -> None:
    """Add a record, or replace the cell's older one."""
    known = records() | {record["cell"]: record}
    order = {cell.name: index for index, cell in enumerate(cells())}
    kept = sorted(
        (each for each in known.values() if each["cell"] in order),
        key=lambda each: order[each["cell"]],
    )
    RESULTS.write_text("".join(json.dumps(each) + "\n" for each in kept))


def table() -> str:
    """The trials as Markdown."""
    known = records()
    lines = [
        f"{len(known)} of {sum(1 for _ in cells())} trials were run, "
        f"{sum(record['equal'] for record in known.values())} of them equal.",
        "",
        "| trial | killed before (-> resumed after step) | result | seconds |",
        "|---|---|---|--:|",
    ]
    for cell in cells():
        record = known.get(cell.name)
        if record is None:
            continue
        stops = record["stops"]
        what = "; ".join(stops) if len(stops) <= 6 else f"{len(stops)} events, see below"
        equal = "equal to the bit"
        if not cell.exact:
            equal = f"equal to {record.get('apart', ROUNDING):.1g}"
        result = equal if record["equal"] else f"**differs**: {record['differs'][0]}"
        lines.append(f"| {cell.name} | {what} | {result} | {record['seconds']} |")
    for cell in cells():
        if cell.part is not None and cell.name in known:
            stops = ", ".join(known[cell.name]["stops"])
            lines += ["", f"`{cell.name}`, in this order: {stops}."]
    return "\n".join(lines) + "\n"


def write_docs() -> None:
    """Put the table between its marks."""
    write_between(PAGE, MARKS, f"\n{table()}\n")


def _rng(name: str) -> random.Random:
    return random.Random(name)  # a text seeds it the same everywhere


def _commit() -> str:
    done = subprocess.run(
        ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"], capture_output=True, text=True
    )
    return done.stdout.strip()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cells", nargs="*", metavar="PATTERN", help="names, * for any (all)")
    parser.add_argument("--list", action="store_true", help="show the cells and stop")
    parser.add_argument("--docs", action="store_true", help="write the table of docs and stop")
    parser.add_argument("--again", action="store_true", help="also what is done")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep the run folders there")
    parser.add_argument("--wrap", default="", metavar="COMMAND", help="put before every command")
    options = parser.parse_args()
    if options.docs:
        write_docs()
        return 0
    known, failed = records(), 0
    patterns = options.cells or ["*"]
    chosen = [c for c in cells() if any(fnmatch.fnmatchcase(c.name, p) for p in patterns)]
    for cell in chosen:
        record = known.get(cell.name)
        if options.list or (record is not None and not options.again):
            state = "to do" if record is None else "equal" if record["equal"] else "DIFFERS"
            print(f"{state:8} {cell.name}")
            continue
        with contextlib.ExitStack() as stack:
            scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="resume-"))
            if options.keep:
                scratch = options.keep / hashlib.sha256(cell.name.encode()).hexdigest()[:8]
                shutil.rmtree(scratch, ignore_errors=True)
                scratch.mkdir(parents=True)
            try:
                record = Trial(cell, Path(scratch), shlex.split(options.wrap)).run()
            except RuntimeError as error:
                print(f"FAILED   {cell.name}: {error}", flush=True)
                failed += 1
                continue
        remember(record)
        failed += not record["equal"]
        state = "equal" if record["equal"] else f"DIFFERS {record['differs']}"
        print(f"{state:8} {cell.name} ({record['seconds']} s) {record['stops']}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
