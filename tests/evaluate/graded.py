"""Evaluations with results and without an engine: `mgsrl eval`'s own files, of graded responses."""

from collections.abc import Mapping
from typing import Any

from mgsrl.evaluate.plan import TaskPlan
from mgsrl.evaluate.runner import Evaluation
from mgsrl.rewards.judge import PAIRWISE

SCORES = (8.0, 12.0)
"""What a judge gives to others and to good ones."""


def write_results(evaluation: Evaluation, good: Mapping[str, int]) -> None:
    """Store responses to all prompts of a planned evaluation, and its results.

    Args:
        good: by task, to how many prompts, the first ones, all responses are good.
    """
    for plan in evaluation.plans:
        numbers = {row.id: number for number, row in enumerate(plan.rows)}
        plan.files.add_samples(
            {
                "id": row.id,
                "sample": sample,
                "messages": [dict(message) for message in row.messages],
                "response": "",
                "finish_reason": "stop",
                "prompt_cut": False,
                "num_tokens": 1,
                "seconds": 0.1,
                "score": score(plan, numbers[row.id] < good[plan.task.name]),
            }
            for row, sample in plan.missing
        )
    evaluation.results()


def score(plan: TaskPlan, good: bool) -> dict[str, Any]:
    """What the task's scorer says of a response."""
    if plan.task.metric == "math":
        return {"value": float(good), "extracted": None}
    if plan.task.metric == "constraints":
        return {"strict": [good], "loose": [True], "instructions": 1}
    assert plan.judge is not None
    if plan.judge.judge_mode == PAIRWISE:
        return {"judge_wins": float(good), "judge_games": 1.0, "length_difference": 0}
    return {"judge_score": SCORES[good]}
