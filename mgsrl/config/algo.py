"""The algorithm: group sizes, advantages, the policy loss and its regularisers."""

from dataclasses import dataclass

from mgsrl.config.require import at_least, more_than, one_of, within
from mgsrl.errors import ConfigError
from mgsrl.plugins import Registry

ADVANTAGES = Registry(
    "advantage estimator", "mgsrl.advantages", {"grpo": "mgsrl.algo.advantages.grpo:grpo"}
)
LOSSES = Registry(
    "policy loss",
    "mgsrl.losses",
    {
        "ppo": "mgsrl.algo.losses.ppo:ppo",
        "cispo": "mgsrl.algo.losses.cispo:cispo",
        "dppo": "mgsrl.algo.losses.dppo:dppo",
        "gmpo": "mgsrl.algo.losses.gmpo:gmpo",
        "gspo": "mgsrl.algo.losses.gspo:gspo",
        "sapo": "mgsrl.algo.losses.sapo:sapo",
    },
)
READ_BY = {
    "dual_clip": "ppo",
    "divergence": "dppo",
    "ratio_cap": "dppo",
    "tau_positive": "sapo",
    "tau_negative": "sapo",
}
"""Keys that one of our losses reads and no other; a loss of the user's own may read any."""
AGGREGATIONS = ("token_mean", "sequence_mean", "sequence_sum_norm")
DIVERGENCES = ("tv", "kl")
KL_ESTIMATORS = ("k1", "k2", "k3")


@dataclass
class AlgoConfig:
    samples_per_prompt: int = 8
    """Responses per prompt: the GRPO group size, at least 2."""
    prompts_per_domain: int = 8
    """Prompts of each domain per step; `domains.<name>.prompts_per_step` overrides it."""
    advantage: str = "grpo"
    """The estimator of advantages: `grpo`, or your own (`module:function`, `file.py:function`)."""
    normalize_std: bool = True
    """`grpo`: divide the advantage by the group's standard deviation (GRPO); false is Dr. GRPO."""
    whiten_per_domain: bool = False
    """Standardise the advantages over each domain's whole batch (the normalised-advantage
    baseline)."""
    loss: str = "ppo"
    """The policy loss: `ppo` | `gspo` | `gmpo` | `cispo` | `sapo` | `dppo` (docs/algorithm.md), or
    your own (`module:function`, `file.py:function`). They differ from the second update on a
    batch on."""
    aggregation: str = "token_mean"
    """`token_mean` | `sequence_mean` (mean of sequence means) | `sequence_sum_norm` (token sum
    over the response limit, Dr. GRPO). Denominators are global over ranks and domains."""
    clip_low: float = 0.2
    """`ppo`, `gspo`, `cispo`: the lower bound of the ratio, of a sequence's ratio, of the weight is
    1 - clip_low. `gmpo`: the lower bound of the log-ratio is -clip_low. `dppo`: the divergence that
    a token's probability may have fallen by."""
    clip_high: float = 0.2
    """`ppo`, `gspo`, `cispo`: the upper bound is 1 + clip_high. `gmpo`: that of the log-ratio is
    clip_high. `dppo`: the divergence that a token's probability may have risen by."""
    dual_clip: float | None = None
    """`ppo`: dual-clip constant c > 1 for negative advantages (arXiv 1912.09729); usual value 3."""
    divergence: str = "tv"
    """`dppo`: what the trust region measures, between "this token" and "any other": `tv` (total
    variation, thresholds about 0.15) | `kl` (about 0.05)."""
    ratio_cap: float = 20.0
    """`dppo`: the largest ratio that a token's gradient is multiplied by, at least 1."""
    tau_positive: float = 1.0
    """`sapo`: how fast the gate closes for positive advantages."""
    tau_negative: float = 1.05
    """`sapo`: how fast the gate closes for the others."""
    kl_coef: float = 0.001
    """Weight of the KL to the frozen reference in the loss; 0 loads no reference model."""
    kl_estimator: str = "k3"
    """`k1` | `k2` | `k3` (http://joschu.net/blog/kl-approx.html)."""
    entropy_coef: float = 0.0
    """Weight of the entropy bonus."""
    importance_cap: float | None = 2.0
    """Truncation cap of the engine-to-learner importance weight; null switches it off."""
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
        one_of("algo.divergence", self.divergence, DIVERGENCES)
        within("algo.clip_low", self.clip_low, 0.0, 1.0)
        for key in ("clip_high", "kl_coef", "entropy_coef"):
            at_least(f"algo.{key}", getattr(self, key), 0.0)
        if self.dual_clip is not None:
            more_than("algo.dual_clip", self.dual_clip, 1)
        if self.importance_cap is not None:
            at_least("algo.importance_cap", self.importance_cap, 1.0)
        at_least("algo.ratio_cap", self.ratio_cap, 1.0)
        for key in ("tau_positive", "tau_negative"):
            more_than(f"algo.{key}", getattr(self, key), 0.0)
        self._check_read()

    def _check_read(self) -> None:
        """Raise ConfigError for a key that is set and that only another of our losses reads."""
        for name, loss in READ_BY.items():
            key, value, default = f"algo.{name}", getattr(self, name), getattr(AlgoConfig, name)
            if value != default and self.loss != loss and self.loss in LOSSES.members:
                unset = "null" if default is None else default
                raise ConfigError(
                    f"{key} is read by algo.loss={loss} only.",
                    expected=f"algo.loss={loss} beside it",
                    found=f"algo.loss={self.loss} {key}={value}",
                    todo=f"set {key}={unset}, or algo.loss={loss}",
                )
