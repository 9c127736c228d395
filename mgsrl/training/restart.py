"""Going on by itself after a death that no pool can make good: from the last checkpoint, all anew.

The ranks of the learners share one model, so the death of one takes all of them; so does a call
that hangs beyond its limit, or the loss of a machine. The run's parts are then taken down and built
again, in the same process and Ray session, and resume from the newest checkpoint that this process
wrote (or from where it began): logs, data, rewards' statistics and rollouts in flight are those of
the checkpoint, so the numbers are those of a run that never failed. Where Ray itself died, the
process is replaced by the same command (`cluster/again.py`).

What would only fail again is not tried again: a configuration, a defect, a pool that gave up.
Left out: keeping the engines, which are seconds to minutes of a start; they hold nothing of the
run, but their connection to the learners, their weights and what they were asked are all to be
made anew.
"""

import time
from collections.abc import Callable
from pathlib import Path

from ray.exceptions import RayError, RayTaskError

from mgsrl.cluster.again import can_run_again
from mgsrl.cluster.machines import Machines, machines_now, wait_for_machines
from mgsrl.config import ClusterConfig, LearnerConfig
from mgsrl.errors import LearnerDiedError, MgsrlError, WaitTimeoutError
from mgsrl.obs.run_record import has_checkpoint
from mgsrl.training.checkpoint import Checkpoint, checkpoint_steps, newest_checkpoint

FIRST_PAUSE_S = 1.0
"""Doubles with every restart that is not forgotten."""
LONGEST_PAUSE_S = 60.0


class Restarts:
    """Which deaths a run goes on after, and how often.

    Args:
        folder: the run's.
        begun: the checkpoint from which this process began.
        deaths: the steps of restarts before this process took another's place.
        note: tells the user, in one line.
    """

    def __init__(
        self,
        limits: LearnerConfig,
        cluster: ClusterConfig,
        folder: Path,
        begun: Checkpoint | None,
        deaths: list[int],
        note: Callable[[str], None],
    ) -> None:
        self._most, self._window = limits.max_restarts, limits.restart_window
        self._node_wait_s = cluster.node_wait_s
        self._folder, self._begun, self._note = folder, begun, note
        self.may_replace = cluster.address == "local" and can_run_again()
        """Whether the process may be replaced where its Ray died."""
        self._machines: Machines | None = None
        """Those of the first start."""
        self.deaths = deaths

    def may_heal(self, error: BaseException, *, ran: bool) -> bool:
        """Whether `error` is of those that a new start may mend.

        Args:
            ran: the run was up before: what never was in time will not be the next time.
        """
        if isinstance(error, LearnerDiedError) or (ran and isinstance(error, WaitTimeoutError)):
            return True
        if isinstance(error, RayError) and not isinstance(error, RayTaskError):
            return True  # what Ray held was lost: an object, its owner, a machine
        # Where a machine is missing, what is refused for want of it is nobody's mistake.
        if self._machines is None or not isinstance(error, MgsrlError | RayError):
            return False
        return bool(machines_now().lack(self._machines))

    def count(self, step: int) -> str | None:
        """Count a death after `step` steps: which restart this is, None when it is one too many."""
        self.deaths[:] = [death for death in self.deaths if death > step - self._window]
        if len(self.deaths) >= self._most:
            return None
        self.deaths.append(step)
        return f"restart {len(self.deaths)} of at most {self._most} within {self._window} steps"

    @property
    def too_many(self) -> str:
        """Why there is no other."""
        return (
            f"begun again {len(self.deaths)} times within {self._window} steps; giving up\n"
            f"  to do:    mend the cause, or raise learner.max_restarts (now {self._most}); the "
            "same command goes on from the last checkpoint"
        )

    def has_own_checkpoint(self) -> bool:
        """Whether this process wrote one: those before may be of a branch that it left."""
        return has_checkpoint(self._folder)

    def first_step(self) -> int:
        """The step of `checkpoint`, as far as names and sizes tell."""
        steps = checkpoint_steps(self._folder / "checkpoints") if self.has_own_checkpoint() else []
        return steps[-1] if steps else self._begun.step if self._begun else 0

    def checkpoint(self) -> Checkpoint | None:
        """Where to go on; None for the beginning."""
        if not self.has_own_checkpoint():
            return self._begun
        return newest_checkpoint(self._folder / "checkpoints", self._note)

    def see_machines(self) -> None:
        """Before a start: the first time remember what the cluster has, later wait for it."""
        if self._machines is None:
            self._machines = machines_now()
            return
        wait_for_machines(self._machines, self._node_wait_s, self._note)

    def pause(self) -> None:
        """What died together should be dead, and what comes back be there."""
        time.sleep(min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** (len(self.deaths) - 1)))
