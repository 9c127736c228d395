"""`grpo`: `(r - mean) / (std + 1e-6)` within a group (arXiv 2402.03300).

`algo.normalize_std=false` leaves the division out: Dr. GRPO (arXiv 2503.20783).
"""

from collections.abc import Sequence

from mgsrl.algo.advantages import EPS, mean_std
from mgsrl.config.algo import AlgoConfig


def grpo(rewards_G: Sequence[float], config: AlgoConfig) -> list[float]:
    """[G] differences from the mean, in sample (n - 1) standard deviations if wanted."""
    mean, std = mean_std(rewards_G)
    scale = 1.0 / (std + EPS) if config.normalize_std else 1.0
    return [(reward - mean) * scale for reward in rewards_G]
