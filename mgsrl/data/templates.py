"""Turns a row's conversation into the policy's prompt tokens.

Two templates: the tokenizer's own chat template, and `prompted`, the preamble with which a base
model is asked to think first and to answer in a marked block (Modular Gradient Surgery,
arXiv 2602.02301, which takes it from RLMT). Rewards read only what stands in that block.

Chat templates that write today's date (Llama 3, Granite, gpt-oss) are given the run's, which is
fixed when the run begins: prompts do not change from one day to the next.

Left out: cutting an overlong prompt inside its template. As in the published recipe
`truncate_left` keeps the last tokens of the templated prompt, so the preamble or the system
message goes first; only a leading beginning-of-sequence token is kept. Counts say how often it
happened, `drop` and `error` are there for those who mind.
"""

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jinja2

from mgsrl.config import DataConfig, PolicyConfig
from mgsrl.config.policy import template_clock
from mgsrl.data.rows import Row, RowProblem
from mgsrl.errors import ConfigError, DataError
from mgsrl.types import Message, Prompt

PREAMBLE = (
    "Below is a conversation between a User and an Assistant. Before every reply the Assistant "
    "works the request out in private and writes these thoughts between <think> and </think>. "
    "The Assistant then writes the reply that the User will read between <response> and "
    "</response>, in the form: <think> thoughts </think> <response> reply </response>."
)
TEMPLATE_ERRORS = (
    jinja2.TemplateError,
    TypeError,
    ValueError,
    AttributeError,
    LookupError,
    ArithmeticError,
    RecursionError,
)
"""A template is a program: it refuses by jinja's error, and fails by Python's."""


@dataclass(slots=True)
class PromptCounts:
    """What became of the rows of one source."""

    kept: int = 0
    truncated: int = 0
    """Kept, but cut from the left."""
    dropped: int = 0
    """Overlong and left out."""
    skipped: int = 0
    """Not usable and left out (`bad_rows=skip`)."""


class PromptTokenizer:
    """Templates and tokenizes rows, and keeps count of the overlong ones in `counts`.

    Args:
        policy: the template's name, its arguments and its date.
        tokenizer: the policy's Hugging Face tokenizer.
        data: the length limit and what happens to longer prompts.

    Raises:
        ConfigError: the chat template is asked for and the tokenizer has none, or it does not
            know one of the arguments.
    """

    def __init__(self, policy: PolicyConfig, tokenizer: Any, data: DataConfig) -> None:
        self._template = policy.prompt_template
        self._tokenizer = tokenizer
        self._data = data
        self.counts: dict[str, PromptCounts] = {}
        if self._template == "chat" and not getattr(tokenizer, "chat_template", None):
            raise ConfigError(
                "policy.prompt_template=chat needs a tokenizer with a chat template.",
                expected="an instruction-tuned model",
                found=f"{policy.path}: a tokenizer without a chat template (a base model?)",
                todo="set policy.prompt_template=prompted",
            )
        self._clock = template_clock(policy.date)
        self._arguments: dict[str, Any] = {}
        self._set_arguments("policy", policy.chat_template_kwargs)

    def for_domain(self, name: str, arguments: Mapping[str, Any]) -> "PromptTokenizer":
        """This one with a domain's own template arguments; the counts are shared.

        Raises:
            ConfigError: the template does not know one of them.
        """
        own = copy.copy(self)
        own._set_arguments(f"domains.{name}", arguments)
        return own

    def _set_arguments(self, key: str, arguments: Mapping[str, Any]) -> None:
        for name in arguments:
            _check_argument(f"{key}.chat_template_kwargs", name, self._written_template())
        self._arguments = self._arguments | dict(arguments)

    def _written_template(self) -> str:
        return str(self._tokenizer.chat_template) if self._template == "chat" else ""

    def count(self, name: str) -> PromptCounts:
        """The counts of a source; 0 all when it is new."""
        return self.counts.setdefault(name, PromptCounts())

    def notes(self) -> tuple[str, ...]:
        """A line for every source of which something was cut or left out."""
        return tuple(
            f"{name}: {counts.kept} prompts, {counts.truncated} of them truncated; "
            f"{counts.dropped} dropped as longer than data.max_prompt_tokens, "
            f"{counts.skipped} bad rows left out"
            for name, counts in self.counts.items()
            if counts.truncated or counts.dropped or counts.skipped
        )

    def prompt(
        self, domain: str, row: Row, counted_as: str = "", encoded: Sequence[int] | None = None
    ) -> Prompt | None:
        """The row as a prompt of `domain`; None when it is overlong and `data.overlong=drop`.

        Args:
            counted_as: the name in `counts`; the default is the domain's.
            encoded: `encode(row.messages)`, where that is done already.

        Raises:
            DataError: overlong under `data.overlong=error`, or a conversation that the chat
                template refuses.
        """
        try:
            token_ids = self.encode(row.messages) if encoded is None else list(encoded)
        except RowProblem as problem:
            raise problem.at(f"{domain}/{row.id}") from problem
        limit, counts = self._data.max_prompt_tokens, self.count(counted_as or domain)
        if len(token_ids) > limit:
            if self._data.overlong == "error":
                raise DataError(
                    f"The prompt {domain}/{row.id} is too long.",
                    expected=f"at most {limit} tokens, template included",
                    found=f"{len(token_ids)} tokens",
                    todo="raise data.max_prompt_tokens, or set data.overlong to "
                    "truncate_left or drop",
                )
            if self._data.overlong == "drop":
                counts.dropped += 1
                return None
            counts.truncated += 1
            token_ids = self._keep_end(token_ids, limit)
        counts.kept += 1
        return Prompt(row.id, domain, row.messages, tuple(token_ids), row.reference)

    def encode(self, messages: Sequence[Message]) -> list[int]:
        """The untruncated prompt tokens of a conversation, generation prompt included.

        Raises:
            RowProblem: the chat template refuses the conversation.
        """
        if self._template == "prompted":
            # With the tokenizer's own special tokens: Llama's base models saw a beginning-of-
            # sequence token in front of every text, Qwen's did not.
            token_ids = list(self._tokenizer(prompted_text(messages))["input_ids"])
            # Not with one that ends the text, though: the policy is to go on.
            special = set(self._tokenizer.all_special_ids)
            while token_ids and token_ids[-1] in special:
                token_ids.pop()
            return token_ids
        text = self._rendered(messages, add_generation_prompt=True)
        # Chat templates write their own special tokens.
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def end_of_turn(self) -> int | None:
        """The special token with which the chat template ends the assistant's turn.

        None without a chat template, or where it ends a turn with plain text or nothing.
        """
        if self._template != "chat":
            return None
        mark = "mgsrl"
        turns = ({"role": "user", "content": "a"}, {"role": "assistant", "content": mark})
        try:
            text = self._rendered(turns, add_generation_prompt=False)
        except RowProblem:  # it takes no answers; prompts may still be all right
            return None
        ending = self._tokenizer(text.rpartition(mark)[2], add_special_tokens=False)["input_ids"]
        special = set(self._tokenizer.all_special_ids) | set(self._tokenizer.added_tokens_decoder)
        return next((token for token in ending if token in special), None)

    def _rendered(self, messages: Sequence[Message], *, add_generation_prompt: bool) -> str:
        """The conversation in the chat template.

        Raises:
            RowProblem: the template refuses it.
        """
        try:
            text: str = self._tokenizer.apply_chat_template(
                [dict(message) for message in messages],
                add_generation_prompt=add_generation_prompt,
                tokenize=False,
                strftime_now=self._clock,
                **self._arguments,
            )
        except TEMPLATE_ERRORS as error:
            roles = [message["role"] for message in messages]
            if "system" in roles and self._accepts([role for role in roles if role != "system"]):
                expected = "no system message: the model's chat template refuses it"
                todo = "move its text into the user's first message"
            else:
                expected = "roles in an order that the model's chat template knows"
                todo = "mend the row"
            raise RowProblem(
                expected,
                f"{roles} ({error})",
                f"{todo}, leave such rows out (bad_rows=skip of the source), or use another "
                "policy.prompt_template",
            ) from error
        return text

    def _accepts(self, roles: Sequence[str]) -> bool:
        messages = [{"role": role, "content": "a"} for role in roles]
        try:
            self._tokenizer.apply_chat_template(
                messages, tokenize=False, strftime_now=self._clock, **self._arguments
            )
        except TEMPLATE_ERRORS:
            return False
        return True

    def _keep_end(self, token_ids: list[int], limit: int) -> list[int]:
        bos = self._tokenizer.bos_token_id
        if bos is not None and token_ids[0] == bos:
            return [bos, *token_ids[len(token_ids) - limit + 1 :]]
        return token_ids[-limit:]


def _check_argument(key: str, name: str, template: str) -> None:
    if not re.search(rf"\b{re.escape(name)}\b", template):
        raise ConfigError(
            f"{key} has an argument that nothing reads.",
            expected="a name that the tokenizer's chat template uses",
            found=repr(name) if template else f"{name!r} without a chat template",
            todo=f"correct {key}, or leave {name} out",
        )


def prompted_text(messages: Sequence[Message]) -> str:
    """The conversation under the base-model preamble; ends where the assistant's turn begins."""
    parts = [PREAMBLE]
    for message in messages:
        if message["role"] == "user":
            parts.append(f"User: <query>{message['content']}</query>")
        elif message["role"] == "assistant":
            parts.append(f"Assistant: <response> {message['content']} </response>")
        else:
            parts.append(message["content"])
    return "\n".join([*parts, "Assistant:"])
