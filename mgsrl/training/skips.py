"""Steps whose updates were skipped: said once, and too many in a row end the run."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mgsrl.errors import NoUpdateError
from mgsrl.types import StepStats


@dataclass
class SkipWatch:
    """See the module."""

    note: Callable[[str], None]
    """Tells the user, in one line."""
    most: int = 0
    """`train.max_skipped_steps`: steps in a row after which the run stops; 0 never."""
    in_a_row: int = 0
    """Steps without any update up to the last one."""
    _told: bool = False

    def see(self, step: int, updates: Sequence[StepStats]) -> None:
        """The updates of `step`.

        Raises:
            NoUpdateError: it was one too many.
        """
        reasons = [update.reason for update in updates if update.skipped]
        if reasons and not self._told:
            what = "" if len(updates) == 1 else f"{len(reasons)} of {len(updates)} updates of "
            self.note(f"{what}step {step} skipped: {reasons[0]}")
        self._told = bool(reasons)
        self.in_a_row = self.in_a_row + 1 if len(reasons) == len(updates) else 0
        if self.most and self.in_a_row >= self.most:
            raise NoUpdateError(
                f"{self.in_a_row} steps in a row had no finite update to make (the last: "
                f"{reasons[0]}).\n"
                "  to do:    lower learner.optimizer.lr, or go on from an older checkpoint "
                "(resume=PATH); train.max_skipped_steps sets the limit"
            )
