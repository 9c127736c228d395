"""One evaluation of one model on several tasks: plan, sample, score, sum up.

    evaluation = Evaluation(settings)      # reads all rows, checks the settings; writes nothing
    if evaluation.missing:
        evaluation.sample(model_folder)    # one engine for all tasks, freed at the end
    failed = evaluation.score()
    results = evaluation.results()         # also in results.json

Every stage does only what is not stored yet.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from typing import Any

from mgsrl.config.policy import PolicyConfig
from mgsrl.config.reward import TRAINING
from mgsrl.config.task import Task
from mgsrl.errors import ConfigError, EndpointError
from mgsrl.evaluate import sampling, scoring, summary
from mgsrl.evaluate.baseline import baseline_responses
from mgsrl.evaluate.judge_file import judge_config_path, load_judge_config
from mgsrl.evaluate.metrics import Estimate
from mgsrl.evaluate.plan import EvalSettings, TaskPlan
from mgsrl.evaluate.store import (
    RESULTS,
    Key,
    SampleRow,
    TaskFiles,
    check_folder,
    merged_settings,
    remove_evaluation,
    store_settings,
    stored_settings,
)
from mgsrl.evaluate.tasks import load_task, source_of
from mgsrl.files.jsonl import jsonable, write_atomic
from mgsrl.obs.run_record import git_state, hardware, versions
from mgsrl.rewards.judge import PAIRWISE, Judge
from mgsrl.rewards.protocol import Surroundings
from mgsrl.types import Sampling

OnProgress = Callable[[str, int, int], None]
"""(what, done, total)"""
JUDGE_SERVER = {"request_limit_s": 180.0, "max_retries": 3, "concurrency": 16}
"""How a judge is asked; as of the reward."""


class Evaluation:
    """See the module.

    Raises:
        UserError: anything wrong with tasks, data, baseline, judge or the output folder.
    """

    def __init__(self, settings: EvalSettings) -> None:
        check_folder(settings.output)
        self.settings = settings
        self.notes: list[str] = []
        """What the user should know before it begins."""
        self.engine_seconds = self.scoring_seconds = 0.0
        stored = None if settings.fresh else stored_settings(settings.output).get("date")
        self.date = settings.date or stored or date.today().isoformat()
        self.plans = [self._plan(task) for task in settings.tasks]
        self._reward_model = None
        if settings.reward_model:
            self._reward_model = scoring.reward_model_config(settings.reward_model)
        wanted = {
            "model": dict(settings.model),
            "engine": settings.engine,
            "dtype": sampling.engine_dtype(settings.dtype),
            "prompt_template": settings.prompt_template,
            **self._template(),
            "seed": settings.seed,
            "tasks": {plan.task.name: self._of_task(plan) for plan in self.plans},
        }
        self._to_store = wanted if settings.fresh else merged_settings(settings.output, wanted)

    def _template(self) -> dict[str, Any]:
        arguments = dict(self.settings.chat_template_kwargs)
        return {"date": self.date, **({"chat_template_kwargs": arguments} if arguments else {})}

    def _of_task(self, plan: TaskPlan) -> dict[str, Any]:
        if plan.task.metric == "constraints":
            return plan.settings() | {"reading": plan.task.reward.get("reading", TRAINING)}
        if plan.task.metric != "chat":
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
            if self.settings.fresh:
                remove_evaluation(self.settings.output)
            store_settings(self.settings.output, self._to_store)
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
        store_settings(self.settings.output, self._to_store)
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
        if groups and plan.task.metric == "math":
            metrics = summary.math_metrics(groups)
        elif groups and plan.task.metric == "constraints":
            metrics = summary.constraint_metrics(groups)
        elif groups and plan.task.metric == "score":
            metrics = summary.score_metrics(groups)
        elif groups:
            control = plan.judge is not None and plan.judge.judge_length_control
            metrics = summary.chat_metrics(groups, length_control=control)
        return {
            "kind": plan.task.metric,
            "metrics": {name: asdict(estimate) for name, estimate in metrics.items()},
            **summary.counts(plan.stored, len(plan.keys)),
            **self._of_task(plan),
            "citation": plan.task.citation,
        }

    # ---- planning --------------------------------------------------------------------------------

    def _plan(self, task: Task) -> TaskPlan:
        wanted, default = self.settings, task.sampling
        own = Sampling(
            default.temperature if wanted.temperature is None else wanted.temperature,
            self._new_tokens(task),
            default.top_p if wanted.top_p is None else wanted.top_p,
        )
        samples = wanted.samples or task.samples
        if own.temperature == 0.0 and samples > 1:
            raise ConfigError(
                f"{task.name}: several greedy samples of a prompt are all the same.",
                expected="--samples 1, or a temperature above 0",
                found=f"{samples} samples at temperature 0",
                todo="set --temperature, e.g. 0.6",
            )
        plan = TaskPlan(
            task,
            source_of(task),
            load_task(task, wanted.limits.get(task.name)),
            samples,
            own,
            TaskFiles(wanted.output, task.name, fresh=wanted.fresh),
        )
        if task.metric == "chat":
            self._plan_chat(plan)
        return plan

    def _new_tokens(self, task: Task) -> int:
        wanted, default = self.settings.max_new_tokens, task.sampling.max_new_tokens
        number = sampling.new_tokens(task.name, wanted, default, self.settings.positions)
        if wanted is None and number < default:
            self.notes.append(
                f"{task.name}: at most {number} new tokens instead of {default}, half of the "
                "model's context; --max-new-tokens sets another limit"
            )
        return number

    def _plan_chat(self, plan: TaskPlan) -> None:
        name, settings = plan.task.name, self.settings
        if not settings.reward_model and not settings.judge_url:
            raise ConfigError(
                f"Nothing would score the responses of {name}.",
                expected="--reward-model PATH, or --judge-url URL with --judge-model NAME",
                found="neither",
                todo="name at least one of them",
            )
        plan.baselines = baseline_responses(settings.baseline, name, plan.rows)
        if not settings.judge_url:
            return
        plan.judge = load_judge_config(
            judge_config_path(settings.judge_config, name),
            url=settings.judge_url,
            model=settings.judge_model,
            api_key_env=settings.judge_key_env,
            **JUDGE_SERVER,
        )
        if plan.judge.judge_mode == PAIRWISE and plan.baselines is None:
            raise ConfigError(
                f"The judge of {name} compares with a baseline.",
                expected="--baseline FILE (prompt, response) or the output of another eval",
                found="none, and the task's rows bring none along",
                todo="--baseline FILE.jsonl",
            )

    def _scorer(self, plan: TaskPlan) -> scoring.TaskScorer:
        template = self.settings.prompt_template
        if plan.task.metric != "chat":
            return scoring.scorer(plan.task, scoring.missing_tag(template))
        judge = None
        if plan.judge is not None:
            judge = Judge(plan.judge)
            judge.load(Surroundings())
        model = scoring.Rewards(self._reward_model, self.date) if self._reward_model else None
        return scoring.ChatScorer(template, model, judge, plan.baselines)


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
