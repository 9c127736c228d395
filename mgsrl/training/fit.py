"""Whether prompts, responses and model fit together: token ids, context, the end of a turn."""

from collections.abc import Mapping, Sequence
from typing import Any

from mgsrl.config.model_facts import ModelFacts
from mgsrl.errors import ConfigError
from mgsrl.types import Prompt, Sampling


def check_tokens(
    prompts: Mapping[str, Sequence[Prompt]], tokenizer: Any, facts: ModelFacts
) -> None:
    """Raise `ConfigError` for a prompt with a token that the model's embedding has no row for."""
    for name, several in prompts.items():
        for prompt in several:
            largest = max(prompt.token_ids, default=0)
            if largest >= facts.vocab_size:
                token = tokenizer.convert_ids_to_tokens(largest)
                raise ConfigError(
                    "The tokenizer of policy.path has a token that its model does not know.",
                    expected=f"ids below {facts.vocab_size}, the rows of the embedding",
                    found=f"{token!r} with the id {largest}, in the prompt {name}/{prompt.id}",
                    todo="resize the embedding and save the model "
                    "(model.resize_token_embeddings(len(tokenizer))), or use the tokenizer "
                    "that it was trained with",
                )


def check_context(
    prompts: Mapping[str, Sequence[Prompt]], sampling: Mapping[str, Sampling], facts: ModelFacts
) -> None:
    """Raise `ConfigError` where a prompt and its longest response are longer than the context.

    An engine would cut such a response short in silence, or go on past the positions that the
    model was trained with.

    Args:
        prompts: by source (`math`, `math/web`) or domain.
        sampling: by domain.
    """
    for several in prompts.values():
        for prompt in several:
            length, response = len(prompt.token_ids), sampling[prompt.domain].max_new_tokens
            if facts.positions is not None and length + response > facts.positions:
                raise _too_long(prompt, length, response, facts.positions)


def _too_long(prompt: Prompt, length: int, response: int, positions: int) -> ConfigError:
    ways = []
    if response < positions:
        ways.append(f"set data.max_prompt_tokens={positions - response}")
    if length < positions:
        ways.append(
            f"set rollout.max_new_tokens={positions - length} "
            f"(or domains.{prompt.domain}.max_new_tokens)"
        )
    return ConfigError(
        f"The context of policy.path is too short for the domain {prompt.domain}.",
        expected=f"prompt and longest response within {positions} tokens "
        "(the positions that its config.json names)",
        found=f"{length} tokens of the prompt {prompt.id} + {response} new ones "
        f"= {length + response}",
        todo=" or ".join([*ways, "use a model with a longer context"]),
    )


def end_of_turn_note(end_of_turn: int | None, stops: Sequence[int], tokenizer: Any) -> str | None:
    """What to say when the chat template ends a turn with a token that does not stop responses."""
    if end_of_turn is None or end_of_turn in stops:
        return None
    token = tokenizer.convert_ids_to_tokens(end_of_turn)
    known = ", ".join(tokenizer.convert_ids_to_tokens(list(stops)))
    return (
        f"the chat template ends the assistant's turn with {token!r}, which does not end a "
        f"response: the policy will go on behind it up to rollout.max_new_tokens. Stop tokens are "
        f"{known}; add the id {end_of_turn} to eos_token_id in the model's generation_config.json"
    )
