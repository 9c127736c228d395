"""Tiny random models of many families, made from their transformers configurations.

Two layers, hidden width 64, head_dim 32 (the narrowest that vLLM's CPU attention takes), a
vocabulary of 300 and a real tokenizer, so every family loads like a downloaded model. All numbers
that a family gives its own name are given here; everything else is the family's default, so what
is peculiar to it (dropout, multipliers, soft caps, biases, norms) is there.
"""

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

VOCAB = 300
POSITIONS = 512


@dataclass(frozen=True)
class Family:
    """One kind of model."""

    model_type: str
    """As in `config.json`."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Beside, or instead of, the common ones."""
    without: tuple[str, ...] = ()
    """Common settings that this family does not take."""
    refused: str = ""
    """What the learner says of it (a regular expression); empty when it can be trained."""


COMMON: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "max_position_embeddings": POSITIONS,
    "bos_token_id": None,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
GPT2_LIKE: dict[str, Any] = {"n_embd": 64, "n_layer": 2, "n_head": 2, "n_positions": POSITIONS}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
EXPERTS: dict[str, Any] = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}

FAMILIES: dict[str, Family] = {
    "llama": Family("llama"),
    "llama3": Family("llama", {"rope_parameters": LLAMA3_ROPE, "tie_word_embeddings": True}),
    "qwen2": Family("qwen2"),
    "qwen3": Family("qwen3"),
    "gemma": Family("gemma"),
    "gemma2": Family("gemma2", refused="final_logit_softcapping=30"),
    "gemma3": Family("gemma3_text", {"layer_types": ["sliding_attention", "full_attention"]}),
    "mistral": Family("mistral"),
    "phi": Family("phi"),
    "phi3": Family("phi3", {"original_max_position_embeddings": POSITIONS}),
    "gpt2": Family("gpt2", GPT2_LIKE),
    "gpt_neox": Family("gpt_neox"),
    "gptj": Family("gptj", GPT2_LIKE | {"rotary_dim": 16}),
    "opt": Family("opt", {"ffn_dim": 128, "word_embed_proj_dim": 64}),
    "xglm": Family("xglm", {"d_model": 64, "ffn_dim": 128, "num_layers": 2, "attention_heads": 2}),
    "biogpt": Family("biogpt"),
    "falcon": Family("falcon", {"hidden_dropout": 0.1}, without=("head_dim",)),
    "falcon_h1": Family(
        "falcon_h1",
        {
            "mamba_d_ssm": 64,
            "mamba_n_heads": 4,
            "mamba_d_head": 16,
            "mamba_d_state": 16,
            "mamba_n_groups": 1,
            "lm_head_multiplier": 0.02,
        },
    ),
    "modernbert_decoder": Family(
        "modernbert-decoder", without=("bos_token_id",), refused="layers between .*lm_head"
    ),
    "recurrent_gemma": Family(
        "recurrent_gemma",
        {"lru_width": 64, "attention_window_size": 32},
        refused="logits_soft_cap=30",
    ),
    "granite": Family("granite", {"logits_scaling": 8.0}),
    "cohere": Family("cohere"),
    "cohere2": Family("cohere2"),
    "olmo2": Family("olmo2"),
    "olmo3": Family("olmo3"),
    "stablelm": Family("stablelm"),
    "starcoder2": Family("starcoder2", {"residual_dropout": 0.1, "embedding_dropout": 0.1}),
    "bloom": Family("bloom", {"n_head": 2, "n_layer": 2, "hidden_dropout": 0.1}),
    "mpt": Family("mpt", {"d_model": 64, "n_heads": 2, "n_layers": 2, "max_seq_len": POSITIONS}),
    "smollm3": Family("smollm3"),
    "glm4": Family("glm4"),
    "nemotron": Family("nemotron"),
    "ernie4_5": Family("ernie4_5"),
    "mixtral": Family("mixtral", {"num_local_experts": 4}),
    "qwen2_moe": Family("qwen2_moe", EXPERTS | {"shared_expert_intermediate_size": 64}),
    "qwen3_moe": Family("qwen3_moe", EXPERTS),
    "olmoe": Family("olmoe", EXPERTS | {"num_key_value_heads": 2}),
    "granitemoe": Family("granitemoe", {"num_local_experts": 4, "logits_scaling": 6.0}),
    "gpt_oss": Family("gpt_oss", {"num_local_experts": 4}),
}


def tiny_config(family: Family) -> Any:
    from transformers import AutoConfig

    settings = {k: v for k, v in COMMON.items() if k not in family.without} | family.settings
    return AutoConfig.for_model(family.model_type, **settings)


def build_family(family: Family, folder: Path, tokenizer_of: Path, *, seed: int = 0) -> Path:
    """Write a random model of `family` to `folder`, with the tokenizer of another folder."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(tiny_config(family))
    with torch.no_grad():  # a plain random model is almost uniform, and its layers hardly matter
        for name, value in model.named_parameters():
            if value.ndim >= 2:
                value.mul_(4.0 if "emb" in name or "wte" in name else 8.0)
    model.save_pretrained(folder)
    for file in (*tokenizer_of.glob("token*"), *tokenizer_of.glob("chat_template*")):
        shutil.copy(file, folder)
    return folder
