"""The checkpoints of one run as they are written: one at a time, in the background if it may be.

Training waits while the learners copy their state to host memory; then their threads write it
(`learner/shard_file.py`), and the driver looks at every stage whether they are done (`poll`). Only
then is the draft renamed, the best one named and older ones removed. The next save, the last step,
the end of a run that cannot go on and whoever must know wait for it (`settle`). A process that dies
meanwhile leaves the checkpoint before. Left out: two under way at once, with twice the memory.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ray.exceptions import RayError

from mgsrl.cluster import signals
from mgsrl.config import CheckpointConfig
from mgsrl.errors import MgsrlError, StorageError, file_problem, one_line
from mgsrl.files.hashed import sync
from mgsrl.learner.group import LearnerGroup
from mgsrl.obs.console import Console
from mgsrl.obs.metrics import FILE as METRICS
from mgsrl.obs.run_record import FILE as RUN_RECORD
from mgsrl.obs.run_record import record_checkpoint
from mgsrl.rollout.sampler import Submission
from mgsrl.training.checkpoint import Draft, checkpoint_bytes, checkpoint_steps, prune_checkpoints
from mgsrl.training.choreography import Choreography
from mgsrl.training.evaluation import Evaluation
from mgsrl.training.in_flight import write_in_flight


@dataclass(frozen=True)
class Boundary:
    """Where a run stood when a step was whole: what a checkpoint holds beside the learners' state,
    also while the next step is under way."""

    step: int
    state: dict[str, Any]
    ahead: dict[int, Submission]


@dataclass
class Saver:
    """See the module."""

    folder: Path
    """The run's; checkpoints go into `checkpoints/`."""
    config: CheckpointConfig
    num_steps: int
    learners: LearnerGroup
    turns: Choreography
    evaluation: Evaluation
    console: Console
    config_yaml: str
    """The resolved configuration, kept with every checkpoint."""
    first_bytes: int = 0
    """What the first checkpoint will take, as far as known."""
    _draft: Draft | None = None
    """What is being written."""

    def due(self, step: int) -> bool:
        """Whether a checkpoint is to be written after `step` steps."""
        every = self.config.every
        return step == self.num_steps or (every > 0 and step % every == 0)

    def save(self, boundary: Boundary, gather: Callable[[], object]) -> None:
        """Save a whole step, the learners as they are. A disk that does not take it costs this
        checkpoint, not the run: only after the last step there is nothing to go on for.

        Args:
            gather: brings in what engines have made of `boundary.ahead`.
        """
        self.settle()
        step = boundary.step
        stage = self.console.stage(f"saving checkpoint {step}")
        held = signals.held(self.config.grace_s)
        with held, self._survived(step), stage, self.turns.learners_whole():
            gather()
            self._begin(boundary, background=self.config.background)
        if not self.config.background or step == self.num_steps:
            self.settle()

    def save_now(self, boundary: Boundary) -> None:
        """Save a whole step and wait for it.

        Raises:
            StorageError: the disk did not take it.
        """
        self._begin(boundary, background=False)
        self._complete(wait=True)

    def poll(self) -> None:
        """Complete the checkpoint that is being written, if the learners are done."""
        if self._draft is not None:
            with self._survived(self._draft.step):
                self._complete(wait=False)

    def settle(self) -> None:
        """Wait for the checkpoint that is being written, if there is one, and complete it."""
        if self._draft is not None:
            step = self._draft.step
            with self._survived(step), self.console.stage(f"writing checkpoint {step}"):
                self._complete(wait=True)

    def close(self) -> None:
        """The learners are about to go. After a signal there was a time for this (`interrupt.py`);
        what goes wrong is told, it is not why the run ends."""
        draft = self._draft
        if draft is None:
            return
        why = "there was no time" if self.learners.handles else "the learners are gone"
        try:
            if self.learners.handles and not signals.stopping():
                self.settle()
                return
        except (MgsrlError, OSError, RayError) as error:
            why = one_line(error)
        draft.abandon()
        self._draft = None
        self.console.note(f"checkpoint {draft.step} was not completed: {why}")

    def _begin(self, boundary: Boundary, *, background: bool) -> None:
        folder = self.folder / "checkpoints"
        size = checkpoint_bytes(folder) or self.first_bytes
        draft = Draft(folder, boundary.step, num_bytes=size)
        with draft.writing():
            draft.add(boundary.state, self.config_yaml)
            write_in_flight(draft.path, boundary.ahead)
            self.learners.save(draft.learner, background=background)
        self._draft = draft

    def _complete(self, *, wait: bool) -> None:
        draft, folder, config = self._draft, self.folder / "checkpoints", self.config
        assert draft is not None
        with draft.writing():
            written = self.learners.saved(wait=wait)
        if written is None:
            return
        with signals.held(config.grace_s):
            with draft.writing():  # a machine that dies now must not lose rows that no run repeats
                sync(self.folder / METRICS)
            draft.complete(written)
            self._draft = None
            record = partial(record_checkpoint, self.folder, draft.step)
            self.evaluation.journal.backlog.add(RUN_RECORD, record)
            best = self.evaluation.find_best()
            prune_checkpoints(folder, config.keep, best.step if best else None, config.keep_every)

    @contextmanager
    def _survived(self, step: int) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # after Ctrl-C `close` completes it
            self._draft = None
            problem = str(error) if isinstance(error, StorageError) else None
            if problem is None:
                problem = file_problem(error)
            if problem is None or step == self.num_steps:
                raise
            newest = checkpoint_steps(self.folder / "checkpoints")[-1:]
            named = ", ".join(f"step_{step}" for step in newest)
            self.console.note(
                f"{problem}; training goes on, the newest checkpoint is {named or 'none yet'}"
            )
