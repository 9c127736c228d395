"""What an export writes beside weights, and that a plan has tried it."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from mgsrl.config import PolicyConfig
from mgsrl.errors import ConfigError
from mgsrl.learner.policy import load_policy, load_tokenizer
from mgsrl.training.export import check_export, write_model
from tests.training.test_fit import edited, planned

# As published: a temperature without sampling, which transformers reads but does not write.
VICUNA = '{"_from_model_config": true,  "temperature": 0.9, "top_p": 0.6, "eos_token_id": 1}\n'


def exported(model: Path, folder: Path) -> Path:
    config = PolicyConfig(path=str(model))
    folder.mkdir()
    write_model(load_policy(config, torch.float32), load_tokenizer(config), str(model), folder)
    return folder


@pytest.mark.parametrize("text", [VICUNA, None])
def test_generation_defaults_are_copied(text: str | None, tiny_model: Path, tmp_path: Path) -> None:
    model = shutil.copytree(tiny_model, tmp_path / "model")
    (model / "generation_config.json").unlink()
    if text is not None:
        (model / "generation_config.json").write_text(text)
    written = exported(model, tmp_path / "out") / "generation_config.json"
    assert (written.read_text() if written.exists() else None) == text


def test_the_configuration_keeps_its_dropout(tiny_model: Path, tmp_path: Path) -> None:
    """The learner switches it off; the model that comes out is as it was."""
    model = edited(tiny_model, tmp_path / "model", "config.json", attention_dropout=0.25)
    config = json.loads((exported(model, tmp_path / "out") / "config.json").read_text())
    assert config["attention_dropout"] == 0.25


def test_what_comes_out_is_the_same_model(tiny_untied_model: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = exported(tiny_untied_model, tmp_path / "out")
    old, new = (AutoModelForCausalLM.from_pretrained(p) for p in (tiny_untied_model, folder))
    for (name, value), (same, found) in zip(
        old.named_parameters(), new.named_parameters(), strict=True
    ):
        assert name == same
        assert torch.equal(value, found)
    texts = [
        AutoTokenizer.from_pretrained(p)("Two plus three?") for p in (tiny_untied_model, folder)
    ]
    assert texts[0]["input_ids"] == texts[1]["input_ids"]


def test_a_plan_finds_what_cannot_be_written(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import LlamaConfig

    def refuse(*_: Any) -> None:
        raise NotImplementedError

    monkeypatch.setattr(LlamaConfig, "save_pretrained", refuse)
    with pytest.raises(ConfigError, match=r"could not be exported(.|\n)*NotImplementedError"):
        planned(tiny_model)


def test_the_check_leaves_nothing(tiny_model: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    config = PolicyConfig(path=str(tiny_model))
    check_export(config, load_tokenizer(config))
    assert not list(tmp_path.iterdir())
