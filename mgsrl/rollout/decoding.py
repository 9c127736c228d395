"""The policy's tokenizer on the way out: where responses stop, and tokens -> text.

Both adapters use this one, so a response reads and ends the same whichever engine sampled it.
"""

from collections.abc import Sequence
from typing import Any

from mgsrl.errors import ConfigError, MissingPathError, explain


class Decoder:
    """Text and stop tokens of one policy.

    Args:
        path: folder or hub id that holds the tokenizer.
        trust_remote_code: run Python code that comes with the tokenizer.
    """

    def __init__(self, path: str, *, trust_remote_code: bool = False) -> None:
        from transformers import AutoTokenizer, GenerationConfig

        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(
                path, trust_remote_code=trust_remote_code
            )
        except OSError as error:
            raise MissingPathError(
                explain(
                    "policy.path has no usable tokenizer.",
                    expected="tokenizer files beside the weights",
                    found=str(error).splitlines()[0],
                    todo="add the tokenizer's files or correct policy.path",
                )
            ) from error
        stops = {self.tokenizer.eos_token_id}
        try:  # chat models list their end-of-turn tokens here (Llama 3: three of them)
            listed = GenerationConfig.from_pretrained(path).eos_token_id
        except OSError:  # the file is optional
            listed = None
        stops |= set(listed) if isinstance(listed, list) else {listed}
        self.stop_token_ids: tuple[int, ...] = tuple(sorted(s for s in stops if s is not None))
        if not self.stop_token_ids:
            raise ConfigError(
                explain(
                    "The policy's tokenizer has no end-of-sequence token.",
                    expected="eos_token in the tokenizer or eos_token_id in generation_config.json",
                    found="neither",
                    todo="add one: without it every response runs to rollout.max_new_tokens",
                )
            )
        pad = self.tokenizer.pad_token_id
        self.pad_token_id: int = self.stop_token_ids[0] if pad is None else pad

    def texts(self, responses: Sequence[Sequence[int]]) -> list[str]:
        """Decode without special tokens; spaces are kept as they were sampled."""
        return self.tokenizer.batch_decode(
            [list(tokens) for tokens in responses],
            skip_special_tokens=True,
            clean_up_tokenization_spaces=False,
        )
