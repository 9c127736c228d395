"""The policy's settings from the command line."""

from pathlib import Path
from typing import Any

import pytest

from mgsrl.config.compose import compose_config, config_from_yaml, config_to_yaml
from mgsrl.config.policy import LoraConfig
from mgsrl.errors import ConfigError


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["policy.lora.rank=-1"], "policy.lora.rank is too small"),
        (["policy.lora.rank=4", "policy.lora.alpha=0"], "policy.lora.alpha is too small"),
        (["policy.lora.rank=4", "policy.lora.target_modules=[q_proj,'']"], "target_modules"),
        (["policy.lora.target_modules=[q_proj]"], "no adapters are trained"),
        (["policy.lora.rang=4"], "did you mean 'rank'"),
        (["policy.date=yesterday"], "policy.date is no date"),
        (["policy.date=2026-02-30"], "policy.date is no date"),
        (["policy.chat_template_kwargs={tokenize: true}"], "sets what mgsrl sets itself"),
        (["policy.chat_template_kwargs={strftime_now: 1}"], "to do: *set policy.date"),
        (
            ["domains.math.chat_template_kwargs={add_generation_prompt: false}"],
            r"domains\.math\.chat_template_kwargs sets",
        ),
    ],
)
def test_mistakes_are_named(overrides: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        compose_config(overrides)


def test_adapters_compose() -> None:
    config = compose_config(["policy.lora.rank=4", "policy.lora.target_modules=[q_proj,v_proj]"])
    assert config.policy.lora == LoraConfig(rank=4, target_modules=["q_proj", "v_proj"])


def test_template_arguments_one_by_one() -> None:
    config = compose_config(
        [
            "policy.chat_template_kwargs.enable_thinking=false",
            "+policy.chat_template_kwargs.budget.tokens=3",
        ]
    )
    assert config.policy.chat_template_kwargs == {"enable_thinking": False, "budget": {"tokens": 3}}


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("false", False),
        ("2", 2),
        ("0.5", 0.5),
        ("null", None),
        ("low", "low"),
        ("[a,1]", ["a", 1]),
        ("{a: {b: [true]}}", {"a": {"b": [True]}}),
    ],
)
def test_template_arguments_of_any_type(written: str, value: Any, tmp_path: Path) -> None:
    """From the command line, and back from the run folder."""
    config = compose_config(
        [
            f"policy.chat_template_kwargs={{x: {written}}}",
            f"domains.math.chat_template_kwargs={{y: {written}}}",
        ]
    )
    (tmp_path / "config.yaml").write_text(config_to_yaml(config))
    for each in (config, config_from_yaml(tmp_path / "config.yaml")):
        assert each.policy.chat_template_kwargs == {"x": value}
        assert type(each.policy.chat_template_kwargs["x"]) is type(value)
        assert each.domains["math"].chat_template_kwargs == {"y": value}
