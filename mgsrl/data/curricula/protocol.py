"""What a curriculum is: one class with the dataclass of its own keys beside it.

    class Lowest(Curriculum):
        def observe(self, signals): ...      # {domain: Signals} of a step
        def weights(self): ...               # {domain: what its configured share is multiplied by}
        def state(self): ...                 # for checkpoints
        def restore(self, state): ...

A run tells it what every step showed and asks for weights when the prompts of a step are drawn.
That every domain keeps its floor, batches are exact, and steps already under way keep their
shares is the run's business (`training/adaptive.py`). It runs on the driver, and is plain Python: a
few numbers a step. docs/data.md has a whole one.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar


@dataclass(frozen=True, slots=True)
class Signals:
    """What one step showed of one domain."""

    advantages: tuple[float, ...]
    """Magnitudes |A| of the advantages of its scored responses, in the order of the batch."""
    reward: float
    """Mean of the rewards that were trained on; NaN when every response abstained."""
    cosines: Mapping[str, float] = field(default_factory=dict)
    """Other domain -> cosine of the two domains' gradients over the whole model; empty when the
    step had none (a gradient that is not finite)."""

    @property
    def magnitude(self) -> float:
        """Mean |A|; NaN without a scored response."""
        count = len(self.advantages)
        return math.fsum(self.advantages) / count if count else math.nan


@dataclass
class NoKeys:
    """The `Config` of a curriculum without keys of its own."""


class Curriculum(ABC):
    """A curriculum.

    Args:
        config: an instance of `Config`.
        domains: those that take part in some step of the run.
    """

    Config: ClassVar[type] = NoKeys
    """The dataclass of its own keys; a method `validate(key)` checks their values. The names `kind`
    and `floor`, and those of our curricula, are taken."""
    reads_advantages: ClassVar[bool] = False
    """Whether it goes by `Signals.advantages`. Then it is refused where a domain distils from a
    teacher alone: they are those of a reward that is not trained on."""

    def __init__(self, config: Any, domains: Sequence[str]) -> None:
        self.config, self.domains = config, tuple(domains)

    @abstractmethod
    def observe(self, signals: Mapping[str, Signals]) -> None:
        """Take in what a step showed, by domain; domains that it did not train are not there."""

    @abstractmethod
    def weights(self) -> Mapping[str, float]:
        """What the configured shares are multiplied by: a finite number >= 0 for every domain, not
        0 for all that are trained together. Only their ratios matter."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """All that `observe` changed, as JSON; kept with checkpoints."""

    @abstractmethod
    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from `state()`, to the bit. The state may lack domains that came to the run, and
        have ones that left it."""
