"""The algorithm: group sizes, advantages, the policy loss and its regularisers."""

from dataclasses import dataclass

from mgsrl.config.require import at_least, more_than, one_of, within
from mgsrl.plugins import Registry

ADVANTAGES = Registry(
    "advantage estimator",
    "mgsrl.advantages",
    {
        "grpo": "mgsrl.algo.advantages.grpo:grpo",
        "rloo": "mgsrl.algo.advantages.rloo:rloo",
        "maxrl": "mgsrl.algo.advantages.maxrl:maxrl",
        "reinforce_pp": "mgsrl.algo.advantages.reinforce_pp:reinforce_pp",
        "reinforce_pp_baseline": (
            "mgsrl.algo.advantages.reinforce_pp_baseline:reinforce_pp_baseline"
        ),
        "gdpo": "mgsrl.algo.advantages.gdpo:gdpo",
        "best_of_group": "mgsrl.algo.advantages.best_of_group:best_of_group",
    },
)
LOSSES = Registry("policy loss", "mgsrl.losses", {"ppo": "mgsrl.algo.losses.ppo:ppo"})
AGGREGATIONS = ("token_mean", "sequence_mean", "sequence_sum_norm")
KL_ESTIMATORS = ("k1", "k2", "k3")


@dataclass
class AlgoConfig:
    samples_per_prompt: int = 8
    """Responses per prompt: the GRPO group size, at least 2."""
    prompts_per_domain: int = 8
    """Prompts of each domain per step; `domains.<name>.prompts_per_step` overrides it."""
    advantage: str = "grpo"
    """The estimator of advantages: `grpo`, `rloo`, `maxrl`, `reinforce_pp`,
    `reinforce_pp_baseline`, `gdpo`, `best_of_group` (docs/algorithm.md), or your own
    (`module:function`, `file.py:function`)."""
    normalize_std: bool = True
    """`grpo`, `gdpo`, `best_of_group`: divide by the group's standard deviation; `grpo` without is
    Dr. GRPO."""
    whiten_per_domain: bool = False
    """Standardise the advantages over each domain's whole batch (the normalised-advantage
    baseline)."""
    loss: str = "ppo"
    """The policy loss: `ppo`, or your own (`module:function`, `file.py:function`)."""
    aggregation: str = "token_mean"
    """`token_mean` | `sequence_mean` (mean of sequence means) | `sequence_sum_norm` (token sum
    over the response limit, Dr. GRPO). Denominators are global over ranks and domains."""
    clip_low: float = 0.2
    """`ppo`: the ratio's lower bound is 1 - clip_low."""
    clip_high: float = 0.2
    """`ppo`: the ratio's upper bound is 1 + clip_high."""
    dual_clip: float | None = None
    """`ppo`: dual-clip constant c > 1 for negative advantages (arXiv 1912.09729); usual value 3."""
    kl_coef: float = 0.001
    """Weight of the KL to the frozen reference in the loss; 0 loads no reference model."""
    kl_estimator: str = "k3"
    """`k1` | `k2` | `k3` (http://joschu.net/blog/kl-approx.html)."""
    entropy_coef: float = 0.0
    """Weight of the entropy bonus."""
    importance_cap: float | None = 2.0
    """Truncation cap of the engine-to-learner importance weight; null switches it off."""
    mask_overlong: bool = False
    """Leave responses that were cut at the token limit out of the loss (DAPO's overlong filtering,
    arXiv 2503.14476); they count in the advantages of the others."""
    updates_per_batch: int = 1
    """Optimizer steps per batch of rollouts. The old log-probabilities are those of the first and
    cost no forward pass of their own."""

    def validate(self) -> None:
        at_least(
            "algo.samples_per_prompt",
            self.samples_per_prompt,
            2,
            "GRPO compares the samples of one prompt with each other.",
        )
        at_least("algo.prompts_per_domain", self.prompts_per_domain, 1)
        at_least("algo.updates_per_batch", self.updates_per_batch, 1)
        ADVANTAGES.check_name(self.advantage, "algo.advantage")
        LOSSES.check_name(self.loss, "algo.loss")
        one_of("algo.aggregation", self.aggregation, AGGREGATIONS)
        one_of("algo.kl_estimator", self.kl_estimator, KL_ESTIMATORS)
        within("algo.clip_low", self.clip_low, 0.0, 1.0)
        for key in ("clip_high", "kl_coef", "entropy_coef"):
            at_least(f"algo.{key}", getattr(self, key), 0.0)
        if self.dual_clip is not None:
            more_than("algo.dual_clip", self.dual_clip, 1)
        if self.importance_cap is not None:
            at_least("algo.importance_cap", self.importance_cap, 1.0)
