"""Who has the GPUs, where engines and learner ranks share them: the turns of a step.

    LEARNING   engines asleep, learners whole
      sync     learners rest (gradient rows freed, the optimizer on the host if asked for),
               engines wake their weights
    SYNCING    new weights are sent; a worker that died is replaced, and finds room to start in
      roll     engines wake their KV cache
    ROLLING    canary, evaluation, rollouts
      learn    engines sleep (vLLM's level 2: what they drop is sent again), learners come back

Another order raises `InvariantError`. On a CPU the same calls are made and nothing is shared. An
engine that is dead when its turn comes has no memory to give: it is found by whoever needs it.
Where engines have GPUs of their own every turn is nothing at all.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum

from mgsrl.cluster.wait import get
from mgsrl.errors import InvariantError, WorkerDiedError
from mgsrl.learner.group import LearnerGroup
from mgsrl.rollout.dispatch import LIMIT_KEY
from mgsrl.rollout.residency import KV_CACHE, PARTS, WEIGHTS
from mgsrl.rollout.sampler import Sampler


class Turn(Enum):
    """Whose turn it is."""

    ROLLING = "rolling"
    LEARNING = "learning"
    SYNCING = "syncing"


class Choreography:
    """The turns of one run.

    Args:
        sampler: the engines that share the learners' GPUs, all awake; None where none does.
        sleep_level: how deep they sleep while the learners work (`Engine.sleep_level`).
        offload: the learners' state is away during rollouts (`learner.offload_during_rollout`).
    """

    def __init__(
        self, sampler: Sampler | None = None, *, sleep_level: int = 2, offload: bool = False
    ) -> None:
        self._sampler, self._sleep_level, self._offload = sampler, sleep_level, offload
        self._learners: LearnerGroup | None = None
        self.turn = Turn.ROLLING

    @property
    def shared(self) -> bool:
        """Whether there are turns at all."""
        return self._sampler is not None

    def admit(self, learners: LearnerGroup) -> None:
        """The learners were loaded (in a turn of theirs)."""
        if self._moves("admit", Turn.LEARNING):
            self._learners = learners

    def learn(self) -> None:
        """The learners' turn."""
        if self._moves("learn", Turn.ROLLING):
            self._engines("sleep", self._sleep_level)
            if self._learners is not None:
                self._learners.resume()
            self.turn = Turn.LEARNING

    def sync(self) -> None:
        """Time to send weights."""
        if self._moves("sync", Turn.LEARNING):
            if self._learners is not None:
                self._learners.rest()
            self._engines("wake_up", [WEIGHTS])
            self.turn = Turn.SYNCING

    def roll(self) -> None:
        """The engines' turn, once the weights are sent (again, after a worker was replaced)."""
        if self._moves("roll", Turn.SYNCING, Turn.ROLLING):
            self._engines("wake_up", [KV_CACHE])
            self.turn = Turn.ROLLING

    @contextmanager
    def learners_whole(self) -> Iterator[None]:
        """In the engines' turn: the learners have their whole state inside, to save or reset it.

        The engines sleep meanwhile and keep their weights in host memory. An error of the disk
        ends the block well; any other ends the run.
        """
        if self._sampler is None or self._learners is None or not self._offload:
            yield
            return
        self._assert_turn("learners_whole", Turn.ROLLING)
        self._engines("sleep", 1)
        self._learners.resume()
        failed: OSError | None = None
        try:
            yield
        except OSError as error:
            failed = error
        self._learners.rest()
        self._engines("wake_up", list(PARTS))
        if failed is not None:
            raise failed

    def end(self) -> None:
        """The run is over, wherever it stood: no more engines, the learners have their state (they
        wait for the memory of engines that are about to end, `Parking.bring_back`)."""
        if self._sampler is not None and self._learners is not None:
            self._sampler.stop()
            self._learners.resume()

    def _moves(self, move: str, *turns: Turn) -> bool:
        if self._sampler is None:
            return False
        self._assert_turn(move, *turns)
        return True

    def _assert_turn(self, move: str, *turns: Turn) -> None:
        if self.turn not in turns:
            raise InvariantError(f"{move} in the turn {self.turn.value}")

    def _engines(self, verb: str, argument: object) -> None:
        assert self._sampler is not None
        refs = [getattr(handle, verb).remote(argument) for handle in self._sampler.handles]
        for ref in refs:
            try:
                get(ref, self._sampler.limit_s, f"{verb} of a rollout worker", LIMIT_KEY)
            except WorkerDiedError:
                continue
