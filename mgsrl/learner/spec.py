"""Everything one learner rank needs to know, as one record that travels to the actors."""

from collections.abc import Mapping
from dataclasses import dataclass

from mgsrl.config.algo import AlgoConfig
from mgsrl.config.learner import LearnerConfig
from mgsrl.config.policy import PolicyConfig
from mgsrl.config.surgery import SurgeryConfig
from mgsrl.errors import ConfigError

STEP_SEED_STRIDE = 1_000_003


@dataclass(frozen=True)
class Engines:
    """What the learners know of the rollout engines that take their weights."""

    limit_s: float = 600.0
    """Longest wait for all of them in one message of a publish."""
    busy_limit_s: float | None = None
    """The same for the first message, which may find them at work; None is `limit_s`."""
    ranks_per_worker: int = 1
    """Tensor-parallel ranks behind one rollout actor."""
    take_checkpoints: bool = True
    """They take weights as a checkpoint has them (vLLM), else as the learner holds them."""
    dtype: str = "float32"
    """In which they keep their weights."""


@dataclass(frozen=True)
class LearnerSpec:
    """What is trained and how; equal on all ranks.

    Raises:
        ConfigError: a combination that cannot work (checked before any actor starts).
    """

    policy: PolicyConfig
    learner: LearnerConfig
    algos: Mapping[str, AlgoConfig]
    """Of every domain that is trained."""
    surgery: SurgeryConfig
    seed: int
    num_steps: int
    """Length of the run in batches of rollouts: where the learning-rate schedule ends."""
    updates_per_batch: int = 1

    def __post_init__(self) -> None:
        self.learner.validate()
        if self.learner.dtype == "bfloat16" and self.learner.zero_stage == 0:
            raise ConfigError(
                "learner.zero_stage=0 keeps no fp32 master weights beside bfloat16 ones.",
                expected="learner.zero_stage 1, 2 or 3 with learner.dtype=bfloat16",
                found="learner.zero_stage=0, learner.dtype=bfloat16",
                todo="set learner.zero_stage=1 (same model memory, smaller optimizer state)",
            )
        if self.learner.offload_optimizer and self.learner.zero_stage == 0:
            raise ConfigError(
                "learner.offload_optimizer is a part of ZeRO.",
                expected="learner.zero_stage 1, 2 or 3",
                found="learner.zero_stage=0",
                todo="set learner.zero_stage=2, or learner.offload_optimizer=false",
            )


def step_seed(run_seed: int, step: int) -> int:
    """The seed of a step's projection orders, below 2**63 as generators want it.

    Steps of one run and runs of neighbouring seeds draw different orders.
    """
    return (run_seed * STEP_SEED_STRIDE + step) % 2**63
