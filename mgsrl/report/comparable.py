"""Whether runs may be compared: they differ in their strategy and seed, and in nothing else.

Strategies are `strategy.*`, `surgery.*` and `algo.whiten_per_domain`. Beside them runs may differ
in what changes no number, or only by rounding (as for resuming, `config/resume.py`), and in the
axes of a planned comparison. What decides how they are measured must be the same even there. That
two paths are equal says little: rows, weights and users' code behind them are compared where
`run.json` or a checkpoint has their digests (older runs have fewer: what one of them lacks is not
compared with it). Left out: the versions of libraries and of our own code, which are remarked upon.
"""

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from types import MappingProxyType
from typing import Any

from mgsrl.config.resume import FREE_KEYS, LAYOUT_KEYS, PROMPT_KEYS, key_pattern, names
from mgsrl.errors import ConfigError, nearest, shortened
from mgsrl.obs.run_record import HELD_OUT
from mgsrl.report.load import UNREADABLE, RunData, short_paths

STRATEGY_KEYS = ("strategy.", "surgery.", "algo.whiten_per_domain")
MEASURING_KEYS = ("evaluate.", "domains.*.heldout", "domains.*.reward")
"""With another value the same policy would have another score."""
COMPARED = ("evaluate.every", "train.num_steps")
"""Free for a run that goes on, but not between runs."""
OWN_KEYS = ("seed", "resume", "policy.date")
"""`policy.date` shows in the prompts, where it is used at all."""
MOST_SHOWN = 12
"""Differing keys that a refusal names."""
LONGEST = 60
"""Characters of a value that are shown; it is compared whole."""
BEFORE = 10
"""Characters shown before the first that differs, of values that are longer."""
ABSENT = "–"
_FREE = [*(key for key in FREE_KEYS if key not in COMPARED), *OWN_KEYS]


@dataclass(frozen=True)
class Differing:
    """A setting that is not the same in all runs."""

    key: str
    values: dict[str, str]
    """Folder of a run -> its value."""

    @property
    def groups(self) -> dict[str, str]:
        """Value, as it is shown, -> the runs that have it, in words."""
        called = short_paths(map(Path, self.values))
        found: dict[str, list[str]] = {}
        for folder, value in self.values.items():
            found.setdefault(value, []).append(called[Path(folder)])
        shown = told_apart(found)
        return {shown[value]: _some(who) for value, who in found.items()}


@dataclass(frozen=True)
class Verdict:
    """What the settings of some runs say about comparing them."""

    allowed: list[Differing]
    declared: list[Differing]
    remarks: list[str]


def check_comparable(
    runs: Sequence[RunData],
    allow: Sequence[str] = (),
    declared: Collection[str] = (),
    axes: Mapping[str, Collection[str]] = MappingProxyType({}),
) -> Verdict:
    """Compare the settings of `runs`.

    Args:
        allow: keys (a record is all below it) in which they may differ all the same.
        declared: keys in which the plan itself has them differ.
        axes: folder of a run -> those of `declared` that are of its own plan, where there are
            several plans, or runs of none; the others' values have to be among theirs.

    Raises:
        ConfigError: they differ in other keys, or an entry of `allow` is no key.
    """
    free = key_pattern(_FREE)
    strategy, layout = key_pattern(STRATEGY_KEYS), key_pattern(LAYOUT_KEYS)
    measuring = key_pattern(MEASURING_KEYS)
    found = differing_settings(runs)
    _check_allow(allow, runs, found)
    refused, allowed, chosen, rounding = [], [], [], []
    for each in found:
        if free.match(each.key):
            continue
        if names(allow, each.key):
            allowed.append(each)
        elif _is_axis(each, declared, axes) and not measuring.match(each.key):
            chosen.append(each)
        elif layout.match(each.key):
            rounding.append(each.key)
        elif not strategy.match(each.key):
            refused.append(each)
    if refused:
        raise _refusal(refused)
    other = ", ".join(rounding)
    remarks = [f"The runs differ in {other}: equal but for rounding."] if rounding else []
    if unknown := [run.name for run in runs if not run.config]:
        remarks.append(
            f"Nobody knows whether {_some(unknown)} can be compared: their settings cannot be read."
        )
    chosen = [each for each in chosen if not strategy.match(each.key)]
    return Verdict(allowed, chosen, remarks + _code(runs))


def _is_axis(
    each: Differing, declared: Collection[str], axes: Mapping[str, Collection[str]]
) -> bool:
    values = each.values.items()
    planned = {value for folder, value in values if each.key in axes.get(folder, declared)}
    return each.key in declared and planned >= set(each.values.values())


def check_axes(declared: Collection[str], allow: Sequence[str]) -> None:
    """Raise ConfigError for axes that decide how runs are measured, unless they are allowed."""
    measuring = key_pattern(MEASURING_KEYS)
    free = key_pattern([key for key in FREE_KEYS if key not in COMPARED])
    wrong = [key for key in sorted(declared) if measuring.match(key) and not free.match(key)]
    if wrong := [key for key in wrong if not names(allow, key)]:
        raise ConfigError(
            "Runs that are measured differently are not comparable.",
            expected="arms with the same evaluation, held-out data and rewards",
            found=", ".join(wrong[:MOST_SHOWN]),
            todo=f"leave these axes out, or compare all the same, marked: {_allowing(wrong)}",
        )


def differing_settings(runs: Sequence[RunData]) -> list[Differing]:
    """All settings that are not the same in all runs, and what is behind equal paths."""
    flat = [run.settings for run in runs if run.config]
    known = [str(run.run_dir) for run in runs if run.config]
    keys = sorted({key for config in flat for key in config})
    found = []
    for key in keys:
        values = [str(config.get(key, ABSENT)) for config in flat]
        if len(set(values)) > 1:
            found.append(Differing(key, dict(zip(known, values, strict=True))))
    return found + _behind_paths(runs)


def strategy_settings(run: RunData) -> dict[str, str]:
    """What makes a run's strategy, by key; not its name, nor what changes no number."""
    strategy, other = key_pattern(STRATEGY_KEYS), key_pattern([*FREE_KEYS, *LAYOUT_KEYS])
    flat = run.settings.items()
    return {k: str(v) for k, v in flat if strategy.match(k) and not other.match(k)}


def told_apart(values: Iterable[str]) -> dict[str, str]:
    """Each of some different values as it is shown: long ones from where they begin to differ."""
    texts = list(dict.fromkeys(values))
    alike = takewhile(lambda characters: len(set(characters)) == 1, zip(*texts, strict=False))
    begin = len(list(alike)) - BEFORE
    cut = {text: f"...{text[begin:]}" if begin > 0 else text for text in texts}
    shown = {t: t if len(t) <= LONGEST else shortened(cut[t], LONGEST) for t in texts}
    return shown if len(set(shown.values())) == len(texts) else {t: t for t in texts}


def _behind_paths(runs: Sequence[RunData]) -> list[Differing]:
    """Rows, weights and users' code that differ between runs whose settings of them do not."""
    silent = key_pattern([*_FREE, *LAYOUT_KEYS])
    found: dict[str, dict[str, str]] = {}
    for look in (_recorded, _fingerprints):
        alike: dict[tuple[str, str], dict[str, str]] = {}
        for run in runs:
            loud = {k: str(v) for k, v in run.settings.items() if not silent.match(k)}
            for key, value in look(run).items():
                decided = {k: v for k, v in loud.items() if names(_deciding(key), k)}
                alike.setdefault((key, str(decided)), {})[str(run.run_dir)] = value
        for (key, _), values in alike.items():
            if len(set(values.values())) > 1:
                found.setdefault(key, {}).update(values)
    return [Differing(key, values) for key, values in found.items()]


def _deciding(key: str) -> list[str]:
    """The settings, or records of them, that decide what is behind `key`."""
    found = [key]
    if row := re.match(r"(domains\.[^.]+)\.(source|extra_sources|heldout)", key):
        found += [*PROMPT_KEYS, f"{row[1]}.reward", f"{row[1]}.chat_template_kwargs"]
        found += ["evaluate.prompts_per_domain"] if row[2] == "heldout" else []
    return found


def _recorded(run: RunData) -> dict[str, str]:
    """Key -> what is behind it, from `run.json`: rows of data, and plug-ins that make numbers. The
    package's own files are left out: other versions of it are remarked upon."""
    data, plugins = (run.record.get(key) or {} for key in ("data", "plugins"))
    silent = run.setting("trackers.also") or ()
    rows = {_source_key(name): _fact(facts, "digest", "rows") for name, facts in data.items()}
    code = {
        f"plugins.{name}": _fact(facts, "sha256", "code")
        for name, facts in plugins.items()
        if not name.startswith("mgsrl.") and name not in silent
    }
    return {key: value for key, value in (rows | code).items() if value}


def _fact(facts: Any, name: str, of: str) -> str:
    """Empty where it is not known: an older version's record, or a damaged one."""
    value = facts.get(name) if isinstance(facts, dict) else None
    return f"{of} {value[:16]}" if isinstance(value, str) else ""


def _source_key(source: str) -> str:
    """The configuration key of a source, as `run.json` and the mixture call it."""
    if source.endswith(HELD_OUT):
        return f"domains.{source.removesuffix(HELD_OUT)}.heldout"
    domain, _, more = source.partition("/")
    return f"domains.{domain}.{f'extra_sources.{more}' if more else 'source'}"


def _fingerprints(run: RunData) -> dict[str, str]:
    """Key -> what is behind it, from the newest checkpoint; what cannot be read is left out."""
    found: dict[str, str] = {}
    with suppress(*UNREADABLE):
        stored = (run.run_dir / "checkpoints").glob("step_*/state.json")
        places = sorted(stored, key=lambda p: p.stat().st_mtime)
        state = json.loads(places[-1].read_text(encoding="utf-8")) if places else {}
        for source, cursor in (state.get("mixture") or {}).items():
            found[_source_key(source)] = f"prompts {cursor['digest']}"
        models = {"policy.path": state.get("policy"), **(state.get("reward_models") or {})}
        for key, model in models.items():
            if model:
                weights = str(model.get("weights") or "")[:12]
                found[key] = f"model {weights or model.get('name')}"
    return found


def _code(runs: Iterable[RunData]) -> list[str]:
    """Remarks on what made the runs."""
    commits = {str((run.record.get("git") or {}).get("commit", "?"))[:12] for run in runs}
    machines = {str((run.record.get("hardware") or {}).get("cpu", "?")) for run in runs}
    packages = {json.dumps(run.record.get("versions") or {}, sort_keys=True) for run in runs}
    found = []
    if len(commits) > 1 or len(packages) > 1:
        which = f" (commits {', '.join(sorted(commits))})" if len(commits) > 1 else ""
        found.append(f"The runs were made by different versions of code or libraries{which}.")
    if len(machines) > 1:
        found.append(f"The runs were made on different machines ({', '.join(sorted(machines))}).")
    return found


def _check_allow(allow: Sequence[str], runs: Sequence[RunData], found: Sequence[Differing]) -> None:
    keys = {key for run in runs for key in run.settings} | {each.key for each in found}
    known = {".".join(parts[:n]) for key in keys for parts in [key.split(".")] for n in range(1, 9)}
    for entry in allow if known else ():
        if entry not in known:
            raise ConfigError(
                "allow has an unknown key.",
                expected="a key of one of the runs",
                found=repr(entry),
                todo=f"correct it ({nearest(entry, _near(entry, known))})",
            )


def _near(entry: str, known: Collection[str]) -> list[str]:
    last = entry.rpartition(".")[2]
    return [key for key in known if key.rpartition(".")[2] == last] or [
        key for key in known if "." not in key
    ]


def _refusal(refused: Sequence[Differing]) -> ConfigError:
    lines = [
        f"{each.key}: {'; '.join(f'{value} ({who})' for value, who in each.groups.items())}"
        for each in refused[:MOST_SHOWN]
    ]
    if len(refused) > MOST_SHOWN:
        lines.append(f"and {len(refused) - MOST_SHOWN} more")
    allowing = _allowing([each.key for each in refused])
    return ConfigError(
        "The runs are not comparable.",
        expected="runs that differ in strategy and seed alone",
        found="\n            ".join(lines),
        todo=f"leave some runs out, or compare them all the same, marked: {allowing}",
    )


def _allowing(keys: Sequence[str]) -> str:
    """The word that allows all of `keys`; of many only the records that hold them."""
    few = len(keys) <= MOST_SHOWN
    return f"'allow=[{','.join(keys if few else dict.fromkeys(k.split('.')[0] for k in keys))}]'"


def _some(names: Sequence[str]) -> str:
    return (
        ", ".join(names) if len(names) <= 3 else f"{', '.join(names[:2])} and {len(names) - 2} more"
    )
