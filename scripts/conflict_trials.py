"""Proves the testbed `pocket_conflict` by real runs: what its dial does to domains and gradients.

At each position of the dial one run per domain trains on that domain alone, and one on all three
(plain sum). The first say what training on one domain does to the held-out rewards of the others,
the last what the domains' gradients are to each other, corrected for their noise.

    python scripts/conflict_trials.py           # goes on where it stopped; 12 runs of a minute
    python scripts/conflict_trials.py --docs    # writes the tables of docs/conflict.md
"""

import argparse
import json
import math
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mgsrl.obs.evaluation_log import read_evaluations
from mgsrl.obs.surgery_log import read_surgery
from mgsrl.rewards.pocket_conflict import HABITS, wanted_cosine

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "tests" / "conflict_trials.jsonl"
PAGE = ROOT / "docs" / "conflict.md"
MARKS = ("<!-- trials -->\n", "<!-- end of trials -->")
DIAL = (0.0, 0.5, 1.0)
MIXED = "all three"
TRAINED = (*HABITS, MIXED)
LIMIT_S = 1800.0
WHOLE = "whole model"


@dataclass(frozen=True)
class Trial:
    """One run."""

    conflict: float
    trained: str
    """A domain, or `MIXED`."""
    seed: int
    steps: int
    before: dict[str, float]
    """Held-out reward by domain."""
    after: dict[str, float]
    errors: dict[str, float]
    """Standard error of the change, by domain, if the two evaluations were independent."""
    cosines: dict[str, dict[str, list[float]]]
    """Of a run on all three: module -> pair -> [as it is, corrected for noise] of the gradients
    summed up over the steps."""
    stand_out: float | None
    """Share of (step, module, pair) whose conflict stands out of the noise."""
    seconds: float
    cpu_seconds: float

    @property
    def place(self) -> tuple[float, str, int, int]:
        return self.conflict, self.trained, self.seed, self.steps


def run(
    conflict: float, trained: str, seed: int, steps: int, folder: Path, more: list[str]
) -> Trial:
    """Train, and read off the run's folder what became of it."""
    into = folder / f"{trained.replace(' ', '_')}_{conflict:g}_{seed}"
    shutil.rmtree(into, ignore_errors=True)
    alone = ["strategy=single", f"strategy.domain_order=[{trained}]"]
    command = [sys.executable, "-m", "mgsrl.cli", "train", "+experiment=pocket_conflict"]
    command += [f"domains.commas.reward.conflict={conflict:g}", f"seed={seed}", f"run.dir={into}"]
    command += ["strategy=mixed"] if trained == MIXED else alone
    command += [f"train.num_steps={steps}", "surgery.reliability.every=1", *more]
    began, cpu = time.monotonic(), _cpu_seconds()
    log = into.with_suffix(".log")
    with log.open("w") as out:
        done = subprocess.run(command, stdout=out, stderr=out, timeout=LIMIT_S)
    if done.returncode != 0:
        raise RuntimeError(f"the run failed; see {log}")
    seconds, cpu = time.monotonic() - began, _cpu_seconds() - cpu
    found = {(result.step, result.domain): result for result in read_evaluations(into)}
    first, last = ({d: found[step, d] for d in HABITS} for step in (0, steps))
    cosines, stand_out = gradients(into) if trained == MIXED else ({}, None)
    return Trial(
        *(conflict, trained, seed, steps),
        before={domain: round(result.mean, 4) for domain, result in first.items()},
        after={domain: round(result.mean, 4) for domain, result in last.items()},
        errors={
            domain: round(math.hypot(result.standard_error, last[domain].standard_error), 4)
            for domain, result in first.items()
        },
        cosines=cosines,
        stand_out=stand_out,
        seconds=round(seconds, 1),
        cpu_seconds=round(cpu, 1),
    )


def _cpu_seconds() -> float:
    """Of the processes that ended; Ray's daemons are not waited for and are left out."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def gradients(run_dir: Path) -> tuple[dict[str, dict[str, list[float]]], float]:
    """Cosines between the domains' gradients by module and pair, and how many stand out.

    Products are added up over the steps before they are divided: the halves of a domain's prompts
    are independent in every step, so the sums are free of the noise's bias, and steadier than a
    mean of ratios.
    """
    sums: dict[tuple[str, str, str], list[float]] = {}
    pairs = conflicts = 0
    for row in read_surgery(run_dir).to_pylist():
        a, b = row["domain_a"], row["domain_b"]
        signal = row["inner"] * (row["reliability"] or 0.0) if a == b else 0.0
        for module in (row["module"], WHOLE):
            total = sums.setdefault((module, a, b), [0.0, 0.0])
            total[0] += row["inner"]
            total[1] += signal
        if a != b:
            pairs, conflicts = pairs + 1, conflicts + bool(row["stands_out"])
    found: dict[str, dict[str, list[float]]] = {}
    for (module, a, b), (inner, _) in sums.items():
        if a != b:
            norms = [
                math.sqrt(max(0.0, sums[module, a, a][kind]) * max(0.0, sums[module, b, b][kind]))
                for kind in (0, 1)
            ]
            cosines = [round(inner / norm, 4) if norm > 0 else math.nan for norm in norms]
            found.setdefault(module, {})[f"{a}-{b}"] = cosines
    return found, round(conflicts / max(1, pairs), 4)


def known() -> dict[tuple[float, str, int, int], Trial]:
    """What is done."""
    lines = RESULTS.read_text().splitlines() if RESULTS.is_file() else []
    trials = [Trial(**json.loads(line)) for line in lines]
    return {trial.place: trial for trial in trials}


def tables(trials: Iterable[Trial]) -> str:
    """The Markdown tables of the page."""
    ordered = sorted(trials, key=lambda t: (t.conflict, TRAINED.index(t.trained), t.seed))
    lines = [
        "| conflict | trained on | " + " | ".join(f"{habit}, held out" for habit in HABITS) + " |",
        "|---|---|---|---|---|",
    ]
    for trial in ordered:
        cells = [f"{trial.after[d] - trial.before[d]:+.2f} ± {trial.errors[d]:.2f}" for d in HABITS]
        lines.append(f"| {trial.conflict:g} | {trial.trained} | {' | '.join(cells)} |")
    lines += [
        "",
        "| conflict | cosine of the rewards | of the gradients | corrected for noise "
        "| of single modules, corrected | conflicts that stand out |",
        "|---|---|---|---|---|---|",
    ]
    for trial in ordered:
        if trial.stand_out is not None:
            lines.append(_gradients_row(trial))
    return "\n".join(lines) + "\n"


def _gradients_row(trial: Trial) -> str:
    whole = [_mean(pair[kind] for pair in trial.cosines[WHOLE].values()) for kind in (0, 1)]
    modules = {
        name: _mean(pair[1] for pair in pairs.values())
        for name, pairs in trial.cosines.items()
        if name != WHOLE
    }
    known = {name: value for name, value in modules.items() if not math.isnan(value)}
    low, high = (pick(known, key=known.__getitem__) for pick in (min, max))
    return (
        f"| {trial.conflict:g} | {wanted_cosine(trial.conflict):+.2f} | {whole[0]:+.2f} "
        f"| {whole[1]:+.2f} | {known[low]:+.2f} ({low}) to {known[high]:+.2f} ({high}) "
        f"| {trial.stand_out:.1%} |"
    )


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found)


def duration(trials: Mapping[Any, Trial]) -> str:
    each = [trial.seconds for trial in trials.values()]
    return f"{len(each)} runs, {sum(each) / max(1, len(each)):.0f} s each"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--conflicts", nargs="*", type=float, default=list(DIAL))
    parser.add_argument("--trained", nargs="*", choices=list(TRAINED), default=list(TRAINED))
    parser.add_argument("--seed", type=int, default=0, help="of the runs (%(default)s)")
    parser.add_argument("--steps", type=int, default=30, help="of a run (%(default)s)")
    parser.add_argument("--folder", type=Path, help="where the runs go, and stay")
    parser.add_argument("--results", type=Path, help="instead of tests/conflict_trials.jsonl")
    parser.add_argument("--docs", action="store_true", help="only write the tables into the docs")
    parser.add_argument("overrides", nargs="*", help="further ones of `mgsrl train`, after --")
    options = parser.parse_args()
    global RESULTS
    RESULTS = options.results or RESULTS
    if options.docs:
        before, after = PAGE.read_text().split(MARKS[0])[0], PAGE.read_text().split(MARKS[1])[1]
        PAGE.write_text(f"{before}{MARKS[0]}{tables(known().values())}{MARKS[1]}{after}")
        return 0
    folder = options.folder or Path(tempfile.mkdtemp(prefix="conflict"))
    folder.mkdir(parents=True, exist_ok=True)
    for trained in options.trained:
        for conflict in options.conflicts:
            if (conflict, trained, options.seed, options.steps) in known():
                continue
            trial = run(conflict, trained, options.seed, options.steps, folder, options.overrides)
            with RESULTS.open("a") as file:
                file.write(json.dumps(asdict(trial)) + "\n")
            print(f"{trained} at {conflict:g}: {trial.after} ({trial.seconds:.0f} s)", flush=True)
    print(tables(known().values()), duration(known()))
    if options.folder is None:
        shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
