"""MT-Bench: the first of two turns. Left out: second turns."""

from collections.abc import Mapping
from typing import Any

from mgsrl.data.task_rows import column
from mgsrl.tasks import Sampling, Split, Task


def first_turn(record: dict[str, Any]) -> dict[str, Any]:
    """`turns` or `prompt` list the user's turns (Arena-Hard's too); the first is taken."""
    turns = column(record, ("turns", "prompt"))
    first = turns[0] if isinstance(turns, list) and turns else turns
    if isinstance(first, Mapping):
        first = first.get("content")
    id_ = record.get("question_id", record.get("prompt_id", record.get("uid")))
    reference = record.get("reference")
    if isinstance(reference, list):
        reference = reference[0] if reference else None
    return {"prompt": first, "id": None if id_ is None else str(id_), "reference": reference}


TASK = Task(
    about="chat: questions of eight kinds, scored from 1 to 10",
    reward={"kind": "reward_model"},
    test=Split("HuggingFaceH4/mt_bench_prompts", "train", rows=80),
    convert=first_turn,
    sampling=Sampling(temperature=0.7, max_new_tokens=1024),
    licence="Apache-2.0",
    citation="Zheng et al., arXiv 2306.05685",
)
