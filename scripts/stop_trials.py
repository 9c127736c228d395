#!/usr/bin/env python
"""Trials of what does not kill a run but stops it, fills its disk or sets its clock: what it says,
what it does, and what is lost.

One run of `mgsrl train` on the bundled model for each case; limits of half a minute, no checkpoint
before the end unless the case says so. After the fault steps are awaited, then the run is ended by
SIGTERM and its files are looked at. What must hold in every case: no traceback, `metrics.jsonl`
holds every step once, nothing of the run is left behind. A case that is done is a line of
`tests/stop_trials.jsonl`; `--docs` writes the table into `docs/faults.md`. About 15 minutes on 2
quiet cores. Disks are small tmpfs, which root may mount;
a read-only folder is made by `chattr +i`.

    python scripts/stop_trials.py                        # all cases that are not done
    python scripts/stop_trials.py --cases full clock --again
    python scripts/stop_trials.py --docs
"""

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil
from pages import write_between

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "tests" / "stop_trials.jsonl"
PAGE = ROOT / "docs" / "faults.md"
MARKS = ("<!-- stops -->\n", "<!-- end of stops -->\n")
OPTIONS = (
    *("rollout.engine=transformers", "rollout.max_new_tokens=24", "algo.prompts_per_domain=2"),
    *("algo.samples_per_prompt=4", "learner.micro_batch_size=8", "evaluate.prompts_per_domain=2"),
    *("trackers.wandb=disabled", "cluster.object_store_gib=0.2", "train.num_steps=3000"),
    *("checkpoint.every=0", "rollout.time_limit_s=20", "learner.time_limit_s=30"),
    *(f"domains.{name}.reward.call_limit_s=15" for name in ("math", "chat")),
)
STEP = re.compile(r"\] step +(\d+)/")
LIMIT_S = 300.0
CLOCK = """
import os, time
real = time.time
def set_by_somebody():
    with open(os.environ["CLOCK"]) as file:
        return real() + float(file.read() or 0)
time.time = set_by_somebody
"""


@dataclass
class Trial:
    """What became of one case."""

    case: str
    said: list[str] = field(default_factory=list)
    """Lines of the console that are not of every run."""
    code: int | None = None
    steps: int = 0
    """Logged."""
    saved: list[int] = field(default_factory=list)
    """Steps of the checkpoints at the end."""
    seconds: float = 0.0
    """From the fault until steps went on, or the run ended."""
    problems: list[str] = field(default_factory=list)


class Train:
    """A run of `mgsrl train` in `folder`; what it says goes to another disk."""

    def __init__(self, case: str, folder: Path, *overrides: str, **environment: str) -> None:
        self.folder = folder
        self.trial = Trial(case)
        self.log = Path(tempfile.mkstemp(suffix=".log")[1])
        paths = [environment.pop("path", ""), str(ROOT), os.environ.get("PYTHONPATH", "")]
        environment = {"PYTHONPATH": os.pathsep.join(filter(None, paths)), **environment}
        command = [sys.executable, "-m", "mgsrl.cli", "train", *OPTIONS, *overrides]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [*command, f"run.dir={folder}"],
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | environment,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )
        self._family: dict[int, psutil.Process] = {}
        self.go_on(2)
        self.before = self._lines()

    def _lines(self) -> list[str]:
        lines = self.log.read_text().splitlines()
        return [line for line in lines if line.strip() and not STEP.search(line)]

    @property
    def step(self) -> int:
        found = STEP.findall(self.log.read_text())
        return int(found[-1]) if found else 0

    def go_on(self, steps: int) -> bool:
        """Wait until the console shows so many more steps (of a run that goes back: lines)."""
        begin = time.monotonic()
        shown = len(STEP.findall(self.log.read_text()))
        while len(STEP.findall(self.log.read_text())) < shown + steps:
            if self.process.poll() is not None or time.monotonic() - begin > LIMIT_S:
                break
            time.sleep(0.05)
        self.trial.seconds = time.monotonic() - begin
        self._know()
        return len(STEP.findall(self.log.read_text())) >= shown + steps

    def expect(self, steps: int) -> None:
        """Steps must go on."""
        if not self.go_on(steps):
            self.trial.problems.append(f"no {steps} more steps (exit code {self.process.poll()})")

    def _know(self) -> None:
        with suppress(psutil.Error):
            for process in psutil.Process(self.process.pid).children(recursive=True):
                self._family[process.pid] = process

    def find(self, name: str) -> psutil.Process:
        """The run's process of that title."""
        self._know()
        for process in self._family.values():
            with suppress(psutil.Error):
                if " ".join(process.cmdline()).startswith(name) or process.name() == name:
                    return process
        raise LookupError(name)

    def end(self, *signals: signal.Signals, wait_s: float = 60.0) -> Trial:
        """Send it `signals` and see what is left."""
        self._know()
        for number in signals:
            self.process.send_signal(number)
            time.sleep(0.05)
        trial = self.trial
        try:
            trial.code = self.process.wait(wait_s)
        except subprocess.TimeoutExpired:
            trial.problems.append(f"it did not end within {wait_s:.0f} s")
            self.process.kill()
        text = self.log.read_text()
        trial.said = [line for line in self._lines() if line not in self.before]
        if "Traceback" in text:
            trial.problems.append("a traceback")
        rows = self.rows()
        trial.steps = len(rows)
        if [row["step"] for row in rows] != list(range(1, len(rows) + 1)):
            trial.problems.append(f"steps logged: {[row['step'] for row in rows]}")
        folders = (self.folder / "checkpoints").glob("step_*")
        trial.saved = sorted(int(path.name.removeprefix("step_")) for path in folders)
        _, left = psutil.wait_procs(list(self._family.values()), timeout=20)
        for process in left:
            with suppress(psutil.Error):
                trial.problems.append(f"left behind: {process.name()}")
                process.kill()
        self.log.unlink()
        return trial

    def rows(self) -> list[dict[str, Any]]:
        path = self.folder / "metrics.jsonl"
        lines = path.read_text().splitlines() if path.is_file() else []
        return [json.loads(line) for line in lines]


def signalled(*signals: signal.Signals) -> Callable[[str, Path], Trial]:
    def case(name: str, folder: Path) -> Trial:
        begin, train = time.monotonic(), Train(name, folder)
        begin = time.monotonic()
        trial = train.end(*signals)
        trial.seconds = time.monotonic() - begin
        if len(signals) == 1 and trial.saved != [trial.steps]:
            trial.problems.append("the last step was not saved")
        return trial

    return case


def signalled_all(name: str, folder: Path) -> Trial:
    train = Train(name, folder)
    for process in [*train._family.values(), psutil.Process(train.process.pid)]:
        with suppress(psutil.Error):
            process.send_signal(signal.SIGTERM)
    return train.end()


def stopped(title: str, for_s: float = 0.0, *overrides: str) -> Callable[[str, Path], Trial]:
    def case(name: str, folder: Path) -> Trial:
        train = Train(name, folder, "checkpoint.every=2", *overrides)
        driver = psutil.Process(train.process.pid)
        victim = driver if title == "driver" else train.find(title)
        victim.suspend()
        if for_s:
            time.sleep(for_s)
            victim.resume()
        train.expect(2)
        seconds = train.trial.seconds
        trial = train.end(signal.SIGTERM)
        trial.seconds = seconds
        return trial

    return case


def full(disk: Path) -> None:
    with (disk / "filler").open("ab", buffering=0) as file:
        for size in (65536, 512, 1):
            with suppress(OSError):
                while True:
                    file.write(b"0" * size)


def immutable(sign: str) -> Callable[[Path], None]:
    """`+`: nobody, root neither, can write into the folder or any of its files. (A file system that
    has open files cannot be remounted.)"""
    return lambda disk: _run("chattr", "-R", f"{sign}i", str(disk / "run"))


def on_disk(
    harm: Callable[[Path], None], mend: Callable[[Path], None] | None, *overrides: str
) -> Callable[[str, Path], Trial]:
    def case(name: str, folder: Path) -> Trial:
        disk = folder.parent
        _run("mount", "-t", "tmpfs", "-o", "size=300m", "tmpfs", str(disk))
        try:
            train = Train(name, folder, *overrides)
            harm(disk)
            train.expect(2)
            harm(disk)  # a checkpoint that was under way has made room by removing an older one
            train.expect(3)
            if mend is not None:
                mend(disk)
                train.expect(2)
            trial = train.end(signal.SIGTERM)
            for kind in ("rollouts", "surgery") if mend is not None else ():
                if len(list((folder / kind).glob("step_*"))) != trial.steps:
                    trial.problems.append(f"not every step in {kind}")
            if mend is not None and trial.saved[-1:] != [trial.steps]:
                trial.problems.append("the last step was not saved")
            return trial
        finally:
            _run("umount", "-l", str(disk))

    return case


def clock_set(name: str, folder: Path) -> Trial:
    clock = folder.parent / "clock"
    clock.write_text("0")
    (folder.parent / "sitecustomize.py").write_text(CLOCK)
    train = Train(name, folder, "evaluate.every=3", path=str(folder.parent), CLOCK=str(clock))
    for offset in (3600, -3600, 0):
        clock.write_text(str(offset))
        train.expect(3)
    trial = train.end(signal.SIGTERM)
    rows = train.rows()
    seconds = [v for row in rows for key, v in row.items() if key.startswith("time/")]
    if min(seconds) < 0 or max(seconds) > LIMIT_S:
        trial.problems.append(f"seconds from {min(seconds)} to {max(seconds)}")
    stamps = [row["timestamp"] for row in rows]
    if max(stamps) - min(stamps) < 7000:
        trial.problems.append("the clock was not set")
    (session,) = json.loads((folder / "run.json").read_text())["sessions"]
    if not 0 < session["seconds"] < 2 * LIMIT_S:
        trial.problems.append(f"a session of {session['seconds']} s")
    return trial


def _run(*command: str) -> None:
    subprocess.run(command, check=True)


GUESTS = ("trackers.wandb=offline", "trackers.tensorboard=true", "evaluate.every=2")
CASES: dict[str, Callable[[str, Path], Trial]] = {
    "Ctrl-C": signalled(signal.SIGINT),
    "SIGTERM": signalled(signal.SIGTERM),
    "SIGUSR1": signalled(signal.SIGUSR1),
    "SIGTERM, twice": signalled(signal.SIGTERM, signal.SIGTERM),
    "SIGTERM to all processes": signalled_all,
    "a rollout worker is stopped": stopped("ray::RolloutWorker"),
    "a reward worker is stopped": stopped("ray::RewardWorker"),
    "a learner is stopped": stopped("ray::LearnerWorker"),
    "one of two learner ranks is stopped": stopped(
        "ray::LearnerWorker", 0.0, "learner.world_size=2"
    ),
    "Ray's raylet is stopped": stopped("raylet"),
    "Ray's gcs server is stopped": stopped("gcs_server"),
    "the driver is stopped for 60 s": stopped("driver", 60.0),
    "the disk is full for a while": on_disk(
        full, lambda disk: (disk / "filler").unlink(), "checkpoint.every=2", *GUESTS
    ),
    "the disk is full to the end": on_disk(full, None),
    "the folder is read-only for a while": on_disk(immutable("+"), immutable("-")),
    "the clock is set by an hour, to and fro": clock_set,
}


def table(trials: list[Trial]) -> str:
    lines = ["| what happens | what it says | steps | saved | seconds |", "|---|---|---|---|---|"]
    for trial in trials:
        said = "<br>".join(line.replace("|", "\\|").strip() for line in trial.said)
        saved = ", ".join(map(str, trial.saved[-2:])) or "–"
        problems = f" **{'; '.join(trial.problems)}**" if trial.problems else ""
        lines.append(
            f"| {trial.case} | {said}{problems} | {trial.steps} | {saved} | {trial.seconds:.0f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--cases", nargs="*", default=list(CASES), choices=list(CASES))
    parser.add_argument("--again", action="store_true", help="also those that are done")
    parser.add_argument("--results", type=Path, default=RESULTS, help="instead of %(default)s")
    parser.add_argument("--docs", action="store_true", help="write the table and run nothing")
    options = parser.parse_args()
    results = options.results
    lines = results.read_text().splitlines() if results.is_file() else []
    done = {trial.case: trial for trial in (Trial(**json.loads(line)) for line in lines)}
    if not options.docs:
        for case in options.cases:
            if case in done and not options.again:
                continue
            place = Path(tempfile.mkdtemp(prefix="mgsrl-stop-"))
            try:
                done[case] = CASES[case](case, place / "run")
            finally:
                shutil.rmtree(place, ignore_errors=True)
            print(table([done[case]]), flush=True)
            known = [done[name] for name in CASES if name in done]
            results.write_text("".join(json.dumps(asdict(trial)) + "\n" for trial in known))
        raise SystemExit(any(done[case].problems for case in options.cases))
    write_between(PAGE, MARKS, table(list(done.values())))


if __name__ == "__main__":
    main()
