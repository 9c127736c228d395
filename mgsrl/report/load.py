"""A run folder as the report needs it; whatever is missing or damaged is said, never fatal.

A report is wanted most after a run that crashed. So each file is read by itself, and a file that
cannot be read becomes a line in `RunData.missing`. Left out: reading checkpoints (but which one
is the best).
"""

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from mgsrl.config.compose import completed
from mgsrl.config.typed import flattened
from mgsrl.errors import ConfigError, MissingPathError, shortened
from mgsrl.files.jsonl import is_number
from mgsrl.obs import evaluation_log, rollout_log, run_record, surgery_log
from mgsrl.obs.evaluation_log import EvalResult
from mgsrl.obs.health import watched
from mgsrl.obs.metrics import FILE as METRICS
from mgsrl.obs.metrics import read_metrics

T = TypeVar("T")

UNREADABLE = (
    *(OSError, ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError),
    *(YAMLError, OmegaConfBaseException),
)
"""What reading a damaged file can raise (JSON, UTF-8 and Arrow errors are ValueErrors)."""
LONGEST_ERROR = 200
"""Characters of a run's error in the words on why it is not finished."""


@dataclass
class RunData:
    """What a run folder holds."""

    run_dir: Path
    config: dict[str, Any] = field(default_factory=dict)
    config_text: str = ""
    record: dict[str, Any] = field(default_factory=dict)
    metrics: list[dict[str, Any]] = field(default_factory=list)
    """One row a step, ascending."""
    evaluations: list[EvalResult] = field(default_factory=list)
    best: str = ""
    """The best checkpoint with its scores, as one line."""
    samples: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    """Step -> stored responses; only the first and the last stored step."""
    surgery: pa.Table = field(default_factory=surgery_log.SCHEMA.empty_table)
    shares: pa.Table = field(default_factory=surgery_log.DOMAINS_SCHEMA.empty_table)
    probes: pa.Table = field(default_factory=surgery_log.PROBE_SCHEMA.empty_table)
    missing: list[str] = field(default_factory=list)
    """Sentences about what is not there."""
    name: str = ""
    """What tables call it: the folder's name, or more of its path beside another of that name."""

    def __post_init__(self) -> None:
        self.name = self.name or self.run_dir.name

    @property
    def health(self) -> list[str]:
        """What kept the run from learning, as lines; empty for a healthy one."""
        watch = watched(self.metrics)
        if self.record.get("status") == "finished":
            watch.finish()
        return [finding.line for finding in watch.findings.values()]

    @property
    def unfinished(self) -> str:
        """Why it does not count beside finished runs: `interrupted after 20 steps: ...`; empty for
        one that is finished. Without a record it is, if it logged all of its steps, or if nobody
        knows how many these are."""
        status, last = self.record.get("status"), max(self.steps, default=0)
        if status is not None:
            return "" if status == "finished" else not_finished(self.record, last)
        wanted = self.setting("train.num_steps")
        if not isinstance(wanted, int) or last >= wanted:
            return ""
        return f"no readable run.json, and {last} of {wanted} steps are logged"

    @property
    def steps(self) -> list[int]:
        return [row["step"] for row in self.metrics]

    @property
    def domains(self) -> list[str]:
        """In the configuration's order, then any others that were logged."""
        names = list(self.config.get("domains") or {})
        names += self.family("reward")
        names += [result.domain for result in self.evaluations]
        logged = {*self.family("reward"), *(r.domain for r in self.evaluations)}
        # a domain that the strategy leaves out has a configuration but no numbers
        return [name for name in dict.fromkeys(names) if name in logged or not logged]

    def series(self, name: str) -> list[float]:
        """Metric `name` at each of `steps`; NaN where it is missing or was not finite."""
        values = [row.get(name) for row in self.metrics]
        return [float(v) if is_number(v) else math.nan for v in values]

    def family(self, prefix: str) -> list[str]:
        """What follows `prefix/` in the metric names, in order of first appearance."""
        start = f"{prefix}/"
        names = [k.removeprefix(start) for row in self.metrics for k in row if k.startswith(start)]
        return list(dict.fromkeys(names))

    @cached_property
    def settings(self) -> dict[str, Any]:
        """All of them by dotted key; what an older version had no key for has its default."""
        try:
            return flattened(completed(self.config))
        except ConfigError:  # of a newer version, or with a plug-in that is not here
            return flattened(self.config)

    def setting(self, key: str, default: Any = None) -> Any:
        """A configuration value by dotted key."""
        node: Any = self.config
        for part in key.split("."):
            if not isinstance(node, dict) or part not in node:
                return default
            node = node[part]
        return node

    def evaluations_of(self, domain: str) -> list[EvalResult]:
        """By step; results without a mean (everything abstained) are left out."""
        return [r for r in self.evaluations if r.domain == domain and math.isfinite(r.mean)]


def check_run_folder(run_dir: Path) -> None:
    """Raise MissingPathError unless `run_dir` holds anything of a run."""
    names = ("config.yaml", run_record.FILE, METRICS, evaluation_log.FILE)
    if not any((run_dir / name).exists() for name in names):
        raise MissingPathError(
            "This is not a run folder.",
            expected=f"a folder with {', '.join(names)}",
            found=f"{run_dir} {'without any of them' if run_dir.is_dir() else '(no folder)'}",
            todo="give the run.dir of a run, e.g. runs/pocket-mgs-seed0",
        )


def short_paths(paths: Iterable[Path]) -> dict[Path, str]:
    """Each path by its last part, or by as many as it takes to tell it from the others."""
    parts = {path: path.absolute().parts for path in paths}
    found: dict[Path, str] = {}
    size = 0
    while len(found) < len(parts):
        size += 1
        times = Counter(own[-size:] for own in parts.values())
        for path, own in parts.items():
            if times[own[-size:]] == 1 or size == len(own):
                found.setdefault(path, str(Path(*own[-size:])))
    return found


def not_finished(record: Mapping[str, Any], step: int) -> str:
    """What the record of a run that is not finished says of it, in words.

    Args:
        step: the last that it logged.
    """
    status = str(record.get("status", "not finished"))
    words = "still going on or killed" if status in ("starting", "running") else status
    error = ((record.get("sessions") or [{}])[-1]).get("error")
    text = shortened(" ".join(str(error or "").split()), LONGEST_ERROR)
    return f"{words}{f' after {step} steps' if step else ''}{f': {text}' if text else ''}"


def read_run_data(run_dir: Path) -> RunData:
    """Read a run folder.

    Raises:
        MissingPathError: the folder does not exist or holds nothing of a run.
    """
    check_run_folder(run_dir)
    run = RunData(run_dir)
    read = _Reader(run)
    run.config_text = read(lambda: (run_dir / "config.yaml").read_text(), "", "config.yaml")
    run.config = read(lambda: _parse(run.config_text), {}, "config.yaml")
    run.record = read(lambda: run_record.read_run_record(run_dir), {}, run_record.FILE)
    run.metrics = read(lambda: read_metrics(run_dir), [], METRICS)
    run.evaluations = read(
        lambda: evaluation_log.read_evaluations(run_dir), [], evaluation_log.FILE
    )
    run.best = read(lambda: _best(run), "", "checkpoints/best.json")
    run.samples = read(lambda: _samples(run_dir), {}, "rollouts/")
    run.surgery = read(lambda: surgery_log.read_surgery(run_dir), run.surgery, "surgery/")
    run.shares = read(
        lambda: surgery_log.read_surgery(run_dir, table="domains"), run.shares, "surgery/"
    )
    run.probes = read(
        lambda: surgery_log.read_surgery(run_dir, table="probe"), run.probes, "surgery/"
    )
    run.missing += _gaps(run)
    return run


class _Reader:
    def __init__(self, run: RunData) -> None:
        self._run = run

    def __call__(self, load: Callable[[], T], default: T, name: str) -> T:
        if not (self._run.run_dir / name).exists():
            return default
        try:
            return load()
        except UNREADABLE as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            self._run.missing.append(f"{name} cannot be read: {reason}")
            return default


def _parse(text: str) -> dict[str, Any]:
    config = OmegaConf.to_container(OmegaConf.create(text), resolve=False)
    return {str(k): v for k, v in config.items()} if isinstance(config, dict) else {}


def _best(run: RunData) -> str:
    best = json.loads((run.run_dir / "checkpoints/best.json").read_text())
    gains = best["improvements"]
    scores = [f"{d} {score:.3f}, {gains[d]:+.3f}" for d, score in best["scores"].items()]
    text = f"{best['path']} ({'; '.join(scores)})"
    learnt = watched(run.metrics).learnt or not run.metrics
    better = learnt and best["score"] > 0
    return text if better else f"none is better than before training; nearest: {text}"


def _samples(run_dir: Path) -> dict[int, list[dict[str, Any]]]:
    stored = list(rollout_log.stored_steps(run_dir))
    chosen = dict.fromkeys(stored[:1] + stored[-1:])
    return {step: rollout_log.read_rollouts(run_dir, step) for step in chosen}


def _gaps(run: RunData) -> list[str]:
    status = run.record.get("status")
    wanted = run.setting("train.num_steps")
    absent = [
        (not run.config_text, "config.yaml is missing: settings are unknown."),
        (not run.record, "run.json is missing: versions, hardware and duration are unknown."),
        (not run.metrics, "No training step was logged."),
        (not run.evaluations, "No evaluation on held-out prompts."),
        (not run.samples, "No stored generations."),
        (run.surgery.num_rows == 0, "No per-module surgery detail (one domain, or none stored)."),
    ]
    found = [text for is_absent, text in absent if is_absent]
    if run.evaluations and max(r.step for r in run.evaluations) == 0:
        found.append("No evaluation after training, only before it.")
    if status in ("starting", "running"):
        found.append("The run is still going on, or was killed: its end was never recorded.")
    elif status is not None and status != "finished":
        error = (run.record.get("sessions") or [{}])[-1].get("error")
        found.append(f"The run ended as “{status}”{f': {error}' if error else ''}.")
    if isinstance(wanted, int) and run.metrics and len(run.metrics) < wanted:
        found.append(f"{len(run.metrics)} of {wanted} steps are logged.")
    if run.metrics and _has_holes(run.steps):
        found.append("Some steps in between are not logged.")
    shares = run.series("skipped")
    if skipped := sum(share == 1 for share in shares):
        found.append(f"{skipped} steps were skipped: there was no finite update to make.")
    if partly := sum(0 < share < 1 for share in shares):
        found.append(f"Of {partly} steps some updates were skipped: they were not finite.")
    for role in ("rollout", "reward"):
        replaced = sum(value for value in run.series(f"restarts/{role}") if value > 0)
        if replaced:
            found.append(f"{replaced:.0f} {role} workers died and were replaced.")
    return found


def _has_holes(steps: Sequence[int]) -> bool:
    return len(steps) != steps[-1] - steps[0] + 1


def dump(value: Any) -> str:
    """Compact JSON for showing small records: floats with four digits."""
    return json.dumps(rounded(value), ensure_ascii=False)


def rounded(value: Any) -> Any:
    """`value` with all floats in it cut to four digits."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return [rounded(item) for item in value] if isinstance(value, list) else value
