"""The contract of a reward, for a test of one's own: `mgsrl doctor rewards` as an assertion."""

from collections.abc import Callable, Mapping
from typing import Any

from mgsrl.config.reward import RewardConfig, named_reward
from mgsrl.config.typed import read_config
from mgsrl.errors import ContractError
from mgsrl.rewards.contract import check_contract
from mgsrl.rewards.factory import check_reward as checked
from mgsrl.rewards.factory import make_reward
from mgsrl.rewards.protocol import Golden


def check_reward(
    reward: str | Callable[..., Any],
    *,
    prompt: str = "",
    good: str = "",
    bad: str = "",
    reference: Mapping[str, Any] | None = None,
    **keys: Any,
) -> None:
    """Raise ContractError unless a reward keeps its contract.

    Args:
        reward: a kind, class or plain function by its name (`my_rewards.py:CodeReward`), or a
            class or function that can be imported.
        prompt: a task; without `good` the class's own `golden` case is tried.
        good: a right response to it, plain text without tags.
        bad: a wrong one.
        reference: the row's columns.
        keys: of the reward, as in YAML.

    Raises:
        ContractError: names every check that fails, with what was expected and found.
        UserError: the reward cannot be loaded, or refuses a key or the reference.
    """
    kind = reward if isinstance(reward, str) else f"{reward.__module__}:{reward.__qualname__}"
    named = {**named_reward(kind, "reward"), **keys}
    config = checked(read_config(RewardConfig, named), "reward")
    made = make_reward(config)
    golden = Golden(prompt, good, bad, reference or {}) if good else made.golden
    made.validate_reference(golden.reference)
    failed = [verdict for verdict in check_contract(config, golden) if not verdict.kept]
    if failed:
        lines = (f"{each.check}: expected {each.expected}, found {each.found}" for each in failed)
        raise ContractError("\n".join([f"{kind} does not keep the contract of a reward.", *lines]))
