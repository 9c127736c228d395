"""Loading the policy: the bundled pocket model, a local Hugging Face folder or a hub id.

Left out: quantised weights. The learner trains all parameters of a causal LM, or adapters on it.
"""

from typing import Any

import torch
from torch import nn

from mgsrl.config.learner import LearnerConfig
from mgsrl.config.model_facts import packing_obstacle
from mgsrl.config.model_load import load_causal_lm
from mgsrl.config.model_path import POCKET_POLICY, find_model
from mgsrl.config.policy import PolicyConfig
from mgsrl.errors import ConfigError, MissingPathError, one_line
from mgsrl.learner.agreement import proven_forward
from mgsrl.learner.forward import PolicyForward
from mgsrl.learner.lora import add_adapters


def resolve_policy(path: str) -> str:
    """The absolute folder or hub id behind `policy.path`.

    Raises:
        MissingPathError: it looks like a path, and no model is there; or the hub has none.
    """
    return find_model(path, "policy.path", POCKET_POLICY)


def load_policy(config: PolicyConfig, dtype: torch.dtype) -> nn.Module:
    """The causal LM on the CPU, with adapters if `config.lora` says.

    Raises:
        MissingPathError, UserError: it cannot be loaded.
        ConfigError: `config.lora` does not fit the model.
    """
    path = resolve_policy(config.path)
    model: nn.Module = load_causal_lm(
        path, dtype, trust_remote_code=config.trust_remote_code, shown=config.path
    )
    if config.lora.rank:
        add_adapters(model, config.lora)
    return model


def load_forward(
    config: PolicyConfig, dtype: torch.dtype, share_prompts: str = LearnerConfig.share_prompts
) -> PolicyForward:
    """The policy as the learner computes with it, proven to be the model's own log-probabilities.

    Raises:
        UserError: see `load_policy`, `packs_rows` and `agreement.proven_forward`.
    """
    policy: Any = load_policy(config, dtype)
    packed = packs_rows(share_prompts, packing_obstacle(policy.config), config.path)
    return proven_forward(policy, config.path, packed=packed)


def packs_rows(share_prompts: str, obstacle: str | None, path: str) -> bool:
    """Whether the learner computes rows in which responses share their prompt.

    Args:
        obstacle: of `model_facts`: why the model cannot.

    Raises:
        ConfigError: it should and cannot.
    """
    if share_prompts == "always" and obstacle is not None:
        raise ConfigError(
            "learner.share_prompts=always is not possible with this model.",
            expected="a model whose tokens meet in full or sliding-window attention only",
            found=f"{path!r}: {obstacle}",
            todo="set learner.share_prompts=auto (or never): every response gets its prompt",
        )
    return share_prompts != "never" and obstacle is None


def sharing_note(share_prompts: str, obstacle: str | None) -> str | None:
    """What `auto` could not do with this model; None where there is nothing to say."""
    if share_prompts != "auto" or obstacle is None:
        return None
    return (
        f"the learner computes every response with its prompt, padded: this model has {obstacle} "
        "(learner.share_prompts)"
    )


def load_tokenizer(config: PolicyConfig) -> Any:
    """The policy's tokenizer; with the first look at the model, so mistakes surface here.

    Raises:
        MissingPathError: neither a folder nor a hub id that can be reached.
    """
    from transformers import AutoTokenizer

    path = resolve_policy(config.path)
    try:
        return AutoTokenizer.from_pretrained(path, trust_remote_code=config.trust_remote_code)
    # Any exception: the files are the user's, and transformers raises what it meets.
    except Exception as error:
        raise MissingPathError(
            "The tokenizer of policy.path cannot be loaded.",
            expected="a Hugging Face folder, or a hub id that this machine can reach",
            found=f"{config.path!r}: {one_line(error)}",
            todo="correct policy.path, or download the model and give its folder",
        ) from error
