"""Templates, and what becomes of overlong prompts."""

import copy
import datetime
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mgsrl.config import DataConfig, DomainConfig, PolicyConfig, RewardConfig, SourceConfig
from mgsrl.data.domain import load_prompts
from mgsrl.data.rows import Row
from mgsrl.data.templates import PREAMBLE, PromptTokenizer, prompted_text
from mgsrl.errors import ConfigError, DataError
from mgsrl.types import Prompt, RowNeeds

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


@pytest.mark.parametrize(
    "fault",
    ["{{ 1 / 0 }}", "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}", "{{ range(10 ** 9) }}"],
)
def test_a_template_that_fails_in_any_way_is_one_message(fault: str, tokenizer: Any) -> None:
    import copy

    broken = copy.deepcopy(tokenizer)
    broken.chat_template = fault + tokenizer.chat_template
    with pytest.raises(DataError, match="math/"):
        make(broken).prompt("math", ROW)


DATED = (
    "{% if date_string is not defined %}{% set date_string = strftime_now('%d %b %Y %H:%M') %}"
    "{% endif %}{{ date_string }}{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}"
    "{% if m['role'] == 'assistant' %}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>"
    "{% if enable_thinking is defined and enable_thinking is false %}no{% endif %}"
    "{{ words | join('+') if words is defined }}{% endif %}"
)


@pytest.fixture
def dated(tokenizer: Any) -> Any:
    own = copy.deepcopy(tokenizer)
    own.chat_template = DATED
    return own


def text_of(tokenizer: Any, domain: dict[str, Any] | None = None, **policy: Any) -> str:
    maker = PromptTokenizer(PolicyConfig(**policy), tokenizer, DataConfig())
    return tokenizer.decode(maker.for_domain("math", domain or {}).encode(ROW.messages))


def test_the_day_is_the_runs(dated: Any) -> None:
    """Whatever day it is, and at whatever hour: the template's clock stands still."""
    assert text_of(dated, date="2024-07-26").startswith("26 Jul 2024 00:00<|user|>")


@pytest.mark.parametrize("zone", ["Etc/GMT+12", "UTC", "Etc/GMT-14"])
def test_no_time_zone_has_a_say(dated: Any, zone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    dated.chat_template = "{{ strftime_now('%c|%Z|%z|%j|%s|%%s|%%%s') }}"
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        text = text_of(dated, date="2024-07-26")
    finally:
        monkeypatch.undo()
        time.tzset()
    assert text == "Fri Jul 26 00:00:00 2024|||208|1721952000|%s|%1721952000"


def test_nobody_asks_the_real_clock(dated: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even to find out what a template refuses."""

    class Never(datetime.datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            raise AssertionError("a template asked what time it is")

    monkeypatch.setattr("transformers.utils.chat_template_utils.datetime", Never)
    maker = PromptTokenizer(PolicyConfig(date="2024-07-26"), dated, DataConfig())
    maker.encode(ROW.messages)
    maker.end_of_turn()
    assert maker._accepts(["user"])
    with pytest.raises(AssertionError):
        dated.apply_chat_template([{"role": "user", "content": "a"}], tokenize=False)


def test_without_a_date_it_is_today(dated: Any) -> None:
    before = datetime.date.today()
    text = text_of(dated)
    days = {before, datetime.date.today()}  # midnight may pass
    assert any(text.startswith(day.strftime("%d %b %Y 00:00<|user|>")) for day in days)


def test_template_arguments(dated: Any) -> None:
    thinks = text_of(dated, date="2024-07-26")
    assert text_of(dated, date="2024-07-26", chat_template_kwargs={"enable_thinking": False}) == (
        thinks + "no"
    )
    assert text_of(dated, chat_template_kwargs={"date_string": "Monday"}).startswith("Monday<|")


def test_a_domains_arguments_go_over_the_policys(dated: Any) -> None:
    both = {"enable_thinking": False, "words": ["a", "b"]}
    maker = PromptTokenizer(PolicyConfig(chat_template_kwargs=both), dated, DataConfig())
    own = maker.for_domain("math", {"enable_thinking": True})
    other = maker.for_domain("chat", {"words": ["c"]})
    assert dated.decode(own.encode(ROW.messages)).endswith("<|assistant|>a+b")
    assert dated.decode(other.encode(ROW.messages)).endswith("<|assistant|>noc")
    assert own.prompt("math", ROW) is not None
    assert maker.counts["math"].kept == 1  # counted together


@pytest.mark.parametrize("template", ["chat", "prompted"])
def test_an_argument_that_nothing_reads(template: str, dated: Any) -> None:
    with pytest.raises(ConfigError, match=r"policy\.chat_template_kwargs.*(.|\n)*enable_thinkin"):
        text_of(dated, prompt_template=template, chat_template_kwargs={"enable_thinkin": 1})
    with pytest.raises(ConfigError, match=r"domains\.math\.chat_template_kwargs"):
        text_of(dated, {"enable_thinkin": 1}, prompt_template=template)


def test_the_end_of_the_assistants_turn(dated: Any, tokenizer: Any) -> None:
    end = tokenizer.convert_tokens_to_ids("<|end|>")
    assert make(dated).end_of_turn() == end
    assert make(tokenizer).end_of_turn() == end
    assert make(dated, "prompted").end_of_turn() is None
    plain = copy.deepcopy(tokenizer)
    plain.chat_template = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"
    assert make(plain).end_of_turn() is None
    plain.chat_template = "{{ raise_exception('no answers') }}"
    assert make(plain).end_of_turn() is None


@pytest.mark.parametrize("single", ["$A <|end|>", "<s> $A <|end|> <|end|>", "<s> $A", "$A"])
def test_a_tokenizer_that_ends_texts_does_not_end_the_prompt(single: str, tokenizer: Any) -> None:
    from tokenizers.processors import TemplateProcessing

    own = copy.deepcopy(tokenizer)
    ids = [(name, own.convert_tokens_to_ids(name)) for name in ("<s>", "<|end|>")]
    own.backend_tokenizer.post_processor = TemplateProcessing(single=single, special_tokens=ids)
    begins = [own.bos_token_id] if single.startswith("<s>") else []
    text = tokenizer(prompted_text(ROW.messages), add_special_tokens=False)["input_ids"]
    assert make(own, "prompted").encode(ROW.messages) == begins + text


NO_SYSTEM = (
    "{% for m in messages %}{% if m['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}"
    "<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
)


def rows_file(path: Path) -> SourceConfig:
    user = {"role": "user", "content": "Say hello."}
    rows = [
        {"messages": [{"role": "system", "content": said}, user]}
        for said in ("", " \n", None, "Be brief.")
    ]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return SourceConfig(kind="file", path=str(path))


def loaded(tokenizer: Any, source: SourceConfig) -> tuple[list[Prompt], PromptTokenizer]:
    maker = make(tokenizer)
    domain = DomainConfig(source=source, reward=RewardConfig(kind="reward_model"))
    found = load_prompts(maker, "chat", domain, source, RowNeeds(), key="domains.chat.source")
    return found, maker


def test_a_system_message_that_says_nothing_is_none(tokenizer: Any, tmp_path: Path) -> None:
    prompts, _ = loaded(tokenizer, rows_file(tmp_path / "rows.jsonl"))
    roles = [[message["role"] for message in prompt.messages] for prompt in prompts]
    assert roles == [["user"]] * 3 + [["system", "user"]]


def test_rows_that_the_template_refuses_are_bad_rows(tokenizer: Any, tmp_path: Path) -> None:
    own = copy.deepcopy(tokenizer)
    own.chat_template = NO_SYSTEM
    source = rows_file(tmp_path / "rows.jsonl")
    with pytest.raises(DataError, match=r"rows\.jsonl, line 4(.|\n)*no system message(.|\n)*skip"):
        loaded(own, source)
    prompts, maker = loaded(own, replace(source, bad_rows="skip"))
    assert len(prompts) == 3
    assert (maker.counts["chat"].kept, maker.counts["chat"].skipped) == (3, 1)


def test_nothing_but_a_blank_system_message_is_no_conversation(
    tokenizer: Any, tmp_path: Path
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"messages": [{"role": "system", "content": ""}]}))
    with pytest.raises(DataError, match="ends with the user's turn"):
        loaded(tokenizer, SourceConfig(kind="file", path=str(path)))
