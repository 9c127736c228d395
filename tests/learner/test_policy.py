"""Loading the policy: what is refused, and how it is said."""

from pathlib import Path

import pytest
import torch

from mgsrl.config.policy import PolicyConfig
from mgsrl.errors import MissingPathError, UserError
from mgsrl.learner.policy import load_policy, load_tokenizer, resolve_policy


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(MissingPathError, match=r"(?s)expected:.*found:.*to do:"):
        resolve_policy(str(tmp_path / "nothing"))


def test_the_hub_is_asked_for_its_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nothing listens there
    with pytest.raises(MissingPathError, match=r"policy\.path: the hub has no model 'no/model'"):
        resolve_policy("no/model")


def test_broken_weights(tmp_path: Path, tiny_model: Path) -> None:
    (tmp_path / "config.json").write_text((tiny_model / "config.json").read_text())
    with pytest.raises(UserError, match="cannot be loaded"):
        load_policy(PolicyConfig(path=str(tmp_path)), torch.float32)


def test_truncated_weights(tmp_path: Path, tiny_model: Path) -> None:
    (tmp_path / "config.json").write_text((tiny_model / "config.json").read_text())
    weights = (tiny_model / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(UserError, match="cannot be loaded"):
        load_policy(PolicyConfig(path=str(tmp_path)), torch.float32)


def test_model_and_tokenizer_load(tiny_model: Path) -> None:
    config = PolicyConfig(path=str(tiny_model))
    model = load_policy(config, torch.bfloat16)
    assert next(model.parameters()).dtype is torch.bfloat16
    assert load_tokenizer(config).eos_token == "<eos>"
