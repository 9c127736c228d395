"""From scored samples to the metrics of a task.

A response on which the verifier abstained (time-out, crash, no means to decide) counts as wrong,
as in other harnesses; one that a reward model or a judge could not score is left out, since there
is no score to give it. Both are counted in `abstained`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from mgsrl.evaluate.metrics import (
    Estimate,
    average,
    ks,
    length_controlled_win_rate,
    maj_at_k,
    normalise_answer,
    pass_at_k,
    proportion,
    ratio,
    win,
)
from mgsrl.evaluate.store import SampleRow
from mgsrl.obs.metrics import mean

Group = Sequence[Mapping[str, Any]]
"""Scores of the samples of one prompt."""


def math_metrics(groups: Sequence[Group]) -> dict[str, Estimate]:
    """`avg@n`, and with several samples `pass@k` and `maj@k` for the k of `ks`."""
    sizes = {len(group) for group in groups}
    n = min(sizes)
    metrics = {f"avg@{n}": proportion([mean(_correct(group)) for group in groups])}
    for k in ks(n)[1:] if len(sizes) == 1 else []:
        metrics[f"pass@{k}"] = proportion(
            [pass_at_k(n, sum(_correct(group)), k) for group in groups]
        )
        metrics[f"maj@{k}"] = proportion([_majority(group, k) for group in groups])
    return metrics


def score_metrics(groups: Sequence[Group]) -> dict[str, Estimate]:
    """`score`: the mean reward."""
    values = _means(groups, lambda s: s["value"])
    return {"score": average(values)} if values else {}


def _correct(group: Group) -> list[bool]:
    return [score["value"] == 1 for score in group]


def _majority(group: Group, k: int) -> float:
    answers = [normalise_answer(score["extracted"]) for score in group]
    return maj_at_k(answers, _correct(group), k)


def constraint_metrics(groups: Sequence[Group]) -> dict[str, Estimate]:
    """IFEval's four: all instructions of a prompt, and single instructions; strict and loose."""
    metrics = {}
    for mode in ("strict", "loose"):
        verdicts = [[score[mode] for score in group] for group in groups]
        metrics[f"prompt_{mode}"] = proportion(
            [mean(bool(v) and all(v) for v in of_prompt) for of_prompt in verdicts]
        )
    for mode in ("strict", "loose"):
        verdicts = [[score[mode] for score in group] for group in groups]
        # Abstained: as many instructions as its prompt has, none followed.
        wholes = [sum(score["instructions"] for score in group) for group in groups]
        parts = [sum(sum(v or []) for v in of_prompt) for of_prompt in verdicts]
        metrics[f"instruction_{mode}"] = ratio(parts, wholes)
    return metrics


def chat_metrics(groups: Sequence[Group], *, length_control: bool) -> dict[str, Estimate]:
    """What the scores hold: `judge_score`, `judge_win_rate` (`_lc`), `rm_win_rate`, `rm_score`."""
    metrics = {}
    scores = _means(groups, lambda s: s.get("judge_score"))
    if scores:
        metrics["judge_score"] = average(scores)
    judged = [[s for s in group if s.get("judge_games")] for group in groups]
    judged = [group for group in judged if group]
    if judged:
        metrics["judge_win_rate"] = ratio(
            [sum(s["judge_wins"] for s in group) for group in judged],
            [sum(s["judge_games"] for s in group) for group in judged],
        )
    if judged and length_control:
        metrics["judge_win_rate_lc"] = length_controlled_win_rate(
            [mean(s["judge_wins"] / s["judge_games"] for s in group) for group in judged],
            [mean(s["length_difference"] for s in group) for group in judged],
        )
    wins = _means(groups, _reward_win)
    if wins:
        metrics["rm_win_rate"] = proportion(wins)
    rewards = _means(groups, lambda s: s.get("reward"))
    if rewards:
        metrics["rm_score"] = average(rewards)
    return metrics


def _reward_win(score: Mapping[str, Any]) -> float | None:
    """1, 1/2 or 0; None without a comparison. A response without its block is lost."""
    other = score.get("baseline_reward")
    if other is None:
        return None
    if score["reward"] is None:
        return 0.0 if not score["format_ok"] else None
    return win(score["reward"], other)


def _means(groups: Sequence[Group], value: Any) -> list[float]:
    """Per prompt the mean of what its samples have; prompts with nothing are left out."""
    found = ([v for score in group if (v := value(score)) is not None] for group in groups)
    return [mean(values) for values in found if values]


def counts(samples: Sequence[SampleRow], expected: int) -> dict[str, Any]:
    """What the metrics do not say: how many, how long, how much was cut or left out."""
    scores = [row["score"] for row in samples if "score" in row]
    tokens = sum(row["num_tokens"] for row in samples)
    seconds = sum(row["seconds"] for row in samples)
    return {
        "prompts": len({row["id"] for row in samples}),
        "responses": len(samples),
        "unscored": expected - len(scores),
        "abstained": sum("error" in score or "judge_error" in score for score in scores),
        "without_block": sum(not score.get("format_ok", True) for score in scores),
        "truncated": mean(row["finish_reason"] == "length" for row in samples),
        "prompts_cut": sum(row["prompt_cut"] for row in samples),
        "mean_tokens": mean(row["num_tokens"] for row in samples),
        "tokens": tokens,
        "seconds": round(seconds, 2),
        "tokens_per_second": round(tokens / seconds, 1) if seconds else None,
    }
