"""Several runs as one comparison: `comparison.html`, `comparison.md` and `comparison.json`.

The seed is the unit of replication: intervals and tests are over seeds, paired by seed against one
arm, the baseline. Runs that differ in more than strategy and seed are refused, or compared with a
mark that no reader misses. Runs that should be there and are not are gaps, never guesses.
Left out: anything interactive (the figures are inline SVG).
"""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mgsrl.errors import ConfigError, nearest
from mgsrl.files.jsonl import jsonable, write_atomic
from mgsrl.report.comparable import ABSENT, Verdict, check_comparable, strategy_settings
from mgsrl.report.compare_text import command_of, cost_cells, markdown, p_text, runs_text
from mgsrl.report.comparison import ArmSummary, Comparison
from mgsrl.report.evaluation_matrix import evaluation_matrix
from mgsrl.report.extra import need_drawing
from mgsrl.report.load import RunData, read_run_data
from mgsrl.report.render import is_own_page, render
from mgsrl.report.strategies import ArmRuns, by_arm, common_steps
from mgsrl.report.verdicts import contrasts, sentence

JSON, MARKDOWN, PAGE = "comparison.json", "comparison.md", "comparison.html"
USUAL_BASELINE = "mixed"
FEW_SEEDS = 3
LONGEST_NAME = 80


@dataclass(frozen=True)
class Entry:
    """A run of a comparison, there or not."""

    dir: Path
    arm: str = ""
    """Empty: called by what its configuration says."""
    absent: str = ""
    """Why it is not to be looked at."""


def comparison(
    entries: Sequence[Entry],
    *,
    baseline: str = "",
    allow: Sequence[str] = (),
    declared: Collection[str] = (),
) -> Comparison:
    """Compare `entries`.

    Args:
        baseline: the arm that others are tested against; by default the first of `mixed`, or the
            first of all.
        allow: keys in which the runs may differ.
        declared: keys in which their plan has them differ.

    Raises:
        ConfigError: fewer than two runs, or one twice; runs that are not comparable; no such
            baseline.
        MissingPathError: one of them is not a run folder.
    """
    check_entries(entries)
    runs = {e.dir: read_run_data(e.dir) for e in entries if not e.absent}
    verdict = check_comparable(list(runs.values()), allow, declared)
    named = [(e.arm, run) for e in entries if (run := runs.get(e.dir)) is not None]
    arms = _arms(entries, by_arm(_with_names(named, verdict)), list(runs.values()))
    chosen = _baseline(arms, baseline)
    domains = list(dict.fromkeys(domain for run in runs.values() for domain in run.domains))
    against = contrasts(arms, chosen, domains)
    summaries = [
        ArmSummary(arm, domains, own, sentence(arm, chosen, own, alone=len(arms) == 1))
        for arm in arms
        for own in [against.get(arm.name, {})]
    ]
    remarks = [*common_steps(list(runs.values())).remarks, *_remarks(arms), *verdict.remarks]
    common = arms[0].common
    return Comparison(
        chosen.name, domains, common, summaries, verdict.allowed, verdict.declared, remarks
    )


def write_comparison(found: Comparison, folder: Path, *, force: bool = False) -> Path:
    """Write the three files into `folder`; returns the page.

    Args:
        force: a page of another origin may be replaced.

    Raises:
        ConfigError: a `comparison.html` that is none of ours; no matplotlib.
    """
    need_drawing("The comparison")
    check_page(folder, force)
    text = json.dumps(jsonable(found.as_json()), indent=1, ensure_ascii=False) + "\n"
    write_atomic(folder / JSON, text)
    write_atomic(folder / MARKDOWN, markdown(found))
    write_atomic(folder / PAGE, render("compare.html.j2", _context(found, folder)))
    return folder / PAGE


def default_folder(found: Comparison, folders: Sequence[Path]) -> Path:
    """Where the comparison of `folders` goes: into the only one, or `runs/compare-ARMS`."""
    if len(folders) == 1:
        return folders[0]
    names = "-".join(each.name for each in found.arms)
    return Path("runs") / f"compare-{re.sub(r'[^A-Za-z0-9._-]+', '-', names)[:LONGEST_NAME]}"


def check_entries(entries: Sequence[Entry]) -> None:
    """Raise ConfigError for fewer than two runs, or one twice."""
    folders = [entry.dir.resolve() for entry in entries]
    if len(folders) < 2 or len(set(folders)) < len(folders):
        raise ConfigError(
            "There is nothing to compare.",
            expected="two or more different run folders",
            found=", ".join(str(entry.dir) for entry in entries) or "none",
            todo="mgsrl compare runs/pocket-mgs-seed0 runs/pocket-mixed-seed0, or "
            "mgsrl compare 'strategies=[mgs,mixed]' 'seeds=[0,1,2]'",
        )


def check_page(folder: Path, force: bool) -> None:
    """Raise ConfigError where the page of `folder` is none of ours, and may not be replaced."""
    page = folder / PAGE
    if page.exists() and not force and not is_own_page(page):
        raise ConfigError(
            f"{page} cannot be written.",
            expected="a page of mgsrl, or none",
            found="another file",
            todo="choose another compare.dir, or add --force to replace it",
        )


def _with_names(
    named: Sequence[tuple[str, RunData]], verdict: Verdict
) -> list[tuple[str, RunData]]:
    """Each run with its arm's name. Where that is not given, it is what the strategy is called, and
    runs of one name are told apart by its settings, and by what they differ in with permission."""
    settings = [strategy_settings(run) for _, run in named]
    labels = [name or str(run.setting("strategy.name", run.run_dir.name)) for name, run in named]
    for differing in verdict.allowed:
        for (_, run), own in zip(named, settings, strict=True):
            own[differing.key] = differing.values.get(str(run.run_dir), ABSENT)
    found = []
    for (name, run), label, own in zip(named, labels, settings, strict=True):
        same = [each for each, other in zip(settings, labels, strict=True) if other == label]
        keys = sorted({key for each in same for key in each})
        differ = [k for k in keys if len({each.get(k) for each in same}) > 1]
        parts = [f"{k.rpartition('.')[2]}={own.get(k, ABSENT)}" for k in differ]
        found.append((name or " ".join([label, *parts]), run))
    return found


def _arms(
    entries: Sequence[Entry], arms: Sequence[ArmRuns], runs: Sequence[RunData]
) -> list[ArmRuns]:
    """`arms` and those of which no run is there, in the order of the entries."""
    by_name = {arm.name: arm for arm in arms}
    order = list(dict.fromkeys([e.arm for e in entries if e.arm] + [arm.name for arm in arms]))
    for name in order:
        by_name.setdefault(name, ArmRuns(name, common_steps(runs)))
    for entry in entries:
        if entry.absent:
            by_name[entry.arm].absent[entry.dir.name] = entry.absent
    return [by_name[name] for name in order]


def check_baseline(name: str, arms: Sequence[str]) -> None:
    """Raise ConfigError for a baseline that is none of `arms`; none is given by an empty name."""
    if name and name not in arms:
        raise ConfigError(
            "compare.baseline is no arm of this comparison.",
            expected="one of its arms",
            found=name,
            todo=f"correct it ({nearest(name, arms)})",
        )


def _baseline(arms: Sequence[ArmRuns], name: str) -> ArmRuns:
    by_name = {arm.name: arm for arm in arms}
    check_baseline(name, list(by_name))
    # with axes an arm is called `mixed lr=0.001`
    usual = [each for each in by_name if f"{each} ".startswith(f"{USUAL_BASELINE} ")]
    usual.sort(key=lambda each: each != USUAL_BASELINE)
    return by_name[name or [*usual, *by_name][0]]


def _remarks(arms: Sequence[ArmRuns]) -> list[str]:
    found = []
    absent = [f"{name} ({why})" for arm in arms for name, why in arm.absent.items()]
    if absent:
        found.append(f"Not there, and nowhere counted: {'; '.join(absent)}.")
    few = [f"{arm.name}: {len(arm.seeds)}" for arm in arms if len(arm.seeds) < FEW_SEEDS]
    if few:
        found.append(f"Too few seeds to tell a difference from luck ({', '.join(few)}).")
    runs = [run for arm in arms for run in arm.runs]
    unscored = [run.run_dir.name for run in runs if not run.evaluations]
    if 0 < len(unscored) < len(runs):
        names = ", ".join(unscored)
        found.append(f"Without any evaluation ({names}): held-out scores are the other runs'.")
    repeated = [arm.name for arm in arms if arm.repeated]
    if repeated:
        found.append(
            f"{', '.join(repeated)}: some runs have the same seed. They are no independent "
            "repetitions, and count as one by their mean."
        )
    return found


def _context(found: Comparison, folder: Path) -> dict[str, Any]:
    # matplotlib takes half a second to import: only when something is really drawn
    from mgsrl.report import compare_figures as figures
    from mgsrl.report.curves import WINDOW
    from mgsrl.report.style import colours, drawing

    colour = colours([each.name for each in found.arms])
    with drawing():
        drawn = figures.all_figures(found, colour)
    return {
        "title": folder.resolve().name,
        "c": found,
        "window": WINDOW,
        "colours": colour,
        "figures": drawn,
        "matrices": _matrices(found),
        "p_text": p_text,
        "runs_text": runs_text,
        "cost_cells": cost_cells,
        "command_of": command_of,
    }


def _matrices(found: Comparison) -> Mapping[str, Any]:
    """Of each arm, where it was evaluated more than once."""
    if len(found.common.evaluated) < 2:
        return {}
    made = {}
    for each in found.arms:
        if each.arm.runs:
            trained: dict[int, set[str]] = {}
            for run in each.arm.runs:
                for row in run.metrics:
                    here = {d for d in found.domains if f"reward/{d}" in row}
                    trained.setdefault(row["step"], set()).update(here)
            threshold = float("inf")  # an alarm is one run's; these are means
            results = each.matrix_results()
            made[each.name] = evaluation_matrix(results, found.domains, threshold, trained)
    return made
