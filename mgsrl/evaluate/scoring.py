"""The score of each response: by verifier, constraint checker, reward model or judge.

Responses are scored as training scores them: the last `<response>` block where there is one. With
the chat template a response without a block counts as a whole; under the `prompted` template,
which asks for the block, it is wrong, follows nothing, and loses every comparison.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from mgsrl.config.reward import RewardConfig
from mgsrl.config.task import Task
from mgsrl.config.typed import read_config
from mgsrl.data.rows import Row
from mgsrl.errors import EndpointError
from mgsrl.evaluate.sampling import device
from mgsrl.evaluate.store import Key, SampleRow, key_of
from mgsrl.rewards.actor import cut
from mgsrl.rewards.factory import check_reward, make_reward
from mgsrl.rewards.judge import SCORE, Answer, Judge, JudgeConfig
from mgsrl.rewards.protocol import Response, RewardItem
from mgsrl.rollout.sampler import request_seed
from mgsrl.scoring.score_rows import ScoreRow
from mgsrl.scoring.score_workers import ScoreWorkers
from mgsrl.types import Reward

CHUNK = 64
"""Responses scored and stored at a time."""
MAX_WORKERS = 8
"""Verifier processes, as far as there are cores."""
Pair = tuple[Row, SampleRow]
Score = dict[str, Any]


class TaskScorer(Protocol):
    """Scores responses of one task."""

    def score(self, pairs: Sequence[Pair]) -> list[Score | EndpointError]:
        """One score per response, in order; an `EndpointError` is to be tried again later."""
        ...

    def close(self) -> None: ...


def missing_tag(prompt_template: str, otherwise: str = "zero") -> str:
    """What a response without a block is, see the module."""
    return "whole_response" if prompt_template == "chat" else otherwise


class Rewards:
    """A reward function of `mgsrl.rewards`, with as many workers as its kind can use.

    Args:
        date: the day that a reward model's chat template takes for today.
    """

    def __init__(self, config: RewardConfig, date: str | None = None) -> None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
        workers = min(cores, MAX_WORKERS) if make_reward(config).in_child else 1
        # A reward model makes its own batches; workers share out small ones.
        self._size = CHUNK if workers == 1 else CHUNK // MAX_WORKERS
        self._workers = ScoreWorkers(config, workers, date=date)
        self._workers.__enter__()

    def rewards(self, items: Sequence[Response | RewardItem]) -> list[Reward]:
        rows = [ScoreRow(index, item) for index, item in enumerate(items)]
        chunks = (rows[at : at + self._size] for at in range(0, len(rows), self._size))
        return [reward for _, reward in self._workers.score(chunks)]

    def close(self) -> None:
        self._workers.__exit__(None, None, None)


def scorer(task: Task, tag: str) -> TaskScorer:
    """What scores the responses of a task whose reward needs nothing from the command line."""
    keys = {**task.reward, "missing_tag": tag}
    if task.metric == "math":
        keys["refuse_restated"] = False  # published numbers' verifiers see no prompt
    make = ConstraintScorer if task.metric == "constraints" else ValueScorer
    return make(read_config(RewardConfig, keys))


class ValueScorer:
    """`value` of the task's reward (None: abstained), `extracted` of math, `format_ok`."""

    def __init__(self, config: RewardConfig) -> None:
        self._rewards = Rewards(config)

    def score(self, pairs: Sequence[Pair]) -> list[Score | EndpointError]:
        rewards = self._rewards.rewards([_item(row, sample) for row, sample in pairs])
        return [
            {"value": r.value, "extracted": r.details.get("extracted"), **_facts(r)}
            for r in rewards
        ]

    def close(self) -> None:
        self._rewards.close()


class ConstraintScorer:
    """`strict` and `loose`: one verdict for each of the `instructions` (None: abstained)."""

    def __init__(self, config: RewardConfig) -> None:
        self._strict = Rewards(config)
        self._loose = Rewards(replace(config, options=replace(config.options, strict=False)))

    def score(self, pairs: Sequence[Pair]) -> list[Score | EndpointError]:
        items = [_item(row, sample) for row, sample in pairs]
        both = zip(self._strict.rewards(items), self._loose.rewards(items), strict=True)
        return [
            {
                "strict": _followed(strict, item),
                "loose": _followed(loose, item),
                "instructions": len(item.reference["instruction_id_list"]),
                **_facts(strict),
            }
            for item, (strict, loose) in zip(items, both, strict=True)
        ]

    def close(self) -> None:
        self._strict.close()
        self._loose.close()


def _followed(reward: Reward, item: Response) -> list[bool] | None:
    if reward.abstained:
        return None
    # Without a block, or through a gate that is shut, nothing was followed.
    unmet = [False] * len(item.reference["instruction_id_list"])
    open_gates = all(reward.details.get("gates", []))
    return list(reward.details.get("followed", unmet)) if open_gates else unmet


@dataclass
class ChatScorer:
    """`reward` and `baseline_reward` of a reward model; a judge's verdict; `length_difference`.

    A response without the block that was asked for has no score of its own, for the reward model's
    0 is no worst one; `summary` counts it as lost.
    """

    prompt_template: str
    reward_model: "Rewards | None" = None
    judge: Judge | None = None
    baselines: Mapping[str, str] | None = None

    def score(self, pairs: Sequence[Pair]) -> list[Score | EndpointError]:
        tag = missing_tag(self.prompt_template, "abstain")
        cuts = [cut(_item(row, sample), tag) for row, sample in pairs]
        others = [] if self.baselines is None else _baselines(self.baselines, pairs)
        scores: list[Score] = [{"format_ok": each.format_ok} for each in cuts]
        for score, own, other in zip(scores, cuts, others, strict=False):
            length = len(own.text) if isinstance(own, RewardItem) else 0
            score["length_difference"] = length - len(other.text)
        if self.reward_model is not None:
            self._by_reward_model(self.reward_model, scores, cuts, others)
        if self.judge is None:
            return list(scores)
        texts = [other.text for other in others] or [""] * len(pairs)
        verdicts = self._by_judge(self.judge, pairs, cuts, texts)
        return [
            verdict if isinstance(verdict, EndpointError) else score | verdict
            for score, verdict in zip(scores, verdicts, strict=True)
        ]

    def close(self) -> None:
        if self.reward_model is not None:
            self.reward_model.close()
        if self.judge is not None:
            self.judge.close()

    @staticmethod
    def _by_reward_model(
        model: Rewards,
        scores: Sequence[Score],
        cuts: Sequence[RewardItem | Reward],
        others: Sequence[RewardItem],
    ) -> None:
        made = iter(model.rewards([each for each in cuts if isinstance(each, RewardItem)]))
        for score, each in zip(scores, cuts, strict=True):
            reward = next(made) if isinstance(each, RewardItem) else each
            score |= {"reward": reward.value, **_facts(reward)}
        for score, reward in zip(scores, model.rewards(others), strict=False):
            score["baseline_reward"] = reward.value

    @staticmethod
    def _by_judge(
        judge: Judge,
        pairs: Sequence[Pair],
        cuts: Sequence[RewardItem | Reward],
        baselines: Sequence[str],
    ) -> list[Score | EndpointError]:
        config, answers = judge.config, {}
        for index, ((row, sample), own) in enumerate(zip(pairs, cuts, strict=True)):
            if isinstance(own, RewardItem):
                answers[index] = Answer(
                    messages=row.messages,
                    text=own.text,
                    reference=str(row.reference.get("reference", "")),
                    baseline=baselines[index],
                    orders=_orders(config, f"{row.id}/{sample['sample']}"),
                )
        verdicts = iter(judge.ask(list(answers.values())))
        # No block, nothing to show: lost, or the lowest score, without asking.
        lost: Score = {
            "judge_wins": 0.0,
            "judge_games": 2.0 if config.judge_swap_positions else 1.0,
        }
        if config.judge_mode == SCORE:
            lost = {"judge_score": config.judge_min}
        return [next(verdicts) if index in answers else dict(lost) for index in range(len(pairs))]


def _orders(config: JudgeConfig, id_: str) -> tuple[bool, ...]:
    """Whether the baseline is answer A, per call."""
    if config.judge_mode == SCORE:
        return (False,)
    if config.judge_swap_positions:
        return (False, True)
    return (bool(request_seed(0, 0, id_, 0) & 1),)


def reward_model_config(path: str) -> RewardConfig:
    """Raises the user's mistakes that can be seen without loading it."""
    gpus = float(device() == "cuda")
    return check_reward(RewardConfig.of("reward_model", path=path, num_gpus=gpus), "--reward-model")


def score_in_chunks(
    scorer: TaskScorer, pairs: Sequence[Pair]
) -> Iterator[tuple[dict[Key, Score], list[EndpointError]]]:
    """Scores by key, and the calls that failed, chunk by chunk."""
    for start in range(0, len(pairs), CHUNK):
        chunk = pairs[start : start + CHUNK]
        scored: dict[Key, Score] = {}
        failed: list[EndpointError] = []
        for (_, sample), score in zip(chunk, scorer.score(chunk), strict=True):
            if isinstance(score, EndpointError):
                failed.append(score)
            else:
                scored[key_of(sample)] = score
        yield scored, failed


def _item(row: Row, sample: SampleRow) -> Response:
    return Response(row.messages, sample["response"], row.reference)


def _baselines(baselines: Mapping[str, str], pairs: Sequence[Pair]) -> list[RewardItem]:
    """Of each its own block, or all of it; never punished for a template it was not asked with."""
    cuts = [cut(Response(row.messages, baselines[row.id]), "whole_response") for row, _ in pairs]
    return [item for item in cuts if isinstance(item, RewardItem)]  # all are


def _facts(reward: Reward) -> Score:
    error = {} if reward.error is None else {"error": reward.error}
    return {"format_ok": reward.format_ok, **error}
