"""Rollout workers and the weight synchronisation that feeds them."""

from dataclasses import dataclass, field

from mgsrl.config.require import at_least, full_distribution, one_of, seconds, temperature, within
from mgsrl.plugins import Registry

ENGINES = Registry(
    "rollout engine",
    "mgsrl.engines",
    {
        "vllm": "mgsrl.rollout.vllm_engine:VllmEngine",
        "transformers": "mgsrl.rollout.transformers_engine:TransformersEngine",
    },
)
ASSIGNMENTS = ("shared", "dedicated")
DTYPES = ("float32", "bfloat16")
TRANSFERS = ("auto", "object_store", "nccl", "ipc")
MAX_IN_FLIGHT = 8192
"""vLLM decodes no more sequences at once than its scheduler has tokens in a step."""


@dataclass
class SyncConfig:
    transfer: str = "auto"
    """How weights travel: `nccl` (vLLM's built-in engine, between GPUs), `ipc` (vLLM's, inside GPUs
    that engines and learners share), `object_store` (Ray's shared memory, any machine), `auto`
    picks by device, placement and model."""
    canary_sequences: int = 4
    """Sequences whose log-probabilities are compared after every sync, 128 tokens in all."""
    canary_threshold: float = 0.02
    """Largest mean |log p_engine - log p_learner| in nats. In float32 the run stops above it. In
    bfloat16 it is where the canary begins to ask: 3 times the first publish's error is a jump,
    which equal weights explain up to 10 times the threshold. Weights are always compared exactly,
    whatever this says."""
    time_limit_s: float = 120.0
    """Longest wait for a worker's part in one message of a weight update, after which it is
    replaced; before the first message it may be at work for `rollout.time_limit_s`. A worker that
    dies is noticed within seconds."""

    def validate(self) -> None:
        one_of("rollout.sync.transfer", self.transfer, TRANSFERS)
        at_least("rollout.sync.canary_sequences", self.canary_sequences, 1)
        at_least("rollout.sync.canary_threshold", self.canary_threshold, 0.0)
        seconds("rollout.sync.time_limit_s", self.time_limit_s)


@dataclass
class RolloutConfig:
    engine: str = "vllm"
    """`vllm`, `transformers` (slow, light: tests and odd models), or your own
    (`module:Class`, `file.py:Class`)."""
    assignment: str = "shared"
    """`shared`: every worker serves all domains; `dedicated`: `domains.<name>.num_workers` each."""
    num_workers: int = 1
    """Workers under `assignment=shared`."""
    temperature: float = 1.0
    """Sampling temperature; log-probabilities are of the tempered distribution."""
    top_p: float = 1.0
    """Only 1.0 trains: with nucleus sampling the engine's log-probabilities are not those of the
    distribution it samples from. Smaller values are refused for training, allowed in evaluation."""
    max_new_tokens: int = 64
    """Response limit in tokens."""
    staleness: int = 0
    """Steps that rollouts may be ahead of the learners. 0: one after the other. N: the responses
    of the next N steps are made while the learners work on a step, with weights at most N updates
    older than those that they train (metric `staleness/<domain>`). Within a phase only."""
    inflight_updates: bool = False
    """Whether new weights reach a response while it is made (its tokens know their version, but
    numbers depend on the clock). `false` waits for what is under way first: then `staleness=1`
    overlaps as much as more would, and equal seeds give equal numbers."""
    max_prompts_in_flight: int = 256
    """Sequences an engine decodes at once (vLLM `max_num_seqs`)."""
    dtype: str = "float32"
    """Engine weights and compute: `float32` | `bfloat16`."""
    tensor_parallel_size: int = 1
    """GPUs per engine."""
    num_gpus: float | None = None
    """GPUs per worker; null takes `tensor_parallel_size` where there are GPUs."""
    gpu_memory_utilization: float = 0.85
    """Share of the GPU's memory that vLLM takes."""
    kv_cache_gib: float = 1.0
    """KV cache of one engine on a CPU, GiB."""
    enforce_eager: bool = True
    """Skip compilation: faster start, slower decode on GPUs."""
    max_restarts: int = 3
    """Times one worker may die and be brought back within `restart_window` steps before the run
    stops."""
    restart_window: int = 100
    """Steps after which the death of a worker is forgotten."""
    time_limit_s: float = 900.0
    """Longest time in which a worker that has requests finishes none of them, and longest wait for
    its answer to any other call; it is replaced then."""
    start_limit_s: float = 600.0
    """Longest wait for a worker to load."""
    sync: SyncConfig = field(default_factory=SyncConfig)

    def validate(self) -> None:
        ENGINES.check_name(self.engine, "rollout.engine")
        one_of("rollout.assignment", self.assignment, ASSIGNMENTS)
        one_of("rollout.dtype", self.dtype, DTYPES)
        at_least("rollout.num_workers", self.num_workers, 1)
        at_least("rollout.max_new_tokens", self.max_new_tokens, 1)
        at_least("rollout.staleness", self.staleness, 0)
        temperature("rollout.temperature", self.temperature)
        full_distribution("rollout.top_p", self.top_p)
        within("rollout.max_prompts_in_flight", self.max_prompts_in_flight, 1, MAX_IN_FLIGHT)
        at_least("rollout.tensor_parallel_size", self.tensor_parallel_size, 1)
        if self.num_gpus is not None:
            at_least("rollout.num_gpus", self.num_gpus, 0.0)
        within("rollout.gpu_memory_utilization", self.gpu_memory_utilization, 0.01, 1.0)
        at_least("rollout.kv_cache_gib", self.kv_cache_gib, 0.1)
        at_least("rollout.max_restarts", self.max_restarts, 0)
        at_least("rollout.restart_window", self.restart_window, 1)
        seconds("rollout.time_limit_s", self.time_limit_s)
        seconds("rollout.start_limit_s", self.start_limit_s)
        self.sync.validate()
