"""Dynamic sampling: other prompts in the place of those that tell nothing.

A group whose responses all got the same reward tells most estimators of advantages nothing (to
`best_of_group` one whose two best are equal, too): all its advantages are 0. Its place is given to
a new prompt of the same domain, as often as `algo.refill` says, until the domain has its quota of
live groups (DAPO's dynamic sampling, arXiv 2503.14476). Each domain fills its own places, so the
domains' shares of a batch are those of the mixture, however many of a domain's groups are dead: the
ratio-preserving sampler of MT-GRPO (arXiv 2602.05547). What is still dead after the last draw
stays, so that a batch has the same size at every step.

Left out: more prompts than needed at once, in the hope that enough are live (the engines would
make fewer, larger batches; responses of live groups would be thrown away).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from mgsrl.algo.advantages import estimator, says
from mgsrl.config.algo import AlgoConfig
from mgsrl.config.reward import RewardConfig
from mgsrl.errors import ConfigError
from mgsrl.types import RolloutGroup

Groups = dict[str, list[RolloutGroup]]
"""By domain."""


def check_refill(algos: Mapping[str, AlgoConfig], rewards: Mapping[str, RewardConfig]) -> None:
    """Refuse to draw where no group can be dead, or none live; both arguments by domain.

    Raises:
        ConfigError: some domain is refilled for nothing.
    """
    found = {}
    for name, algo in algos.items():
        if algo.refill and algo.distils_alone:
            found[name] = "distils from its teacher alone, so no group is dead (algo.reward_coef=0)"
        elif algo.refill and says(estimator(algo.advantage), "across_groups"):
            found[name] = f"no scored group is dead to algo.advantage={algo.advantage}"
        elif algo.refill and not rewards[name].num_added:
            found[name] = "no score has another weight than 0, so no group is ever live"
    if found:
        raise ConfigError(
            "algo.refill puts live groups in the places of dead ones, which can change nothing.",
            expected="no refill in a domain whose groups cannot be both",
            found="; ".join(f"{name}: {why}" for name, why in found.items()),
            todo=f"set {' '.join(f'domains.{name}.algo.refill=0' for name in found)}",
        )


def refill(
    groups: Groups,
    draws: Mapping[str, int],
    draw: Callable[[Mapping[str, int]], Groups],
    tells: Callable[[RolloutGroup], bool],
) -> tuple[Groups, Groups]:
    """Put live groups in the places of dead ones.

    Args:
        groups: scored, by domain.
        draws: how often new prompts may be drawn, by domain; not at all for others.
        draw: quotas of some domains -> as many scored groups of new prompts, or fewer.
        tells: whether a group is live.

    Returns:
        As many groups as there were, in their places; and all that were drawn.
    """
    drawn = {domain: list(of_domain) for domain, of_domain in groups.items()}
    for done in range(max(draws.values(), default=0)):
        dead = {
            domain: sum(not tells(group) for group in of_domain)
            for domain, of_domain in groups.items()
            if done < draws.get(domain, 0)
        }
        new = (
            draw({domain: count for domain, count in dead.items() if count})
            if any(dead.values())
            else {}
        )
        if not any(new.values()):
            break
        for domain, of_domain in new.items():
            drawn[domain] += of_domain
            live = iter([group for group in of_domain if tells(group)])
            places = groups[domain]
            groups = groups | {domain: [g if tells(g) else next(live, g) for g in places]}
    return groups, drawn


def all_drawn(
    drawn: Mapping[str, Sequence[RolloutGroup]], kept: Mapping[str, Sequence[RolloutGroup]]
) -> Groups:
    """`kept`, and with advantages of 0 those of `drawn` whose places they took, by domain.

    Args:
        drawn: as `refill` gives them.
        kept: with advantages.
    """
    found = {}
    for domain, of_domain in drawn.items():
        places = kept.get(domain, ())
        ids = {group.prompt.id for group in places}
        dead = [group for group in of_domain if group.prompt.id not in ids]
        zeros = [replace(group, advantages=(0.0,) * len(group.rewards)) for group in dead]
        found[domain] = [*places, *zeros]
    return found
