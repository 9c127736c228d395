"""What a policy's `config.json` says that mgsrl relies on: the one place that reads it.

Families name the same things differently (`n_positions`, `max_seq_len`) and multi-modal models
keep them in a part of their own, so it is read through transformers' `get_text_config()`.

Left out: the weights. What they compute is measured (`learner/agreement.py`), not read.
"""

import inspect
from dataclasses import dataclass
from typing import Any

from mgsrl.errors import MissingPathError, one_line

POSITIONS = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "seq_length",
    "max_target_positions",
    "max_sequence_length",
    "max_seq_length",
    "seq_len",
)
"""Names of the longest sequence; the smallest counts, as in vLLM."""
STRETCHED = ("su", "longrope", "llama3", "yarn", "deepseek_yarn", "deepseek_llama_scaling")
"""Rotary embeddings whose configuration names the stretched length already."""

BESIDE_ATTENTION = ("attn_logit_softcapping", "alibi", "index_topk", "num_kv_shared_layers")
"""Settings of soft caps, biases by distance, sparse attention, layers that borrow their keys."""

OWN_ATTENTION = ("doge", "moshi", "nemotron")
"""Families that give attention a mask of their own, or do not hand on what the model is given."""


@dataclass(frozen=True)
class ModelFacts:
    vocab_size: int
    """Rows of the embedding: every token id is below."""
    positions: int | None
    """Longest sequence in tokens, prompt and response; None where nothing limits it."""
    stop_token_ids: tuple[int, ...]
    """`eos_token_id`, where the file has it: a family's default is another model's token."""
    hidden_size: int | None
    architectures: tuple[str, ...]
    """Classes that the weights are of; empty when the file names none."""
    head_width: int | None
    """Width of an attention head; None without attention, or with latent attention."""
    cache_per_token: int | None
    """Numbers that the key-value cache holds per token; None for an unknown layout."""
    not_packed: str | None
    """See `packing_obstacle`."""


def model_facts(path: str, *, trust_remote_code: bool = False) -> ModelFacts:
    """Read the configuration in a folder or hub id.

    Raises:
        MissingPathError: it cannot be read, or is of a kind of model that transformers does not
            know.
    """
    from transformers import AutoConfig, PreTrainedConfig

    try:
        written, _ = PreTrainedConfig.get_config_dict(path)
        whole = AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code)
        config = whole.get_text_config()
        return ModelFacts(
            vocab_size=config.vocab_size,
            positions=_positions(config),
            stop_token_ids=_stops(written) or _stops(written.get("text_config") or {}),
            hidden_size=getattr(config, "hidden_size", None),
            architectures=tuple(getattr(whole, "architectures", None) or ()),
            head_width=_head_width(config),
            cache_per_token=cache_per_token(config),
            not_packed=packing_obstacle(whole),
        )
    # Any exception: the file is the user's, and families check their fields each in its own way.
    except Exception as error:
        todo = "correct policy.path (policy.trust_remote_code=true runs a model's own code)"
        raise unreadable_config(path, error, todo) from error


def unreadable_config(path: str, error: Exception, todo: str) -> MissingPathError:
    """What the user is told of a configuration that cannot be read."""
    return MissingPathError(
        "The configuration of policy.path cannot be read.",
        expected="a config.json of a model that the installed transformers knows",
        found=f"{path!r}: {one_line(error)}",
        todo=todo,
    )


def packing_obstacle(config: Any) -> str | None:
    """Why several sequences of this model cannot stand in one row and share their prompt.

    None for what `learner/attention.py` can do: attention that transformers lets others compute,
    full or in a sliding window, as the only place where tokens meet.
    """
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_MAPPING

    text = config.get_text_config()
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING or type(config) not in MODEL_MAPPING:
        return "code that is not transformers' own"
    model, body = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)], MODEL_MAPPING[type(config)]
    others = {*(getattr(text, "layer_types", None) or ())} - {"full_attention", "sliding_attention"}
    takes = inspect.signature(body.forward).parameters
    reasons = {
        f"layers of the kind {', '.join(sorted(map(str, others)))}": others,
        "layers that carry a state from token to token": getattr(model, "_is_stateful", False),
        "attention that only its own code can compute": not model._supports_attention_backend
        or not {"position_ids", "kwargs"} <= takes.keys()
        or text.model_type in OWN_ATTENTION,
        # No fused attention of torch's (`sdpa`): there are sinks, as in gpt-oss.
        "more in its attention than products and a softmax": not model._supports_sdpa
        or any(getattr(text, name, None) for name in BESIDE_ATTENTION),
    }
    return next((reason for reason, found in reasons.items() if found), None)


def _stops(written: dict[str, Any]) -> tuple[int, ...]:
    return token_ids(written.get("eos_token_id"))


def token_ids(value: Any) -> tuple[int, ...]:
    """`eos_token_id` as files hold it (nothing, one, or a list) as a tuple."""
    if value is None:
        return ()
    return tuple(value) if isinstance(value, list | tuple) else (value,)


def _positions(config: Any) -> int | None:
    named = [getattr(config, name, None) for name in POSITIONS]
    own = getattr(config, "model_max_length", None)  # Command R: the length it was made for
    limit = own or min((n for n in named if n), default=None)
    if limit is None or "gemma3" in config.model_type:  # Gemma 3 names the stretched length
        return limit
    for rope in _rope_parameters(config):
        if rope.get("rope_type") not in STRETCHED and rope.get("factor"):
            return int(limit * rope["factor"])
    return int(limit)


def _rope_parameters(config: Any) -> list[dict[str, Any]]:
    """One set, or one for each kind of layer."""
    parameters = getattr(config, "rope_parameters", None) or {}
    nested = [value for value in parameters.values() if isinstance(value, dict)]
    return nested or [parameters]


def _head_width(config: Any) -> int | None:
    heads = getattr(config, "num_attention_heads", None)
    if not isinstance(heads, int) or heads < 1 or getattr(config, "kv_lora_rank", None):
        return None
    return getattr(config, "head_dim", None) or getattr(config, "hidden_size", 0) // heads or None


def cache_per_token(config: Any) -> int | None:
    """Numbers that the key-value cache holds per token; None for an unknown layout."""
    try:
        heads = config.num_attention_heads
        kv_heads = getattr(config, "num_key_value_heads", None) or heads
        width = getattr(config, "head_dim", None) or config.hidden_size // heads
        return int(2 * config.num_hidden_layers * kv_heads * width)
    except (AttributeError, TypeError):
        return None
