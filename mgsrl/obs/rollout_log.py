"""A few sampled generations per domain and step, with their rewards, as JSON lines.

`rollouts/step_000007.jsonl` holds one response a line; all responses of a group are stored, so
that one sees what the advantage compared. A step's file is written whole and renamed: doing the
step again after a resume replaces it. Left out: token ids and log-probabilities (large; the text
and the weight version say what happened).
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mgsrl.files.jsonl import dump_line, read_rows, write_atomic
from mgsrl.types import RolloutGroup

FOLDER = "rollouts"


def write_rollouts(
    run_dir: Path, step: int, groups: Mapping[str, Sequence[RolloutGroup]], groups_per_domain: int
) -> Path | None:
    """Store the first `groups_per_domain` groups of each domain; 0 stores nothing.

    The mixture shuffles the prompts, so the first groups are a fair sample.
    """
    if groups_per_domain <= 0:
        return None
    rows = rollout_rows(step, groups, groups_per_domain)
    path = run_dir / FOLDER / f"step_{step:06d}.jsonl"
    write_atomic(path, "".join(dump_line(row) for row in rows))
    return path


def rollout_rows(
    step: int, groups: Mapping[str, Sequence[RolloutGroup]], groups_per_domain: int
) -> list[dict[str, Any]]:
    """One row a response, of the first `groups_per_domain` groups of each domain."""
    return [
        row
        for domain_groups in groups.values()
        for group in domain_groups[:groups_per_domain]
        for row in _rows(step, group)
    ]


def stored_steps(run_dir: Path) -> dict[int, Path]:
    """The steps with stored generations, ascending, and their files."""
    found = {}
    for path in sorted((run_dir / FOLDER).glob("step_*.jsonl")):
        number = path.stem.removeprefix("step_")
        if number.isdigit():
            found[int(number)] = path
    return found


def read_rollouts(run_dir: Path, step: int) -> list[dict[str, Any]]:
    """The rows of one step; none if nothing was stored."""
    return read_rows(run_dir / FOLDER / f"step_{step:06d}.jsonl")


def _rows(step: int, group: RolloutGroup) -> Iterator[dict[str, Any]]:
    for index, rollout in enumerate(group.rollouts):
        reward = group.rewards[index] if index < len(group.rewards) else None
        yield {
            "step": step,
            "domain": group.prompt.domain,
            "prompt_id": group.prompt.id,
            "sample": index,
            "messages": list(group.prompt.messages),
            "response": rollout.text,
            "num_tokens": len(rollout.token_ids),
            "finish_reason": rollout.finish_reason,
            "weight_version": rollout.weight_version,
            "version_changes": list(rollout.version_changes),
            "reward": reward.value if reward else None,
            "format_ok": reward.format_ok if reward else None,
            "details": reward.details if reward else {},
            "error": reward.error if reward else None,
            "advantage": group.advantages[index] if index < len(group.advantages) else None,
        }
