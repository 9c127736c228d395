"""Evaluation on held-out prompts while a run trains, forgetting, and the best checkpoint."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from mgsrl.config import CheckpointConfig, EvaluateConfig
from mgsrl.evaluate.heldout import heldout_results
from mgsrl.evaluate.pareto import BestStep, best_step
from mgsrl.obs.evaluation_log import FILE as EVALUATIONS
from mgsrl.obs.evaluation_log import append_evaluations, best_text, read_evaluations
from mgsrl.obs.forgetting import forgetting, forgetting_alarm
from mgsrl.report.evaluation_matrix import CONSOLE_COLUMNS, console_table, evaluation_matrix
from mgsrl.rewards.scorer import Scorer
from mgsrl.rollout.sampler import Sampler
from mgsrl.training.checkpoint import BEST, checkpoint_steps, write_best
from mgsrl.training.journal import Journal
from mgsrl.types import Prompt, Sampling


@dataclass
class Evaluation:
    """Held-out rewards before the first step, every `config.every` steps and at the end."""

    config: EvaluateConfig
    checkpoints: CheckpointConfig
    prompts: Mapping[str, Sequence[Prompt]]
    """By domain; empty when nothing is held out."""
    sampling: Mapping[str, Sampling]
    sampler: Sampler
    scorer: Scorer
    journal: Journal

    def due(self, step: int, num_steps: int) -> bool:
        """Whether the weights after `step` steps are still to be evaluated."""
        due = self.config.is_due(step, num_steps)
        done = any(result.step == step for result in read_evaluations(self.journal.folder))
        return due and not done and bool(self.prompts)

    def evaluate(self, step: int) -> None:
        """Sample and score the held-out prompts, log the result, watch for forgetting."""
        console = self.journal.console
        with console.stage(f"evaluating on held-out prompts after step {step}"):
            groups = self.sampler.evaluate(
                self.prompts,
                self.sampling,
                samples_per_prompt=self.config.samples_per_prompt,
                on_progress=console.progress,
            )
            groups = self.scorer.score(groups)
        results = heldout_results(groups, step)
        write = partial(append_evaluations, self.journal.folder, results)
        self.journal.backlog.add(EVALUATIONS, write)
        for result in results:
            console.note(
                f"held-out {result.domain} after {step} steps: "
                f"{result.mean:.3f} ± {result.standard_error:.3f} (n={result.n})"
            )
        self.watch_forgetting(step)

    def watch_forgetting(self, step: int) -> None:
        """Log how far each domain is below its best, and say so when it comes to be forgotten."""
        results, scalars = read_evaluations(self.journal.folder), {}
        for domain in self.prompts:
            history = forgetting(results, domain)
            if history and history[-1].now.step == step:  # else all of it abstained
                scalars[f"evaluate/reward/{domain}"] = history[-1].now.mean
                scalars[f"evaluate/forgetting/{domain}"] = history[-1].drop
                alarm = forgetting_alarm(results, domain, self.config.forgetting_alarm)
                if alarm is not None:
                    self.journal.console.note(alarm)
        self.journal.trackers.evaluation(step, scalars)

    def show(self, quotas: Mapping[int, Mapping[str, int]]) -> None:
        """The matrix of the run's evaluations, and its best checkpoint.

        Args:
            quotas: step (from 1) -> prompts by domain.
        """
        matrix = evaluation_matrix(
            read_evaluations(self.journal.folder),
            list(self.prompts),
            self.config.forgetting_alarm,
            quotas,
            CONSOLE_COLUMNS,
        )
        if len(matrix.steps) > 1:
            self.journal.console.show(console_table(matrix))
        best = self.find_best()
        if best is not None:
            learnt = self.journal.health.learnt
            self.journal.console.note(
                best_text(f"step_{best.step}", best.score, best.improvements, learnt)
            )

    def find_best(self) -> BestStep | None:
        """The best checkpoint on disk, named in `best.json`; None if none was evaluated."""
        folder = self.journal.folder / "checkpoints"
        best = None
        if self.checkpoints.keep_best:
            best = best_step(read_evaluations(self.journal.folder), checkpoint_steps(folder))
        self.journal.backlog.add(BEST, partial(write_best, folder, best))
        return best

    def note_rhythm(self, num_steps: int) -> None:
        """Say when no step before the last is both evaluated and saved."""
        evaluate, save = self.config.every, self.checkpoints.every
        if not (self.checkpoints.keep_best and self.prompts and evaluate and save):
            return
        if math.lcm(evaluate, save) >= num_steps > max(evaluate, save):
            self.journal.console.note(
                f"evaluations (evaluate.every={evaluate}) and checkpoints "
                f"(checkpoint.every={save}) meet at the last step only: no earlier checkpoint can "
                "be kept as the best; make one a multiple of the other"
            )
