"""Rewards whose judging may run for ever, eat all memory or crash: in a process that is killed."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from mgsrl.config.require import seconds
from mgsrl.errors import DataError
from mgsrl.rewards.child import ChildProcess, ProcessLostError
from mgsrl.rewards.protocol import BaseReward, RewardItem, Surroundings
from mgsrl.types import Reward

RESTART_S = 10.0
"""What one killed process may cost on a busy machine."""


@dataclass
class ChildConfig:
    time_limit_s: float = 5.0
    """Seconds per response before the process that judges it is killed and the item abstains."""

    def validate(self, key: str) -> None:
        seconds(f"{key}.time_limit_s", self.time_limit_s)


class ChildReward(BaseReward):
    """One request per item to a child process (`child.py`).

    What takes too long, crashes, or cannot be asked abstains with the reason.
    """

    Config = ChildConfig
    in_child = True
    process_module: ClassVar[str]
    """Dotted name of the child's module."""
    memory_mib: ClassVar[int] = 1024
    """Address space of the process."""
    unjudged: ClassVar[Mapping[str, Any]] = {}
    """Details of an abstention."""
    process: ChildProcess

    def load(self, surroundings: Surroundings) -> None:
        self.process = ChildProcess(
            self.process_module,
            time_limit_s=self.config.time_limit_s,
            memory_limit_mib=self.memory_mib,
            name=self.describe().removeprefix("the "),
        )

    def close(self) -> None:
        self.process.stop()

    def limit_s(self, count: int) -> float:
        return float(count * (self.config.time_limit_s + RESTART_S))

    def score(self, items: Sequence[RewardItem]) -> list[Reward]:
        return [self._score(item) for item in items]

    def _score(self, item: RewardItem) -> Reward:
        try:
            reply = self.process.ask(self.request(item))
        except (ProcessLostError, DataError) as error:
            return Reward(None, details=self.unjudged, error=str(error))
        if "error" in reply:
            return Reward(None, details=self.unjudged, error=reply["error"])
        return self.verdict(reply)

    @abstractmethod
    def request(self, item: RewardItem) -> Mapping[str, Any]:
        """What the process is asked, JSON-able. Raises DataError for a bad reference."""

    @abstractmethod
    def verdict(self, reply: Mapping[str, Any]) -> Reward:
        """What its reply is worth."""
