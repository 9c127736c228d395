"""What a rollout engine is: the protocol that both adapters implement.

The four weight methods are those of vLLM's `VLLMWeightSyncClient`, so the same senders feed
both engines. Left out: streaming, chat templates and stop strings. Prompts arrive as tokens and
responses leave as the very tokens that were sampled; nothing is re-tokenized in between.
"""

from collections.abc import Sequence
from typing import Any, Protocol

from mgsrl.errors import ConfigError, explain
from mgsrl.sync.fingerprint import Seen
from mgsrl.types import GenerationRequest, Rollout


class Engine(Protocol):
    """One policy that can generate, score and take new weights in place."""

    weight_version: int
    """Version of the weights it computes with; -1 until the first publish."""

    def generate(self, requests: Sequence[GenerationRequest]) -> list[Rollout]:
        """One response per request, in the requests' order."""
        ...

    def score(
        self, sequences: Sequence[Sequence[int]], temperature: float = 1.0
    ) -> list[list[float]]:
        """Log-probability of each token given its prefix; 0.0 for the first of a sequence."""
        ...

    def probe(self, version: int, published: Sequence[str]) -> list[Seen]:
        """Fingerprints of what the engine really computes with.

        Args:
            version: the weight version, which decides the columns that are looked at.
            published: the names under which the weights were sent.
        """
        ...

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None: ...

    def start_weight_update(self) -> None: ...

    def update_weights(self, update_info: dict[str, Any]) -> None: ...

    def finish_weight_update(self, weight_version: str | None = None) -> None: ...

    def close(self) -> None:
        """Free memory and helper processes; safe to call twice."""
        ...


def check_request(request: GenerationRequest, limit: int | None) -> None:
    """Raise `ConfigError` unless prompt and longest response fit into `limit` tokens."""
    check_fits(request.id, len(request.token_ids), request.sampling.max_new_tokens, limit)


def check_fits(what: str, prompt: int, response: int, limit: int | None) -> None:
    """Raise `ConfigError` unless `prompt + response` tokens fit; None is no limit.

    Both engines ask it, so neither shortens a response in silence nor goes beyond the positions
    that the model knows.
    """
    if limit is not None and prompt + response > limit:
        raise ConfigError(
            explain(
                f"{what} is longer than the engine's context.",
                expected=f"at most {limit} tokens, prompt and response",
                found=f"{prompt} tokens, and up to {response} more",
                todo="lower data.max_prompt_tokens or rollout.max_new_tokens",
            )
        )
