"""Scores stored responses without training: a data file in, JSON lines out (`mgsrl score`).

Two passes over the input: the first only checks every row, so that a bad one is reported at once
and not after an hour; the second scores. At most a few hundred rows are in memory. Results go to a
partial file beside the output that is renamed when it is complete; the partial file's name says
which input and options it belongs to and on which day it was begun; a later call continues it, with
that day for the templates of reward models.
"""

import datetime
import glob
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any

from mgsrl.cluster.demand import PROCESSES_PER_CORE
from mgsrl.cluster.preflight import usable_cores
from mgsrl.config.data import BAD_ROWS
from mgsrl.config.reward import REWARDS, RewardConfig, named_reward
from mgsrl.config.task import TASKS, Task
from mgsrl.config.typed import chosen_member, read_config
from mgsrl.errors import ConfigError, DataError, UserError, nearest
from mgsrl.obs.outputs import output_file
from mgsrl.rewards.factory import check_reward, rewards_of, row_needs
from mgsrl.scoring.score_rows import Layout, ScoreRow, read_rows
from mgsrl.scoring.score_workers import ScoreWorkers
from mgsrl.types import Reward

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
    """What was wrong with the first of them, with file and row."""


def task_of(domain: str) -> Task | None:
    """The task of that name; None where it names a domain or a kind of reward.

    Raises:
        ConfigError: a module or file that cannot be loaded.
    """
    if domain in _kinds() or (":" not in domain and domain not in TASKS.names()):
        return None
    found = TASKS.load(domain, "DOMAIN")
    return replace(found, name=domain) if isinstance(found, Task) else None


def default_reward(domain: str, keys: Mapping[str, Any] = MappingProxyType({})) -> RewardConfig:
    """The reward of a domain where no run or experiment says which.

    Args:
        domain: the domain that a kind of reward is for (`math`, `instruction_following`, `chat`),
            a kind itself (a class of the user's, `file.py:Class`, or a function), or a task.
        keys: of the reward, as in YAML.

    Raises:
        ConfigError: no such domain, kind or task, or keys that it does not have.
    """
    kinds = _kinds()
    task = task_of(domain)
    values = named_reward(kinds.get(domain, domain), "DOMAIN") if task is None else task.reward
    kind = chosen_member(RewardConfig, values)
    if ":" not in kind and kind not in REWARDS.names():
        names = nearest(domain, {*kinds, *TASKS.names()})
        raise _bad_argument("the domain", f"{names}; or your own: file.py:NAME", repr(domain))
    return read_config(RewardConfig, {**REWARDS.load(kind, "DOMAIN").domain_keys, **values, **keys})


def _kinds() -> dict[str, str]:
    """Domain, or kind of reward -> kind."""
    return {REWARDS.load(kind, "DOMAIN").domain or kind: kind for kind in REWARDS.members} | {
        kind: kind for kind in REWARDS.members
    }


def score_file(
    config: RewardConfig,
    input_path: Path,
    output_path: Path,
    *,
    layout: Layout | None = None,
    special_tokens: Sequence[str] = (),
    date: str | None = None,
    workers: int = 1,
    bad_rows: str = "error",
    force: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> ScoreSummary:
    """Score every row of `input_path`.

    Args:
        config: the reward, `default_reward` or a run's. A model computes on the GPU where there is
            one, whatever `num_gpus` is.
        input_path: a data file; rows with `response`, what the reward reads, and optionally `id`.
        output_path: rows with `id` (the input's, else the row's number), `reward` (null when it
            abstained), `abstained`, `details`, and `error` with the reason of an abstention.
        layout: how the input's rows are laid out.
        special_tokens: the policy's, which a model that judges must not see.
        date: the day that a reward model's chat template takes for today; None is that on which
            the scoring of the file began.
        workers: processes (math, constraints).
        bad_rows: `error` stops at the first row that cannot be scored, before anything is scored;
            `skip` leaves such rows out of the output and counts them.
        force: `output_path` may be replaced; never if it is `input_path`.
        on_progress: called with (rows done, rows in all).

    Raises:
        UserError: anything wrong with the arguments, the file or a row.
    """
    _check_workers(workers)
    if bad_rows not in BAD_ROWS:
        raise _bad_argument("--bad-rows", f"one of {', '.join(BAD_ROWS)}", repr(bad_rows))
    output_path = output_file(output_path, "OUTPUT", inputs=[input_path], force=force)
    config = check_reward(replace(config, num_gpus=_gpus(config)), "--reward-model")
    source = _Source(input_path, config, layout or Layout(), bad_rows == "skip")
    total = source.count()
    partial, date = source.partial_path(output_path, special_tokens, date)
    with ExitStack() as stack:
        pool = stack.enter_context(ScoreWorkers(config, workers, special_tokens, date))
        done = _resume(partial, source.rows())
        file = stack.enter_context(partial.open("a", encoding="utf-8"))
        rows = islice(source.rows(), done, None)
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
    return _summary(output_path, done, source)


def _gpus(config: RewardConfig) -> float:
    """GPUs for the models of this reward: as many as it wants and this process sees."""
    if not any(reward.model_path for reward in rewards_of(config)):
        return 0.0
    import torch

    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return float(min(found, max(1, int(config.num_gpus))))


def _check_workers(workers: int) -> None:
    most = PROCESSES_PER_CORE * usable_cores()
    if not 1 <= workers <= most:
        raise _bad_argument("--workers", f"1 to {most} on this machine", str(workers))


def _bad_argument(name: str, expected: str, found: str) -> UserError:
    return ConfigError(
        f"{name} is not valid.", expected=expected, found=found, todo="see mgsrl score --help"
    )


class _Source:
    """The input, read once to check every row, and again to score."""

    def __init__(self, path: Path, config: RewardConfig, layout: Layout, skip: bool) -> None:
        self.path = path
        self.config = config
        self.layout = layout
        self.skip = skip
        self.skipped = 0
        self.problems: list[str] = []

    def rows(self, on_bad: Callable[[DataError], None] | None = None) -> Iterator[ScoreRow]:
        """The rows that can be scored; bad ones, if they are skipped, go to `on_bad`."""
        return read_rows(
            self.path,
            row_needs(self.config),
            layout=self.layout,
            on_bad=(on_bad or (lambda error: None)) if self.skip else None,
        )

    def count(self) -> int:
        """Read every row once; returns how many can be scored. Raises DataError."""
        count = sum(1 for _ in self.rows(self._skip))
        if count == 0:
            content = f"{self.skipped} bad rows; {self.problems[0]}" if self.problems else "none"
            raise DataError(
                f"{self.path} has no rows to score.",
                expected="at least one",
                found=f"{self.path.stat().st_size} bytes, rows: {content}",
                todo="choose another file",
            )
        return count

    def _skip(self, error: DataError) -> None:
        self.skipped += 1
        if self.skipped <= SHOWN_PROBLEMS:
            self.problems.append(str(error))

    def partial_path(
        self, output: Path, special_tokens: Sequence[str], date: str | None
    ) -> tuple[Path, str]:
        """Where results go until they are complete, named by all that they depend on, and the day
        that templates take for today: `date`, or that of a file which is there."""
        status = self.path.stat()
        identity = [
            str(self.path.resolve()),
            status.st_size,
            status.st_mtime_ns,
            repr((self.config, self.layout, sorted(special_tokens))),
            self.layout.task and self.layout.task.name,
        ]
        digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:12]
        begun = sorted(output.parent.glob(f".{glob.escape(output.name)}.{digest}.*.partial"))
        if date is None:
            date = begun[-1].suffixes[-2][1:] if begun else str(datetime.date.today())
        return output.with_name(f".{output.name}.{digest}.{date}.partial"), date


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


def _summary(path: Path, resumed: int, source: _Source) -> ScoreSummary:
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
        skipped=source.skipped,
        problems=tuple(source.problems),
    )
