"""Several runs as one comparison: `comparison.html`, `comparison.md` and `comparison.json`.

The seed is the unit of replication: intervals and tests are over seeds, paired by seed against one
arm, the baseline. Runs that differ in more than strategy and seed are refused, or compared with a
mark that no reader misses. Runs that should be there and are not are gaps, never guesses; so are,
beside finished ones, those that are not finished: their costs and curves are those of other steps.
Left out: anything interactive (the figures are inline SVG).
"""

import json
import math
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import compress
from pathlib import Path
from typing import Any
from zlib import crc32

from mgsrl.errors import ConfigError, nearest
from mgsrl.files.jsonl import jsonable, write_atomic
from mgsrl.obs.run_record import was_killed
from mgsrl.report.comparable import (
    ABSENT,
    Verdict,
    check_comparable,
    strategy_settings,
    told_apart,
)
from mgsrl.report.compare_text import (
    command_of,
    cost_cells,
    markdown,
    p_text,
    runs_text,
    worst_text,
)
from mgsrl.report.comparison import ArmSummary, Comparison
from mgsrl.report.extra import need_drawing
from mgsrl.report.load import UNREADABLE, RunData, read_run_data, short_paths
from mgsrl.report.render import is_own_page, render
from mgsrl.report.strategies import ArmRuns, by_arm, common_steps, some
from mgsrl.report.verdicts import contrasts, sentence

JSON, MARKDOWN, PAGE = "comparison.json", "comparison.md", "comparison.html"
USUAL_BASELINE = "mixed"
FEW_SEEDS = 3
LONGEST_NAME = 80
MOST_NAMED = 6
"""Folders in a message."""
MOST_SETTINGS = 4
"""In the name of an arm; of more it has the first and a checksum."""


@dataclass(frozen=True)
class Entry:
    """A run of a comparison, there or not."""

    dir: Path
    arm: str = ""
    """Empty: called by what its configuration says."""
    absent: str = ""
    """Why it is not to be looked at."""
    axes: Collection[str] | None = None
    """Keys in which its plan has runs differ; None: all those that any plan has."""


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
    called = short_paths(entry.dir for entry in entries)
    there = [entry for entry in entries if not entry.absent]
    found = {e.dir: replace(read_run_data(e.dir), name=called[e.dir]) for e in there}
    verdict = check_comparable(list(found.values()), allow, declared, axes_of(entries))
    names = _names([(entry.arm, found[entry.dir]) for entry in there], verdict)
    runs = {folder: run for folder, run in found.items() if not run.unfinished} or found
    gaps = {folder: run.unfinished for folder, run in found.items() if folder not in runs}
    entries = [replace(e, absent=e.absent or gaps.get(e.dir, "")) for e in entries]
    arms = by_arm([(names[folder], run) for folder, run in runs.items()])
    arms = _with_gaps(arms, entries, names, called)
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
    """Where the comparison of `folders` goes: into the only one, or `runs/compare-ARMS`, with a
    checksum where other runs' comparison is there."""
    if len(folders) == 1:
        return folders[0]
    names = "-".join(each.name for each in found.arms)
    place = Path("runs") / f"compare-{re.sub(r'[^A-Za-z0-9._-]+', '-', names)[:LONGEST_NAME]}"
    runs = sorted(str(run.run_dir) for _, run in found.runs)
    if _compared_in(place) in (None, runs):
        return place
    return place.with_name(f"{place.name}-{crc32(' '.join(runs).encode()):08x}")


def _compared_in(folder: Path) -> list[str] | None:
    """The runs of the comparison in a folder; None where nobody knows of any."""
    try:
        arms = json.loads((folder / JSON).read_text(encoding="utf-8"))["arms"].values()
        return sorted(run for arm in arms for run in arm["runs"])
    except UNREADABLE:
        return None


def axes_of(entries: Sequence[Entry]) -> dict[str, Collection[str]]:
    """Folder of a run -> the axes of its plan, where these are known."""
    return {str(entry.dir): entry.axes for entry in entries if entry.axes is not None}


def check_entries(entries: Sequence[Entry]) -> None:
    """Raise ConfigError for fewer than two runs, or one twice."""
    times = Counter(entry.dir.resolve() for entry in entries)
    if twice := [str(entry.dir) for entry in entries if times[entry.dir.resolve()] > 1]:
        raise ConfigError(
            "A run would be compared with itself.",
            expected="every run once",
            found=f"{', '.join(twice[:MOST_NAMED])}{', ...' if len(twice) > MOST_NAMED else ''}",
            todo="leave out what is the same folder by another name, or in a comparison's folder",
        )
    if len(times) < 2:
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


def _names(named: Sequence[tuple[str, RunData]], verdict: Verdict) -> dict[Path, str]:
    """The arm of each run. Where no name is given, it is what the strategy is called. Runs of one
    name are told apart by its settings, and by what else they differ in: two plans, or an edited
    folder, may call different things the same. But teachers that no two seeds share belong to
    their seeds."""
    settings = [strategy_settings(run) for _, run in named]
    labels = [name or str(run.setting("strategy.name", run.name)) for name, run in named]
    for differing in (*verdict.allowed, *verdict.declared):
        for (_, run), own in zip(named, settings, strict=True):
            own[differing.key] = differing.values.get(str(run.run_dir), ABSENT)
    found = {}
    for (_, run), label, own in zip(named, labels, settings, strict=True):
        alike = [other == label for other in labels]
        same = list(compress(settings, alike))
        keys = {key for each in same for key in each}
        taught = {key for key in keys if key.endswith("algo.teacher")}
        seeds = [each.setting("seed") for _, each in compress(named, alike)]
        keys -= taught if _each_its_own(same, seeds, sorted(taught)) else set()
        parts = []
        for key in sorted(keys):
            shown = told_apart(each.get(key, ABSENT) for each in same)
            if len(shown) > 1:
                parts.append(f"{key.rpartition('.')[2]}={shown[own.get(key, ABSENT)]}")
        if len(parts) > MOST_SETTINGS:
            parts[MOST_SETTINGS:] = [f"and {len(parts) - MOST_SETTINGS} more", _checksum(parts)]
        found[run.run_dir] = " ".join([label, *parts])
    return found


def _each_its_own(
    settings: Sequence[Mapping[str, str]], seeds: Sequence[Any], keys: Sequence[str]
) -> bool:
    """Whether there are several seeds, and no two of them share values of `keys`."""
    of_values: dict[tuple[str, ...], set[Any]] = {}
    for own, seed in zip(settings, seeds, strict=True):
        of_values.setdefault(tuple(own.get(key, ABSENT) for key in keys), set()).add(seed)
    return len(set(seeds)) > 1 and all(len(of_value) == 1 for of_value in of_values.values())


def _checksum(parts: Sequence[str]) -> str:
    return f"#{crc32(' '.join(parts).encode()) & 0xFFFF:04x}"


def _with_gaps(
    arms: Sequence[ArmRuns],
    entries: Sequence[Entry],
    names: Mapping[Path, str],
    called: Mapping[Path, str],
) -> list[ArmRuns]:
    """`arms`, with what is not there of them, and those of which no run is there, in the order of
    the entries. A gap belongs to the arm that its plan's other runs of the same name are in."""
    of_plan = {(e.dir.parent, e.arm): names[e.dir] for e in reversed(entries) if e.dir in names}
    found, order = {arm.name: arm for arm in arms}, dict[str, ArmRuns]()
    common = arms[0].common if arms else common_steps(())
    for entry in entries:
        name = names.get(entry.dir) or of_plan.get((entry.dir.parent, entry.arm), entry.arm)
        order[name] = found.setdefault(name, ArmRuns(name, common))
        if entry.absent:
            order[name].absent[called[entry.dir]] = entry.absent
    return list(order.values())


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
        found.append(f"Not finished, and nowhere counted: {'; '.join(absent)}.")
    few = [f"{arm.name}: {len(arm.seeds)}" for arm in arms if len(arm.seeds) < FEW_SEEDS]
    if few:
        found.append(f"Too few seeds to tell a difference from luck ({', '.join(few)}).")
    runs = [run for arm in arms for run in arm.runs]
    if runs and all(run.unfinished for run in runs):
        found.append("None of the runs is finished: all numbers are those of what they logged.")
    unscored = [run.name for run in runs if not run.evaluations]
    if 0 < len(unscored) < len(runs):
        names = ", ".join(unscored)
        found.append(f"Without any evaluation ({names}): held-out scores are the other runs'.")
    found += _lost_scores([run for run in runs if run.evaluations], arms)
    found += _other_prompts(runs, arms)
    if killed := [run.name for run in runs if not run.unfinished and was_killed(run.record)]:
        found.append(f"Killed and gone on: {some(killed)}. How long they took is not known.")
    repeated = [arm.name for arm in arms if arm.repeated]
    if repeated:
        found.append(
            f"{', '.join(repeated)}: some runs have the same seed. They are no independent "
            "repetitions, and count as one by their mean."
        )
    return found


def _lost_scores(runs: Sequence[RunData], arms: Sequence[ArmRuns]) -> list[str]:
    """A line on runs without a finite score of some domain that others have, at the step where
    they are compared: these seeds count nowhere in it, and differences are of those that are left.
    """
    last = arms[0].common.last if arms else None
    scored = {
        run.name: {r.domain for r in run.evaluations if r.step == last and math.isfinite(r.mean)}
        for run in runs
    }
    every = set().union(*scored.values())
    lost = [
        f"{name}: {', '.join(sorted(every - own))}" for name, own in scored.items() if own != every
    ]
    return [f"Without a score after step {last} ({'; '.join(lost)}): not counted."] if lost else []


def _other_prompts(runs: Sequence[RunData], arms: Sequence[ArmRuns]) -> list[str]:
    """A line on evaluations that are of other numbers of responses, where they are compared."""
    last, by_domain = arms[0].common.last if arms else None, dict[str, dict[int, list[str]]]()
    for run in runs:
        for result in run.evaluations:
            if result.step == last:
                counts = by_domain.setdefault(result.domain, {})
                counts.setdefault(result.num_samples, []).append(run.name)
    return [
        f"After step {last} the held-out scores of {domain} are not of the same responses: "
        + "; ".join(f"{count} in {some(names)}" for count, names in counts.items())
        + "."
        for domain, counts in by_domain.items()
        if len(counts) > 1
    ]


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
        "matrices": found.matrices,
        "p_text": p_text,
        "worst_text": worst_text,
        "runs_text": runs_text,
        "cost_cells": cost_cells,
        "command_of": command_of,
    }
