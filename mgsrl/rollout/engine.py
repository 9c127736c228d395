"""What a rollout engine is: the class that both adapters, and one that you bring, derive from.

`rollout.engine=mylab.engines:MyEngine` names yours. The four weight methods are those of vLLM's
`VLLMWeightSyncClient`, so the same senders feed all engines. Left out: streaming, chat templates
and stop strings. Prompts arrive as tokens and responses leave as the very tokens that were sampled;
nothing is re-tokenized in between.

`generate` is enough: a worker then hands over one part of its requests after the other (`batches`),
and new weights come in between. An engine that takes requests while others run has a `stream`.
"""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self

from mgsrl.config.model_facts import ModelFacts
from mgsrl.config.rollout import ENGINES, RolloutConfig
from mgsrl.errors import ConfigError, InvariantError
from mgsrl.rollout.decoding import Decoder
from mgsrl.sync.fingerprint import Seen
from mgsrl.types import GenerationRequest, Rollout

KEY = "rollout.engine"


@dataclass(frozen=True)
class EngineSpec:
    """What one worker loads; the same for every worker of a run."""

    config: RolloutConfig
    model_path: str
    """Of the weights: a folder, or a hub id."""
    max_model_len: int
    """Longest prompt plus longest response, in tokens."""
    device: str = "cpu"
    trust_remote_code: bool = False
    threads: int = 0
    """CPU threads of the engine; 0 leaves them alone (outside Ray)."""
    sleeps: bool = False
    """It shares its GPU with a learner rank, and will be put to sleep."""


class Stream(Protocol):
    """An engine at work: requests go in at any time, responses come out when they are done."""

    def submit(self, requests: Sequence[GenerationRequest], urgent: bool = False) -> None:
        """Take requests on, the urgent ones before all that wait; returns at once."""
        ...

    def step(self) -> list[Rollout]:
        """The least amount of work that is not interrupted; the responses that it finished, in any
        order. Called while there are requests, and never during a weight update."""
        ...


class Engine(ABC):
    """One policy that can generate, score and take new weights in place."""

    weight_version: int = -1
    """Version of the weights it computes with; -1 until the first publish."""

    # ---- facts, asked before it is loaded ------------------------------------------------------

    nccl: ClassVar[bool] = False
    """Whether it takes weights by vLLM's NCCL transfer, beside Ray's object store."""
    ipc: ClassVar[bool] = False
    """Whether it takes weights by vLLM's CUDA IPC transfer, on the GPU of a learner rank."""
    sleep_level: ClassVar[int] = 2
    """How deep it sleeps: 2 drops the weights, which are sent again before it is used; 1 keeps them
    in the machine's memory (an engine with weights that nobody publishes)."""
    takes_checkpoints: ClassVar[bool] = False
    """Whether it takes weights as a checkpoint has them, else as the learner holds them."""
    splits: ClassVar[bool] = False
    """Whether one engine can be split over several GPUs."""
    memory_gib: ClassVar[float] = 0.3
    """Of one on a CPU, weights and cache apart."""
    hint: ClassVar[str] = ""
    """Shown while it starts: ` (it takes about half a minute)`."""

    @classmethod
    def environment(cls, config: RolloutConfig, device: str) -> dict[str, str]:
        """Of its process, set before anything is imported there."""
        return {}

    @classmethod  # noqa: B027  nothing to refuse
    def check(cls, device: str | None) -> None:
        """ConfigError when a library that it needs is missing; imports nothing heavy.

        Args:
            device: `cpu`, `cuda`, or None when it is not known yet.
        """

    @classmethod  # noqa: B027  nothing to refuse
    def check_model(cls, facts: ModelFacts, device: str | None) -> None:
        """ConfigError when it cannot serve such a policy on `device`."""

    @classmethod
    def lost_in_transfer(cls, facts: ModelFacts) -> str:
        """Weights of such a policy, in words, that its NCCL and IPC transfers would not change."""
        return ""

    @classmethod  # noqa: B027  nothing to refuse
    def check_memory(cls, config: RolloutConfig, device: str, memory_gib: float) -> None:
        """ConfigError when it would take more than the machine's memory."""

    # ---- the running engine ------------------------------------------------------------------

    @classmethod
    @abstractmethod
    def load(cls, spec: EngineSpec, decoder: Decoder) -> Self:
        """Load it; `decoder` is the policy's tokenizer."""

    @abstractmethod
    def generate(self, requests: Sequence[GenerationRequest]) -> list[Rollout]:
        """One response per request, in the requests' order."""

    def batches(
        self, requests: Sequence[GenerationRequest]
    ) -> Iterable[Sequence[GenerationRequest]]:
        """The parts in which a worker gives requests to `generate`."""
        return [requests]

    def stream(self) -> Stream:
        """Made once, after loading. This one is for engines whose least work is a batch."""
        return BatchStream(self)

    @abstractmethod
    def logprobs(
        self, sequences: Sequence[Sequence[int]], temperature: float = 1.0
    ) -> list[list[float]]:
        """Log-probability of each token given its prefix; 0.0 for the first of a sequence."""

    @abstractmethod
    def probe(self, version: int, published: Sequence[str]) -> list[Seen]:
        """Fingerprints of what the engine really computes with.

        Args:
            version: the weight version, which decides the columns that are looked at.
            published: the names under which the weights were sent.
        """

    @abstractmethod
    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None: ...

    @abstractmethod
    def start_weight_update(self) -> None: ...

    @abstractmethod
    def update_weights(self, update_info: dict[str, Any]) -> None: ...

    @abstractmethod
    def finish_weight_update(self, weight_version: str | None = None) -> None: ...

    def sleep(self, level: int) -> None:
        """Give the GPU memory of weights and KV cache back until `wake_up`; see `sleep_level`.

        Only an engine that has this and `wake_up` can share a GPU (`placement=colocated`).
        """
        raise InvariantError(f"{type(self).__name__} cannot sleep")

    def wake_up(self, tags: Sequence[str]) -> None:
        """Take memory again for the parts in `tags`: `weights`, `kv_cache` (see `residency`).

        After level 2 the weights have any content until the next update.
        """
        raise InvariantError(f"{type(self).__name__} cannot wake up")

    @abstractmethod
    def close(self) -> None:
        """Free memory and helper processes; safe to call twice."""


class BatchStream:
    """A `Stream` out of `Engine.generate`, one batch a step."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._waiting: deque[Sequence[GenerationRequest]] = deque()

    def submit(self, requests: Sequence[GenerationRequest], urgent: bool = False) -> None:
        batches = list(self._engine.batches(requests))
        if urgent:
            self._waiting.extendleft(reversed(batches))
        else:
            self._waiting.extend(batches)

    def step(self) -> list[Rollout]:
        batch = self._waiting.popleft()
        made = self._engine.generate(batch)
        if [rollout.request_id for rollout in made] != [request.id for request in batch]:
            raise InvariantError(
                f"{type(self._engine).__name__}.generate should answer {len(batch)} requests in "
                f"their order, it gave {len(made)} responses"
            )
        return made


def rollout_engine(name: str) -> type[Engine]:
    """The class that `rollout.engine` names. vLLM itself is imported when one is loaded.

    Raises:
        ConfigError: there is none, it is no `Engine`, or one without some of its methods.
    """
    found = ENGINES.load(name, KEY)
    if isinstance(found, type) and issubclass(found, Engine):
        missing = sorted(found.__abstractmethods__)
        what = f"a class without {', '.join(missing)}"
    else:
        missing, what = [""], repr(found)
    if missing:
        raise ConfigError(
            f"{KEY}={name} is no rollout engine.",
            expected="a class derived from mgsrl.rollout.engine.Engine, with all its methods",
            found=what,
            todo="complete the class",
        )
    return found


def sleep_verbs_missing(engine: type[Engine]) -> list[str]:
    """Of `sleep` and `wake_up`, those that the class does not have."""
    return [verb for verb in ("sleep", "wake_up") if getattr(engine, verb) is getattr(Engine, verb)]


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
            f"{what} is longer than the engine's context.",
            expected=f"at most {limit} tokens, prompt and response",
            found=f"{prompt} tokens, and up to {response} more",
            todo="lower data.max_prompt_tokens or rollout.max_new_tokens",
        )
