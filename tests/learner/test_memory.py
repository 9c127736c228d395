"""What `cluster/memory.py` says of a learner rank, against the bytes that a real one holds."""

import gc
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from mgsrl.cluster.memory import Load, Memory, learner_memory
from mgsrl.config.model_shape import model_shape
from mgsrl.config.policy import LoraConfig
from tests.capabilities import named
from tests.learner.parts import DOMAINS, Case, make_batch, make_spec, one_step, spawn

pytestmark = pytest.mark.timeout(900)  # the first test waits for all cases of both world sizes

CASES = {
    **{
        f"{dtype}_stage{stage}": Case(zero_stage=stage, dtype=dtype)
        for stage in range(4)
        for dtype in ("float32", "bfloat16")
        if (stage, dtype) != (0, "bfloat16")  # refused
    },
    "two_domains": Case(zero_stage=3, domains=DOMAINS[:2]),
    "no_reference": Case(zero_stage=2, kl_coef=0.0),
    "halves2": Case(zero_stage=2, reliability_every=1),
    "halves3": Case(zero_stage=3, dtype="bfloat16", reliability_every=1),
    "rows_bf16_2": Case(zero_stage=2, dtype="bfloat16", buffer_dtype="bfloat16"),
    "rows_bf16_3": Case(zero_stage=3, dtype="bfloat16", buffer_dtype="bfloat16"),
    "reference_rests_3": Case(zero_stage=3, dtype="bfloat16", offload_reference=True),
    "offload1": Case(zero_stage=1, dtype="bfloat16", offload_optimizer=True),
    "offload2": Case(zero_stage=2, dtype="bfloat16", offload_optimizer=True),
    "adapters": Case(zero_stage=2, dtype="bfloat16", lora=LoraConfig(rank=4)),
}


def live_storages() -> dict[int, Any]:
    """Address -> storage of every tensor of this process."""
    gc.collect()
    tensors = [item for item in gc.get_objects() if isinstance(item, torch.Tensor)]
    storages = [item.untyped_storage() for item in tensors if item.device.type == "cpu"]
    return {storage.data_ptr(): storage for storage in storages}


def held_by_workers(rank: int, world_size: int, address: str, model: Path) -> dict[str, int]:
    """Bytes that a worker holds after a step, for every case."""
    from mgsrl.learner.worker import LearnerWorker

    found = {}
    for name, case in CASES.items():
        before = live_storages()  # of engines that were; kept, so that no address comes again
        worker: Any = LearnerWorker(make_spec(model, case, world_size), rank, world_size, "cpu", 1)
        worker.start(address)
        vocab_size = worker.policy.config.vocab_size
        batch = make_batch(
            vocab_size, world_size, 4, domains=case.domains, halves=bool(case.reliability_every)
        )
        one_step(worker, batch, rank, 0)
        worker._batch = {}
        now = live_storages()
        found[name] = sum(now[place].nbytes() for place in now.keys() - before.keys())
    worker.stop()
    return found


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Large enough that parameters are nearly all that a worker holds, and that ZeRO 3 splits
    them: it keeps smaller ones whole."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=300,
        hidden_size=512,
        intermediate_size=768,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=False,
    )
    folder = tmp_path_factory.mktemp("memory")
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def held(model: Path) -> Callable[[int], dict[str, int]]:
    """By world size; made when the first case asks."""
    return cache(lambda world_size: spawn(held_by_workers, world_size, model)[0])


def _predicted(model: Path, case: Case, world_size: int) -> Memory:
    spec = make_spec(model, case, world_size)
    load = Load(
        num_domains=len(case.domains),
        reference=case.kl_coef > 0,
        tokens=64,
        measures=case.reliability_every > 0,
        cuda=False,
    )
    shape = model_shape(str(model), case.lora)
    return learner_memory(shape, spec.learner, spec.surgery, load)


@pytest.mark.parametrize("world_size", [1, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", named(CASES, CASES, "memory as planned"))
def test_a_worker_holds_what_was_said(
    name: str, world_size: int, held: Callable[[int], dict[str, int]], model: Path
) -> None:
    found = _predicted(model, CASES[name], world_size)
    total = found.held_bytes + sum(found.host.values()) - found.held["libraries"]
    assert held(world_size)[name] == pytest.approx(total, rel=0.04)


def test_zero_3_keeps_no_gradient_of_its_own(
    held: Callable[[int], dict[str, int]], model: Path
) -> None:
    """DeepSpeed's buffer is one of the domains' rows: 16 + 4 D bytes per parameter, as in ZeRO 2,
    and the bucket, which is as large as this model."""
    parameters = model_shape(str(model)).parameters
    assert held(1)["bfloat16_stage3"] / parameters == pytest.approx(16 + 4 * 3 + 4, rel=0.02)


def test_the_reference_is_on_the_host() -> None:
    shape = model_shape("Qwen/Qwen2.5-0.5B")
    spec = make_spec(Path("unused"), Case(zero_stage=3, dtype="bfloat16"), 2)
    load = Load(num_domains=3, reference=True, tokens=64)
    there = learner_memory(shape, spec.learner, spec.surgery, load)
    away = learner_memory(shape, replace(spec.learner, offload_reference=True), spec.surgery, load)
    assert there.held_bytes - away.held_bytes == away.host["reference"] == there.held["reference"]
    assert away.phases["reference"]["reference"] == away.host["reference"]
