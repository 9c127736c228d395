"""The run around the training: folder, length, checkpoints, evaluation, trackers, cluster."""

import math
import re
from dataclasses import dataclass, field
from typing import ClassVar

from mgsrl.config.require import at_least, not_empty, one_of, seconds, temperature, within
from mgsrl.config.typed import INFINITE

WANDB_MODES = ("online", "offline", "disabled")
"""From open to shut."""


@dataclass
class RunConfig:
    name: str = "run"
    """First part of the default folder's name."""
    dir: str = "runs/${run.name}-${strategy.name}-seed${seed}"
    """Run folder: configuration, metrics, rollouts, surgery, checkpoints, report."""

    def validate(self) -> None:
        not_empty("run.name", self.name, "a name for the run")
        not_empty("run.dir", self.dir, "a folder for the run's files")


@dataclass
class ResumeConfig:
    SHORT: ClassVar[str] = "checkpoint"
    checkpoint: str = "auto"
    """`auto` continues from the newest complete checkpoint of `run.dir`, `never` starts anew, or
    the path of a checkpoint. `resume=auto` is short for it."""
    allow: list[str] = field(default_factory=list)
    """Keys that may differ from those of the run that goes on, although they make it another
    experiment from there, as `[algo.clip_low, domains.math.reward]` (a record is all below it).
    `docs/resume.md` says which keys need it."""

    def validate(self) -> None:
        if self.checkpoint not in ("auto", "never") and "/" not in self.checkpoint:
            one_of("resume.checkpoint", self.checkpoint, ("auto", "never", "PATH/TO/CHECKPOINT"))


MOST_STEPS = 1_000_000


@dataclass
class TrainConfig:
    num_steps: int = 30
    """Batches of rollouts to train on; at most a million, because each one is laid out before."""
    max_skipped_steps: int = 10
    """Steps in a row without a finite update after which the run stops; 0 never stops it."""

    def validate(self) -> None:
        within("train.num_steps", self.num_steps, 1, MOST_STEPS)
        at_least("train.max_skipped_steps", self.max_skipped_steps, 0)


@dataclass
class CheckpointConfig:
    every: int = 10
    """Steps between checkpoints; 0 saves only at the end."""
    keep: int = 2
    """Newest checkpoints kept; 0 keeps all. Of damaged and abandoned ones the last two are."""
    keep_every: int = 0
    """Also keep the checkpoints of steps that are multiples of this; 0 keeps none of them."""
    background: bool = True
    """Train on while a checkpoint is written, once it is copied to host memory: there it takes as
    much as on the disk, 12 bytes per trained parameter over the ranks. Where memory is short, or
    with false, training waits for the disk and the copy takes 192 MiB a rank."""
    keep_best: bool = True
    """Also keep the best checkpoint: of those evaluated at their own step, the one with the highest
    mean over domains of (held-out reward - first held-out reward) / spread between prompts. No
    other is at least as good in every domain. `checkpoints/best.json` names it; a common multiple
    of `checkpoint.every` and `evaluate.every` is when both happen."""

    grace_s: float = 20.0
    """Seconds in which a run that is stopped (Ctrl-C, SIGTERM, SIGUSR1) may save its last whole
    step, counted from the signal; with some seconds for its actors it should end before what sent
    the signal kills it (Slurm and Kubernetes wait 30 s by default). `mgsrl plan` says what a run
    needs. 0 saves nothing."""

    def validate(self) -> None:
        at_least("checkpoint.grace_s", self.grace_s, 0.0)
        at_least("checkpoint.every", self.every, 0)
        at_least("checkpoint.keep", self.keep, 0)
        at_least("checkpoint.keep_every", self.keep_every, 0)

    def most_kept(self, num_steps: int) -> int:
        """Checkpoints that a run of `num_steps` holds at its end, the best one included."""
        saved = num_steps // self.every + 1 if self.every else 1
        both = math.lcm(self.every, self.keep_every)
        spaced = num_steps // both if both else 0
        return min(saved, self.keep + spaced + self.keep_best) if self.keep else saved


@dataclass
class EvaluateConfig:
    every: int = 0
    """Steps between evaluations on held-out prompts; 0 evaluates before and after the run."""
    forgetting_alarm: float = field(default=0.05, metadata=INFINITE)
    """Say that a domain is being forgotten when its held-out reward falls this far (in units of the
    reward) below the domain's best evaluation, unless the fall may be noise: it must be above
    twice its standard error, and more after many evaluations, whose best is partly luck. `inf` is
    never."""
    prompts_per_domain: int = 128
    """Held-out prompts per domain; 0 switches evaluation off."""
    samples_per_prompt: int = 1
    """Responses per held-out prompt."""
    temperature: float = 1.0
    """Sampling temperature of the evaluation."""
    top_p: float = 1.0
    """Nucleus of the evaluation (below 1 is allowed: nothing is trained on these samples)."""

    def is_due(self, step: int, num_steps: int) -> bool:
        """Whether a run of `num_steps` evaluates the weights after `step` of them."""
        return step in (0, num_steps) or (self.every > 0 and step % self.every == 0)

    def validate(self) -> None:
        at_least("evaluate.every", self.every, 0)
        at_least("evaluate.forgetting_alarm", self.forgetting_alarm, 0.0)
        at_least("evaluate.prompts_per_domain", self.prompts_per_domain, 0)
        at_least("evaluate.samples_per_prompt", self.samples_per_prompt, 1)
        temperature("evaluate.temperature", self.temperature, greedy=True)
        within("evaluate.top_p", self.top_p, 0.01, 1.0)


@dataclass
class CompletionsConfig:
    every: int = 10
    """Steps between tables of sampled responses in wandb, TensorBoard and trackers of your own; the
    first step has one. 0 shows none."""
    console_every: int = 0
    """The same on the console. Off, because a line per step is what one follows there and tables
    push it away; `rollouts/` and the report hold the responses anyway."""
    per_domain: int = 2
    """Responses of each domain in a table: one to each of as many prompts."""

    def validate(self) -> None:
        at_least("trackers.completions.every", self.every, 0)
        at_least("trackers.completions.console_every", self.console_every, 0)
        at_least("trackers.completions.per_domain", self.per_domain, 1)


@dataclass
class TrackersConfig:
    console: bool = True
    """Live progress in the terminal."""
    wandb: str = "offline"
    """`offline` | `online` | `disabled`; WANDB_MODE in the environment can only make it quieter."""
    wandb_project: str = "mgsrl"
    """The project of wandb that the run is put in."""
    wandb_entity: str | None = None
    """User or team that owns the project; null is your default one (or WANDB_ENTITY)."""
    wandb_group: str | None = None
    """Runs that belong together, as the seeds of one experiment."""
    wandb_job_type: str | None = None
    """What a run is within its group."""
    wandb_tags: list[str] = field(default_factory=list)
    """Words by which runs are found there, each of at most 64 characters."""
    wandb_notes: str | None = None
    """What the run is about, as in a commit message."""
    tensorboard: bool = False
    """Write TensorBoard event files (needs the `tensorboard` extra)."""
    also: list[str] = field(default_factory=list)
    """Trackers of your own: `module:Class`, `file.py:Class`, or an entry point's name."""
    completions: CompletionsConfig = field(default_factory=CompletionsConfig)
    samples_per_domain: int = 2
    """Generated groups stored per domain and step in `rollouts/`; 0 stores none."""

    def validate(self) -> None:
        one_of("trackers.wandb", self.wandb, WANDB_MODES)
        for tag in self.wandb_tags:
            within("the length of each of trackers.wandb_tags", len(tag), 1, 64)
        self.completions.validate()
        at_least("trackers.samples_per_domain", self.samples_per_domain, 0)


@dataclass
class ClusterConfig:
    address: str = "local"
    """`local` starts Ray on this machine (loopback only); `auto` or HOST:PORT joins a cluster."""
    object_store_gib: float = 1.0
    """Shared memory of a local Ray."""
    num_gpus: int | None = None
    """GPUs that a local Ray uses; null takes all. A joined cluster knows its own."""
    node_wait_s: float = 120.0
    """How long a restart waits for a machine that was lost to come back, before it goes on with
    those that are left."""

    def validate(self) -> None:
        if not re.fullmatch(r"local|auto|(ray://)?[^\s/]+:\d{1,5}", self.address):
            one_of("cluster.address", self.address, ("local", "auto", "HOST:PORT"))
        at_least("cluster.object_store_gib", self.object_store_gib, 0.1)
        if self.num_gpus is not None:
            at_least("cluster.num_gpus", self.num_gpus, 0)
        seconds("cluster.node_wait_s", self.node_wait_s)
