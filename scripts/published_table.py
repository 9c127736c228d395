#!/usr/bin/env python
"""The published table of runs that `mgsrl eval` scored: arm x benchmark, over seeds.

    python scripts/published_table.py runs/qwen_math_chat-*-seed? runs/qwen_*_then_*-seed?
    python scripts/published_table.py evals/llama-*-step_240 --baseline mgs --json table.json

A word is a run or a checkpoint, whose results `mgsrl eval --model` put into `evals/NAME`, or the
folder of an evaluation itself, also that of an untrained model. An arm is what a run's folder is
called before `-seedN`, shown as its strategy where no other arm has the same. Scores are the
suite's own numbers (scripts/reproduce.md, 4): the mean over seeds with its 95 % interval (Student's
t), of n seeds. Below them are differences to the baseline, paired by seed, and what is missing.

Left out: benchmarks that are not among the tasks (MMLU-Redux, PopQA), hence the published averages.
The average here is over those that all arms have.
"""

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cell_rows import SURE, against
from published_inputs import BENCHMARKS, NO_SEED, Evaluated, by_arm, check_alike, check_once, read

from mgsrl.errors import ConfigError, UserError
from mgsrl.evaluate.store import RESULTS
from mgsrl.files.jsonl import jsonable, write_atomic
from mgsrl.obs.outputs import output_file
from mgsrl.report.comparable import Differing, check_comparable
from mgsrl.report.compare_text import change, interval, table
from mgsrl.report.render import MISSING
from mgsrl.statistics.seeds import Difference, difference, estimate

AVERAGE = "average"
MEASURES = (*BENCHMARKS, AVERAGE)
HEAD = ["arm", *(benchmark.title for benchmark in BENCHMARKS.values()), AVERAGE]
Arms = Mapping[str, Sequence[Evaluated]]
Ends = dict[tuple[str, str], dict[int, float]]
"""(arm, benchmark or average) -> seed -> score; NaN for what is missing."""


def scores(arms: Arms) -> tuple[Ends, list[str]]:
    """All of them, and the benchmarks that all arms have, of which a seed's average is."""
    ends = {(arm, b): {e.seed: e.scores[b] for e in arms[arm]} for arm in arms for b in BENCHMARKS}
    shared = [b for b in BENCHMARKS if all(estimate([*ends[arm, b].values()]).n for arm in arms)]
    for arm, own in arms.items():
        sums = {each.seed: math.fsum(each.scores[b] for b in shared) for each in own}
        ends[arm, AVERAGE] = {s: v / len(shared) if shared else math.nan for s, v in sums.items()}
    return ends, shared


def paired(ends: Ends) -> Ends:
    """Without models of no seed: they are no pair of anything."""
    return {key: {s: v for s, v in own.items() if s != NO_SEED} for key, own in ends.items()}


def gaps(arms: Arms) -> list[str]:
    """What is missing, and of whom, a line each."""
    seeds = {each.seed for own in arms.values() for each in own} - {NO_SEED}
    absent, found = [], dict[str, list[str]]()
    for arm, own in arms.items():
        there = {each.seed for each in own}
        if NO_SEED not in there:
            absent += [f"{arm} seed {seed}" for seed in sorted(seeds - there)]
        for each in own:
            for name, benchmark in BENCHMARKS.items():
                if lack := _lack(each, name):
                    found.setdefault(f"{benchmark.title}, {lack}", []).append(each.called(arm))
    number = sum(map(len, arms.values()))
    lines = [f"No evaluation: {', '.join(absent)}"] if absent else []
    for what, who in found.items():
        lines.append(f"{what}: {'all' if len(who) == number > 1 else ', '.join(who)}")
    return lines


def _lack(each: Evaluated, name: str) -> str:
    """What a benchmark lacks in an evaluation; empty where all of it is there."""
    task, wanted = each.results["tasks"].get(name), BENCHMARKS[name].metric
    if task is None:
        return "not evaluated"
    if math.isnan(each.scores[name]):
        return f"no {wanted} among {', '.join(task['metrics']) or 'no metrics at all'}"
    scored, prompts = task["metrics"][wanted]["n"], task["prompts"]
    return "" if scored == prompts else f"scored in {scored} of {prompts} prompts"


def remarks(found: Sequence[Evaluated]) -> list[str]:
    """Why the models may not be on equal terms."""
    steps = {str(e.folder): str(s) for e in found if (s := e.results["model"].get("step"))}
    groups = Differing("step", steps).groups if len(set(steps.values())) > 1 else {}
    lines = [f"Trained for {step} steps: {who}" for step, who in groups.items()]
    runs = [each.run for each in found if each.run]
    lines += [f"Not finished: {run.name} ({run.unfinished})" for run in runs if run.unfinished]
    try:
        return [*lines, *check_comparable(runs).remarks]
    except ConfigError as error:
        return [*lines, f"{error.problem} {' '.join(error.found.split())}"]


def shown(d: Difference) -> str:
    return f"{change(d, 1)}, n {d.n}" if d.n else MISSING


def markdown(arms: Arms, lines: Sequence[str]) -> str:
    """Both tables and the lines below them."""
    (baseline, *others), (ends, shared) = arms, scores(arms)
    found = {key: estimate([*own.values()]) for key, own in ends.items()}
    cells = {key: f"{interval(e, 1)}, n {e.n}" if e.n else MISSING for key, e in found.items()}
    parts = [table(HEAD, [[arm, *(cells[arm, m] for m in MEASURES)] for arm in arms])]
    if others:
        cells = against(paired(ends), others, baseline, MEASURES, shown)
        sure = f"bold: p below {SURE} after correction for the number of arms"
        title = f"Against {baseline}, paired by seed ({sure}):"
        parts += [title, table(HEAD, [[arm, *(cells[arm, m] for m in MEASURES)] for arm in others])]
    of = ", ".join(BENCHMARKS[b].title for b in shared) or "nothing, as no benchmark is in all arms"
    about = f"Mean over n seeds (95 % interval). The {AVERAGE} is of {of}."
    return "\n\n".join([*parts, about, "\n".join(f"- {line}" for line in lines)]).strip()


def record(arms: Arms, lines: Sequence[str]) -> dict[str, Any]:
    """All of it for a program, with every seed's score (-1: a model of no seed); p of single tests,
    not corrected."""
    (baseline, *_), (ends, shared) = arms, scores(arms)
    return {
        "baseline": baseline,
        "average_of": shared,
        "notes": lines,
        "arms": {
            arm: {
                "evaluations": {each.seed: str(each.folder) for each in own},
                "scores": {m: _numbers(ends[arm, m]) for m in MEASURES},
                "against_baseline": {
                    m: asdict(difference(paired(ends)[arm, m], paired(ends)[baseline, m]))
                    for m in MEASURES
                    if arm != baseline
                },
            }
            for arm, own in arms.items()
        },
    }


def _numbers(by_seed: Mapping[int, float]) -> dict[str, Any]:
    return {**asdict(estimate([*by_seed.values()])), "by_seed": by_seed}


def main(arguments: Sequence[str] | None = None) -> int:
    kind = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=kind)
    parser.add_argument("words", nargs="+", type=Path, metavar="RUN", help="or its evaluation")
    parser.add_argument("--baseline", metavar="ARM", default="mixed", help="(%(default)s)")
    parser.add_argument("--evals", type=Path, default=Path("evals"), help="folder (%(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where all numbers go, too")
    options = parser.parse_args(arguments)
    try:
        found = [read(word, options.evals) for word in options.words]
        arms = by_arm(found, options.baseline)
        check_once(arms)
        check_alike(found)
        if options.json is not None:
            files = [each.folder / RESULTS for each in found]
            output_file(options.json, "--json", inputs=files, force=True)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    lines = [*gaps(arms), *remarks(found)]
    print(markdown(arms, lines))
    if options.json is not None:
        text = json.dumps(jsonable(record(arms, lines)), indent=1, ensure_ascii=False)
        write_atomic(options.json, text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
