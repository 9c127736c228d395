"""The algorithm: group sizes, advantages, the policy loss and its regularisers."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from mgsrl.config.keys import UNKNOWN
from mgsrl.config.require import at_least, more_than, one_of, within
from mgsrl.config.typed import read_config
from mgsrl.errors import ConfigError, nearest
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
OF_SEQUENCES = ("gmpo", "gspo")
"""Losses that weigh a sequence as a whole."""
READ_BY = {
    "dual_clip": "ppo",
    "divergence": "dppo",
    "ratio_cap": "dppo",
    "tau_positive": "sapo",
    "tau_negative": "sapo",
}
"""Keys that one of our losses reads and no other; a loss of the user's own may read any."""
NOT_FOR = {
    "rloo": ("normalize_std",),
    "maxrl": ("normalize_std",),
    "reinforce_pp": ("normalize_std", "whiten_per_domain"),
    "reinforce_pp_baseline": ("normalize_std", "whiten_per_domain"),
    "gdpo": ("whiten_per_domain",),
}
"""Keys that are refused beside one of our estimators: it divides by no deviation of a group, or it
whitens the batch itself."""
STEP_KEYS = {
    "samples_per_prompt": "the size of all groups of a step",
    "prompts_per_domain": "domains.NAME.prompts_per_step is a domain's",
    "updates_per_batch": "an update is of all domains",
}
"""What a step has once for all domains, and why."""
IMPORTANCE_LEVELS = ("token", "sequence")
MASK_BOUNDS = {"token": (0.5, 5.0), "sequence": (0.5, 2.0), "geometric": (0.999, 1.001)}
"""What may lie within which bounds unless they are set: IcePop's, and verl's presets."""
IMPORTANCE_MASKS = ("none", *MASK_BOUNDS)
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
    teacher: str = ""
    """A model to distil from: a folder, hub id or run folder; empty is none. Its log-probabilities
    of the policy's own responses give every token an advantage of its own (docs/algorithm.md)."""
    teacher_coef: float = 1.0
    """`teacher`: weight of the tokens' advantages, `log p_teacher - log p_policy`."""
    reward_coef: float = 1.0
    """`teacher`: weight of the reward's advantage beside them; 0 distils alone."""
    kl_coef: float = 0.001
    """Weight of the KL to the frozen reference in the loss; 0 loads no reference model."""
    kl_estimator: str = "k3"
    """`k1` | `k2` | `k3` (http://joschu.net/blog/kl-approx.html)."""
    entropy_coef: float = 0.0
    """Weight of the entropy bonus."""
    importance_cap: float | None = 2.0
    """Truncation cap of the engine-to-learner importance weight; null switches it off."""
    importance_level: str = "token"
    """What the importance weight is of: `token` | `sequence` (the product of its tokens')."""
    importance_mask: str = "none"
    """Leave out of the policy loss where engine and learner disagree, by the importance ratio of a
    `token` | of a `sequence` | by the `geometric` mean of a sequence's tokens; `none` keeps all
    (docs/algorithm.md)."""
    importance_low: float | None = None
    """`importance_mask`: the least ratio that is kept, 0 to 1; null: 0.5, `geometric` 0.999."""
    importance_high: float | None = None
    """`importance_mask`: the greatest ratio that is kept, at least 1; null: 5 for `token`, 2 for
    `sequence`, 1.001 for `geometric`."""
    mask_overlong: bool = False
    """Leave responses that were cut at the token limit out of the loss (DAPO's overlong filtering,
    arXiv 2503.14476); they count in the advantages of the others."""
    refill: int = 0
    """Dynamic sampling: how often a step draws new prompts of a domain in the place of those whose
    advantages are all 0, as where all responses got the same reward (DAPO, arXiv 2503.14476); 0
    keeps them."""
    dead_group_weight: float = 1.0
    """Weight, from 0 to 1, of a group that teaches nothing (all advantages are 0) in the loss and
    its denominators: 1 keeps it, 0 drops it, what is between counts its tokens for less. A step
    without any other keeps them."""
    updates_per_batch: int = 1
    """Optimizer steps per batch of rollouts. The old log-probabilities are those of the first and
    cost no forward pass of their own."""

    @property
    def distils_alone(self) -> bool:
        """Whether a teacher is all that teaches: the reward is measured and not trained on."""
        return bool(self.teacher) and not self.reward_coef

    @property
    def importance_on(self) -> bool:
        """Whether any token may have another importance weight than 1."""
        return self.importance_cap is not None or self.importance_mask != "none"

    @property
    def importance_bounds(self) -> tuple[float, float]:
        """(low, high) of what `importance_mask` keeps."""
        low, high = MASK_BOUNDS[self.importance_mask]
        return (
            low if self.importance_low is None else self.importance_low,
            high if self.importance_high is None else self.importance_high,
        )

    def validate(self, key: str = "algo") -> None:
        at_least(
            f"{key}.samples_per_prompt",
            self.samples_per_prompt,
            2,
            "GRPO compares the samples of one prompt with each other.",
        )
        at_least(f"{key}.prompts_per_domain", self.prompts_per_domain, 1)
        at_least(f"{key}.updates_per_batch", self.updates_per_batch, 1)
        at_least(f"{key}.refill", self.refill, 0)
        ADVANTAGES.check_name(self.advantage, f"{key}.advantage")
        LOSSES.check_name(self.loss, f"{key}.loss")
        one_of(f"{key}.aggregation", self.aggregation, AGGREGATIONS)
        one_of(f"{key}.kl_estimator", self.kl_estimator, KL_ESTIMATORS)
        one_of(f"{key}.divergence", self.divergence, DIVERGENCES)
        for name in ("clip_low", "dead_group_weight"):
            within(f"{key}.{name}", getattr(self, name), 0.0, 1.0)
        for name in ("clip_high", "kl_coef", "entropy_coef", "teacher_coef", "reward_coef"):
            at_least(f"{key}.{name}", getattr(self, name), 0.0)
        if self.dual_clip is not None:
            more_than(f"{key}.dual_clip", self.dual_clip, 1)
        self._check_importance(key)
        at_least(f"{key}.ratio_cap", self.ratio_cap, 1.0)
        for name in ("tau_positive", "tau_negative"):
            more_than(f"{key}.{name}", getattr(self, name), 0.0)
        self._check_read(key)
        if self.teacher and self.dead_group_weight < 1:
            raise ConfigError(
                f"{key}.teacher teaches every response: no group is dead.",
                expected=f"{key}.dead_group_weight=1 beside a teacher",
                found=f"{key}.dead_group_weight={self.dead_group_weight:g} "
                f"{key}.teacher={self.teacher}",
                todo=f"set {key}.dead_group_weight=1, or leave {key}.teacher out",
            )
        if self.teacher and self.loss in OF_SEQUENCES:
            raise ConfigError(
                f"{key}.teacher gives each token an advantage, {key}.loss={self.loss} has one for "
                "a whole sequence.",
                expected=f"a loss of tokens, such as {key}.loss=ppo",
                found=f"{key}.loss={self.loss} {key}.teacher={self.teacher}",
                todo=f"set {key}.loss=ppo, or leave {key}.teacher out",
            )

    def _check_importance(self, key: str) -> None:
        """Raise ConfigError for values that cannot be, and for weight and mask at odds."""
        if self.importance_cap is not None:
            at_least(f"{key}.importance_cap", self.importance_cap, 1.0)
        one_of(f"{key}.importance_level", self.importance_level, IMPORTANCE_LEVELS)
        one_of(f"{key}.importance_mask", self.importance_mask, IMPORTANCE_MASKS)
        for name in ("importance_low", "importance_high"):
            value, here = getattr(self, name), f"{key}.{name}"
            if value is None:
                continue
            if self.importance_mask == "none":
                raise ConfigError(
                    f"{here} is a bound of a mask, and there is none.",
                    expected=f"{key}.importance_mask token, sequence or geometric beside it",
                    found=f"{key}.importance_mask=none {here}={value}",
                    todo=f"set {key}.importance_mask=token, or {here}=null",
                )
            if name == "importance_low":
                within(here, value, 0.0, 1.0)
            else:
                at_least(here, value, 1.0, "A ratio of 1 is no mismatch.")
        self._check_importance_pairs(key)

    def _check_importance_pairs(self, key: str) -> None:
        """Raise ConfigError for weight, mask and loss at odds with each other."""
        of_sequences = self.importance_level == "sequence"
        if of_sequences and self.importance_cap is None:
            raise ConfigError(
                f"{key}.importance_level says what the importance weight is of, and it is off.",
                expected=f"{key}.importance_cap >= 1 beside it",
                found=f"{key}.importance_level=sequence {key}.importance_cap=null",
                todo=f"set {key}.importance_cap=2.0, or {key}.importance_level=token",
            )
        whole = f"{key}.importance_level=sequence" if of_sequences else ""
        whole = f"{key}.loss={self.loss}" if self.loss in OF_SEQUENCES else whole
        if self.importance_mask == "token" and whole:
            raise ConfigError(
                f"{key}.importance_mask=token leaves out single tokens, {whole} weighs a whole "
                "sequence, by those tokens too.",
                expected=f"{key}.importance_mask sequence or geometric beside it",
                found=f"{whole} {key}.importance_mask=token",
                todo=f"set {key}.importance_mask=sequence, or geometric",
            )

    def _check_read(self, key: str) -> None:
        """Raise ConfigError for a key that is set and that only another of our losses reads."""
        for name, loss in READ_BY.items():
            here, value, default = f"{key}.{name}", getattr(self, name), getattr(AlgoConfig, name)
            if value != default and self.loss != loss and self.loss in LOSSES.members:
                unset = "null" if default is None else default
                raise ConfigError(
                    f"{here} is read by {key}.loss={loss} only.",
                    expected=f"{key}.loss={loss} beside it",
                    found=f"{key}.loss={self.loss} {here}={value}",
                    todo=f"set {here}={unset}, or {key}.loss={loss}",
                )


def own_algo(shared: AlgoConfig, own: Mapping[str, Any], key: str) -> AlgoConfig:
    """`shared` with a domain's own keys over it.

    A domain with another loss has that loss's defaults of the keys that one loss alone reads, one
    with another mask its bounds, one with another advantage the defaults of the keys that cannot
    stand beside it, and one that is to have no teacher none of the weights beside it.

    Args:
        key: where the own keys stand, for messages.

    Raises:
        ConfigError: a key that no domain has for itself, or a value of another type.
    """
    names = [item.name for item in fields(AlgoConfig) if item.name not in STEP_KEYS]
    for name in own:
        if name in STEP_KEYS:
            raise ConfigError(
                f"{key}.{name} cannot be one domain's own.",
                expected=f"one value for all domains: {STEP_KEYS[name]}",
                found=f"{key}.{name}={own[name]}",
                todo="leave it out, and set the key of all domains",
            )
        if name not in names:
            raise ConfigError(
                f"{UNKNOWN} {key}.{name}.",
                expected=f"one of {', '.join(names)}",
                found=repr(name),
                todo=nearest(name, names),
            )
    values = {**asdict(shared), **own}
    if "loss" in own:
        values |= {name: getattr(AlgoConfig, name) for name in READ_BY if name not in own}
    if "importance_mask" in own:
        bounds = ("importance_low", "importance_high")
        values |= {name: None for name in bounds if name not in own}
    if own.get("advantage", shared.advantage) != shared.advantage:
        unread = NOT_FOR.get(str(own["advantage"]), ())
        values |= {name: getattr(AlgoConfig, name) for name in unread if name not in own}
    if "teacher" in own and not own["teacher"]:
        values |= {name: 1.0 for name in ("teacher_coef", "reward_coef") if name not in own}
    return read_config(AlgoConfig, values, key)
