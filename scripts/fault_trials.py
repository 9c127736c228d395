#!/usr/bin/env python
"""Trials of faults: runs whose processes are killed (`kill -9`) again and again, against the same
run left alone.

One run of `mgsrl train` for each kind of process, in which it is killed at `--moments` random
moments: after a step that is drawn and a part of the next one, and every fourth time in the middle
of what the kill before it set off. What must hold: the command ends with code 0 and the right
number of steps; metrics (but clocks and counts of restarts), evaluations and the learners' last
checkpoint are those of the run left alone, to the bit; the death of a worker repeats no step.
What is measured: steps that were done twice, and seconds until the run is two steps further than at
the kill, less what two steps take.

A kind that is done is a line of `tests/fault_trials.jsonl`, so that a call goes on where the last
one stopped. `--docs` writes the table into `docs/faults.md`. About 25 minutes on 2 quiet cores.

    python scripts/fault_trials.py                                  # all kinds that are not done
    python scripts/fault_trials.py --kinds learner --moments 3 --seed 7 --again
    python scripts/fault_trials.py --docs
"""

import argparse
import json
import os
import random
import re
import secrets
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil
from pages import write_between

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "tests" / "fault_trials.jsonl"
PAGE = ROOT / "docs" / "faults.md"
MARKS = ("<!-- trials -->\n", "<!-- end of trials -->\n")
DOMAINS = ("math", "chat", "instruction_following")
SMALL = (
    *("rollout.engine=transformers", "rollout.max_new_tokens=24", "algo.prompts_per_domain=2"),
    *("algo.samples_per_prompt=4", "learner.micro_batch_size=8", "evaluate.prompts_per_domain=2"),
    *("evaluate.samples_per_prompt=1", "trackers.wandb=disabled", "cluster.object_store_gib=0.2"),
    *("checkpoint.every=2", "learner.max_restarts=1000", "rollout.max_restarts=1000"),
    *(f"domains.{domain}.reward.max_restarts=1000" for domain in DOMAINS),
)
CLOCKS = ("time/", "throughput/", "timestamp", "rollout/engine_busy", "restarts/")
"""Metrics that clocks and kills decide."""
STEPS_A_KILL = 3
LIMIT_S = 600.0
"""Of a wait for the next thing to happen."""
START_S = 12.0
"""A kill in the middle of a recovery comes within so many seconds of the one before."""
LOOK_S = 0.05


@dataclass(frozen=True)
class Kind:
    """A process that is killed."""

    find: Callable[[psutil.Process], list[psutil.Process]]
    """Those of a run."""
    overrides: tuple[str, ...] = ()
    repeats: bool = True
    """Whether steps since the last checkpoint are done again."""
    two_nodes: bool = False
    """Trained on a cluster of two nodes (both on this machine); `find` is given the second one."""


def _actors(name: str) -> Callable[[psutil.Process], list[psutil.Process]]:
    return lambda driver: [
        child for child in driver.children(recursive=True) if _title(child).startswith(name)
    ]


def _reward_workers(driver: psutil.Process) -> list[psutil.Process]:
    """The largest of them, which holds the reward model, comes last."""
    return sorted(_actors("ray::RewardWorker")(driver), key=lambda p: int(p.memory_info().rss))


def _rays(name: str) -> Callable[[psutil.Process], list[psutil.Process]]:
    return lambda parent: [
        child
        for child in parent.children()
        if child.name() == name and child.status() != psutil.STATUS_ZOMBIE
    ]


TWO_RANKS = ("learner.world_size=2", "learner.threads_per_rank=1")
KINDS = {
    "rollout worker": Kind(_actors("ray::RolloutWorker"), repeats=False),
    "reward worker": Kind(lambda driver: _reward_workers(driver)[:-1], repeats=False),
    "reward model": Kind(lambda driver: _reward_workers(driver)[-1:], repeats=False),
    "learner": Kind(_actors("ray::LearnerWorker")),
    "learner rank": Kind(_actors("ray::LearnerWorker"), TWO_RANKS),
    "raylet": Kind(_rays("raylet")),
    "gcs server": Kind(_rays("gcs_server")),
    "driver": Kind(lambda driver: [driver]),
    "a second node's raylet": Kind(_rays("raylet"), TWO_RANKS, two_nodes=True),
}


@dataclass
class Trial:
    """What became of one kind."""

    kind: str
    seed: int
    moments: int
    steps: int
    kills: int = 0
    repeated: int = 0
    seconds: list[float] = field(default_factory=list)
    """Lost, by kill; of two kills in a row the second has all."""
    problems: list[str] = field(default_factory=list)


class Nodes:
    """A Ray cluster of two nodes on this machine's loopback interface; its second one, which is
    killed, is started again as a supervisor would."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self.folder = Path(tempfile.mkdtemp(prefix="ray", dir="/tmp"))  # sockets: a short path
        token = self.folder / "token"
        token.write_text(secrets.token_hex(32))
        token.chmod(0o600)
        self.environment = {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "RAY_prestart_worker_first_driver": "0",
        }
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        port = self.address.rpartition(":")[2]
        self._nodes: list[subprocess.Popen[bytes]] = []
        head = ("--head", f"--port={port}", "--include-dashboard=false")
        self._start("127.0.0.1", *head, f"--temp-dir={self.folder / 'ray'}")
        self.begin_second()

    def begin_second(self) -> None:
        self.second = psutil.Process(self._start("127.0.0.2", f"--address={self.address}").pid)

    def _start(self, host: str, *arguments: str) -> "subprocess.Popen[bytes]":
        command = [str(Path(sys.executable).parent / "ray"), "start", "--block", *arguments]
        command += [f"--node-ip-address={host}", "--num-cpus=2", "--disable-usage-stats"]
        command += ["--object-store-memory=200000000", "--min-worker-port=0", "--max-worker-port=0"]
        begin, end = self._log.stat().st_size if self._log.exists() else 0, time.monotonic() + 120
        with self._log.open("ab") as log:
            environment = os.environ | self.environment
            node = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        self._nodes.append(node)
        while b"Ray runtime started" not in self._log.read_bytes()[begin:]:
            if node.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"a node did not start; see {self._log}")
            time.sleep(LOOK_S)
        return node

    def stop(self) -> None:
        for node in self._nodes:
            _kill_family(node)
        shutil.rmtree(self.folder, ignore_errors=True)


def _kill_family(process: "subprocess.Popen[Any]") -> None:
    try:
        family = psutil.Process(process.pid).children(recursive=True)
    except psutil.Error:
        family = []
    for each in (*family, process):
        with suppress(psutil.Error):
            each.kill()
    process.wait()


class Train:
    """A run of `mgsrl train` in `folder`, begun again when it is killed."""

    def __init__(self, folder: Path, overrides: Sequence[str], nodes: Nodes | None = None) -> None:
        self.folder, self.log = folder, folder.with_suffix(".log")
        self.nodes, self._environment = nodes, nodes.environment if nodes else {}
        program = [sys.executable, "-m", "mgsrl.cli", "train"]
        self._command = [*program, *SMALL, *overrides, f"run.dir={folder}"]
        if nodes is not None:
            self._command += [f"cluster.address={nodes.address}"]
        self.begin()

    def begin(self) -> None:
        with self.log.open("a") as log:
            paths = (str(ROOT), os.environ.get("PYTHONPATH", ""))
            environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
            environment |= self._environment
            self.process = subprocess.Popen(
                self._command, stdout=log, stderr=subprocess.STDOUT, env=environment
            )

    @property
    def step(self) -> int:
        """The last one that is logged."""
        rows = self.rows()
        return int(rows[-1]["step"]) if rows else 0

    def rows(self) -> list[dict[str, Any]]:
        found = []
        path = self.folder / "metrics.jsonl"
        for line in path.read_text().splitlines() if path.is_file() else []:
            try:
                found.append(json.loads(line))
            except json.JSONDecodeError:
                break  # being written, or torn by a kill
        return found

    def wait(self, happened: Callable[[], bool], what: str) -> bool:
        """False when the run ended first."""
        end = time.monotonic() + LIMIT_S
        while not happened():
            if self.process.poll() is not None:
                return False
            if time.monotonic() > end:
                raise TimeoutError(f"waited {LIMIT_S:.0f} s for {what}; see {self.log}")
            time.sleep(LOOK_S)
        return True

    def victims(self, kind: Kind) -> list[psutil.Process]:
        try:
            of = self.nodes.second if self.nodes else psutil.Process(self.process.pid)
            return kind.find(of)
        except psutil.Error:
            return []

    def repeated(self) -> int:
        """Steps that were done again, by the lines on the console."""
        done = re.findall(r"^\[[\d:]+\] step +(\d+)/", self.log.read_text(), re.MULTILINE)
        return len(done) - len(set(done))


def try_kind(name: str, folder: Path, moments: int, seed: int) -> Trial:
    """Kill processes of a kind in one run, and compare it with one that was left alone."""
    kind, steps = KINDS[name], STEPS_A_KILL * moments + 3
    trial = Trial(name, seed, moments, steps)
    alone = _left_alone(folder, kind, steps)
    into = folder / re.sub(r"\W+", "_", name)
    shutil.rmtree(into, ignore_errors=True)
    into.with_suffix(".log").unlink(missing_ok=True)
    nodes = Nodes(into.with_suffix(".nodes.log")) if kind.two_nodes else None
    run = Train(into, (*kind.overrides, f"train.num_steps={steps}"), nodes)
    try:
        _kill_all(run, kind, trial)
        run.wait(lambda: False, "the end")
        trial.problems += list(_problems(run, alone, trial, kind))
    except TimeoutError as error:
        trial.problems.append(str(error))
    finally:
        _kill_family(run.process)
        if nodes is not None:
            nodes.stop()
    return trial


def _left_alone(folder: Path, kind: Kind, steps: int) -> Path:
    """The run that is compared with; made once."""
    alone = folder / f"alone_{len(kind.overrides)}_{steps}"
    if not (alone / f"checkpoints/step_{steps}").exists():
        run = Train(alone, (*kind.overrides, f"train.num_steps={steps}"))
        run.wait(lambda: False, "the end")
        if run.process.wait() != 0:
            raise RuntimeError(f"the run left alone failed; see {run.log}")
    return alone


def _kill_all(run: Train, kind: Kind, trial: Trial) -> None:
    rng = random.Random(f"{trial.seed} {trial.kind}")
    after = sorted(rng.sample(range(1, trial.steps - 2), trial.moments))
    for number, step in enumerate(after):
        part, soon = rng.random(), rng.uniform(0, START_S)
        at = 0.0
        if number % 4 == 3:
            time.sleep(soon)
        elif run.wait(lambda step=step: run.step >= step, f"step {step}"):  # type: ignore[misc]
            time.sleep(part * _seconds(run))
        if not run.wait(lambda: bool(run.victims(kind)), trial.kind):
            return
        victims = run.victims(kind)
        if not victims:  # gone by itself in that moment
            continue
        victim = rng.choice(victims)
        at, done = time.monotonic(), run.step
        with suppress(psutil.Error):  # it may be gone already, by the kill before
            victim.kill()
        trial.kills += 1
        if trial.kind == "driver":
            run.process.wait()
            run.begin()
        elif run.nodes is not None:
            run.nodes.begin_second()
        if number % 4 == 2:
            continue  # the next one comes in the middle of it
        # A step further than what was under way, which may yet be logged without the victim.
        if not run.wait(lambda done=done: run.step >= done + 2, f"step {done + 2}"):  # type: ignore[misc]
            return
        lost = time.monotonic() - at - 2 * _seconds(run)
        trial.seconds.append(round(max(lost, 0.0), 1))


def _seconds(run: Train) -> float:
    """What a step takes; the shortest, since others had a death in them."""
    return min((float(row.get("time/total") or 0.0) for row in run.rows()), default=0.0)


def _problems(run: Train, alone: Path, trial: Trial, kind: Kind) -> Iterator[str]:
    """What should hold and does not."""
    code = run.process.wait()
    if code != 0:
        yield f"exit code {code}; see {run.log}"
    if trial.kills < trial.moments:
        yield f"{trial.kills} of {trial.moments} kills"
    trial.repeated = run.repeated()
    if trial.repeated and not kind.repeats:
        yield f"{trial.repeated} steps were repeated"
    if run.step != trial.steps:
        yield f"{run.step} steps, not {trial.steps}"
    if _numbers(run.folder) != _numbers(alone):
        yield "other metrics"
    evaluations = [(path / "evaluations.jsonl").read_text() for path in (run.folder, alone)]
    if evaluations[0] != evaluations[1]:
        yield "other evaluations"
    shards = f"checkpoints/step_{trial.steps}/learner/*.safetensors"
    weights = [[f.read_bytes() for f in sorted(path.glob(shards))] for path in (run.folder, alone)]
    if weights[0] != weights[1] or not weights[0]:
        yield "other weights"


def _numbers(folder: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if not k.startswith(CLOCKS)} for row in rows]


def _title(process: psutil.Process) -> str:
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return ""
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def known() -> dict[str, Trial]:
    """What is done, by kind; the last of each."""
    lines = RESULTS.read_text().splitlines() if RESULTS.is_file() else []
    return {trial.kind: trial for trial in (Trial(**json.loads(line)) for line in lines)}


def table(trials: dict[str, Trial]) -> str:
    """The Markdown table of the page."""
    lines = [
        "| killed | kills in steps | steps repeated | seconds lost (median, most) | outcome |",
        "|---|---|---|---|---|",
    ]
    for name in KINDS:
        if (trial := trials.get(name)) is None:
            continue
        median = statistics.median(trial.seconds) if trial.seconds else float("nan")
        most = max(trial.seconds, default=float("nan"))
        outcome = "; ".join(trial.problems) or "equal to the bit"
        lines.append(
            f"| {name} | {trial.kills} in {trial.steps} | {trial.repeated} | {median:.1f}, "
            f"{most:.1f} | {outcome} |"
        )
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--kinds", nargs="*", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--moments", type=int, default=10, help="kills of each kind (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (%(default)s)")
    parser.add_argument("--again", action="store_true", help="also what is done")
    parser.add_argument("--folder", type=Path, help="where the runs go, and stay")
    parser.add_argument("--results", type=Path, help="instead of tests/fault_trials.jsonl")
    parser.add_argument("--docs", action="store_true", help="only write the table into the docs")
    options = parser.parse_args()
    global RESULTS
    RESULTS = options.results or RESULTS
    if options.docs:
        write_between(PAGE, MARKS, table(known()))
        return 0
    folder = options.folder or Path(tempfile.mkdtemp(prefix="faults"))
    folder.mkdir(parents=True, exist_ok=True)
    failed = False
    for kind in options.kinds:
        done = known().get(kind)
        if (
            done
            and not options.again
            and (done.seed, done.moments)
            == (
                options.seed,
                options.moments,
            )
        ):
            continue
        begin = time.monotonic()
        trial = try_kind(kind, folder, options.moments, options.seed)
        failed = failed or bool(trial.problems)
        with RESULTS.open("a") as file:
            file.write(json.dumps(asdict(trial)) + "\n")
        what = "; ".join(trial.problems) or "equal to the bit"
        print(f"{kind}: {what} ({time.monotonic() - begin:.0f} s)", flush=True)
    print(table(known()))
    if options.folder is None and not failed:
        shutil.rmtree(folder)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
