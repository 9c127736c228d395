"""Prompts, responses, tokenizer and model of a plan fit together, or it says why not."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from mgsrl.config import RolloutConfig
from mgsrl.config.compose import compose_config
from mgsrl.errors import ConfigError, MissingPathError
from mgsrl.rollout.decoding import Decoder
from mgsrl.rollout.transformers_engine import TransformersEngine
from mgsrl.training.plan import Plan, plan
from mgsrl.types import GenerationRequest, Sampling
from tests.zoo.families import FAMILIES, POSITIONS, build_family

TURNS = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}"
    "{% if m['role'] == 'assistant' %}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def edited(model: Path, folder: Path, file: str, **values: Any) -> Path:
    """A copy of a model's folder with values set in one of its JSON files; None removes."""
    if not folder.exists():
        shutil.copytree(model, folder)
    path = folder / file
    record = json.loads(path.read_text()) if path.is_file() else {}
    record = {k: v for k, v in (record | values).items() if v is not None}
    path.write_text(json.dumps(record))
    return folder


def with_tokens(model: Path, folder: Path, *tokens: str, **special: str) -> Path:
    """A copy whose tokenizer has more tokens than the embedding has rows."""
    from transformers import AutoTokenizer

    shutil.copytree(model, folder)
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.add_special_tokens({**special, "additional_special_tokens": list(tokens)})
    tokenizer.save_pretrained(folder)
    return folder


SMALL = (
    "rollout.engine=transformers",
    "rollout.max_new_tokens=16",
    "evaluate.prompts_per_domain=4",
    "algo.prompts_per_domain=4",
    *(f"domains.{name}.source.size=20" for name in ("math", "chat", "instruction_following")),
)


def planned(model: Path, *overrides: str) -> Plan:
    return plan(compose_config([*SMALL, f"policy.path={model}", *overrides]))


def test_a_pad_token_without_a_row(tiny_model: Path, tmp_path: Path) -> None:
    model = with_tokens(tiny_model, tmp_path / "padded", pad_token="[PAD]")
    planned(model)
    decoder = Decoder(str(model))
    assert decoder.tokenizer.pad_token_id >= 300
    assert decoder.pad_token_id == 0
    config = RolloutConfig(engine="transformers", max_prompts_in_flight=4)
    engine = TransformersEngine(str(model), config, Decoder(str(model)))
    sampling = Sampling(1.0, 4)
    requests = [GenerationRequest(str(n), (5, 9, 30)[:n], n, sampling) for n in (1, 3)]
    assert all(rollout.token_ids for rollout in engine.generate(requests))
    assert len(engine.logprobs([(5, 9), (5, 9, 30)])) == 2


def test_a_token_of_the_template_without_a_row(tiny_model: Path, tmp_path: Path) -> None:
    model = with_tokens(tiny_model, tmp_path / "more", "<|user|>")
    (model / "chat_template.jinja").write_text(TURNS)
    with pytest.raises(ConfigError, match=r"(?s)does not know.*'<\|user\|>' with the id 30\d"):
        planned(model)


@pytest.mark.parametrize(
    ("generation", "config", "stops"),
    [
        (None, [1, 4], (1, 4)),  # config.json alone
        ([1, 7], [1, 4], (1, 7)),  # generation_config.json goes before it
        (None, None, (1,)),  # the tokenizer's own
        (None, [4, 999], (1, 4)),  # one that can never be sampled
    ],
)
def test_stop_tokens(
    generation: Any, config: Any, stops: tuple[int, ...], tiny_model: Path, tmp_path: Path
) -> None:
    model = edited(tiny_model, tmp_path / "m", "config.json", eos_token_id=config)
    (model / "generation_config.json").unlink()
    if generation:
        edited(tiny_model, model, "generation_config.json", eos_token_id=generation)
    assert Decoder(str(model)).stop_token_ids == stops


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"eos_token_id": "</s>"}',
        '{"eos_token_id": [[1]]}',
        '{"num_return_sequences": 5, "do_sample": false}',
    ],
)
def test_stop_tokens_that_cannot_be_read_are_told_at_the_start(
    text: str, tiny_model: Path, tmp_path: Path
) -> None:
    model = shutil.copytree(tiny_model, tmp_path / "model")
    (model / "generation_config.json").write_text(text)
    with pytest.raises(MissingPathError, match=r"generation_config\.json of policy\.path"):
        planned(model)


def test_no_stop_token_is_told_at_the_start(tiny_model: Path, tmp_path: Path) -> None:
    model = edited(tiny_model, tmp_path / "m", "config.json", eos_token_id=None)
    (model / "generation_config.json").unlink()
    edited(tiny_model, model, "tokenizer_config.json", eos_token=None)
    with pytest.raises(ConfigError, match="no end-of-sequence token"):
        planned(model)


@pytest.mark.parametrize("stops", [[1], [1, 2]])
def test_an_end_of_turn_that_does_not_stop_is_noted(
    stops: list[int], tiny_model: Path, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    model = edited(tiny_model, tmp_path / "m", "generation_config.json", eos_token_id=stops)
    tokenizer = AutoTokenizer.from_pretrained(model)
    turn = tokenizer.convert_ids_to_tokens(2)  # a token that the model has a row for
    tokenizer.add_special_tokens({"additional_special_tokens": [turn]})
    tokenizer.save_pretrained(model)
    (model / "chat_template.jinja").write_text(TURNS.replace("<|end|>", turn))
    notes = [note for note in planned(model).notes if "does not end a response" in note]
    assert bool(notes) is (2 not in stops)
    if notes:
        assert f"'{turn}'" in notes[0]
        assert "add the id 2 to eos_token_id" in notes[0]


@pytest.mark.parametrize("family", ["llama", "gpt2", "mpt"])
def test_a_context_too_short_is_told_at_the_start(
    family: str, tiny_model: Path, tmp_path: Path
) -> None:
    model = build_family(FAMILIES[family], tmp_path / family, tiny_model)
    ready = planned(model)
    prompts = [
        p for each in (ready.prompts, ready.heldout) for several in each.values() for p in several
    ]
    longest = max(len(prompt.token_ids) for prompt in prompts)
    fits = POSITIONS - longest
    planned(model, f"rollout.max_new_tokens={fits}")
    with pytest.raises(ConfigError) as refusal:
        planned(model, f"rollout.max_new_tokens={fits + 1}")
    message = str(refusal.value)
    assert f"within {POSITIONS} tokens" in message
    assert f"rollout.max_new_tokens={fits}" in message
    # What it proposes works.
    planned(model, f"rollout.max_new_tokens={fits}")
    planned(model, f"data.max_prompt_tokens={longest - 1}", f"rollout.max_new_tokens={fits + 1}")


def test_the_engine_does_not_go_beyond_the_positions(tiny_model: Path) -> None:
    config = RolloutConfig(engine="transformers")
    engine = TransformersEngine(str(tiny_model), config, Decoder(str(tiny_model)))
    request = GenerationRequest("r", (5,) * 500, 0, Sampling(1.0, 13))
    with pytest.raises(ConfigError, match="r is longer than the engine's context"):
        engine.generate([request])
