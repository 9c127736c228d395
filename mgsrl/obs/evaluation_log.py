"""`evaluations.jsonl`: one line per step and domain with the held-out score and its error.

The record lives here, below `evaluate/` (which computes it) and `report/` (which shows it), so
that neither has to import the other. Left out: per-prompt scores.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from mgsrl.errors import DataError, shortened
from mgsrl.files.jsonl import dump_line, is_number, read_rows, write_atomic

FILE = "evaluations.jsonl"


@dataclass(frozen=True, slots=True)
class EvalResult:
    """One domain's held-out score at one step."""

    step: int
    """Steps of the run (batches trained on) behind the evaluated weights, which is their version;
    0 is the policy before training."""
    domain: str
    mean: float
    """Mean over prompts of the prompt's mean reward; NaN if everything abstained."""
    standard_error: float
    """Of `mean`, over prompts; NaN with fewer than two prompts."""
    n: int
    """Prompts with at least one scored response."""
    num_samples: int
    """Responses generated, abstained ones included."""
    mean_length: float
    """Response tokens."""
    format_ok: float
    """Share of responses with a complete `<response>` block."""
    abstained: float
    """Share of responses whose reward abstained."""


def append_evaluations(run_dir: Path, results: Iterable[EvalResult]) -> None:
    """Add `results`; an earlier line of the same step and domain is replaced."""
    path = run_dir / FILE
    new = [asdict(result) for result in results]
    replaced = {(row["step"], row["domain"]) for row in new}
    kept = [r for r in read_rows(path) if (r.get("step"), r.get("domain")) not in replaced]
    write_atomic(path, "".join(dump_line(row) for row in kept + new))


def read_evaluations(run_dir: Path) -> list[EvalResult]:
    """All results by step, in the order of writing within a step; none if never evaluated.

    Raises:
        DataError: a damaged line that is not the last, or one that is no result.
    """
    results = [_from_row(row) for row in read_rows(run_dir / FILE)]
    return sorted(results, key=lambda result: result.step)


def _from_row(row: Mapping[str, Any]) -> EvalResult:
    # null stands for NaN in the file; fields that a newer version added are ignored
    values: dict[str, Any] = {
        f.name: math.nan if row.get(f.name) is None else row[f.name] for f in fields(EvalResult)
    }
    step, domain, *numbers = values.values()
    if not (type(step) is int and isinstance(domain, str) and all(map(is_number, numbers))):
        raise DataError(
            f"{FILE} is damaged.",
            expected="a step, the name of a domain and numbers in every line",
            found=shortened(dump_line(row).strip()),
            todo="restore the file from a copy, or remove that line",
        )
    return EvalResult(**values)


def best_text(
    name: str, score: float, improvements: Mapping[str, float], learnt: bool = True
) -> str:
    """One line on the best checkpoint, which may be no better than the start.

    Args:
        name: of the checkpoint.
        score: its mean improvement over the domains (`evaluate/pareto.py`).
        improvements: domain -> held-out reward minus the first one.
        learnt: whether any training step could teach anything; what differs then is luck.
    """
    gains = ", ".join(f"{domain} {gain:+.3f}" for domain, gain in improvements.items())
    since = f"{name} (since the first evaluation: {gains})"
    if not learnt:
        return (
            f"no checkpoint is better than the policy before training: nothing was learnt; {since}"
        )
    if score <= 0:
        return f"no checkpoint is better than the policy before training; the nearest is {since}"
    return f"best checkpoint: {since}"
