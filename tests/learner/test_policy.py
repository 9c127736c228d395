"""Loading the policy: what is refused, and how it is said."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from mgsrl.config.policy import PolicyConfig
from mgsrl.config.rollout import RolloutConfig
from mgsrl.errors import MissingPathError, UserError
from mgsrl.learner.policy import load_policy, load_tokenizer, resolve_policy
from mgsrl.rollout.decoding import Decoder
from mgsrl.rollout.transformers_engine import TransformersEngine


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


def edited(model: Path, folder: Path, **values: object) -> PolicyConfig:
    shutil.copytree(model, folder)
    config = json.loads((folder / "config.json").read_text()) | values
    (folder / "config.json").write_text(json.dumps(config))
    return PolicyConfig(path=str(folder))


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ({"num_hidden_layers": 3}, r"no weights for model\.layers\.2.* and 6 more"),
        ({"tie_word_embeddings": False}, r"no weights for lm_head\.weight; .* at random"),
        ({"vocab_size": 310}, r"embed_tokens\.weight \(300, 64\) where .* \(310, 64\)"),
        ({"num_attention_heads": 3}, "not a multiple"),
        ({"vocab_size": "x"}, "expected int"),
        ({"model_type": "nonsense"}, "nonsense"),
    ],
)
def test_a_model_is_whole_or_refused(
    values: dict[str, object], found: str, tiny_model: Path, tmp_path: Path
) -> None:
    """A weight that is not there would be drawn at random, in every process another one."""
    config = edited(tiny_model, tmp_path / "model", **values)
    with pytest.raises(UserError, match=rf"cannot be loaded(.|\n)*{found}"):
        load_policy(config, torch.float32)
    engine = RolloutConfig(engine="transformers")
    with pytest.raises(UserError):
        TransformersEngine(config.path, engine, Decoder(config.path))


@pytest.mark.parametrize("pad", [300, 50_000, -1])
def test_a_pad_token_beyond_the_embedding_loads(pad: int, tiny_model: Path, tmp_path: Path) -> None:
    config = edited(tiny_model, tmp_path / "model", pad_token_id=pad)
    found, whole = (
        load_policy(config, torch.float32),
        load_policy(PolicyConfig(path=str(tiny_model)), torch.float32),
    )
    for value, expected in zip(found.parameters(), whole.parameters(), strict=True):
        assert torch.equal(value, expected)
    assert found.get_input_embeddings().padding_idx is None
