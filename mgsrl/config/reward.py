"""One domain's reward worker."""

from dataclasses import dataclass

from mgsrl.config.require import at_least, more_than, one_of

KINDS = ("math", "constraints", "reward_model")
MISSING_TAG = ("zero", "whole_response", "abstain")
TRANSFORMS = ("none", "sigmoid")
CREDITS = ("fraction", "all")


@dataclass
class RewardConfig:
    kind: str = "math"
    """`math` (math-verify), `constraints` (IFEval-style checks) or `reward_model`."""
    path: str = ""
    """`reward_model`: `pocket`, a local folder or a hub id of a one-logit sequence classifier."""
    transform: str = "none"
    """`reward_model`: `none` keeps the raw logit, `sigmoid` maps it to 0..1."""
    batch_size: int = 32
    """`reward_model`: responses per forward pass."""
    max_length: int = 4096
    """`reward_model`: tokens of prompt and response; longer inputs lose their oldest tokens."""
    credit: str = "fraction"
    """`constraints`: `fraction` of the constraints met, or 1 only for `all` of them."""
    strict: bool = True
    """`constraints`: false also accepts IFEval's loose variants of the response."""
    missing_tag: str = "zero"
    """What a response without a complete `<response>` block gets: `zero`, the score of the
    `whole_response`, or `abstain`."""
    time_limit_s: float = 5.0
    """`math`: seconds per answer before the verifier process is killed and the item abstains."""
    num_workers: int = 1
    """Reward actors for this domain."""
    num_gpus: float = 0.0
    """GPUs per reward actor; without one a `reward_model` computes on the CPU."""
    start_limit_s: float = 300.0
    """Longest wait for a reward actor to load."""
    max_restarts: int = 3
    """Times one reward actor may die and be brought back before the run stops."""

    def validate(self, key: str) -> None:
        one_of(f"{key}.kind", self.kind, KINDS)
        one_of(f"{key}.transform", self.transform, TRANSFORMS)
        one_of(f"{key}.credit", self.credit, CREDITS)
        one_of(f"{key}.missing_tag", self.missing_tag, MISSING_TAG)
        at_least(f"{key}.num_workers", self.num_workers, 1)
        at_least(f"{key}.batch_size", self.batch_size, 1)
        at_least(f"{key}.max_length", self.max_length, 1)
        at_least(f"{key}.num_gpus", self.num_gpus, 0.0)
        at_least(f"{key}.max_restarts", self.max_restarts, 0)
        more_than(f"{key}.time_limit_s", self.time_limit_s, 0)
        more_than(f"{key}.start_limit_s", self.start_limit_s, 0)
