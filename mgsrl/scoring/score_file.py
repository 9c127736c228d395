"""Scores stored responses without training: JSON lines in, JSON lines out (`mgsrl score`).

Two passes over the input: the first only checks every row, so that a bad one is reported at once
and not after an hour; the second scores. At most a few hundred rows are in memory. Results go to a
partial file beside the output that is renamed when it is complete; the partial file's name says
which input and options it belongs to, and a later call with the same continues it.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from mgsrl.config.data import BAD_ROWS
from mgsrl.config.reward import RewardConfig
from mgsrl.errors import ConfigError, DataError, UserError, explain, nearest
from mgsrl.rewards.build import check_reward, validator
from mgsrl.scoring.score_rows import ScoreRow, read_rows
from mgsrl.scoring.score_workers import ScoreWorkers
from mgsrl.types import Reward

DOMAINS = {
    "math": "math",
    "instruction_following": "constraints",
    "constraints": "constraints",
    "chat": "reward_model",
    "reward_model": "reward_model",
}
SHOWN_PROBLEMS = 5
CHUNK = 32
"""Rows handed to a worker at a time."""


@dataclass(frozen=True, slots=True)
class ScoreSummary:
    rows: int
    resumed: int
    """Rows that an earlier, interrupted call had scored."""
    mean_reward: float | None
    """Over the rows that did not abstain; None when all did."""
    abstained: int
    without_block: int
    """Rows whose response held no complete `<response>` block."""
    skipped: int
    """Rows left out under `bad_rows=skip`; they have no row in the output."""
    problems: tuple[str, ...]
    """What was wrong with the first of them, with file and line."""


def score_file(
    domain_kind: str,
    input_path: Path,
    output_path: Path,
    *,
    loose: bool = False,
    whole_response: bool = False,
    workers: int = 1,
    reward_model: str = "pocket",
    bad_rows: str = "error",
    on_progress: Callable[[int, int], None] | None = None,
) -> ScoreSummary:
    """Score every row of `input_path`.

    Args:
        domain_kind: a key of `DOMAINS`.
        input_path: rows with `response`, `prompt` (chat), `answer` (math) or
            `instruction_id_list` and `kwargs` (instruction following), and optionally `id`.
        output_path: rows with `id` (the input's, else the line number), `reward` (null when it
            abstained), `abstained`, `details`, and `error` with the reason of an abstention.
        loose: constraints: also accept IFEval's loose variants.
        whole_response: the responses hold no tags; score all of their text.
        workers: processes (math, constraints).
        reward_model: chat: `pocket`, a folder or a hub id.
        bad_rows: `error` stops at the first row that cannot be scored, before anything is scored;
            `skip` leaves such rows out of the output and counts them.
        on_progress: called with (rows done, rows in all).

    Raises:
        UserError: anything wrong with the arguments, the file or a row.
    """
    config = _config(domain_kind, loose, whole_response, reward_model)
    if workers < 1:
        raise _bad_argument("--workers", "an integer of at least 1", str(workers))
    config = check_reward(config, "--reward-model")
    if bad_rows not in BAD_ROWS:
        raise _bad_argument("--bad-rows", f"one of {', '.join(BAD_ROWS)}", repr(bad_rows))
    check = _Check(bad_rows == "skip")
    total = check.count(input_path, config)
    partial = _partial_path(input_path, output_path, config)
    with ExitStack() as stack:
        pool = stack.enter_context(ScoreWorkers(config, workers))
        done = _resume(partial, _rows(input_path, config, check.on_bad))
        file = stack.enter_context(partial.open("a", encoding="utf-8"))
        rows = islice(_rows(input_path, config, check.on_bad), done, None)
        for count, (row, reward) in enumerate(pool.score(_chunks(rows)), start=done + 1):
            file.write(json.dumps(_output(row, reward)) + "\n")
            if count % CHUNK == 0:
                file.flush()
            if on_progress is not None:
                on_progress(count, total)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(output_path)
    for stale in output_path.parent.glob(f".{output_path.name}.*.partial"):
        stale.unlink()
    return _summary(output_path, done, check)


def _config(kind: str, loose: bool, whole_response: bool, reward_model: str) -> RewardConfig:
    if kind not in DOMAINS:
        raise _bad_argument("the domain", nearest(kind, DOMAINS), repr(kind))
    return RewardConfig(
        kind=DOMAINS[kind],
        path=reward_model,
        strict=not loose,
        missing_tag="whole_response" if whole_response else "zero",
        num_gpus=float(DOMAINS[kind] == "reward_model" and _sees_gpu()),
    )


def _sees_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _bad_argument(name: str, expected: str, found: str) -> UserError:
    return ConfigError(
        explain(
            f"{name} is not valid.", expected=expected, found=found, todo="see mgsrl score --help"
        )
    )


OnBad = Callable[[DataError], None]


def _rows(path: Path, config: RewardConfig, on_bad: OnBad | None) -> Iterator[ScoreRow]:
    needs_prompt = config.kind == "reward_model"
    return read_rows(path, validator(config), needs_prompt=needs_prompt, on_bad=on_bad)


class _Check:
    """The first pass over the input, and what it found."""

    def __init__(self, skip: bool) -> None:
        self.skipped = 0
        self.problems: list[str] = []
        self.on_bad: OnBad | None = (lambda error: None) if skip else None
        """What later passes do with the bad rows that this one has counted."""

    def count(self, path: Path, config: RewardConfig) -> int:
        """Read every row once; returns how many can be scored. Raises DataError."""
        count = sum(1 for _ in _rows(path, config, self._skip if self.on_bad else None))
        if count == 0:
            content = f"{self.skipped} bad rows; {self.problems[0]}" if self.problems else "none"
            raise DataError(
                explain(
                    f"{path} has no rows to score.",
                    expected="one JSON object a line",
                    found=f"{path.stat().st_size} bytes, rows: {content}",
                    todo="choose another file",
                )
            )
        return count

    def _skip(self, error: DataError) -> None:
        self.skipped += 1
        if self.skipped <= SHOWN_PROBLEMS:
            self.problems.append(str(error))


def _partial_path(input_path: Path, output_path: Path, config: RewardConfig) -> Path:
    folder = output_path.resolve().parent
    if output_path.is_dir() or not folder.is_dir():
        found = f"{output_path} is a folder" if output_path.is_dir() else f"no folder {folder}"
        raise _bad_argument("the output path", "a file in a folder that exists", found)
    status = input_path.stat()
    identity = [str(input_path.resolve()), status.st_size, status.st_mtime_ns, repr(config)]
    digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:12]
    return output_path.with_name(f".{output_path.name}.{digest}.partial")


def _resume(partial: Path, rows: Iterator[ScoreRow]) -> int:
    """How many rows the partial file holds; a last line cut short is cut away."""
    if not partial.exists():
        return 0
    done = good_bytes = 0
    with partial.open("rb") as file:
        for line, row in zip(file, rows, strict=False):
            if not line.endswith(b"\n") or json.loads(line)["id"] != row.id:
                break
            done += 1
            good_bytes += len(line)
    os.truncate(partial, good_bytes)
    return done


def _chunks(rows: Iterator[ScoreRow]) -> Iterator[list[ScoreRow]]:
    while chunk := list(islice(rows, CHUNK)):
        yield chunk


def _output(row: ScoreRow, reward: Reward) -> dict[str, Any]:
    details = {"format_ok": reward.format_ok, **reward.details}
    output = {
        "id": row.id,
        "reward": reward.value,
        "abstained": reward.abstained,
        "details": details,
    }
    return output if reward.error is None else {**output, "error": reward.error}


def _summary(path: Path, resumed: int, check: _Check) -> ScoreSummary:
    total = scored = without_block = 0
    reward_sum = 0.0
    with path.open(encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            total += 1
            without_block += not row["details"]["format_ok"]
            if row["reward"] is not None:
                scored += 1
                reward_sum += row["reward"]
    mean = reward_sum / scored if scored else None
    return ScoreSummary(
        rows=total,
        resumed=resumed,
        mean_reward=mean,
        abstained=total - scored,
        without_block=without_block,
        skipped=check.skipped,
        problems=tuple(check.problems),
    )
