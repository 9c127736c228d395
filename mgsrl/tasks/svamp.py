"""SVAMP: simple word problems with a body and a question."""

from typing import Any

from mgsrl.data.task_rows import column
from mgsrl.tasks import BOXED, Split, Task


def whole_problem(record: dict[str, Any]) -> dict[str, Any]:
    """Body and question in one; some bodies lack the full stop."""
    if "question_concat" in record or "Body" not in record:
        return record
    body = str(record["Body"]).strip()
    end = "" if body.endswith((".", ",", "!", "?", ";", ":")) else "."
    return {**record, "question_concat": f"{body}{end} {column(record, 'Question')}"}


TASK = Task(
    about="math: elementary word problems, varied in structure",
    reward={"kind": "math"},
    train=Split("ChilleD/SVAMP", "train", rows=700),
    test=Split("ChilleD/SVAMP", "test", rows=300),
    convert=whole_problem,
    columns={
        "prompt": ("question_concat", "question", "prompt"),
        "answer": ("Answer", "result", "answer"),
        "id": "",
    },
    prompt_suffix=BOXED,
    licence="MIT",
    citation="Patel et al., arXiv 2103.07191",
)
