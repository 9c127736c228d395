"""Shapes of models without their weights."""

import json
from pathlib import Path

import pytest

from mgsrl.config.model_shape import KNOWN, model_shape
from mgsrl.config.policy import LoraConfig
from mgsrl.errors import MissingPathError

PUBLISHED = {
    "Qwen/Qwen2.5-0.5B": 494_032_768,
    "Qwen/Qwen2.5-1.5B": 1_543_714_304,
    "Qwen/Qwen2.5-3B": 3_085_938_688,
    "Qwen/Qwen2.5-7B": 7_615_616_512,
    "Qwen/Qwen2.5-14B": 14_770_033_664,
    "Qwen/Qwen2.5-32B": 32_763_876_352,
    "Qwen/Qwen2.5-72B": 72_706_203_648,
    "Qwen/Qwen3-0.6B": 596_049_920,
    "Qwen/Qwen3-1.7B": 1_720_574_976,
    "Qwen/Qwen3-4B": 4_022_468_096,
    "meta-llama/Llama-3.1-8B": 8_030_261_248,
    "meta-llama/Llama-3.1-70B": 70_553_706_496,
    "meta-llama/Llama-3.2-1B": 1_235_814_400,
    "meta-llama/Llama-3.2-3B": 3_212_749_824,
    "HuggingFaceTB/SmolLM2-135M": 134_515_008,
    "HuggingFaceTB/SmolLM3-3B": 3_075_098_624,
}
"""Parameters as the models' pages give them."""


def test_known_shapes_have_the_published_number_of_parameters() -> None:
    assert set(PUBLISHED) == set(json.loads(KNOWN.read_text()))
    for name, number in PUBLISHED.items():
        shape = model_shape(name)
        assert shape.parameters == shape.trained == number, name


def test_instruction_tuned_models_have_the_shape_of_their_base() -> None:
    tuned = model_shape("meta-llama/Llama-3.2-1B-Instruct")
    assert tuned.parameters == PUBLISHED["meta-llama/Llama-3.2-1B"]
    assert "published shape" in tuned.source


def test_a_models_own_configuration_comes_first(tiny_untied_model: Path) -> None:
    from transformers import AutoModelForCausalLM

    shape = model_shape(str(tiny_untied_model))
    model = AutoModelForCausalLM.from_pretrained(tiny_untied_model)
    sizes = [param.numel() for param in model.parameters()]
    assert (shape.parameters, shape.largest) == (sum(sizes), max(sizes))
    assert str(tiny_untied_model) in shape.source


@pytest.mark.parametrize("targets", [[], ["q_proj", "v_proj"]])
def test_adapters_are_counted_as_peft_makes_them(
    targets: list[str], tiny_untied_model: Path
) -> None:
    from transformers import AutoModelForCausalLM

    from mgsrl.learner.lora import add_adapters

    lora = LoraConfig(rank=3, target_modules=targets)
    model = AutoModelForCausalLM.from_pretrained(tiny_untied_model)
    whole = sum(param.numel() for param in model.parameters())
    add_adapters(model, lora)
    sizes = [param.numel() for param in model.parameters() if param.requires_grad]
    shape = model_shape(str(tiny_untied_model), lora)
    assert (shape.parameters, shape.trained, shape.largest) == (whole, sum(sizes), max(sizes))


def test_a_folder_without_a_model_is_told(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(MissingPathError, match=r"policy\.path cannot be read"):
        model_shape(str(tmp_path))
