"""Proves the testbed `pocket_conflict` by real runs: what its dial does to domains and gradients.

At each position of the dial one run per domain trains on that domain alone, and one on all three
(plain sum). The first say what training on one domain does to the held-out rewards of the others,
the last what the domains' gradients are to each other, corrected for their noise.

    python scripts/conflict_trials.py           # goes on where it stopped; 12 runs
    python scripts/conflict_trials.py --docs    # writes the tables of docs/conflict.md
"""

import argparse
import json
import math
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pages import write_between
from study_arms import POSITIONS, overrides_of

from mgsrl.obs.evaluation_log import read_evaluations
from mgsrl.obs.surgery_log import read_surgery
from mgsrl.rewards.pocket_conflict import HABITS, wanted_cosine

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "tests" / "conflict_trials.jsonl"
PAGE = ROOT / "docs" / "conflict.md"
MARKS = ("<!-- trials -->\n", "<!-- end of trials -->")
MIXED = "all three"
TRAINED = (*HABITS, MIXED)
LIMIT_S = 1800.0
WHOLE = "whole model"
UNSEEN = 0.25
"""Standard error of a cosine from which on the page leaves it out."""


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
    cosines: dict[str, list[float | None]]
    """Of a run on all three: module -> [as it is, corrected for noise, standard error of the
    latter], of the domains' gradients, means over their pairs; None: no signal."""
    stand_out: float | None
    """Share of (step, module, pair) whose conflict stands out of the noise."""
    seconds: float

    @property
    def place(self) -> tuple[float, str, int, int]:
        return self.conflict, self.trained, self.seed, self.steps


def run(
    conflict: float, trained: str, seed: int, steps: int, folder: Path, more: list[str]
) -> Trial:
    """Train, and read off the run's folder what became of it."""
    into = folder / f"{trained.replace(' ', '_')}_{conflict:g}_{seed}"
    shutil.rmtree(into, ignore_errors=True)
    arm = "mixed" if trained == MIXED else f"single_{trained}"
    command = [sys.executable, "-m", "mgsrl.cli", "train", *overrides_of(arm, conflict)]
    command += [f"seed={seed}", f"run.dir={into}"]
    command += [f"train.num_steps={steps}", "surgery.reliability.every=1", *more]
    began = time.monotonic()
    log = into.with_suffix(".log")
    with log.open("w") as out:
        done = subprocess.run(command, stdout=out, stderr=out, timeout=LIMIT_S)
    if done.returncode != 0:
        raise RuntimeError(f"the run failed; see {log}")
    return read(conflict, trained, seed, steps, into, time.monotonic() - began)


def read(conflict: float, trained: str, seed: int, steps: int, into: Path, seconds: float) -> Trial:
    """What a finished run's folder says."""
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
    )


def gradients(run_dir: Path) -> tuple[dict[str, list[float | None]], float]:
    """Cosines between the domains' gradients by module, and how many conflicts stand out.

    Products are summed up over the steps before they are divided: in every step the domains'
    prompts, and the halves of each domain's, are independent, so the sums have no bias from noise
    and their ratio is steadier than a mean of ratios. Standard errors leave out a step at a time.
    """
    rows = read_surgery(run_dir).to_pylist()
    steps = sorted({row["step"] for row in rows})
    modules = [*dict.fromkeys(row["module"] for row in rows), WHOLE]
    shape = (len(modules), len(HABITS), len(HABITS))
    inner_TMDD, signal_TMD = np.zeros((len(steps), *shape)), np.zeros((len(steps), *shape[:2]))
    stand_out = []
    for row in rows:
        t, m = steps.index(row["step"]), modules.index(row["module"])
        a, b = (HABITS.index(row[key]) for key in ("domain_a", "domain_b"))
        inner_TMDD[t, m, a, b] = inner_TMDD[t, m, b, a] = row["inner"]
        if a == b:
            signal_TMD[t, m, a] = row["inner"] * (row["reliability"] or 0.0)
        else:
            stand_out.append(bool(row["stands_out"]))
    inner_TMDD[:, -1], signal_TMD[:, -1] = inner_TMDD.sum(1), signal_TMD.sum(1)
    raw_M = _cosines(inner_TMDD.sum(0), np.diagonal(inner_TMDD.sum(0), axis1=1, axis2=2))
    corrected_M = _cosines(inner_TMDD.sum(0), signal_TMD.sum(0))
    without_TM = np.array(
        [
            _cosines(inner_TMDD.sum(0) - inner_MDD, signal_TMD.sum(0) - signal_MD)
            for inner_MDD, signal_MD in zip(inner_TMDD, signal_TMD, strict=True)
        ]
    )
    error_M = without_TM.std(0) * math.sqrt(len(steps) - 1)  # the jackknife's
    figures = np.stack([raw_M, corrected_M, error_M], axis=1)
    return (
        {
            module: [round(float(x), 4) if math.isfinite(x) else None for x in figures[m]]
            for m, module in enumerate(modules)
        },
        round(float(np.mean(stand_out)), 4),
    )


def _cosines(inner_MDD: "np.ndarray[Any, Any]", norm_MD: "np.ndarray[Any, Any]") -> Any:
    """[M] means over the pairs; NaN where a domain shows no signal."""
    first, second = np.triu_indices(len(HABITS), 1)
    product = np.where(norm_MD > 0, norm_MD, np.nan)
    product = product[:, first] * product[:, second]
    return (inner_MDD[:, first, second] / np.sqrt(product)).mean(1)


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
    mixed = [trial for trial in ordered if trial.cosines]
    lines += ["", "| | " + " | ".join(f"conflict {trial.conflict:g}" for trial in mixed) + " |"]
    lines.append("|---|" + "---|" * len(mixed))
    wanted = [f"{wanted_cosine(trial.conflict):+.2f}" for trial in mixed]
    raw = [f"{trial.cosines[WHOLE][0]:+.2f}" for trial in mixed]
    lines.append(f"| cosine of the rewards | {' | '.join(wanted)} |")
    lines.append(f"| of the gradients, with their noise | {' | '.join(raw)} |")
    for module in (WHOLE, *(name for name in mixed[0].cosines if name != WHOLE)) if mixed else ():
        cells = [_corrected(trial.cosines[module]) for trial in mixed]
        lines.append(f"| corrected: {module} | {' | '.join(cells)} |")
    shares = [f"{trial.stand_out:.1%}" for trial in mixed]
    lines.append(f"| conflicts that stand out of the noise | {' | '.join(shares)} |")
    return "\n".join(lines) + "\n"


def _corrected(figures: Sequence[float | None]) -> str:
    """A cell; a dash where the noise leaves nothing to be seen."""
    _, cosine, error = figures
    if cosine is None or error is None or error > UNSEEN:
        return "–"
    return f"{cosine:+.2f} ± {error:.2f}"


def duration(trials: Mapping[Any, Trial]) -> str:
    each = [trial.seconds for trial in trials.values()]
    return f"{len(each)} runs, {sum(each) / max(1, len(each)):.0f} s each"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--conflicts", nargs="*", type=float, default=list(POSITIONS))
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
        write_between(PAGE, MARKS, tables(known().values()))
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
