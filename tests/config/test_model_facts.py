"""What is read from a model's configuration, whatever the family calls it."""

import json
from pathlib import Path
from typing import Any

import pytest

from mgsrl.config.model_facts import model_facts
from mgsrl.errors import MissingPathError
from tests.zoo.families import FAMILIES, POSITIONS, VOCAB, tiny_config


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family(name: str, tmp_path: Path) -> None:
    tiny_config(FAMILIES[name]).save_pretrained(tmp_path)
    facts = model_facts(str(tmp_path))
    assert (facts.vocab_size, facts.positions, facts.stop_token_ids) == (VOCAB, POSITIONS, (1,))
    assert facts.hidden_size == 64


def test_the_language_model_of_a_multi_modal_one(tmp_path: Path) -> None:
    from transformers import Gemma3Config

    text = {"vocab_size": 77, "max_position_embeddings": 99, "num_hidden_layers": 1}
    Gemma3Config(text_config=text, eos_token_id=[1, 7]).save_pretrained(tmp_path)
    facts = model_facts(str(tmp_path))
    assert (facts.vocab_size, facts.positions, facts.stop_token_ids) == (77, 99, (1, 7))


@pytest.mark.parametrize(
    ("rope", "positions"),
    [
        ({"rope_type": "default", "rope_theta": 1e4}, 64),
        ({"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}, 256),
        ({"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}, 128),
        (
            {
                "rope_type": "yarn",
                "rope_theta": 1e4,
                "factor": 4.0,
                "original_max_position_embeddings": 16,
            },
            64,
        ),
    ],
)
def test_stretched_positions(rope: dict[str, Any], positions: int, tmp_path: Path) -> None:
    """As vLLM takes them: it refuses more, and must not be asked for more."""
    config = {"model_type": "llama", "max_position_embeddings": 64, "rope_parameters": rope}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert model_facts(str(tmp_path)).positions == positions


def test_the_size_of_the_cache(tmp_path: Path) -> None:
    tiny_config(FAMILIES["llama"]).save_pretrained(tmp_path)
    # keys and values x layers x key-value heads x width
    assert model_facts(str(tmp_path)).cache_per_token == 2 * 2 * 1 * 32


STRETCHED_BY_A_TEXT = (
    '{"model_type": "llama", "rope_parameters": {"rope_type": "linear", "factor": "x"}}'
)


@pytest.mark.parametrize(
    "text", ["", "{", '{"model_type": "no_such_model"}', "[]", STRETCHED_BY_A_TEXT]
)
def test_what_cannot_be_read_is_one_message(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(MissingPathError, match=r"(?s)configuration of policy.path.*to do:"):
        model_facts(str(tmp_path))
