"""What holds for curricula, tried on random steps."""

import json
import math
import random
from collections.abc import Callable
from typing import Any

from mgsrl.config.curriculum import CurriculumConfig
from mgsrl.config.typed import read_config
from mgsrl.data.curricula.protocol import Curriculum, Signals
from mgsrl.testing.demand import demand
from mgsrl.training.adaptive import make_curriculum

DOMAINS = ("math", "chat", "code")
STEPS = 12


def check_curriculum(curriculum: str | type[Curriculum], *, seeds: int = 3, **keys: Any) -> None:
    """Raise ContractError unless a curriculum keeps its contract.

    Args:
        curriculum: its name, as in `data.curriculum` (`mine.py:Mine`), or a class that can be
            imported.
        seeds: random courses of training per property.
        keys: of the curriculum, as in YAML.

    Tried: `weights` are finite, not negative and not all 0, before the first step and after any,
    with domains that a step did not train, responses that all abstained and gradients without
    cosines among them; asking twice gives the same; what a state as JSON restores goes on as what
    was saved, to the bit; a state may lack a domain, and have one that left.

    Raises:
        ContractError: a property does not hold.
        ConfigError: the curriculum cannot be found, or refuses a key.
    """
    name = curriculum
    if not isinstance(name, str):
        name = f"{name.__module__}:{name.__qualname__}"
    config: CurriculumConfig = read_config(CurriculumConfig, {"kind": name, **keys})
    config.validate("data.curriculum")

    def make(domains: tuple[str, ...] = DOMAINS) -> Curriculum:
        return make_curriculum(config, domains)

    for check in (_weights, _goes_on, _others):
        for seed in range(seeds):
            check(make, f"The curriculum {name}", random.Random(seed))


def random_signals(draw: random.Random) -> dict[str, Signals]:
    """Of one step; now and then a domain is missing, or has nothing to tell."""
    trained = [domain for domain in DOMAINS if draw.random() < 0.8] or [DOMAINS[0]]
    signals = {}
    for domain in trained:
        scored = draw.choice([0, 1, 4, 8])
        others = [other for other in trained if other != domain] if draw.random() < 0.8 else []
        signals[domain] = Signals(
            advantages=tuple(draw.uniform(0.0, 2.0) for _ in range(scored)),
            reward=draw.uniform(-1.0, 1.0) if scored else math.nan,
            cosines={other: draw.uniform(-1.0, 1.0) for other in others},
        )
    return signals


Make = Callable[..., Curriculum]


def _asked(curriculum: Curriculum, part: str, domains: tuple[str, ...] = DOMAINS) -> Any:
    found, again = dict(curriculum.weights()), dict(curriculum.weights())
    demand(found == again, part, "the same weights when asked twice", f"{found}, then {again}")
    fine = all(
        domain in found and math.isfinite(found[domain]) and found[domain] >= 0
        for domain in domains
    )
    demand(fine and any(found.values()), part, f"numbers >= 0 for {', '.join(domains)}", found)
    return found


def _weights(make: Make, part: str, draw: random.Random) -> None:
    curriculum = make()
    _asked(curriculum, part)
    for _ in range(STEPS):
        curriculum.observe(random_signals(draw))
        _asked(curriculum, part)


def _goes_on(make: Make, part: str, draw: random.Random) -> None:
    one, other = make(), make()
    for step in range(STEPS):
        if step == STEPS // 2:
            other = make()
            other.restore(json.loads(json.dumps(one.state())))
        signals = random_signals(draw)
        one.observe(signals)
        other.observe(signals)
        found, wanted = _asked(other, part), _asked(one, part)
        demand(found == wanted, part, f"after restoring {wanted}, as without", found)


def _others(make: Make, part: str, draw: random.Random) -> None:
    fewer, all_of_them = make(DOMAINS[:2]), make()
    one = draw.choice([fewer, all_of_them])
    other, domains = (all_of_them, DOMAINS) if one is fewer else (fewer, DOMAINS[:2])
    for _ in range(3):
        signals = random_signals(draw)
        one.observe({d: seen for d, seen in signals.items() if d in one.domains})
    other.restore(json.loads(json.dumps(one.state())))
    _asked(other, part, domains)
