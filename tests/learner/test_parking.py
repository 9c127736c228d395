"""Memory lent to the engines: freed for real, back to the bit, missed by who works without."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mgsrl.config.policy import LoraConfig
from mgsrl.learner import parking, runtime
from mgsrl.learner.layout import holder
from mgsrl.learner.parking import Parking
from mgsrl.learner.worker import LearnerWorker
from tests.learner.parts import Case, make_batch, make_spec, one_step, spawn, whole_weights


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=5), st.integers(1, 16), st.data())
def test_views_are_filled_again(sizes: list[int], piece: int, data: Any) -> None:
    bases = [torch.randn(size) for size in sizes]
    views = [(base, base[start:].view(-1)) for base in bases for start in (0, len(base) // 2)]
    kept = data.draw(st.lists(st.sampled_from(range(len(bases))), unique=True))
    before = [base.clone() for base in bases]
    lent = Parking()
    old, parking.PIECE = parking.PIECE, piece
    try:
        for _ in range(2):
            lent.park([v for pair in views for v in pair], keep=[bases[k] for k in kept])
            for index, base in enumerate(bases):
                there = index in kept or base.numel() == 0
                assert base.untyped_storage().nbytes() == (4 * base.numel() if there else 0)
            lent.bring_back()
            assert all(torch.equal(*pair) for pair in zip(bases, before))
            for base, view in views:
                assert torch.equal(view, base[len(base) - len(view) :])
            for base, copy in zip(bases, before):  # and its content may change between two times
                base.add_(1)
                copy.add_(1)
    finally:
        parking.PIECE = old


@pytest.mark.parametrize("patience", [30.0, -1.0])
def test_memory_that_a_dying_engine_still_holds_is_waited_for(
    patience: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parking, "ROOM_WITHIN_S", patience)
    monkeypatch.setattr(parking, "LOOK_AGAIN_S", 0.001)
    tensors = [torch.randn(size) for size in (5, 7, 9)]
    before = [tensor.clone() for tensor in tensors]
    lent = Parking()
    lent.park(tensors)
    refusals, resize = [False, True, True, False, True], torch.UntypedStorage.resize_

    def scarce(storage: torch.UntypedStorage, size: int) -> None:
        if refusals and refusals.pop(0):
            raise torch.OutOfMemoryError("CUDA out of memory")
        resize(storage, size)

    monkeypatch.setattr(torch.UntypedStorage, "resize_", scarce)
    for refused in range(3 if patience < 0 else 0):  # nothing is lost by being refused
        with pytest.raises(torch.OutOfMemoryError):
            lent.bring_back()
        assert sum(tensor.untyped_storage().nbytes() > 0 for tensor in tensors) == 1 + refused // 2
    lent.bring_back()
    assert not refusals
    assert all(torch.equal(*pair) for pair in zip(tensors, before))


def test_a_publish_leaves_a_shared_gpu_to_the_engine(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the allocator keeps of a publish is given back where an engine waits for its cache."""
    calls: list[str] = []
    rank = runtime.Rank(0, 1, torch.device("cpu"))
    monkeypatch.setattr(runtime, "prepare_process", lambda *args: rank)
    monkeypatch.setattr(runtime, "free_cache", lambda device: calls.append("free"))
    learner: Any = LearnerWorker(make_spec(tiny_model, CASES["stage0"], 1), 0, 1, "cpu")
    learner.grads = SimpleNamespace(release=lambda: calls.append("release"))
    learner._line = SimpleNamespace(publish=lambda version: calls.append("publish") or [version])
    assert learner.publish(3) == [3]
    learner.rest()
    assert learner.publish(4) == [4]
    learner.resume()
    learner.publish(5)
    assert calls == ["publish", "release", "free", "publish", "free", "publish"]


CASES = {
    "stage0": Case(zero_stage=0),
    "stage1": Case(zero_stage=1),
    "stage2": Case(zero_stage=2),
    "stage3": Case(zero_stage=3),
    "bf16-2": Case(zero_stage=2, dtype="bfloat16"),
    "bf16-3": Case(zero_stage=3, dtype="bfloat16", buffer_dtype="bfloat16"),
    "adapters": Case(lora=LoraConfig(rank=2, alpha=4)),
}


def _bytes(worker: Any) -> int:
    """Of the optimizer, the reference and the rows, storages once (a reference that PyTorch maps
    from its file, as on a CPU it does, stays)."""
    frozen = [holder(param) for param in worker.reference.model.parameters()]
    tensors = [*worker.layout.optimizer_tensors(), *frozen, worker.grads._buffer_RN]
    storages = {t.untyped_storage()._cdata: t.untyped_storage() for t in tensors}
    return sum(each.nbytes() for each in storages.values() if each.resizable())


def run(rank: int, world_size: int, address: str, model: Path) -> dict[str, Any]:
    from mgsrl.learner.worker import LearnerWorker

    results: dict[str, Any] = {}
    sequence = [(5, 9, 30, 31, 32, 77)]
    for name, case in CASES.items():
        for lends in (False, True):
            spec = make_spec(model, case, world_size)
            learner = replace(spec.learner, offload_during_rollout=lends)
            worker = LearnerWorker(replace(spec, learner=learner), rank, world_size, "cpu", 1)
            worker.start(address)
            facts: dict[str, Any] = {}
            for step in range(3):
                batch = make_batch(worker.policy.config.vocab_size, world_size, 4, seed=step)
                one_step(worker, batch, rank, step)
                if lends:
                    facts["full"] = _bytes(worker)
                    weights, scores = whole_weights(worker), worker.logprobs(sequence, 1.0)
                    worker.rest()
                    facts["lent"] = _bytes(worker)
                    facts["published"] = worker.logprobs(sequence, 1.0) == scores and all(
                        torch.equal(weights[n], value) for n, value in worker.source
                    )
                    if step == 2:
                        facts["missed"] = _problem(worker, batch.per_rank[rank], batch)
                    worker.resume()
                    facts["back"] = _bytes(worker)
            facts["weights"] = whole_weights(worker)
            results[f"{name}/{lends}"] = facts
    return results


def _problem(worker: Any, mine: Any, batch: Any) -> str:
    try:
        worker.load_batch(mine, batch.totals)
        for domain in batch.domains:
            worker.accumulate(domain)
        worker.resolve_conflicts(5)
        worker.optimizer_step(5)
    except RuntimeError as error:
        return str(error)
    return ""


@pytest.mark.timeout(400)
def test_a_learner_that_lends_its_memory_trains_the_same(tiny_model: Path) -> None:
    (results,) = spawn(run, 1, tiny_model)
    for name in CASES:
        plain, lent = results[f"{name}/False"], results[f"{name}/True"]
        own = name != "stage0"  # there the masters are the weights, and stay
        assert lent["lent"] < 0.5 * lent["full"], name
        assert lent["lent"] == 0 or not own, name
        assert lent["published"], name
        assert lent["missed"], name
        for key, value in plain["weights"].items():
            assert torch.equal(value, lent["weights"][key]), (name, key)
