"""The policy's tokenizer on the way out: where responses stop, and tokens -> text.

Both adapters use this one, so a response reads and ends the same whichever engine sampled it.
"""

from collections.abc import Sequence
from typing import Any

from mgsrl.config.model_facts import ModelFacts, model_facts, token_ids
from mgsrl.errors import ConfigError, MissingPathError, one_line

GENERATION_FILE = "generation_config.json"


class Decoder:
    """Text and stop tokens of one policy.

    Args:
        path: folder or hub id that holds the tokenizer.
        trust_remote_code: run Python code that comes with the tokenizer.
        tokenizer: the tokenizer of `path`, where it is loaded already.

    Raises:
        MissingPathError: no tokenizer, no readable configuration of the model, or an unreadable
            generation_config.json.
        ConfigError: nothing that ends a response.
    """

    def __init__(
        self, path: str, *, trust_remote_code: bool = False, tokenizer: Any = None
    ) -> None:
        if tokenizer is None:
            tokenizer = _load_tokenizer(path, trust_remote_code)
        self.tokenizer = tokenizer
        facts = model_facts(path, trust_remote_code=trust_remote_code)
        listed = _listed_stops(path) or facts.stop_token_ids
        stops = {*token_ids(self.tokenizer.eos_token_id), *listed}
        # A token that the model has no row for is never sampled.
        self.stop_token_ids: tuple[int, ...] = tuple(
            sorted(stop for stop in stops if 0 <= stop < facts.vocab_size)
        )
        if not self.stop_token_ids:
            raise ConfigError(
                "The policy's tokenizer has no end-of-sequence token.",
                expected="eos_token in the tokenizer, or eos_token_id in "
                "generation_config.json or config.json, inside the vocabulary",
                found=f"{sorted(stops)} beyond a vocabulary of {facts.vocab_size}"
                if stops
                else "none",
                todo="add one: without it every response runs to rollout.max_new_tokens",
            )
        self.pad_token_id = pad_token_id(self.tokenizer, facts)

    def texts(self, responses: Sequence[Sequence[int]]) -> list[str]:
        """Decode without special tokens; spaces are kept as they were sampled."""
        if not responses:  # transformers takes no responses for one that is empty
            return []
        return self.tokenizer.batch_decode(
            [list(tokens) for tokens in responses],
            skip_special_tokens=True,
            clean_up_tokenization_spaces=False,
        )


def pad_token_id(tokenizer: Any, facts: ModelFacts) -> int:
    """The tokenizer's own, or 0: padding is masked everywhere, so any id with a row will do (a
    pad token that was added without resizing the embedding has none)."""
    own = tokenizer.pad_token_id
    return own if own is not None and 0 <= own < facts.vocab_size else 0


def _listed_stops(path: str) -> tuple[int, ...]:
    """Chat models list their end-of-turn tokens in generation_config.json (Llama 3: three).

    Raises:
        MissingPathError: the file is there and of no use: without it responses would not end.
    """
    from transformers import GenerationConfig
    from transformers.utils import cached_file

    try:
        if cached_file(path, GENERATION_FILE, _raise_exceptions_for_missing_entries=False) is None:
            return ()
        listed = token_ids(GenerationConfig.from_pretrained(path).eos_token_id)
        if not all(type(token) is int for token in listed):
            raise TypeError(f"eos_token_id is {listed}")
        return listed
    # Any exception: the file is the user's, and transformers raises what it meets.
    except Exception as error:
        raise MissingPathError(
            f"{GENERATION_FILE} of policy.path cannot be read.",
            expected="a file that transformers can load, with whole numbers for eos_token_id",
            found=f"{path!r}: {one_line(error)}",
            todo="mend the file, or remove it (config.json may name eos_token_id)",
        ) from error


def _load_tokenizer(path: str, trust_remote_code: bool) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code)
    # Any exception: the files are the user's, and transformers raises what it meets.
    except Exception as error:
        raise MissingPathError(
            "policy.path has no usable tokenizer.",
            expected="tokenizer files beside the weights",
            found=one_line(error),
            todo="add the tokenizer's files or correct policy.path",
        ) from error
