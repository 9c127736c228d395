"""Shared parts of the tests: tiny random models with a real tokenizer, made once per session."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import mgsrl  # noqa: F401 - before any test imports Ray: it keeps local sessions on loopback
from mgsrl import errors
from tests import capabilities, deadline, hints
from tests.capabilities import (  # noqa: F401 - hooks of pytest
    pytest_addoption,
    pytest_configure,
    pytest_sessionstart,
)

# Before any other module takes the function by name.
errors.explain = hints.checked(errors.explain)


def pytest_runtest_setup(item: pytest.Item) -> None:
    deadline.skip_when_over(item)
    capabilities.pytest_runtest_setup(item)


CORPUS = [
    "What is two plus three? Two plus three is five.",
    "Write about the sea in one sentence. The sea is wide and blue.",
    "Name a fruit. An apple is a fruit that grows on a tree.",
    "<think> </think> <response> </response> 0123456789 + - * / = \\boxed{}",
    "the quick brown fox jumps over the lazy dog",
]
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def build_tiny_model(folder: Path, *, tied: bool, seed: int = 0) -> Path:
    """A random 2-layer Llama (hidden 64, head_dim 32, about 300 tokens) with a BPE tokenizer."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<pad>", "<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(CORPUS, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, pad_token="<pad>", eos_token="<eos>", model_max_length=512
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        max_position_embeddings=512,
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(seed)
    model = LlamaForCausalLM(config)
    with torch.no_grad():  # a plain random model is almost uniform, and its layers hardly matter
        for name, value in model.named_parameters():
            if value.ndim == 2:
                value.mul_(4.0 if "embed" in name else 8.0)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", autouse=True)
def environment() -> Iterator[None]:
    """What a module's code sets in this process (vLLM's: loopback only) is no other module's."""
    before = dict(os.environ)
    yield
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    os.environ.update(before)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny Llama with tied embeddings."""
    return build_tiny_model(tmp_path_factory.mktemp("tiny_tied"), tied=True)


@pytest.fixture(scope="session")
def tiny_untied_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny Llama whose LM head has its own weights."""
    return build_tiny_model(tmp_path_factory.mktemp("tiny_untied"), tied=False)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 4 MiB, which only root may mount."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("needs the right to mount a small disk")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)
