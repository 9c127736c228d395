r"""MATH's competition problems to train on, and rows of one's own: `prompt` and `answer`."""

from typing import Any

from mgsrl.data.layouts import last_boxed
from mgsrl.tasks import RowProblem, Split, Task


def boxed_answer(record: dict[str, Any]) -> dict[str, Any]:
    r"""MATH's `problem`, and its answer: what the solution's last `\boxed{}` holds, unless it has
    a column. Rows in another layout stay as they are.

    >>> boxed_answer({"problem": "x?", "solution": r"So $x=\boxed{\frac{1}{2}}$."})["answer"]
    '\\frac{1}{2}'
    """
    if "problem" not in record or "prompt" in record or "messages" in record:
        return record
    record = {**record, "prompt": record["problem"]}
    if "answer" in record:
        return record
    solution = record.get("solution")
    boxed = last_boxed(solution) if isinstance(solution, str) else None
    if boxed is None:
        raise RowProblem(
            r"an `answer`, or a `solution` with a closed \boxed{}", repr(solution)[:80]
        )
    return {**record, "answer": boxed}


TASK = Task(
    about="math: competition problems of five levels (MATH), or rows of your own: prompt, answer",
    reward={"kind": "math"},
    train=Split("DigitalLearningGmbH/MATH-lighteval", "train", rows=7_500),
    convert=boxed_answer,
    licence="MIT",
    citation="Hendrycks et al., arXiv 2103.03874, or rows of your own",
    unverified="the licence is that of the original",
)
