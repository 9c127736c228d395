"""Templates, and what becomes of overlong prompts."""

from typing import Any

import pytest

from mgsrl.config import DataConfig, PolicyConfig
from mgsrl.data.rows import Row
from mgsrl.data.templates import PREAMBLE, PromptTokenizer, prompted_text
from mgsrl.errors import ConfigError, DataError

ROW = Row("r1", ({"role": "user", "content": "What is one and one?"},), {"answer": "2"})
LONG = Row("r2", ({"role": "user", "content": "one " * 200 + "END"},))


def make(tokenizer: Any, template: str = "chat", **data: Any) -> PromptTokenizer:
    return PromptTokenizer(PolicyConfig(prompt_template=template), tokenizer, DataConfig(**data))


def test_chat_template_ends_with_the_generation_prompt(tokenizer: Any) -> None:
    prompt = make(tokenizer).prompt("math", ROW)
    assert prompt is not None
    text = tokenizer.decode(prompt.token_ids)
    assert text == "<|user|>What is one and one?<|end|><|assistant|>"
    assert (prompt.id, prompt.domain, prompt.messages) == ("r1", "math", ROW.messages)
    assert prompt.reference == {"answer": "2"}


def test_prompted_template_asks_for_both_blocks(tokenizer: Any) -> None:
    prompt = make(tokenizer, "prompted").prompt("math", ROW)
    assert prompt is not None
    text = tokenizer.decode(prompt.token_ids)
    assert text == prompted_text(ROW.messages)
    assert text.endswith("User: <query>What is one and one?</query>\nAssistant:")
    for tag in ("<think>", "</think>", "<response>", "</response>"):
        assert tag in PREAMBLE


def test_prompted_template_keeps_earlier_turns() -> None:
    turns = (
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    )
    assert prompted_text(turns).removeprefix(PREAMBLE) == (
        "\nBe brief.\nUser: <query>a</query>\nAssistant: <response> b </response>"
        "\nUser: <query>c</query>\nAssistant:"
    )


def test_truncate_left_keeps_the_end_and_counts(tokenizer: Any) -> None:
    maker = make(tokenizer, max_prompt_tokens=16)
    prompt = maker.prompt("chat", LONG)
    assert prompt is not None
    assert len(prompt.token_ids) == 16
    assert tokenizer.decode(prompt.token_ids).endswith("END<|end|><|assistant|>")
    assert maker.prompt("chat", ROW) is not None
    assert (maker.counts["chat"].kept, maker.counts["chat"].truncated) == (2, 1)


def test_truncate_left_keeps_a_beginning_of_sequence_token(tokenizer: Any) -> None:
    maker = make(tokenizer, max_prompt_tokens=16)
    bos = tokenizer.bos_token_id
    assert maker._keep_end([bos, *range(10, 40)], 16) == [bos, *range(25, 40)]
    assert maker._keep_end([*range(10, 40)], 16) == [*range(24, 40)]


def test_drop_leaves_out_and_counts(tokenizer: Any) -> None:
    maker = make(tokenizer, max_prompt_tokens=16, overlong="drop")
    assert maker.prompt("chat", LONG) is None
    assert (maker.counts["chat"].kept, maker.counts["chat"].dropped) == (0, 1)


def test_error_names_the_row(tokenizer: Any) -> None:
    with pytest.raises(DataError, match="chat/r2"):
        make(tokenizer, max_prompt_tokens=16, overlong="error").prompt("chat", LONG)


def test_a_base_model_needs_the_prompted_template(tokenizer: Any) -> None:
    import copy

    base = copy.deepcopy(tokenizer)
    base.chat_template = None
    with pytest.raises(ConfigError, match="prompt_template=prompted"):
        make(base)
    assert make(base, "prompted").prompt("math", ROW) is not None


def test_a_conversation_that_the_template_refuses(tokenizer: Any) -> None:
    row = Row("odd", ({"role": "user", "content": "a"}, {"role": "system", "content": "b"}))
    with pytest.raises(DataError, match=r"chat/odd(.|\n)*system comes first"):
        make(tokenizer).prompt("chat", row)
