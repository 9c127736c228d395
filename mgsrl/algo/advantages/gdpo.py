"""`gdpo`: each component of a composite reward normalised by itself (arXiv 2601.05242).

    a = sum over components k of weight_k * (r_k - mean_group) / (std_group + 1e-6)
    A = (a - mean_batch) / std_batch

GRPO normalises the sum instead, in which a component of a large scale drowns the others, and
responses that earn equal sums in different ways are alike. The components are those of the shaped
reward (`rewards/shaping.py`). The batch is whitened over its response tokens, as the authors' code
and verl do; the paper's equation counts responses.
"""

from collections.abc import Sequence

from mgsrl.algo.advantages import over_batch
from mgsrl.algo.advantages.grpo import grpo
from mgsrl.config.algo import AlgoConfig
from mgsrl.types import Component, tell_apart


@over_batch
def gdpo(
    rewards_G: Sequence[float],
    components_G: Sequence[Sequence[Component]],
    config: AlgoConfig,
) -> list[float]:
    """[G] the weighted sum of the components' advantages: what is whitened."""
    sums_G = [0.0] * len(rewards_G)
    for component_G in zip(*components_G, strict=True):
        scores_G = [each.score for each in component_G]
        if tell_apart(scores_G):
            advantages_G = grpo(scores_G, config)
            sums_G = [
                total + each.weight * advantage
                for total, each, advantage in zip(sums_G, component_G, advantages_G, strict=True)
            ]
    return sums_G
