"""The model that is trained, and how prompts are put to it."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time
from typing import Any

from mgsrl.config.require import at_least, more_than, not_empty, one_of
from mgsrl.errors import ConfigError, shortened

PROMPT_TEMPLATES = ("chat", "prompted")
TEMPLATE_OWN = (
    "messages",
    "conversation",
    "chat_template",
    "add_generation_prompt",
    "continue_final_message",
    "tokenize",
    "tokenizer_kwargs",
    "padding",
    "truncation",
    "max_length",
    "return_tensors",
    "return_dict",
    "return_assistant_tokens_mask",
    "strftime_now",
)
"""Arguments of chat templates that are mgsrl's to set."""


@dataclass
class LoraConfig:
    """Low-rank adapters (arXiv 2106.09685): a layer computes with `W + alpha / rank * B A`, and
    only A and B are trained. No dropout: learner and rollout engine must agree."""

    rank: int = 0
    """Rank of the adapters; 0 trains the whole model instead."""
    alpha: float = 32.0
    """Scale of the adapters, divided by `rank`. They want about ten times the learning rate of
    full training."""
    target_modules: list[str] = field(default_factory=list)
    """How the names of the adapted linear layers end, such as `[q_proj, v_proj]`; empty: all
    linear layers but the LM head."""

    def validate(self) -> None:
        at_least("policy.lora.rank", self.rank, 0)
        more_than("policy.lora.alpha", self.alpha, 0)
        for name in self.target_modules:
            not_empty("An entry of policy.lora.target_modules", name, "the end of a layer's name")
        if self.target_modules and not self.rank:
            raise ConfigError(
                "policy.lora.target_modules is set, but no adapters are trained.",
                expected="policy.lora.rank of 1 or more",
                found=f"policy.lora.rank={self.rank}",
                todo="set policy.lora.rank=16, or leave target_modules out",
            )


@dataclass
class PolicyConfig:
    path: str = "pocket"
    """`pocket` (the bundled 1M-parameter model), `pocket_styles` (a smaller one of the
    testbed in docs/conflict.md), a local Hugging Face folder or a hub id."""
    prompt_template: str = "chat"
    """`chat`: the tokenizer's own chat template; `prompted`: the paper's preamble for base
    models that asks for `<think> </think>` and `<response> </response>`."""
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)
    """Arguments of the chat template, such as `{enable_thinking: false}`."""
    date: str | None = None
    """The day, as `2026-11-26`, that chat templates take for today; null is the day on which the
    run began. Some templates write it into every prompt."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model. Off unless you trust its author."""
    lora: LoraConfig = field(default_factory=LoraConfig)

    def validate(self) -> None:
        one_of("policy.prompt_template", self.prompt_template, PROMPT_TEMPLATES)
        check_template_kwargs("policy.chat_template_kwargs", self.chat_template_kwargs)
        check_date("policy.date", self.date)
        self.lora.validate()


def check_template_kwargs(key: str, arguments: Mapping[str, Any]) -> None:
    """Raise `ConfigError` for arguments that are not the user's to set."""
    for name in arguments:
        if name in TEMPLATE_OWN:
            raise ConfigError(
                f"{key} sets what mgsrl sets itself.",
                expected="arguments of the chat template such as enable_thinking",
                found=repr(name),
                todo="set policy.date" if name == "strftime_now" else f"leave {name} out",
            )


def template_clock(day: str | None) -> Callable[[str], str]:
    """What chat templates are given as `strftime_now`: the beginning of `day`, None is today.

    The same on every machine: no time zone has a say, not even in the seconds since 1970 (`%s`).
    """
    begin = datetime.combine(date.fromisoformat(day) if day else date.today(), time())
    seconds = str(int(begin.replace(tzinfo=UTC).timestamp()))
    return lambda wanted: begin.strftime(re.sub(r"(?<!%)((?:%%)*)%s", rf"\g<1>{seconds}", wanted))


def check_date(key: str, text: str | None) -> None:
    """Raise `ConfigError` for a text that is no day."""
    try:
        if text is not None:
            date.fromisoformat(text)
    except ValueError as error:
        raise ConfigError(
            f"{key} is no date.",
            expected="a day such as 2026-11-26",
            found=shortened(repr(text)),
            todo=f"correct {key}",
        ) from error
