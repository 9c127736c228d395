"""From a `RewardConfig` to its reward function, its check of references and its pool of actors."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mgsrl.config.model_path import POCKET_REWARD_MODEL, resolve_model_path
from mgsrl.config.reward import RewardConfig
from mgsrl.errors import ConfigError, explain
from mgsrl.rewards.protocol import RewardFunction

if TYPE_CHECKING:
    from mgsrl.rewards.pool import RewardPool

CheckReference = Callable[[Mapping[str, Any]], None]


def make_reward(config: RewardConfig, special_tokens: Sequence[str] = ()) -> RewardFunction:
    """The reward function of one domain, loaded. Imports only what its kind needs.

    Args:
        special_tokens: the policy's, which a reward model must not see.
    """
    if config.kind == "math":
        from mgsrl.rewards.math_verifier import MathVerifier

        return MathVerifier(time_limit_s=config.time_limit_s, missing_tag=config.missing_tag)
    if config.kind == "constraints":
        from mgsrl.rewards.constraint_checker import ConstraintChecker

        return ConstraintChecker(
            credit=config.credit, strict=config.strict, missing_tag=config.missing_tag
        )
    assert config.kind == "reward_model", config.kind
    from mgsrl.rewards.reward_model import RewardModel

    return RewardModel(
        config.path,
        transform=config.transform,
        batch_size=config.batch_size,
        max_length=config.max_length,
        missing_tag=config.missing_tag,
        special_tokens=special_tokens,
        device="cuda" if config.num_gpus > 0 else "cpu",
    )


def validator(config: RewardConfig) -> CheckReference:
    """What raises DataError for a reference that this reward cannot use."""
    if config.kind == "math":
        from mgsrl.rewards.math_verifier import validate_reference

        return validate_reference
    if config.kind == "constraints":
        from mgsrl.rewards.constraints import validate_reference as validate_constraints

        return validate_constraints
    return lambda reference: None


def check_reward(config: RewardConfig, key: str) -> RewardConfig:
    """Raise the user's mistakes that can be seen without starting an actor.

    Args:
        key: where the configuration stands (`domains.chat.reward`), for messages.

    Returns:
        `config` with the model's folder as an absolute path, so that actors with another working
        directory find it.
    """
    if config.kind != "reward_model":
        return config
    if not config.path:
        raise ConfigError(
            explain(
                f"{key}.path is empty.",
                expected="`pocket`, a folder or a hub id of a reward model",
                found="''",
                todo=f"set {key}.path",
            )
        )
    path = resolve_model_path(config.path, f"{key}.path", POCKET_REWARD_MODEL)
    return replace(config, path=path)


def reward_pool(
    domain: str,
    config: RewardConfig,
    *,
    special_tokens: Sequence[str] = (),
) -> "RewardPool":
    """`config.num_workers` reward actors. Raises the user's mistakes before any actor starts."""
    import ray

    from mgsrl.rewards.pool import RewardPool
    from mgsrl.rewards.worker import RewardWorker

    config = check_reward(config, f"domains.{domain}.reward")
    actor = ray.remote(RewardWorker).options(
        # Rollouts, rewards and learning take turns on a CPU machine, so cores are not reserved.
        num_cpus=0,
        num_gpus=config.num_gpus,
        max_restarts=0,
        runtime_env={"env_vars": {"OMP_WAIT_POLICY": "PASSIVE", "TOKENIZERS_PARALLELISM": "false"}},
    )
    return RewardPool(
        f"reward/{domain}",
        lambda _slot: actor.remote(config, tuple(special_tokens)),
        config,
        max_restarts=config.max_restarts,
        start_limit_s=config.start_limit_s,
    )
