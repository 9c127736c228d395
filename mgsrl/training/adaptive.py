"""The quotas of a run whose shares follow what it observes (`data.curriculum`).

    adapted share = configured share * the curriculum's weight, divided by their sum
    share         = floor * configured share + (1 - floor) * adapted share

Shares become whole prompts by largest remainder with the fractions carried on, so every batch is
exact. They are chosen when a step's prompts are drawn, from all that was observed until then: with
`rollout.staleness` a step's shares know nothing of as many steps before it, and the steps that are
under way when a checkpoint is written keep theirs.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from mgsrl.config.algo import AlgoConfig
from mgsrl.config.curriculum import CURRICULA, CurriculumConfig
from mgsrl.data.apportion import Apportionment
from mgsrl.data.curricula.protocol import Curriculum, Signals
from mgsrl.errors import ConfigError
from mgsrl.plugins import tried
from mgsrl.surgery.report import cosines
from mgsrl.training.schedule import Quotas, Schedule
from mgsrl.types import RolloutGroup, SurgeryReport

KEY = "data.curriculum.kind"


def make_curriculum(config: CurriculumConfig, domains: Sequence[str]) -> Curriculum:
    """The curriculum of that kind. Raises ConfigError when there is none."""
    made: Curriculum = CURRICULA.load(config.kind, KEY)(config.options, domains)
    return made


def check_curriculum(config: CurriculumConfig, algos: Mapping[str, AlgoConfig]) -> None:
    """Find the curriculum and try it; for use at start-up.

    Args:
        algos: of the domains that take part.

    Raises:
        ConfigError: there is none, it does not work, or it goes by what does not teach.
    """
    domains = list(algos)
    with tried(KEY, config.kind, "weights for the domains after a step, and a state as JSON"):
        curriculum, again = (make_curriculum(config, domains) for _ in range(2))
        for signals in ({}, {domain: Signals((0.5, 0.0), 0.25) for domain in domains}):
            curriculum.observe(signals)
            checked_weights(curriculum, domains)
        again.restore(json.loads(json.dumps(curriculum.state())))
    alone = [domain for domain, algo in algos.items() if algo.distils_alone]
    if curriculum.reads_advantages and alone:
        raise ConfigError(
            f"data.curriculum={config.kind} goes by advantages, and some are of a reward that is "
            "not trained on.",
            expected="algo.reward_coef above 0 beside every teacher",
            found=f"algo.reward_coef=0 in {', '.join(alone)}",
            todo="set data.curriculum=worst_task, which goes by rewards, or data.curriculum=steps",
        )


def checked_weights(curriculum: Curriculum, domains: Sequence[str]) -> dict[str, float]:
    """What the configured shares of `domains` are multiplied by.

    Raises:
        ConfigError: something else than a finite number >= 0 for each, or 0 for all.
    """
    found = curriculum.weights()
    weights = {domain: float(found.get(domain, math.nan)) for domain in domains}
    if not (all(0 <= weight < math.inf for weight in weights.values()) and any(weights.values())):
        raise ConfigError(
            f"The curriculum {type(curriculum).__name__} gave weights that cannot be used.",
            expected=f"a finite number >= 0 for each of {', '.join(domains)}, not 0 for all",
            found=str(dict(found)),
            todo="mend it (mgsrl.testing.check_curriculum looks closer)",
        )
    return weights


def shares_of(
    configured: Mapping[str, float], weights: Mapping[str, float], floor: float
) -> dict[str, float]:
    """The shares of a step; they add up to 1.

    Args:
        configured: shares of any scale; those of 0 stay 0.
        weights: of the curriculum, not 0 for all that have a share.
        floor: part of its configured share that every domain keeps.
    """
    whole = math.fsum(configured.values())
    plain = {domain: share / whole for domain, share in configured.items()}
    highest = max(weights[domain] for domain in plain)  # tiny ones must not vanish in the products
    moved = {domain: share * (weights[domain] / highest) for domain, share in plain.items()}
    total = math.fsum(moved.values())
    return {d: floor * plain[d] + (1.0 - floor) * (moved[d] / total) for d in plain}


def signals_of(
    groups: Mapping[str, Sequence[RolloutGroup]], report: SurgeryReport
) -> dict[str, Signals]:
    """What a step showed, by domain, from its groups with advantages and its surgery's record."""
    gram_DD = report.gram_MDD.sum(0)
    alike = cosines(gram_DD).tolist() if gram_DD.isfinite().all() else []
    place = {domain: index for index, domain in enumerate(report.domains)} if alike else {}
    signals = {}
    for domain, of_domain in groups.items():
        scored = [
            (abs(advantage), reward.value)
            for group in of_domain
            for advantage, reward in zip(group.advantages, group.rewards, strict=True)
            if reward.value is not None
        ]
        signals[domain] = Signals(
            advantages=tuple(advantage for advantage, _ in scored),
            reward=math.fsum(value for _, value in scored) / len(scored) if scored else math.nan,
            cosines={
                other: alike[place[domain]][index]
                for other, index in place.items()
                if domain in place and other != domain
            },
        )
    return signals


class AdaptiveShares:
    """Chooses the quotas of one step after the other.

    Args:
        schedule: made with a floor, so that it has the configured shares.
        kind: what the configuration calls the curriculum; the state of another is not taken.
    """

    def __init__(self, curriculum: Curriculum, schedule: Schedule, kind: str) -> None:
        self.curriculum, self._schedule, self._kind = curriculum, schedule, kind
        self._batches = Apportionment[str]()
        self._shares: dict[int, dict[str, float]] = {}
        """Of the steps whose prompts are drawn and that are not done."""
        self._quotas: dict[int, Quotas] = {}

    def quotas(self, step: int) -> Quotas:
        """Prompts by domain; chosen when a step is asked for first, in the order of the steps."""
        if step not in self._quotas:
            phase = self._schedule.phase(step)
            if step == phase.start:
                self._batches = Apportionment()
            shares = self._choose(step)
            split = self._batches.split(sum(phase.quotas.values()), shares)
            self._shares[step] = shares
            self._quotas[step] = {domain: count for domain, count in split.items() if count}
        return self._quotas[step]

    def _choose(self, step: int) -> dict[str, float]:
        configured = self._configured(step)
        weights = checked_weights(self.curriculum, list(configured))
        return shares_of(configured, weights, self._schedule.floor)

    def _configured(self, step: int) -> dict[str, float]:
        shares = self._schedule.shares
        return {d: share for d, share in shares[min(step, len(shares) - 1)].items() if share}

    def scalars(self, step: int) -> dict[str, float]:
        """`mixture/share/<domain>` of a step that was asked for."""
        return {f"mixture/share/{d}": share for d, share in self._shares[step].items()}

    def observe(
        self, step: int, groups: Mapping[str, Sequence[RolloutGroup]], report: SurgeryReport
    ) -> None:
        """A step is done; the next shares that are chosen know of it."""
        self.curriculum.observe(signals_of(groups, report))
        for chosen in (self._shares, self._quotas):
            for done in [each for each in chosen if each <= step]:
                del chosen[done]

    def state(self) -> dict[str, Any]:
        """The curriculum's, the carried fractions, and what is chosen of steps to come."""
        ahead = {
            str(step): {"shares": self._shares[step], "quotas": dict(quotas)}
            for step, quotas in self._quotas.items()
        }
        state = {"kind": self._kind, "curriculum": self.curriculum.state()}
        # Through JSON: a copy, and a user's state that cannot be kept is told at once.
        copied: dict[str, Any] = json.loads(
            json.dumps({**state, "owed": self._batches.owed, "ahead": ahead})
        )
        return copied

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from `state()`. Another curriculum begins anew, but for the steps under way;
        domains that take part no more are left out of these."""
        if state["kind"] == self._kind:
            self.curriculum.restore(state["curriculum"])
        self._batches = Apportionment(
            {d: owed for d, owed in state["owed"].items() if d in self._schedule.domains}
        )
        for text, chosen in state["ahead"].items():
            step = int(text)
            here = self._configured(step)
            quotas, shares = (
                {d: value for d, value in chosen[name].items() if d in here}
                for name in ("quotas", "shares")
            )
            if quotas:
                self._quotas[step], self._shares[step] = quotas, shares
