"""`transfer`: to the domains that are learnt and help the others (TAC, arXiv 2606.25178).

    L_d = running mean of the mean |A| of the domain's responses
    T_d = running mean over steps of the mean of cos(g_d, g_e) over the other domains e
    w_d = softmax(L_d (1 + alignment * T_d) / temperature)

T_d says to first order whether a step on the domain is one on the others: their gradients' inner
products are those of the step's surgery (`surgery/report.py`), so it costs nothing here.

The paper's: a bandit whose arms are the domains, learnability by the advantages, transferability by
the alignment of the gradients of the step that is being computed, and arm values that are smoothed
over steps. Ours, since its equations were not at hand: the product, its factor, the constants; and
the whole gradients, where the paper projects them to few dimensions first. The weights multiply the
configured shares, every domain keeps its floor, and quotas are exact.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mgsrl.config.require import at_least, within
from mgsrl.data.curricula.protocol import Curriculum, Signals
from mgsrl.data.curricula.softmax import softmax


@dataclass
class TransferConfig:
    alignment: float = 1.0
    """Weight of the alignment, 0 to 1: at 0 the advantages alone count, at 1 a domain whose
    gradient is opposed to all others counts nothing."""
    temperature: float = 0.1
    """Of the softmax over the scores: the smaller, the more goes to the highest."""
    memory: float = 0.9
    """Of the running means: the weight of what was before the newest step. The cosines of a few
    prompts are mostly noise."""

    def validate(self, key: str) -> None:
        within(f"{key}.alignment", self.alignment, 0.0, 1.0)
        at_least(f"{key}.temperature", self.temperature, 1e-3)
        within(f"{key}.memory", self.memory, 0.0, 0.999)


class Transfer(Curriculum):
    Config = TransferConfig
    reads_advantages = True

    def __init__(self, config: TransferConfig, domains: Sequence[str]) -> None:
        super().__init__(config, domains)
        self._learnability: dict[str, float] = {}
        self._alignment: dict[str, float] = {}

    def observe(self, signals: Mapping[str, Signals]) -> None:
        for domain, seen in signals.items():
            self._follow(self._learnability, domain, seen.magnitude)
            if seen.cosines:
                mean = math.fsum(seen.cosines.values()) / len(seen.cosines)
                self._follow(self._alignment, domain, mean)

    def _follow(self, means: dict[str, float], domain: str, value: float) -> None:
        if math.isfinite(value):
            memory = self.config.memory
            means[domain] = memory * means.get(domain, value) + (1.0 - memory) * value

    def scores(self) -> dict[str, float]:
        """Learnability times alignment; what was not seen yet has the mean of what was."""
        weight = self.config.alignment
        seen = {
            domain: learnt * (1.0 + weight * self._alignment.get(domain, 0.0))
            for domain, learnt in self._learnability.items()
        }
        middle = math.fsum(seen.values()) / len(seen) if seen else 0.0
        return {domain: seen.get(domain, middle) for domain in self.domains}

    def weights(self) -> dict[str, float]:
        return softmax(self.scores(), self.config.temperature)

    def state(self) -> dict[str, Any]:
        return {"learnability": dict(self._learnability), "alignment": dict(self._alignment)}

    def restore(self, state: Mapping[str, Any]) -> None:
        for name, means in (
            ("learnability", self._learnability),
            ("alignment", self._alignment),
        ):
            means.update({d: value for d, value in state[name].items() if d in self.domains})
