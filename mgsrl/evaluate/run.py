"""One evaluation of one model on several tasks: plan, sample, score, sum up.

    evaluation = Evaluation(settings)      # reads all rows, checks or stores the settings
    if evaluation.missing:
        evaluation.sample(model_folder)    # one engine for all tasks, freed at the end
    failed = evaluation.score()
    results = evaluation.results()         # also in results.json

Every stage does only what is not stored yet.
"""

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

from mgsrl.config.policy import PolicyConfig
from mgsrl.data.rows import Row
from mgsrl.errors import ConfigError, EndpointError, explain
from mgsrl.evaluate import sampling, scoring, summary
from mgsrl.evaluate.baseline import baseline_responses
from mgsrl.evaluate.judge import Judge
from mgsrl.evaluate.judge_config import JudgeConfig, judge_config_path, load_judge_config
from mgsrl.evaluate.metrics import Estimate
from mgsrl.evaluate.store import RESULTS, Key, SampleRow, TaskFiles, check_settings, stored_settings
from mgsrl.evaluate.task_rows import load_task
from mgsrl.evaluate.tasks import Task, TaskChoice
from mgsrl.obs.jsonl import jsonable, write_atomic
from mgsrl.obs.run_record import git_state, hardware, versions
from mgsrl.rewards.endpoint import Endpoint
from mgsrl.types import Sampling

OnProgress = Callable[[str, int, int], None]
"""(what, done, total)"""
JUDGE_CONCURRENCY = 16
JUDGE_LIMIT_S = 180.0
JUDGE_RETRIES = 3


@dataclass(frozen=True)
class EvalSettings:
    """What an evaluation is; defaults of the tasks hold where a value is None."""

    tasks: Sequence[TaskChoice]
    output: Path
    model: Mapping[str, Any]
    """What identifies the weights, JSON-able; a continued evaluation must have the same."""
    engine: str = "vllm"
    dtype: str = "auto"
    """Of the engine: `float32`, `bfloat16`, or `auto`: float32 on a CPU, bfloat16 on a GPU."""
    prompt_template: str = "chat"
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    date: str | None = None
    """The day that chat templates take for today; null is that on which the evaluation began."""
    seed: int = 0
    limits: Mapping[str, int] = field(default_factory=dict)
    """First rows used, by task; all where not named."""
    samples: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    max_new_tokens: int | None = None
    reward_model: str = ""
    baseline: Path | None = None
    judge_url: str = ""
    judge_model: str = ""
    judge_key_env: str = ""
    judge_config: Path | None = None


@dataclass
class TaskPlan:
    """One task, ready to run."""

    task: Task
    source: str
    rows: list[Row]
    samples: int
    sampling: Sampling
    files: TaskFiles
    judge: JudgeConfig | None = None
    baselines: dict[str, str] | None = None

    @property
    def keys(self) -> list[Key]:
        return [(row.id, sample) for row in self.rows for sample in range(self.samples)]

    @property
    def missing(self) -> list[tuple[Row, int]]:
        """(row, index of the sample) of the responses that are not stored."""
        stored = self.files.rows
        return [
            (row, sample)
            for row in self.rows
            for sample in range(self.samples)
            if (row.id, sample) not in stored
        ]

    @property
    def stored(self) -> list[SampleRow]:
        return [self.files.rows[key] for key in self.keys if key in self.files.rows]

    def settings(self) -> dict[str, Any]:
        """What a continued evaluation must have in common."""
        content = json.dumps([[r.id, r.messages, r.reference] for r in self.rows], sort_keys=True)
        return {
            "source": self.source,
            "rows": len(self.rows),
            "rows_sha256": hashlib.sha256(content.encode()).hexdigest()[:16],
            "samples_per_prompt": self.samples,
            **asdict(self.sampling),
            "judge": None if self.judge is None else asdict(self.judge),
            "baseline_sha256": _digest(self.baselines),
        }


class Evaluation:
    """See the module.

    Raises:
        UserError: anything wrong with tasks, data, baseline, judge or the output folder.
    """

    def __init__(self, settings: EvalSettings) -> None:
        self.settings = settings
        self.engine_seconds = self.scoring_seconds = 0.0
        stored = stored_settings(settings.output).get("date")
        self.date = settings.date or stored or date.today().isoformat()
        self.plans = [self._plan(choice) for choice in settings.tasks]
        self._reward_model = None
        if settings.reward_model:
            tag = scoring.missing_tag(settings.prompt_template)
            self._reward_model = scoring.reward_model_config(settings.reward_model, tag)
        check_settings(
            settings.output,
            {
                "model": dict(settings.model),
                "engine": settings.engine,
                "dtype": sampling.engine_dtype(settings.dtype),
                "prompt_template": settings.prompt_template,
                **self._template(),
                "seed": settings.seed,
                "tasks": {plan.task.name: self._of_task(plan) for plan in self.plans},
            },
        )

    def _template(self) -> dict[str, Any]:
        arguments = dict(self.settings.chat_template_kwargs)
        return {"date": self.date, **({"chat_template_kwargs": arguments} if arguments else {})}

    def _of_task(self, plan: TaskPlan) -> dict[str, Any]:
        if plan.task.kind != "chat":
            return plan.settings()
        return plan.settings() | {
            "reward_model": self.settings.reward_model,
            "judge_model": self.settings.judge_model,
        }

    @property
    def missing(self) -> int:
        """Responses that are not stored yet."""
        return sum(len(plan.missing) for plan in self.plans)

    def sample(self, model_path: str, on_progress: OnProgress) -> None:
        """Make and store the missing responses."""
        policy = PolicyConfig(
            path=model_path,
            prompt_template=self.settings.prompt_template,
            chat_template_kwargs=dict(self.settings.chat_template_kwargs),
            date=self.date,
        )
        maker = sampling.PromptMaker(policy, self.settings.seed)
        todo = [
            (plan, maker.requests(plan.task.name, plan.missing, plan.sampling))
            for plan in self.plans
            if plan.missing
        ]
        longest = max(
            len(item.request.token_ids) + item.request.sampling.max_new_tokens
            for _, requests in todo
            for item in requests
        )
        on_progress("starting the engine", 0, 0)
        begin = time.monotonic()
        with sampling.running_engine(
            self.settings.engine, self.settings.dtype, model_path, longest
        ) as engine:
            self.engine_seconds = time.monotonic() - begin
            for plan, requests in todo:
                store = _Store(plan, on_progress)
                store([])  # shows where it begins
                sampling.generate(engine, requests, store)

    def score(self, on_progress: OnProgress) -> list[EndpointError]:
        """Score what is not scored; the judge's calls that failed, which a rerun tries again."""
        failed: list[EndpointError] = []
        begin = time.monotonic()
        for plan in self.plans:
            by_id = {row.id: row for row in plan.rows}
            pairs = [(by_id[s["id"]], s) for s in plan.stored if "score" not in s]
            if pairs:
                failed += self._score(plan, pairs, on_progress)
            plan.files.finish(plan.keys)
        self.scoring_seconds = time.monotonic() - begin
        return failed

    def _score(
        self, plan: TaskPlan, pairs: Sequence[scoring.Pair], on_progress: OnProgress
    ) -> list[EndpointError]:
        what, done, failed = f"{plan.task.name}: scores", 0, []
        on_progress(what, 0, len(pairs))
        scorer = self._scorer(plan)
        try:
            for scores, errors in scoring.score_in_chunks(scorer, pairs):
                plan.files.add_scores(scores)
                failed += errors
                done += len(scores) + len(errors)
                on_progress(what, done, len(pairs))
                if errors and not scores:
                    break  # nobody answers: the rest would only wait for it
        finally:
            scorer.close()
        return failed

    def results(self) -> dict[str, Any]:
        """Metrics and counts of every task in the folder; written to results.json."""
        file = self.settings.output / RESULTS
        before = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        seconds = {
            name: round(before.get(name, 0.0) + of_this_call, 1)
            for name, of_this_call in (
                ("engine_start_seconds", self.engine_seconds),
                ("scoring_seconds", self.scoring_seconds),
            )
        }
        results = jsonable(
            {
                "model": dict(self.settings.model),
                "engine": self.settings.engine,
                "dtype": sampling.engine_dtype(self.settings.dtype),
                "prompt_template": self.settings.prompt_template,
                **self._template(),
                "seed": self.settings.seed,
                "tasks": before.get("tasks", {})
                | {plan.task.name: self._result(plan) for plan in self.plans},
                **seconds,  # of all calls that came to their end
                "versions": versions(),
                "hardware": hardware(),
                "git": git_state(),
            }
        )
        text = json.dumps(results, indent=2, ensure_ascii=False) + "\n"
        write_atomic(file, text)
        return results

    def _result(self, plan: TaskPlan) -> dict[str, Any]:
        groups = [
            [plan.files.rows[key]["score"] for key in keys]
            for row in plan.rows
            if (keys := _scored(plan, row.id))
        ]
        metrics: dict[str, Estimate] = {}
        if groups and plan.task.kind == "math":
            metrics = summary.math_metrics(groups)
        elif groups and plan.task.kind == "constraints":
            metrics = summary.constraint_metrics(groups)
        elif groups:
            control = plan.judge is not None and plan.judge.length_control
            metrics = summary.chat_metrics(groups, length_control=control)
        return {
            "kind": plan.task.kind,
            "metrics": {name: asdict(estimate) for name, estimate in metrics.items()},
            **summary.counts(plan.stored, len(plan.keys)),
            **self._of_task(plan),
            "citation": plan.task.citation,
        }

    # ---- planning --------------------------------------------------------------------------------

    def _plan(self, choice: TaskChoice) -> TaskPlan:
        task, wanted = choice.task, self.settings
        default = task.sampling
        own = Sampling(
            default.temperature if wanted.temperature is None else wanted.temperature,
            wanted.max_new_tokens or default.max_new_tokens,
            default.top_p if wanted.top_p is None else wanted.top_p,
        )
        samples = wanted.samples or task.samples
        if own.temperature == 0.0 and samples > 1:
            raise ConfigError(
                explain(
                    f"{task.name}: several greedy samples of a prompt are all the same.",
                    expected="--samples 1, or a temperature above 0",
                    found=f"{samples} samples at temperature 0",
                    todo="set --temperature, e.g. 0.6",
                )
            )
        plan = TaskPlan(
            task,
            choice.source.path,
            load_task(choice, wanted.limits.get(task.name)),
            samples,
            own,
            TaskFiles(wanted.output, task.name),
        )
        if task.kind == "chat":
            self._plan_chat(plan)
        return plan

    def _plan_chat(self, plan: TaskPlan) -> None:
        name, settings = plan.task.name, self.settings
        if not settings.reward_model and not settings.judge_url:
            raise ConfigError(
                explain(
                    f"Nothing would score the responses of {name}.",
                    expected="--reward-model PATH, or --judge-url URL with --judge-model NAME",
                    found="neither",
                    todo="name at least one of them",
                )
            )
        plan.baselines = baseline_responses(settings.baseline, name, plan.rows)
        if not settings.judge_url:
            return
        plan.judge = load_judge_config(judge_config_path(settings.judge_config, name))
        if plan.judge.mode == "pairwise" and plan.baselines is None:
            raise ConfigError(
                explain(
                    f"The judge of {name} compares with a baseline.",
                    expected="--baseline FILE (prompt, response) or the output of another eval",
                    found="none, and the task's rows bring none along",
                    todo="--baseline FILE.jsonl",
                )
            )

    def _scorer(self, plan: TaskPlan) -> scoring.TaskScorer:
        tag = scoring.missing_tag(self.settings.prompt_template)
        if plan.task.kind == "math":
            return scoring.MathScorer(tag)
        if plan.task.kind == "constraints":
            return scoring.ConstraintScorer(tag)
        judge = None
        if plan.judge is not None:
            endpoint = Endpoint(
                self.settings.judge_url,
                model=self.settings.judge_model,
                api_key_env=self.settings.judge_key_env,
                time_limit_s=JUDGE_LIMIT_S,
                max_retries=JUDGE_RETRIES,
                concurrency=JUDGE_CONCURRENCY,
            )
            judge = Judge(plan.judge, endpoint)
        model = scoring.Rewards(self._reward_model) if self._reward_model else None
        return scoring.ChatScorer(tag, model, judge, plan.baselines)


@dataclass(frozen=True)
class _Store:
    """Where responses of a task go as they come."""

    plan: TaskPlan
    on_progress: OnProgress

    def __call__(self, rows: list[SampleRow]) -> None:
        self.plan.files.add_samples(rows)
        what = f"{self.plan.task.name}: responses"
        self.on_progress(what, len(self.plan.stored), len(self.plan.keys))


def _scored(plan: TaskPlan, prompt_id: str) -> list[Key]:
    keys = [(prompt_id, sample) for sample in range(plan.samples)]
    return [key for key in keys if "score" in plan.files.rows.get(key, {})]


def _digest(value: object) -> str | None:
    if value is None:
        return None
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
