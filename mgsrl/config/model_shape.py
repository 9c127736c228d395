"""How large a policy is: the numbers that its memory follows from, without its weights.

The model is built from its configuration without storage, so parameters are counted, not derived.
The configuration of a hub id need not be on this machine for the models that the recipes name:
their published shapes are known (`assets/model_shapes.json`), and `source` says so.
"""

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mgsrl.config.hub import check_on_hub
from mgsrl.config.model_facts import cache_per_token, packing_obstacle, unreadable_config
from mgsrl.config.policy import LoraConfig
from mgsrl.errors import MissingPathError

KNOWN = Path(__file__).resolve().parents[1] / "assets" / "model_shapes.json"
VARIANT = re.compile(r"-(Instruct|Base)$")
"""Instruction-tuned models have the shape of their base."""


@dataclass(frozen=True)
class ModelShape:
    parameters: int
    """Of the whole model, tied ones once."""
    trained: int
    """Those that are trained: all, or the adapters'."""
    largest: int
    """Elements of the largest trained tensor: an embedding's, as a rule."""
    body: int
    """Parameters of the layers: without the embeddings and the LM head."""
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    """Width of the MLP."""
    num_layers: int
    num_heads: int
    """Of attention; 0 without any, or where layers differ."""
    cache_per_token: int
    """Numbers that keys and values of one token take in all layers."""
    source: str
    """Where the shape is from, in words."""
    not_packed: str | None = None
    """See `model_facts.packing_obstacle`."""


def model_shape(
    path: str, lora: LoraConfig | None = None, *, trust_remote_code: bool = False
) -> ModelShape:
    """Of the model in a folder or behind a hub id.

    Raises:
        MissingPathError: its configuration cannot be read, and its shape is not known either.
    """
    config, source = _configuration(path, trust_remote_code)
    try:
        model = _without_storage(config, trust_remote_code)
    # Any exception: the file is the user's, and families check their fields each in its own way.
    except Exception as error:
        raise _unreadable(path, error) from error
    text = config.get_text_config()
    sizes = [param.numel() for param in model.parameters()]
    parameters = sum(sizes)
    if lora is not None and lora.rank:
        sizes = _adapter_sizes(model, lora)
    hidden, heads = text.hidden_size, getattr(text, "num_attention_heads", 0)
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    outer = {id(param): param.numel() for end in ends if end for param in end.parameters()}
    return ModelShape(
        parameters=parameters,
        trained=sum(sizes),
        largest=max(sizes, default=0),
        body=parameters - sum(outer.values()),
        vocab_size=text.vocab_size,
        hidden_size=hidden,
        intermediate_size=getattr(text, "intermediate_size", None) or 4 * hidden,
        num_layers=text.num_hidden_layers,
        num_heads=heads if isinstance(heads, int) else 0,
        cache_per_token=cache_per_token(text) or 2 * text.num_hidden_layers * hidden,
        source=source,
        not_packed=packing_obstacle(config),
    )


def _configuration(path: str, trust_remote_code: bool) -> tuple[Any, str]:
    """What is on this machine, else what is known, else what the hub has."""
    from transformers import AutoConfig

    def read(**where: bool) -> Any:
        return AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code, **where)

    try:
        return read(local_files_only=True), f"the configuration of {path}"
    # Any exception: see above.
    except Exception as error:
        if os.path.isabs(path):
            raise _unreadable(path, error) from error
    fields = json.loads(KNOWN.read_text()).get(VARIANT.sub("", path))
    if fields is not None:
        source = f"the published shape of {path} (its configuration is not on this machine)"
        return AutoConfig.for_model(fields.pop("model_type"), **fields), source
    check_on_hub(path, "model", "policy.path", "download its config.json and give its folder")
    try:
        return read(), f"the configuration of {path}"
    except Exception as error:
        raise _unreadable(path, error) from error


def _without_storage(config: Any, trust_remote_code: bool) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)


def _adapter_sizes(model: Any, lora: LoraConfig) -> list[int]:
    from torch import nn

    head, ends = model.get_output_embeddings(), [f".{end}" for end in lora.target_modules]
    sizes = []
    for name, layer in model.named_modules():
        chosen = not ends or any(f".{name}".endswith(end) for end in ends)
        if isinstance(layer, nn.Linear) and layer is not head and chosen:
            sizes += [lora.rank * layer.in_features, lora.rank * layer.out_features]
    return sizes


def _unreadable(path: str, error: Exception) -> MissingPathError:
    todo = "correct policy.path, or download the model's config.json and give its folder"
    return unreadable_config(path, error, todo)
