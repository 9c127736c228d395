"""The responses that a model is compared with, from a file of outputs or another evaluation."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mgsrl.data.rows import Row
from mgsrl.errors import DataError
from mgsrl.files.records import read_records

RESPONSE_COLUMNS = ("response", "output", "answer")
PROMPT_COLUMNS = ("messages", "prompt", "instruction")


def baseline_responses(path: Path | None, task: str, rows: Sequence[Row]) -> dict[str, str] | None:
    """Prompt id -> the baseline's response, for all `rows`; None without a baseline.

    Args:
        path: a file (`response` | `output` | `answer`, with `messages` | `prompt` | `instruction`
            or an `id`), the output folder of another evaluation, or None: then what the task's
            own rows bring along (AlpacaEval's do).

    Raises:
        DataError: a response is missing.
    """
    if path is None:
        own = {
            row.id: str(row.reference["baseline"]) for row in rows if "baseline" in row.reference
        }
        return own if len(own) == len(rows) else None
    file = path / "samples" / f"{task}.jsonl" if path.is_dir() else path
    by_prompt: dict[str, str] = {}
    by_id: dict[str, str] = {}
    for _, record in read_records(file, key="--baseline"):
        if not isinstance(record, Mapping):
            continue  # a line that is no row has no response; the check below counts it
        response = next(
            (record[c] for c in RESPONSE_COLUMNS if isinstance(record.get(c), str)), None
        )
        if response is None:
            continue
        for column in PROMPT_COLUMNS:
            if record.get(column):
                by_prompt.setdefault(_prompt_text(record[column]), response)
        if record.get("id") is not None:
            by_id.setdefault(str(record["id"]), response)
    found = {}
    for row in rows:
        # Prompts first: an id in a file of another origin may be a mere row number.
        response = by_prompt.get(_prompt_text(row.messages))
        if response is None and not by_prompt:
            response = by_id.get(row.id)
        if response is not None:
            found[row.id] = response
    if len(found) < len(rows):
        missing = next(row for row in rows if row.id not in found)
        raise DataError(
            f"{file} lacks responses for {len(rows) - len(found)} of {len(rows)} prompts of "
            f"{task}.",
            expected="one row per prompt with the same prompt text (or, in a file without "
            "prompts, the same id) and a response",
            found=f"none for {missing.id!r}: {missing.messages[-1]['content'][:80]!r}",
            todo="name a file with the baseline's answers to the same prompts",
        )
    return found


def _prompt_text(value: Any) -> str:
    """One text per conversation: a prompt and the messages that hold it alone are the same."""
    if isinstance(value, str):
        return value.strip()
    if len(value) == 1:
        return str(value[0].get("content", "")).strip()
    return "\x1f".join(f"{m.get('role')}\x1e{str(m.get('content')).strip()}" for m in value)
