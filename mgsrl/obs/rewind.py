"""Resuming: take back what an interrupted run logged after the checkpoint that it resumes from."""

from collections.abc import Iterator
from pathlib import Path

from mgsrl.files.jsonl import read_rows, rewrite, torn_bytes
from mgsrl.obs import rollout_log, surgery_log
from mgsrl.obs.evaluation_log import FILE as EVALUATIONS
from mgsrl.obs.metrics import FILE as METRICS


def torn_logs(run_dir: Path) -> list[str]:
    """In words: what a process that was killed left of a line, and `rewind_logs` drops."""
    return [
        f"{name} ended within a line (the process that wrote it was killed): {size} bytes are "
        "dropped"
        for name in (METRICS, EVALUATIONS)
        if (size := torn_bytes(run_dir / name))
    ]


def rewind_logs(run_dir: Path, *, next_step: int, weight_version: int) -> None:
    """Drop what is logged under `next_step` (the next step to be run and logged) or later, and
    lines that are not whole.

    Evaluations are numbered by the version of the weights: those of versions above
    `weight_version` (the restored one) are of weights that no longer exist, and go.
    """
    rewrite(run_dir / METRICS, lambda row: row.get("step", -1) < next_step)
    rewrite(run_dir / EVALUATIONS, lambda row: row.get("step", -1) <= weight_version)
    for step, part in _parts(run_dir):
        if step >= next_step:
            part.unlink()


def last_logged_step(run_dir: Path) -> int:
    """The last step that any log of the run has anything of; 0 when there is none.

    Raises:
        DataError: a log is damaged.
    """
    steps = [0]
    for name in (METRICS, EVALUATIONS):
        steps += [
            step for row in read_rows(run_dir / name) if isinstance(step := row.get("step"), int)
        ]
    steps += [number for number, _ in _parts(run_dir)]
    return max(steps)


def _parts(run_dir: Path) -> Iterator[tuple[int, Path]]:
    """The logs that are one file a step, with their steps."""
    for folder in (rollout_log.FOLDER, surgery_log.FOLDER):
        for part in sorted((run_dir / folder).glob("*_*.*")):
            name, _, number = part.stem.rpartition("_")
            if number.isdigit() and name in surgery_log.SCHEMAS:  # `step` is of rollouts as well
                yield int(number), part
