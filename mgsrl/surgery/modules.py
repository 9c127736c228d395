"""Which module each parameter belongs to, from its name alone.

At granularity `module` the names are

    layers.N.attention   the attention block: q, k, v, o projections, their biases and q/k norms
    layers.N.mlp         the MLP block (and the shared expert of a mixture of experts)
    layers.N.router      mixture of experts: what chooses the experts, shared-expert gate included
    layers.N.experts     mixture of experts: all routed experts of the layer
    layers.N.norms       the layer's own norms together (input, post-attention, pre/post-MLP, ...)
    embeddings           token and learned position embeddings; a tied LM head has no name of its
                         own in `named_parameters()` and so is counted here, once
    final_norm           the norm after the last layer
    lm_head              an untied output projection

LoRA's A and B matrices belong to the module of the layer that they adapt. A second stack of
layers keeps its own prefix (`vision_tower.encoder.layers.0.attention`). Names, not classes,
decide, because under ZeRO-3 and PEFT names are what all ranks agree on.

Left out: guessing. A name that fits no rule is an error that shows how to add a pattern.
"""

import re
from collections.abc import Mapping, Sequence
from functools import cache

from mgsrl.config.surgery import GRANULARITIES
from mgsrl.errors import ConfigError, nearest

GLOBAL_MODULE = "all"
OUTSIDE_LAYERS = "model"
"""The layer of a module that belongs to none (embeddings, final norm, LM head)."""

_WRAPPERS = {
    *("base_model", "model", "module", "_orig_mod", "_fsdp_wrapped_module"),
    *("transformer", "gpt_neox", "language_model", "text_model", "decoder", "backbone"),
}
"""Name parts that only wrap the language model."""
_ADAPTER = re.compile(
    r"\.(base_layer|original_module|modules_to_save\.[^.]+"
    r"|lora_(?:embedding_)?[AB](?:\.[^.]+)?|lora_magnitude_vector(?:\.[^.]+)?)(?=\.|$)"
)
_LAYER = re.compile(
    r"^(?:(?P<stack>.*?)\.)?(?:layers|h|blocks|layer)\.(?P<index>\d+)\.(?P<rest>.+)$"
)

_MLP = r"(?:mlp|block_sparse_moe|moe|feed_forward|ffn|sparse_moe)"
_IN_LAYER: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("attention", re.compile(r"(?:self_attn|attn|attention|self_attention|linear_attn)(?:\.|$)")),
    ("router", re.compile(rf"{_MLP}\.(?:gate|router|shared_expert_gate)(?:\.|$)")),
    ("experts", re.compile(rf"{_MLP}\.(?:experts|input_linear|output_linear)(?:\.|$)")),
    ("mlp", re.compile(rf"(?:{_MLP}|shared_mlp)(?:\.|$)")),
    ("norms", re.compile(r"(?:\w*norm\w*|ln_\w+)(?:\.|$)")),
)
_OUTSIDE: tuple[tuple[str, re.Pattern[str]], ...] = (
    (
        "embeddings",
        re.compile(r"(?:embed_tokens|wte|wpe|embed_in|embed_positions|word_embeddings)(?:\.|$)"),
    ),
    ("final_norm", re.compile(r"(?:norm|ln_f|final_layer_?norm)(?:\.|$)")),
    ("lm_head", re.compile(r"(?:lm_head|embed_out)(?:\.|$)")),
)
_EXPERT_INDEX = re.compile(r"\.experts\.(\d+)\.")


def module_map(
    names: Sequence[str],
    granularity: str = "module",
    patterns: Mapping[str, str] | None = None,
    *,
    split_experts: bool = False,
) -> dict[str, str]:
    """Parameter name -> module name, in the order of `names`.

    Args:
        names: as in `model.named_parameters()`, each once; only those that are trained.
        granularity: `parameter` (the name itself), `module`, `layer` (a whole layer together;
            embeddings, final norm and LM head stay apart) or `global` (one module, `all`).
        patterns: regular expression -> module name, for parameters that the built-in rules do
            not know (or should treat differently): the expression is searched in the parameter
            name, groups may be used as `\\1`. For example
            `{r"vision\\.blocks\\.(\\d+)\\.": r"vision.\\1"}`.
        split_experts: one module per routed expert (`layers.N.experts.K`) instead of one per
            layer. Only for models whose experts are separate parameters.

    Raises:
        ConfigError: unknown granularity; names that fit no rule; a pattern that matches nothing;
            a parameter matched by two patterns; one module where `module` was asked; experts
            that cannot be split.
        ValueError: a name given twice.
    """
    if granularity not in GRANULARITIES:
        raise ConfigError(
            "surgery.granularity has an unknown value.",
            expected=f"one of {', '.join(GRANULARITIES)}",
            found=repr(granularity),
            todo=f"set surgery.granularity ({nearest(granularity, GRANULARITIES)})",
        )
    repeated = sorted({name for name in names if names.count(name) > 1}) if _repeats(names) else []
    if repeated:
        raise ValueError(f"names should each be given once, found again: {_some(repeated)}")
    if granularity == "parameter":
        return {name: name for name in names}
    if granularity == "global":
        return dict.fromkeys(names, GLOBAL_MODULE)
    own = _apply_patterns(names, patterns or {})
    found = {name: own.get(name) or _built_in(name, split_experts) for name in names}
    unknown = [name for name, module in found.items() if module is None]
    if unknown:
        raise _unknown_names(unknown)
    modules = {name: module for name, module in found.items() if module is not None}
    if granularity == "layer":
        modules = {name: _layer_of(module) for name, module in modules.items()}
    if len(set(modules.values())) < 2:
        raise _one_module(granularity, modules)
    return modules


@cache
def module_place(module: str) -> tuple[str, str]:
    """(kind, layer) of a module's name: `layers.3.mlp` -> (`mlp`, `3`).

    Single experts are of the kind `experts`; a whole layer is a `layer`; a parameter's kind is
    its name without the layer (`self_attn.q_proj`). The layer of `embeddings` is `model`. The kind
    in a second stack of layers keeps the stack's name in front.
    """
    plain = _ADAPTER.sub("", module).removesuffix(".weight")
    found = _LAYER.match(plain) or _LAYER.match(f"{plain}.layer")
    if found is None:
        parts = _unwrapped(plain.split("."))
        return ".".join(parts) or module, OUTSIDE_LAYERS
    inside = [part for part in found["rest"].split(".") if not part.isdigit()]
    stack = _unwrapped((found["stack"] or "").split("."))
    return ".".join([*stack, *inside]), found["index"]


def _built_in(name: str, split_experts: bool) -> str | None:
    plain = _ADAPTER.sub("", name)
    layer = _LAYER.match(plain)
    if layer is None:
        return _first_match(_OUTSIDE, ".".join(_unwrapped(plain.split("."))))
    kind = _first_match(_IN_LAYER, layer["rest"])
    if kind is None:
        return None
    stack = _unwrapped((layer["stack"] or "").split("."))
    prefix = ".".join([*stack, "layers", layer["index"]])
    if kind == "experts" and split_experts:
        return f"{prefix}.experts.{_expert_index(name)}"
    return f"{prefix}.{kind}"


def _unwrapped(parts: Sequence[str]) -> list[str]:
    return [part for part in parts if part and part not in _WRAPPERS]


def _first_match(rules: Sequence[tuple[str, re.Pattern[str]]], text: str) -> str | None:
    return next((kind for kind, pattern in rules if pattern.match(text)), None)


def _expert_index(name: str) -> str:
    index = _EXPERT_INDEX.search(name)
    if index is None:
        raise ConfigError(
            "The experts of this model cannot be split.",
            expected="one parameter per expert, such as `mlp.experts.3.up_proj.weight`",
            found=f"all experts of a layer fused in one tensor: {name}",
            todo="leave split_experts off (all experts of a layer are one module)",
        )
    return index[1]


def _layer_of(module: str) -> str:
    layer = re.match(r"^(?:.*\.)?layers\.\d+", module)
    return layer[0] if layer else module


def _apply_patterns(names: Sequence[str], patterns: Mapping[str, str]) -> dict[str, str]:
    own: dict[str, str] = {}
    origin: dict[str, str] = {}
    for expression, template in patterns.items():
        try:
            compiled = re.compile(expression)
            matches = {name: match for name in names if (match := compiled.search(name))}
            expanded = {name: match.expand(template) for name, match in matches.items()}
        except re.error as error:
            raise ConfigError(
                "A module pattern is not a regular expression.",
                expected="a Python regular expression and a module name",
                found=f"{expression!r} -> {template!r} ({error})",
                todo="mend the pattern",
            ) from error
        if not expanded:
            raise ConfigError(
                "A module pattern matches no parameter.",
                expected=f"a pattern that is found in names such as {_some(names)}",
                found=repr(expression),
                todo="mend or remove the pattern",
            )
        both = sorted(set(expanded) & set(own))
        if both:
            raise ConfigError(
                "Two module patterns match the same parameters.",
                expected="at most one pattern per parameter",
                found=f"{expression!r} and {origin[both[0]]!r} on {_some(both)}",
                todo="make one of the patterns narrower",
            )
        own.update(expanded)
        origin.update(dict.fromkeys(expanded, expression))
    return own


def _unknown_names(unknown: Sequence[str]) -> ConfigError:
    # The layer number becomes a group, so that one pattern serves all layers.
    stem = re.escape(re.sub(r"\.(weight|bias)$", "", unknown[0]))
    expression, numbers = re.subn(r"\d+(?=\\\.)", lambda _: r"(\d+)", stem, count=1)
    template = r"layers.\1.my_module" if numbers else "my_module"
    return ConfigError(
        f"{len(unknown)} parameters fit no module.",
        expected="attention, MLP, norm, embedding or LM head names of a transformer",
        found=_some(unknown, 20),
        todo=f'add a pattern, for example {{r"{expression}": r"{template}"}}, '
        "or use surgery.granularity=parameter",
    )


def _one_module(granularity: str, modules: Mapping[str, str]) -> ConfigError:
    return ConfigError(
        f"surgery.granularity={granularity} found a single module.",
        expected="two modules or more (one module is global surgery, which should be asked "
        "for by name)",
        found=f"{', '.join(sorted(set(modules.values()))) or 'none'} "
        f"for {len(modules)} parameters: {_some(list(modules))}",
        todo="train more of the model, add patterns, or set surgery.granularity=global",
    )


def _repeats(names: Sequence[str]) -> bool:
    return len(set(names)) != len(names)


def _some(names: Sequence[str], limit: int = 5) -> str:
    rest = f", and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + rest
