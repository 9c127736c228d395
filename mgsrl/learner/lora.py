"""Low-rank adapters (peft) on the linear layers of the policy.

The adapters are put into the Hugging Face model itself, without peft's wrapper, so that the rest
of the learner meets the same causal LM with or without them. `mgsrl/sync/source.py` merges.

Left out: adapters on embeddings, the LM head and experts fused in one tensor; rank-stabilised
scaling, DoRA and other variants; the adapters as a folder of their own (`mgsrl export` merges).
"""

from typing import Any

from torch import nn

from mgsrl.config.policy import LoraConfig
from mgsrl.errors import ConfigError
from mgsrl.sync.source import lora_layers, merged_weight


def add_adapters(model: Any, config: LoraConfig) -> None:
    """Freeze `model` and put trainable adapters into its linear layers.

    They compute nothing at first (B is zero); A is drawn from torch's global generator, so ranks
    that seed it alike start alike.

    Raises:
        ConfigError: there is no linear layer, or an entry of `target_modules` names none.
    """
    import peft

    targets = _targets(model, config.target_modules)
    settings = peft.LoraConfig(
        r=config.rank, lora_alpha=config.alpha, target_modules=targets, lora_dropout=0.0
    )
    peft.inject_adapter_in_model(settings, model)


def merge_adapters(model: nn.Module) -> None:
    """Make it a plain model again, the adapters added to the weights; for one process."""
    for name, layer in lora_layers(model).items():
        layer.base_layer.weight.data = merged_weight(layer)
        model.set_submodule(name, layer.base_layer)


def _targets(model: Any, wanted: list[str]) -> list[str]:
    """Full names of the layers to adapt."""
    head = model.get_output_embeddings()
    linear = [n for n, m in model.named_modules() if isinstance(m, nn.Linear) and m is not head]
    chosen = {end: [n for n in linear if f".{n}".endswith(f".{end}")] for end in wanted}
    missing = [end for end, names in chosen.items() if not names]
    if missing or not linear:
        ends = sorted({name.rpartition(".")[2] for name in linear})
        raise ConfigError(
            "policy.lora finds no layer to adapt.",
            expected=f"ends of names of linear layers: {', '.join(ends)}"
            if linear
            else "a model with linear layers (torch.nn.Linear) besides the LM head",
            found=f"policy.lora.target_modules={missing}"
            if missing
            else f"a {type(model).__name__} without any",
            todo="correct policy.lora.target_modules (empty: all linear layers)"
            if linear
            else "set policy.lora.rank=0 to train the whole model, or use another model",
        )
    if not wanted:
        return linear
    return [name for name in linear if any(name in names for names in chosen.values())]
