"""Seconds of a step's stages from shapes and data sheets: arithmetic, nothing is run.

A stage takes what its products, its memory traffic and its messages take at the rates below. The
learner's three constants are fitted to three steps measured on an H200 (-11 to +9 %,
`tests/cluster/test_roofline.py`). Decoding, links and disks are assumptions.

Left out: what machines lose to each other (stragglers among ranks, other jobs), kernels that
overlap, pipelines over layers, experts that are not used for a token.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from mgsrl.cluster.hardware import GB, Cores, Gpu
from mgsrl.cluster.memory import BYTES, layer_bytes
from mgsrl.config.model_shape import ModelShape

TRAINED = 0.6
"""Share of a GPU's peak that the learner's products reach, beside what follows."""
TRAFFIC = 4.0
"""Times that a pass moves what autograd keeps of it: norms, activations, rotations, one by one."""
LOGITS_TRAFFIC = 3.0
"""Times that a pass moves the logits, in fp32."""
LAUNCH_S = 0.7e-3
"""Of a pass over one layer and micro-batch: a hundred kernels, launched one by one."""
GENERATED = 0.6
"""Share of a GPU's peak that an engine's products reach."""
STREAMED = 0.8
"""Share of the memory's bandwidth that reading weights, cache and gradients reaches."""
LINKED = 0.75
"""Share of a link's bandwidth that collectives reach."""
HOP_S = 3e-6
"""Of each GPU of a ring, per collective."""
HOST_GBS = 25.0
"""Between a GPU and its machine's memory."""
STORE_GBS = 2.0
"""Through the object store, each engine in turn."""
ITERATION_S = 4e-3
"""Of an engine's iteration besides its arithmetic: scheduler, sampling, detokenising."""
EAGER_S = 0.3e-3
"""Of a layer more, where nothing is compiled (`rollout.enforce_eager`)."""
VERIFY_S = 2e-3
"""Of a response that is verified by rules, one core."""
CPU_PRODUCTS = 0.8
"""Of the rate of one large product, in a model."""
CPU_LAUNCH_S = 0.4e-3
CPU_EAGER_S = 0.5e-3
"""As above, on a CPU."""


@dataclass(frozen=True)
class Rates:
    """Of one process: operations and bytes a second, seconds."""

    trained: float
    generated: float
    memory: float
    launch_s: float
    """Of a pass over a layer and micro-batch."""
    iteration_s: float
    layer_s: float
    """Of an iteration of an engine, and of a layer in it."""
    link: float
    network: float


def gpu_rates(gpu: Gpu, *, eager: bool) -> Rates:
    peak = gpu.tflops * 1e12
    return Rates(
        trained=TRAINED * peak,
        generated=GENERATED * peak,
        memory=gpu.memory_gbs * GB,
        launch_s=LAUNCH_S,
        iteration_s=ITERATION_S,
        layer_s=EAGER_S if eager else 0.0,
        link=LINKED * gpu.link_gbs * GB,
        network=LINKED * gpu.network_gbs * GB,
    )


def cpu_rates(cores: Cores, share: float) -> Rates:
    """Of a process with `share` of the cores."""
    rate = CPU_PRODUCTS * cores.gflops * GB * share
    return Rates(
        trained=rate,
        generated=rate,
        memory=cores.memory_gbs * GB,
        launch_s=CPU_LAUNCH_S,
        iteration_s=ITERATION_S,
        layer_s=CPU_EAGER_S,
        link=cores.memory_gbs * GB,
        network=cores.memory_gbs * GB,
    )


def gpu_assumptions(gpu: Gpu) -> list[str]:
    """What `gpu_rates` takes for granted, in words."""
    return [
        f"{gpu.name}: {gpu.tflops:g} TFLOP/s, {gpu.memory_gbs:,g} GB/s, links {gpu.link_gbs:g} "
        f"GB/s in a machine and {gpu.network_gbs:g} GB/s a GPU between machines (data sheets)",
        f"products reach {TRAINED:.0%} of that in the learner and {GENERATED:.0%} in engines, "
        f"reading {STREAMED:.0%}, links {LINKED:.0%}; {1e3 * LAUNCH_S:g} ms a layer and "
        f"micro-batch to launch, {1e3 * ITERATION_S:g} ms an engine's iteration",
    ]


def cpu_assumptions(cores: Cores) -> list[str]:
    """The same of `cpu_rates`."""
    return [
        f"{cores.count} cores: {cores.gflops:.0f} GFLOP/s and {cores.memory_gbs:.0f} GB/s, "
        f"measured just now; products reach {CPU_PRODUCTS:.0%} of it: rough"
    ]


def beside_assumption(cores: Cores) -> str:
    """The same of a reward model that has no GPU, on a machine that has some."""
    return (
        f"a reward model without a GPU: {cores.count} cores of {cores.gflops / cores.count:g} "
        f"GFLOP/s, of which its products reach {CPU_PRODUCTS:.0%}"
    )


@dataclass(frozen=True)
class Share:
    """What the slowest learner rank computes in one pass over a batch."""

    tokens: int
    """Prompts that are shared once, padding included."""
    responses: int
    """Response tokens: the LM head's."""
    pairs: float
    """Of tokens that see each other."""
    micro_steps: int


@dataclass(frozen=True)
class Ring:
    """The learner ranks as their collectives see them."""

    ranks: int
    per_node: int
    """On one machine, at most."""

    def seconds(self, rates: Rates, size: float, collectives: float = 1.0) -> float:
        """To gather, or to reduce and scatter, `size` bytes in so many calls."""
        if self.ranks == 1:
            return 0.0
        bus = rates.link
        if self.ranks > self.per_node:
            bus = min(bus, self.per_node * rates.network)
        part = (self.ranks - 1) / self.ranks
        return part * size / bus + collectives * (self.ranks - 1) * HOP_S


@dataclass(frozen=True)
class Learner:
    """Stages of the learner ranks. `own` is of the elements that a rank steps."""

    shape: ModelShape
    rates: Rates
    ring: Ring
    dtype: str
    zero_stage: int
    recomputes: bool
    rows: int
    """Gradients that are kept apart."""
    row_dtype: str

    @property
    def own(self) -> int:
        return self.shape.trained // (self.ring.ranks if self.zero_stage else 1)

    def one_pass(self, share: Share) -> float:
        """Forward; a backward is two."""
        shape, rates, size = self.shape, self.rates, BYTES[self.dtype]
        head = shape.vocab_size * shape.hidden_size
        products = 2.0 * shape.body * share.tokens + 2 * head * share.responses
        products += 4 * shape.num_layers * shape.hidden_size * share.pairs
        traffic = TRAFFIC * share.tokens * shape.num_layers * layer_bytes(shape, size)
        traffic += LOGITS_TRAFFIC * 4 * share.responses * shape.vocab_size
        launches = rates.launch_s * shape.num_layers * share.micro_steps
        return products / rates.trained + traffic / rates.memory + launches

    def gathers(self, share: Share, times: int) -> float:
        """Messages of ZeRO 3's weights, `times` a micro-step."""
        if self.zero_stage < 3:
            return 0.0
        calls = times * share.micro_steps
        size = calls * BYTES[self.dtype] * self.shape.parameters
        return self.ring.seconds(self.rates, size, calls * self.shape.num_layers)

    def reference(self, share: Share) -> float:
        return max(self.one_pass(share), self.gathers(share, 1))

    def backward(self, share: Share) -> float:
        """Forward, loss and backward; messages are sent meanwhile."""
        passes = 4 if self.recomputes else 3
        reduced = 4 * self.shape.trained * share.micro_steps * (1 if self.zero_stage > 1 else 2)
        calls = share.micro_steps * (self.shape.num_layers if self.zero_stage == 3 else 1)
        messages = self.gathers(share, passes - 1) + self.ring.seconds(self.rates, reduced, calls)
        return max(passes * self.one_pass(share), messages)

    def surgery(self) -> float:
        """The rows are read twice and one of them written; the Gramians are one all-reduce."""
        moved = (2 * self.rows * BYTES[self.row_dtype] + 4) * self.own
        return moved / (STREAMED * self.rates.memory) + self.ring.seconds(self.rates, 0, 2)

    def step(self) -> float:
        moved = 30 * self.own  # gradient, master weights, moments and weights, read and written
        gathered = BYTES[self.dtype] * self.shape.trained if 0 < self.zero_stage < 3 else 0
        return moved / (STREAMED * self.rates.memory) + self.ring.seconds(self.rates, gathered)


@dataclass(frozen=True)
class Engine:
    """An engine that generates."""

    shape: ModelShape
    rates: Rates
    dtype: str
    parallel: int
    most: int
    """Sequences that are decoded at once: a setting's, or the cache's."""

    def prefill(self, tokens: float, length: float) -> float:
        """`tokens` in prompts of `length`."""
        products = 2 * self.shape.body * tokens
        products += 2 * self.shape.num_layers * self.shape.hidden_size * tokens * length
        return products / (self.rates.generated * self.parallel)

    def iteration(self, sequences: float, context: float) -> float:
        """One token for each of so many sequences, after `context` tokens each."""
        shape, rates, size = self.shape, self.rates, BYTES[self.dtype]
        weights = shape.body + shape.vocab_size * shape.hidden_size
        products = 2 * weights * sequences / (rates.generated * self.parallel)
        moved = size * (weights + sequences * context * shape.cache_per_token)
        reading = moved / (STREAMED * rates.memory * self.parallel)
        messages = 0.0
        if self.parallel > 1:
            each = size * sequences * shape.hidden_size / rates.link + self.parallel * HOP_S
            messages = 2 * shape.num_layers * 2 * each
        return max(products, reading) + messages + rates.iteration_s + self._launches

    @property
    def _launches(self) -> float:
        return self.rates.layer_s * self.shape.num_layers

    def decode(self, lengths: Sequence[float], prompt: float) -> float:
        """All responses, the next one begun when one ends; the longest ones end alone."""
        ordered = sorted(lengths)
        count, together = len(ordered), min(len(ordered), self.most)
        if not count:
            return 0.0
        mean = sum(ordered) / count
        # While there are more than fit: as many iterations as their tokens fill.
        seconds = (count - together) * mean / together * self.iteration(together, prompt + mean / 2)
        done = 0.0
        for place in range(0, together, max(1, together // 64)):
            length = ordered[count - together + place]
            left = together - place
            seconds += (length - done) * self.iteration(left, prompt + (length + done) / 2)
            done = length
        return seconds + (ordered[-1] - done) * self.iteration(1, prompt + ordered[-1])
