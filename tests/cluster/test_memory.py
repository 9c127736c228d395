"""Estimates of memory against what was measured on a GPU. What a real worker holds on the CPU:
`tests/learner/test_memory.py`."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mgsrl.cluster.memory import GIB, Load, engine_memory, learner_memory
from mgsrl.config.learner import LearnerConfig
from mgsrl.config.model_shape import model_shape
from mgsrl.config.rollout import RolloutConfig
from mgsrl.config.surgery import SurgeryConfig

H200 = {
    "HuggingFaceTB/SmolLM2-135M": (16, 3.6, 16.4),
    "Qwen/Qwen2.5-0.5B": (16, 13.0, 35.9),
    "Qwen/Qwen2.5-1.5B": (8, 40.3, 66.9),
}
"""Micro-batch of 512 + 512 tokens; GiB held between steps and at the peak, on an NVIDIA H200, one
rank, ZeRO 2, bfloat16, a reference model, three domains, no recomputation."""


@pytest.mark.parametrize("name", H200)
def test_estimates_are_near_an_h200s(name: str) -> None:
    micro_batch, held, peak = H200[name]
    config = LearnerConfig(zero_stage=2, dtype="bfloat16")
    # PyTorch's own count: without CUDA's context.
    load = Load(num_domains=3, reference=True, tokens=micro_batch * 1024, cuda=False)
    found = learner_memory(model_shape(name), config, SurgeryConfig(), replace(load, cuda=True))
    context = found.held["CUDA context"]
    assert (found.held_bytes - context) / GIB == pytest.approx(held, rel=0.03)
    phase, size = found.peak
    assert phase == "forward and loss"
    assert (size - context) / GIB == pytest.approx(peak, rel=0.04)


@given(
    stage=st.integers(1, 3),
    domains=st.integers(1, 8),
    ranks=st.integers(1, 16),
    dtype=st.sampled_from(["float32", "bfloat16"]),
)
@settings(deadline=None)  # the first example imports transformers
def test_more_ranks_never_take_more_each(stage: int, domains: int, ranks: int, dtype: str) -> None:
    shape = model_shape("Qwen/Qwen2.5-0.5B")
    load = Load(num_domains=domains, reference=True, tokens=1024)

    def of(world_size: int) -> int:
        config = LearnerConfig(world_size=world_size, zero_stage=stage, dtype=dtype)
        found = learner_memory(shape, config, SurgeryConfig(), load)
        return found.held_bytes - found.held["CUDA context"]

    assert of(ranks + 1) <= of(ranks)
    more = replace(load, num_domains=domains + 1)
    config = LearnerConfig(world_size=ranks, zero_stage=stage, dtype=dtype)
    rows = [learner_memory(shape, config, SurgeryConfig(), each).held for each in (load, more)]
    assert rows[1]["domains' gradients"] * domains == rows[0]["domains' gradients"] * (domains + 1)


@pytest.mark.parametrize(
    ("stage", "dtype", "ranks", "keys", "surgery", "apart"),
    [
        (2, "bfloat16", 2, {"offload_optimizer": True}, {}, True),
        (2, "bfloat16", 1, {"offload_optimizer": True}, {}, True),
        (2, "float32", 2, {"offload_optimizer": True}, {}, False),
        (2, "float32", 1, {"offload_optimizer": True}, {}, False),
        (1, "bfloat16", 2, {"offload_optimizer": True}, {}, False),
        (2, "bfloat16", 2, {}, {}, False),
        (2, "bfloat16", 2, {}, {"buffer_device": "cpu"}, True),
        (2, "bfloat16", 2, {}, {"buffer_dtype": "bfloat16"}, True),
        (2, "float32", 1, {}, {"buffer_dtype": "bfloat16"}, True),
        (2, "float32", 2, {}, {"buffer_dtype": "bfloat16"}, False),
        (3, "bfloat16", 2, {}, {"buffer_dtype": "bfloat16"}, False),
    ],
)
def test_what_zero_2_reduces_into_is_there_beside_activations(
    stage: int,
    dtype: str,
    ranks: int,
    keys: dict[str, Any],
    surgery: dict[str, Any],
    apart: bool,
) -> None:
    """It adds gradients of bfloat16 weights up in fp32, and those of a single rank, from the first
    on; on the GPU whatever is offloaded. Where the rows are updates they are what it adds to."""
    shape = model_shape("Qwen/Qwen2.5-0.5B")
    config = LearnerConfig(zero_stage=stage, dtype=dtype, world_size=ranks, **keys)
    load = Load(num_domains=3, reference=True, tokens=8192)
    found = learner_memory(shape, config, SurgeryConfig(**surgery), load)
    assert ("backward" in found.phases) == apart
    if apart:
        kept = {"layers' inputs", "one layer's activations", "activations"}
        while_it_runs = found.phases["backward"]
        assert kept & while_it_runs.keys() == kept & found.phases["forward and loss"].keys()
        reduced = 4 * shape.trained / ranks
        assert while_it_runs["reduced gradient"] == pytest.approx(reduced)
        assert found.phases["gradients"]["reduced gradient"] == pytest.approx(reduced)
        assert kept & while_it_runs.keys()


def test_offload_leaves_one_tensors_gradient_on_the_gpu() -> None:
    shape = model_shape("HuggingFaceTB/SmolLM2-135M")
    load = Load(num_domains=3, reference=True, tokens=1024)
    for stage in (1, 2, 3):
        config = LearnerConfig(zero_stage=stage, dtype="bfloat16", offload_optimizer=True)
        found = learner_memory(shape, config, SurgeryConfig(), load)
        tensor = 2 * shape.largest if stage < 3 else None
        assert found.held.get("largest tensor's gradient") == tensor
        assert found.host.get("largest tensor's gradient") == tensor


def test_an_engines_cache_is_what_its_weights_leave() -> None:
    shape = model_shape("Qwen/Qwen2.5-7B")
    config = RolloutConfig(dtype="bfloat16", gpu_memory_utilization=0.9)
    found, sequences = engine_memory(shape, config, 80 * GIB, longest=4992)
    assert found.held_bytes == pytest.approx(0.9 * 80 * GIB)
    per_token = 2 * 2 * 28 * 4 * 128  # bytes, keys and values, layers, heads, their width
    assert sequences == found.held["KV cache"] // per_token // 4992
    halves, more = engine_memory(shape, replace(config, tensor_parallel_size=2), 80 * GIB, 4992)
    assert halves.held["weights"] * 2 == found.held["weights"]
    assert more > 2 * sequences
    assert engine_memory(shape, config, 16 * GIB, 4992)[1] == 0
