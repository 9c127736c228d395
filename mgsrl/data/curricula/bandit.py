"""`bandit`: to the domains whose advantages are large (DUMP, arXiv 2504.09710).

    L_d = mean |A| over the domain's last `window` scored responses
    U_d = L_d + exploration * sqrt(2 ln(n + 1) / (n_d + 1))
    w_d = softmax(U_d / temperature)

with n_d the scored responses of the domain so far and n those of all: an upper confidence bound on
how much there is to learn, since a GRPO group without spread in its rewards has advantages of 0,
and so teaches nothing. Defaults are those of the authors' code.

Ours: the weights multiply the configured shares, which the paper has equal; every domain keeps the
floor of its share; quotas are exact where the paper samples.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mgsrl.config.require import at_least
from mgsrl.data.curricula.protocol import Curriculum, Signals
from mgsrl.data.curricula.softmax import softmax


@dataclass
class BanditConfig:
    window: int = 300
    """Responses of a domain over which |A| is averaged, the newest ones."""
    temperature: float = 0.1
    """Of the softmax over the scores: the smaller, the more goes to the highest."""
    exploration: float = 1.0
    """Factor of the bonus for domains of which few responses were seen; 0 is none."""

    def validate(self, key: str) -> None:
        at_least(f"{key}.window", self.window, 1)
        at_least(f"{key}.temperature", self.temperature, 1e-3)
        at_least(f"{key}.exploration", self.exploration, 0.0)


class Bandit(Curriculum):
    Config = BanditConfig
    reads_advantages = True

    def __init__(self, config: BanditConfig, domains: Sequence[str]) -> None:
        super().__init__(config, domains)
        self._window: dict[str, list[float]] = {domain: [] for domain in domains}
        self._seen = dict.fromkeys(domains, 0)

    def observe(self, signals: Mapping[str, Signals]) -> None:
        for domain, seen in signals.items():
            self._seen[domain] += len(seen.advantages)
            newest = [*self._window[domain], *seen.advantages][-self.config.window :]
            self._window[domain] = newest

    def scores(self) -> dict[str, float]:
        """The upper confidence bounds U_d."""
        total = max(1, sum(self._seen.values()))
        return {
            domain: (math.fsum(window) / len(window) if window else 0.0)
            + self.config.exploration
            * math.sqrt(2 * math.log(total + 1) / (self._seen[domain] + 1))
            for domain, window in self._window.items()
        }

    def weights(self) -> dict[str, float]:
        return softmax(self.scores(), self.config.temperature)

    def state(self) -> dict[str, Any]:
        return {
            domain: {"window": list(window), "seen": self._seen[domain]}
            for domain, window in self._window.items()
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        for domain in self.domains:
            if domain in state:
                newest = state[domain]["window"][-self.config.window :]
                self._window[domain], self._seen[domain] = newest, state[domain]["seen"]
