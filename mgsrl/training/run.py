"""One run: its parts and where it stands.

`build.py` puts the parts together; `loop.py` tells the story. Publishing with the canary, held-out
evaluation and the logs are parts of their own (`publisher`, `evaluation`, `journal`); here are the
position, restoring and checkpoints.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from mgsrl.algo.advantages import estimator, tells
from mgsrl.cluster import signals
from mgsrl.config import AlgoConfig, SurgeryConfig
from mgsrl.data.mixture import Mixture
from mgsrl.data.packing import PackedBatch, Packing, pack
from mgsrl.errors import AbstentionError, InvariantError, LearnerDiedError
from mgsrl.learner.group import LearnerGroup
from mgsrl.obs.console import Console
from mgsrl.obs.metrics import oldest_version, staleness_metrics, step_scalars
from mgsrl.obs.run_record import FILE as RUN_RECORD
from mgsrl.obs.run_record import record_start
from mgsrl.obs.timers import StageTimers
from mgsrl.rewards.scorer import Scorer
from mgsrl.rollout.sampler import Sampler
from mgsrl.surgery.step_probe import with_probe
from mgsrl.training.adaptive import AdaptiveShares
from mgsrl.training.checkpoint import Checkpoint, checkpoint_steps, set_others_aside
from mgsrl.training.choreography import Choreography
from mgsrl.training.evaluation import Evaluation
from mgsrl.training.fingerprint import Models
from mgsrl.training.in_flight import Ahead, as_submissions, read_in_flight
from mgsrl.training.journal import Journal
from mgsrl.training.publisher import Publisher
from mgsrl.training.refill import all_drawn, refill
from mgsrl.training.saver import Boundary, Saver
from mgsrl.training.schedule import Schedule
from mgsrl.training.skips import SkipWatch
from mgsrl.types import DomainStats, RolloutGroup, StepProbe, StepStats, SurgeryReport

Groups = Mapping[str, Sequence[RolloutGroup]]
ByDomain = dict[str, list[RolloutGroup]]


@dataclass
class Run:
    """The parts of one training run and its position, `step` (optimizer batches done)."""

    folder: Path
    num_steps: int
    schedule: Schedule
    mixture: Mixture
    sampler: Sampler
    scorer: Scorer
    learners: LearnerGroup
    publisher: Publisher
    evaluation: Evaluation
    journal: Journal
    algos: Mapping[str, AlgoConfig]
    """By domain."""
    updates_per_batch: int
    surgery: SurgeryConfig
    skips: SkipWatch
    saver: Saver
    packing: Packing
    console: Console
    checkpoint: Checkpoint | None
    """Where to go on; None starts anew."""
    models: Models
    adaptive: AdaptiveShares | None = None
    """Under a curriculum that adapts; the schedule's quotas are then not the run's."""
    keeps_ahead: bool = True
    """Whether the checkpoint's rollouts of later steps are those that this run would make: not
    where `resume.allow` made it another experiment."""
    staleness: int = 0
    """Steps that rollouts may be ahead of the learners."""
    inflight_updates: bool = False
    """Whether weights may change while a response is made."""
    step: int = 0
    timers: StageTimers = field(default_factory=StageTimers)
    _packed: Mapping[str, float] = field(default_factory=dict)
    """The metrics of the step's batch."""
    _drawn: Groups = field(default_factory=dict)
    """All groups of the step where some may be passed over, else none."""
    _in_step: int = 0
    """The step under way, counted from 1; `step` moves on before the weights are published."""
    _boundary: Boundary | None = None
    """The last whole step, as long as the learners hold its weights."""
    _ahead: Ahead = field(default_factory=dict)
    """What the checkpoint held, not submitted yet."""
    _probe: tuple[StepProbe | None] | None = None
    """Of the step under way, once made."""
    _restarts: dict[str, int] = field(default_factory=dict)
    """By role, as last logged."""

    @property
    def turns(self) -> Choreography:
        """Who has the GPUs, where engines and learners share them."""
        return self.publisher.turns

    # ---- stages ----------------------------------------------------------------------------

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage of the step and show it; before, complete a checkpoint that is written."""
        self.saver.poll()
        with self.console.stage(name, step=self._in_step), self.timers.stage(name):
            yield

    def pack(self, groups: Groups) -> PackedBatch:
        """Domain-pure micro-batches for every learner rank; in halves when the step measures how
        much of the gradients is noise."""
        halves = self.surgery.measures_reliability(self._in_step)
        batch = pack(groups, self.packing, halves=halves)
        self._packed = batch.scalars
        if not batch.domains:
            raise AbstentionError(
                "There is nothing to train on: every response of the step is empty, unscored or, "
                "where algo.mask_overlong is set, cut at the token limit."
            )
        return batch

    # ---- before the first step ---------------------------------------------------------------

    def restore(self) -> None:
        """Weights, optimizer, rewards' statistics and logs as they were at the checkpoint (the
        mixture comes restored: whether its data are the same is known before actors start)."""
        if self.checkpoint is not None:
            self.models.check(self.checkpoint.state)  # from a hub: not known before
            with self.console.stage(f"restoring {self.checkpoint.path.name}"):
                self.learners.load(self.checkpoint.path / "learner")
                self.scorer.restore(self.checkpoint.state.get("rewards", {}))
            self.sampler.lengths |= self.checkpoint.state.get("response_lengths", {})
            if self.adaptive is not None and "curriculum" in self.checkpoint.state:
                self.adaptive.restore(self.checkpoint.state["curriculum"])
            self.step = self.checkpoint.step
            self.skips.in_a_row = self.checkpoint.state.get("skipped", 0)
            self._ahead = read_in_flight(
                self.checkpoint.path, self.mixture, responses=self.keeps_ahead
            )
            set_others_aside(self.folder / "checkpoints", self.step, self.console.note)
            self.console.note(f"resumed after step {self.step} from {self.checkpoint.path}")
            self._note_missing()
        # Without a checkpoint nothing binds old logs to this run: even its first evaluation goes.
        version = self.step if self.checkpoint is not None else -1
        self.journal.open(self.step + 1, version)
        self.evaluation.find_best()  # what was set aside may have been it
        self.evaluation.note_rhythm(self.num_steps)

    def _note_missing(self) -> None:
        """Say when a checkpoint holds fewer rollouts than are ahead at that point of the run."""
        end = self.schedule.phase(max(self.step - 1, 0)).end
        missing = min(self.staleness, end - self.step) - len(self._ahead)
        if missing > 0 and self.step > 0:
            self.console.note(
                f"the checkpoint holds no rollouts of the next {missing} step(s), as where a run "
                "ends: they are made with newer weights than one longer run would have had"
            )

    def enter_phase(self) -> None:
        """Begin a step; the resets of its phase are done when it is the first."""
        self.timers.start_step()
        if self._in_step == 0:  # the first of this process
            write = partial(record_start, self.folder, dict(self.console.seconds_outside))
            self.journal.backlog.add(RUN_RECORD, write)
        self._in_step = self.step + 1
        for pool in (*self.sampler.distinct_pools, *self.scorer.reward_pools):
            pool.new_step(self._in_step)
        phase = self.schedule.phase(self.step)
        if self.step == phase.start and self.step > 0:
            with self.turns.learners_whole():
                if phase.reset_optimizer:
                    self.learners.reset_optimizer()
                if phase.move_reference:
                    self.learners.move_reference()

    def submit_prompts(self) -> None:
        """Ask for the rollouts of the coming step and of as many after it as `staleness` allows;
        in step order, so that the prompts of a step do not depend on it.

        Not beyond the phase: the next one begins with the weights that this one ends with. Unless
        weights may change under way, the engines make one step's at a time: on a CPU the bits of a
        response may depend on what is made beside it, and that on the clock.
        """
        end = min(self.step + self.staleness + 1, self.schedule.phase(self.step).end)
        for step in range(self.step, end):
            if step in self.sampler.outstanding:
                continue
            self._finish_rollouts()
            adaptive = self.adaptive
            quotas = adaptive.quotas(step) if adaptive else self.schedule.phase(step).quotas
            drawn, made = self._ahead.pop(step, ({}, []))  # a checkpoint's
            more = self.mixture.next_prompts({d: n for d, n in quotas.items() if d not in drawn})
            prompts = {domain: drawn.get(domain) or more[domain] for domain in quotas}
            self.sampler.submit(prompts, step, made)

    def collect_groups(self) -> ByDomain:
        """The rollouts of the coming step, of weights not older than `staleness` allows."""
        groups = self.sampler.collect(self.step, self.console.progress)
        oldest = oldest_version(groups)
        if not self.step - self.staleness <= oldest <= self.step:
            raise InvariantError(
                f"rollouts of weight version {oldest} for an update of version {self.step}, "
                f"rollout.staleness={self.staleness}"
            )
        return groups

    def score(self, groups: Groups, *, few: bool = False) -> ByDomain:
        """With the rewards to train on."""
        return self.scorer.shaped_rewards(self.scorer.score(groups, few=few))

    def refill(self, groups: ByDomain) -> ByDomain:
        """Prompts of this step in the places of those that tell nothing (`training/refill.py`)."""
        seen = {(group.prompt.domain, group.prompt.id) for of in groups.values() for group in of}

        def draw(quotas: Mapping[str, int]) -> ByDomain:
            prompts = {
                domain: [p for p in of_domain if (domain, p.id) not in seen]  # at an epoch's end
                for domain, of_domain in self.mixture.next_prompts(quotas).items()
            }
            seen.update((p.domain, p.id) for of_domain in prompts.values() for p in of_domain)
            with self.stage("rollout"):
                self._finish_rollouts()
                new = self.sampler.rollout(prompts, self.step, self.console.progress)
            with self.stage("reward"):
                return self.score(new, few=True)

        draws = {domain: algo.refill for domain, algo in self.algos.items()}
        ask = {domain: (estimator(algo.advantage), algo) for domain, algo in self.algos.items()}
        groups, drawn = refill(groups, draws, draw, lambda g: tells(g, *ask[g.prompt.domain]))
        self._drawn = drawn if any(draws.values()) else {}
        return groups

    def settle_rollouts(self) -> None:
        """Wait for the rollouts that were begun with the weights before this step's update, unless
        these may change under way, or the run is told to end: then the step is to be saved in time,
        and what is not made is made by who goes on."""
        self.publisher.version = self.step  # what a worker that is made anew meanwhile gets
        self._finish_rollouts()

    def _finish_rollouts(self) -> None:
        if not self.inflight_updates:
            for step in self.sampler.outstanding:
                self.sampler.wait(step, self.console.progress, signals.presses)

    def update(self) -> StepStats:
        """The learners' step. From here to its logs a signal waits: they would not tell of it."""
        signals.hold(self.saver.config.grace_s)
        self._boundary = None
        return self.learners.optimizer_step(self.step)

    # ---- around a step -------------------------------------------------------------------------

    def probe_steps_if_due(self) -> None:
        """Try the steps that could follow, before the first update of a step where that is due."""
        if self._probe is None and self.surgery.probes_steps(self._in_step):
            with self.stage("probe"):
                self._probe = (self.learners.probe_steps(self.step),)

    def publish_weights(self, groups: Groups | None = None) -> None:
        """Send weight version `step` to every rollout worker and prove that it arrived.

        The canary compares sequences of `groups`, or prompts before there are any.
        """
        if groups:
            candidates = [
                group.prompt.token_ids + group.rollouts[0].token_ids
                for domain_groups in groups.values()
                for group in domain_groups
            ]
        else:
            count = self.publisher.sync.canary_sequences
            candidates = [prompt.token_ids for prompt in self.mixture.peek(count)]
        before_steps = nullcontext() if groups else self.console.stage("sending the first weights")
        with before_steps:
            self.publisher.publish(self.step, candidates)

    def evaluate_if_due(self) -> None:
        """Held-out rewards before the first step, every `evaluate.every` steps and at the end."""
        if self.evaluation.due(self.step, self.num_steps):
            self.evaluation.evaluate(self.step)

    def after_step(
        self,
        groups: Groups,
        losses: Mapping[str, DomainStats],
        report: SurgeryReport,
        outcomes: Sequence[StepStats],
    ) -> None:
        """Metrics and samples of the step just done; evaluation and checkpoint when due.

        With several updates per batch `losses` and `report` are of the last one.
        """
        skipped = sum(update.skipped for update in outcomes) / len(outcomes)
        outcome = replace(outcomes[-1], skipped=skipped == 1)
        report, self._probe = with_probe(report, *(self._probe or (None,))), None
        drawn = all_drawn(self._drawn, groups)
        scalars = step_scalars(
            groups=groups,
            drawn=drawn,
            domain_stats=losses,
            surgery=report,
            step=outcome,
            times=self.timers.finish_step(),
            weight_version=self.step,
            canary_error=self.publisher.canary_error,
            packing=self._packed,
            restarts=self._new_restarts(),
            engine_busy=self.sampler.busy_share(),
            staleness=staleness_metrics(groups, self.step - 1) if self.staleness else {},
            mixture=self.adaptive.scalars(self.step - 1) if self.adaptive else {},
        )
        scalars["skipped"] = skipped
        self.journal.log_step(self.step, scalars, groups, report, losses)
        if self.adaptive is not None:
            self.adaptive.observe(self.step - 1, drawn or groups, report)
        self.skips.see(self.step, outcomes)
        self._boundary = self._whole_step()
        signals.release()
        self.evaluate_if_due()
        if self.saver.due(self.step):
            self.save_checkpoint()
            self.journal.draw_heat_map(self.step)

    def finish(self) -> None:
        """The end of the run: nothing is due any more."""
        self.journal.close()
        if self.evaluation.prompts:
            self.evaluation.show(
                {step + 1: self.schedule.phase(step).quotas for step in range(self.step)}
            )

    def _new_restarts(self) -> dict[str, int]:
        """Workers replaced since this was asked last, by role."""
        totals = {
            "rollout": sum(sum(pool.restarts) for pool in self.sampler.distinct_pools),
            "reward": sum(sum(pool.restarts) for pool in self.scorer.reward_pools),
        }
        new = {role: total - self._restarts.get(role, 0) for role, total in totals.items()}
        self._restarts = totals
        return new

    def _whole_step(self) -> Boundary:
        state = {
            "mixture": self.mixture.state(),
            "rewards": self.scorer.state(),
            "response_lengths": dict(self.sampler.lengths),
            "skipped": self.skips.in_a_row,
            "device": self.learners.device,
            **({"curriculum": self.adaptive.state()} if self.adaptive else {}),
            **self.models.state(),
        }
        waiting = as_submissions(self._ahead, self.sampler.samples_per_prompt)
        return Boundary(self.step, state, self.sampler.outstanding | waiting)

    def save_checkpoint(self) -> None:
        """Of the step just done; in the background, if so configured."""
        assert self._boundary is not None
        self.saver.save(self._boundary, self.sampler.gather)

    def save_last_step(self) -> str | None:
        """For a run that cannot go on: complete the checkpoint that is being written, and save the
        last whole step, though a later one is under way.

        Returns:
            What was saved; None when there was nothing that was not.

        Raises:
            MgsrlError: it cannot be saved.
        """
        if not self.learners.handles:
            return None
        self.saver.settle()
        boundary, saved = self._boundary, checkpoint_steps(self.folder / "checkpoints")
        if boundary is None and self.step > max(saved, default=0):
            raise LearnerDiedError("an update is under way, so the learners hold no whole step")
        if boundary is None or boundary.step in saved:
            return None
        self.turns.end()
        self.saver.save_now(boundary)
        return f"checkpoints/step_{boundary.step}"
