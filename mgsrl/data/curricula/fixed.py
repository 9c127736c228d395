"""`steps` and `linear`: the shares are those of the configuration, whatever training shows."""

from collections.abc import Mapping
from typing import Any

from mgsrl.data.curricula.protocol import Curriculum, Signals


class Fixed(Curriculum):
    """Heeds nothing. How `domains.NAME.schedule` is interpolated is the schedule's business
    (`training/schedule.py`)."""

    def observe(self, signals: Mapping[str, Signals]) -> None:
        """Nothing."""

    def weights(self) -> dict[str, float]:
        return dict.fromkeys(self.domains, 1.0)

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Nothing."""
