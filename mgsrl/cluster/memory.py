"""Memory of a learner rank and of an engine, from shapes alone: arithmetic, nothing is allocated.

What is held between steps is exact up to padding (held against real workers over ZeRO 0-3 in the
tests, within 2 % of an H200's figures). What comes on top in a phase of a step are the tensors
that PyTorch's autograd keeps for a decoder layer of today (two RMS norms, attention by a fused
kernel, a gated MLP) and DeepSpeed's copies while it reduces: within 4 % of three measured peaks,
and within 12 % of twenty of processes on a CPU (`assets/plan_measured.json`).

Left out: mixtures of experts (their activations are those of a dense MLP of `intermediate_size`),
what the allocator loses between blocks, several parameter groups.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from mgsrl.config.learner import LearnerConfig
from mgsrl.config.model_shape import ModelShape
from mgsrl.config.rollout import RolloutConfig
from mgsrl.config.surgery import SurgeryConfig

GIB = 1 << 30
BYTES = {"float32": 4, "bfloat16": 2}
MAX_BUCKET = 200_000_000
"""Elements of one communication bucket of the learner (0.8 GB in fp32)."""
MAX_LIVE = 1_000_000_000
"""Parameters that DeepSpeed's ZeRO 3 keeps gathered at once (its default)."""
PREFETCH = 50_000_000
"""Parameters that it gathers ahead in one piece, before they are copied apart (its default)."""
LOGITS = {False: 1 << 26, True: 1 << 27}
"""Logits that the learner holds at once in fp32, on a CPU and on a GPU (measurements:
`learner/forward.py`)."""
CONTEXT = round(0.8 * GIB)
"""CUDA, cuBLAS and compiled kernels of one process."""
LIBRARIES = {False: round(0.15 * GIB), True: round(0.2 * GIB)}
"""What a process on a CPU loads with the first step, without and with ZeRO; besides 0.4 GiB that it
begins with."""
SCATTERED = 1.2
"""Times that activations are held on a CPU: C's allocator keeps blocks below 32 MiB for the next
ones, and blocks of all sizes leave holes between them."""
NCCL = round(0.7 * GIB)
"""Buffers of the ranks' collectives."""
ENGINE_OVERHEAD = round(2.0 * GIB)
"""What vLLM keeps besides weights and cache: a prefill's activations, CUDA graphs, its context."""

ENGINE_ASLEEP = round(1.5 * GIB)
"""What a sleeping vLLM keeps of its GPU: its context and CUDA graphs."""
ONLY_TO_LEARN = ("domains' gradients", "reduced gradient", "combined gradient")
"""Of a learner rank; freed while engines use its GPU."""
OFFLOADED = ("fp32 master weights", "AdamW's moments", "reference", "teachers")
"""Moved to the host meanwhile with `learner.offload_during_rollout`."""


@dataclass(frozen=True)
class Memory:
    """Bytes of one process, by what takes them."""

    held: Mapping[str, int]
    """On the device for as long as it lives."""
    phases: Mapping[str, Mapping[str, int]]
    """On the device besides, by phase of a step; one phase at a time."""
    host: Mapping[str, int]
    """In the machine's memory."""

    @property
    def held_bytes(self) -> int:
        return sum(self.held.values())

    @property
    def peak(self) -> tuple[str, int]:
        """The phase that takes most, and what is on the device in it."""
        sizes = {phase: sum(terms.values()) for phase, terms in self.phases.items()} or {"": 0}
        phase = max(sizes, key=lambda name: sizes[name])
        return phase, self.held_bytes + sizes[phase]


@dataclass(frozen=True)
class Load:
    """What a learner rank is given to do."""

    num_domains: int
    reference: bool
    """The KL needs one."""
    tokens: int
    """Of the largest micro-batch, padding included."""
    entropy: bool = False
    """The entropy is trained."""
    measures: bool = False
    """Some step keeps two gradients per domain (split-half reliability)."""
    probes: bool = False
    """On some step others are tried."""
    teachers: int = 0
    """Models that are distilled from, taken to be as large as the policy."""
    cuda: bool = True


def learner_memory(
    shape: ModelShape, config: LearnerConfig, surgery: SurgeryConfig, load: Load
) -> Memory:
    """Of one learner rank."""
    rank = _Rank(shape, config, surgery, load)
    held, host = rank.held()
    phases = rank.phases()
    if load.cuda:
        held["CUDA context"] = CONTEXT + (NCCL if config.world_size > 1 else 0)
    else:
        held["libraries"] = LIBRARIES[config.zero_stage > 0]
        passing = rank.activations() | rank.gathered()
        kept = round(SCATTERED * sum(passing.values()))
        phases = {
            name: {n: size for n, size in terms.items() if n not in passing}
            | {"activations and gathered weights, kept by the allocator": kept}
            for name, terms in phases.items()
        }
    return Memory(_some(held), {name: _some(terms) for name, terms in phases.items()}, _some(host))


def resting_bytes(memory: Memory, *, offload: bool) -> int:
    """What a learner rank holds of its GPU while an engine uses it."""
    away = ONLY_TO_LEARN + (OFFLOADED if offload else ())
    return sum(size for name, size in memory.held.items() if name not in away)


def engine_memory(
    shape: ModelShape, config: RolloutConfig, gpu_bytes: int, longest: int
) -> tuple[Memory, int]:
    """Of one GPU of a vLLM engine, and how many sequences of `longest` tokens its cache holds.

    The cache is what `gpu_memory_utilization` leaves; below 0 the weights do not fit.
    """
    size, parallel = BYTES[config.dtype], config.tensor_parallel_size
    weights = size * shape.parameters // parallel
    cache = int(config.gpu_memory_utilization * gpu_bytes) - weights - ENGINE_OVERHEAD
    tokens = cache // max(1, size * shape.cache_per_token // parallel)
    held = {"weights": weights, "activations, graphs, context": ENGINE_OVERHEAD, "KV cache": cache}
    return Memory(held, {}, {}), max(0, tokens // longest)


def layer_bytes(shape: ModelShape, size: int) -> int:
    """What autograd keeps of one token in one layer, numbers being of `size` bytes."""
    hidden = shape.hidden_size
    key_value = shape.cache_per_token // shape.num_layers  # both of a token in one layer
    # Two norms (input in fp32, normalised, output), q, k and v, the attention's output before
    # and after it is laid out for o_proj; gate, its activation, up and their product.
    norms = 2 * (4 + 2 * size) * hidden
    attention = size * (3 * hidden + key_value)
    return norms + attention + 4 * size * shape.intermediate_size


@dataclass(frozen=True)
class _Rank:
    """The terms of one learner rank. `size` is of a compute number, `own` of the elements that
    the rank steps."""

    shape: ModelShape
    config: LearnerConfig
    surgery: SurgeryConfig
    load: Load

    @property
    def size(self) -> int:
        return BYTES[self.config.dtype]

    @property
    def own(self) -> int:
        stage, ranks = self.config.zero_stage, self.config.world_size
        return -(-self.shape.trained // (ranks if stage else 1))

    @property
    def model(self) -> int:
        """Bytes of the whole model as this rank holds it."""
        return self.size * self.shape.parameters // self._weight_shares

    @property
    def _weight_shares(self) -> int:
        return self.config.world_size if self.config.zero_stage == 3 else 1

    @property
    def rows_on_host(self) -> bool:
        return self.config.offload_optimizer or self.surgery.buffer_device == "cpu"

    @property
    def rows_are_updates(self) -> bool:
        """The rows' combination can be stepped where it is."""
        elsewhere = self.rows_on_host and not self.config.offload_optimizer
        return self.surgery.buffer_dtype == "float32" and not elsewhere

    def held(self) -> tuple[dict[str, int], dict[str, int]]:
        """(on the device, on the host)."""
        config, own, stage = self.config, self.own, self.config.zero_stage
        adapters = self.size * self.shape.trained // self._weight_shares
        weights = self.model + (adapters if self._adapters else 0)
        rows = self.load.num_domains * (2 if self.load.measures else 1)
        optimizer = {
            "fp32 master weights": 4 * own if stage else 0,
            "AdamW's moments": 8 * own,
        }
        gradients = {"domains' gradients": rows * BYTES[self.surgery.buffer_dtype] * own}
        held, host = {"weights": weights}, dict[str, int]()
        (host if config.offload_optimizer else held).update(optimizer)
        (host if self.rows_on_host else held).update(gradients)
        if config.offload_optimizer:
            host["gradient to step"] = 4 * own
            if stage < 3:  # on the way: a gradient at both ends, stepped weights on the host
                held["largest tensor's gradient"] = self.size * self.shape.largest
                host["largest tensor's gradient"] = self.size * self.shape.largest
                host["stepped weights"] = self.size * own
        if stage == 3:
            held["reduction bucket"] = 4 * min(MAX_BUCKET, self.shape.trained)
            if config.offload_optimizer:
                host["DeepSpeed's gradient"] = 4 * own
            elif not self.rows_are_updates:
                held["reduced gradient"] = 4 * own
        if self.load.probes and config.offload_optimizer:
            host["weights put back, step tried"] = 8 * own
        if self.load.reference:
            (host if config.offload_reference else held)["reference"] = self.model
        if self.load.teachers:
            frozen = host if config.offload_reference else held
            frozen["teachers"] = self.load.teachers * self.model
        return held, host

    @property
    def _adapters(self) -> bool:
        return self.shape.trained < self.shape.parameters

    def phases(self) -> dict[str, dict[str, int]]:
        phases = {
            "forward and loss": self.activations() | self._loss(),
            "gradients": self._gradients(),
            "optimizer step": self._step(),
        }
        if self._adds_up and (reduced := self._reduced()):  # from the first gradient on
            phases["backward"] = self.activations() | self._head_gradient() | reduced
        if self.load.probes:
            phases["step probe"] = {"logits": 2 * self._logits()}
            if not self.config.offload_optimizer:
                phases["step probe"]["weights put back, step tried"] = 8 * self.own
        if self.load.reference or self.load.teachers:
            phases["reference"] = {"logits": 2 * self._logits()}
            if self.config.offload_reference:
                phases["reference"]["reference"] = self.model
        if gathered := self.gathered():
            pieces = self.size * min(PREFETCH, self.shape.parameters)
            copies = 1 if self.load.cuda else 2  # gloo has one of its own
            for name in phases.keys() - {"optimizer step"}:
                phases[name] |= gathered | {"gathered in one piece": copies * pieces}
        return phases

    def gathered(self) -> dict[str, int]:
        """What ZeRO 3 has of other ranks' weights for a while; alone it gathers nothing."""
        if self._weight_shares == 1:
            return {}
        return {"gathered weights": self.size * min(MAX_LIVE, self.shape.parameters)}

    def activations(self) -> dict[str, int]:
        """What autograd keeps until the backward has passed."""
        shape, size, tokens = self.shape, self.size, self.load.tokens
        layer = layer_bytes(shape, size)
        if not self.config.gradient_checkpointing:
            return {"activations": tokens * shape.num_layers * layer}
        return {
            "layers' inputs": tokens * shape.num_layers * size * shape.hidden_size,
            "one layer's activations": tokens * layer,
        }

    def _logits(self) -> int:
        """One chunk of logits in fp32."""
        return 4 * min(LOGITS[self.load.cuda], self.load.tokens * self.shape.vocab_size)

    def _loss(self) -> dict[str, int]:
        copies = 4 if self.load.entropy else 3  # logits, probabilities, scaled ones, in `dtype`
        return {"logits": copies * self._logits()} | self._head_gradient()

    def _head_gradient(self) -> dict[str, int]:
        head = self.shape.vocab_size * self.shape.hidden_size
        return {} if self._adapters else {"LM head's gradient": self.size * head}

    @property
    def _adds_up(self) -> bool:
        """Whether ZeRO 2 adds gradients up in fp32, on the device, while the backward runs."""
        alone = self.config.world_size == 1 and not self.config.offload_optimizer
        return self.config.zero_stage == 2 and (alone or self.size == 2)

    def _reduced(self) -> dict[str, int]:
        """Of ZeRO 1 and 2, where it is none of the rows."""
        offload = self.config.offload_optimizer
        in_rows = self._adds_up and self.rows_are_updates and not offload
        if not self.config.zero_stage or in_rows or (offload and not self._adds_up):
            return {}
        return {"reduced gradient": 4 * self.own}

    def _gradients(self) -> dict[str, int]:
        """While they are reduced, at the end of the backward (ZeRO 3: of its first tensor)."""
        config, stage = self.config, self.config.zero_stage
        trained, largest = self.shape.trained, self.shape.largest
        if stage == 3:
            reduced = (self.size + 2 * 4) * largest
            return self.activations() | {"the largest tensor's gradient, reduced": reduced}
        terms = {"weights' gradient": self.size * trained}
        if stage == 2 and config.offload_optimizer:  # frees each as it has reduced it, in fp32
            terms = {"the largest tensor's gradient, reduced": (self.size + 4) * largest}
        if stage and config.world_size > 1:
            terms["reduction bucket"] = 4 * min(MAX_BUCKET, trained)
        return terms | self._reduced()

    def _step(self) -> dict[str, int]:
        config = self.config
        if config.offload_optimizer or config.zero_stage == 3 or self.rows_are_updates:
            return {}
        return {"combined gradient": 4 * self.own}


def _some(terms: dict[str, int]) -> dict[str, int]:
    return {name: size for name, size in terms.items() if size}
