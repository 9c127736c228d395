"""Random models of published shapes, and a learner on one of them."""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from gpu_checks.record import Setting


@dataclass(frozen=True)
class Shape:
    model_type: str
    hidden: int
    inner: int
    layers: int
    heads: int
    kv_heads: int
    vocab: int
    window: int | None = None
    """Of sliding attention."""


SHAPES = {
    "tiny": Shape("llama", 64, 128, 2, 2, 1, 300),
    "tiny Qwen2": Shape("qwen2", 64, 128, 2, 2, 1, 300),
    "tiny Mistral": Shape("mistral", 64, 128, 2, 2, 1, 300, window=16),
    "SmolLM2-135M": Shape("llama", 576, 1536, 30, 9, 3, 49152),
    "Qwen2.5-0.5B": Shape("qwen2", 896, 4864, 24, 14, 2, 151936),
    "Qwen2.5-1.5B": Shape("qwen2", 1536, 8960, 28, 12, 2, 151936),
}
"""The published configurations; weights are random."""


def model_config(shape: str, tied: bool = True) -> Any:
    from transformers import AutoConfig

    s = SHAPES[shape]
    return AutoConfig.for_model(
        s.model_type,
        hidden_size=s.hidden,
        intermediate_size=s.inner,
        num_hidden_layers=s.layers,
        num_attention_heads=s.heads,
        num_key_value_heads=s.kv_heads,
        vocab_size=s.vocab,
        max_position_embeddings=4096,
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
        **({"sliding_window": s.window} if s.window else {}),
    )


def save_model(folder: Path, config: Any, dtype: torch.dtype, device: torch.device) -> Path:
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=False)
    if config.vocab_size < 1000:  # a plain random model is almost uniform, its layers unimportant
        with torch.no_grad():
            for name, value in model.named_parameters():
                if value.ndim == 2:
                    value.mul_(4.0 if "embed" in name else 8.0)
                if name.endswith("bias"):
                    value.normal_()
    model.to("cpu").save_pretrained(folder)
    return folder


def pocket() -> str:
    """The folder of the bundled policy."""
    from mgsrl.config.model_path import POCKET_POLICY, resolve_model_path

    return resolve_model_path("pocket", "policy.path", POCKET_POLICY)


def start_worker(setting: Setting, model: Path, case: Any, **learner: Any) -> Any:
    """A learner that is the only rank.

    Args:
        learner: keys of its configuration that the tests' `Case` does not have.
    """
    from mgsrl.learner.worker import LearnerWorker
    from tests.learner.parts import make_spec

    spec = make_spec(model, case, 1)
    spec = replace(spec, learner=replace(spec.learner, **learner))
    # On a CPU one thread: these models are tiny, and the reference runs beside the GPU's sections.
    threads = 0 if setting.on_gpu else 1
    worker = LearnerWorker(spec, 0, 1, setting.device.type, threads)
    worker.start(f"file://{setting.scratch}/rendezvous_{os.getpid()}")
    return worker
