"""What a surgery method remembers goes through a checkpoint to the bit, whatever the ranks."""

from pathlib import Path
from typing import Any

import pytest
import torch

from mgsrl.errors import CheckpointError
from mgsrl.learner.checkpoint import SURGERY
from tests.learner.parts import (
    DOMAINS,
    Case,
    make_batch,
    make_spec,
    save_all,
    spawn,
    whole_weights,
)

CASE = Case(zero_stage=2, method="gradvac")


def _worker(rank: int, world_size: int, address: str, model: Path) -> Any:
    from mgsrl.learner.worker import LearnerWorker

    worker = LearnerWorker(make_spec(model, CASE, world_size), rank, world_size, "cpu", 1)
    worker.start(address)
    return worker


def _step(worker: Any, rank: int, world_size: int, step: int, save_to: Path | None = None) -> None:
    """`save_to`: of the step before, as after a signal between surgery and the update."""
    domains = DOMAINS[:2] if step == 1 else DOMAINS
    batch = make_batch(worker.policy.config.vocab_size, world_size, 4, step, domains)
    worker.load_batch(batch.per_rank[rank], batch.totals)
    for domain in domains:
        worker.accumulate(domain)
    worker.resolve_conflicts(step)
    if save_to is not None:
        save_all(worker, save_to)
    worker.optimizer_step(step)


def _found(worker: Any) -> dict[str, Any]:
    return {"memory": worker.memory.of(DOMAINS), "weights": whole_weights(worker)}


def save_and_go_on(
    rank: int, world_size: int, address: str, model: Path, root: Path
) -> dict[str, Any]:
    worker = _worker(rank, world_size, address, model)
    save_all(worker, root / "fresh")
    for step in (0, 1):
        _step(worker, rank, world_size, step)
    results = {"saved": _found(worker)}
    _step(worker, rank, world_size, 2, root / "two")
    results["went on"] = _found(worker)
    again = _worker(rank, world_size, address, model)
    again.load(str(root / "two"))
    results["loaded"] = _found(again)
    _step(again, rank, world_size, 2)
    results["resumed"] = _found(again)
    again.load(str(root / "two"))
    again.memory.load_state_dict({})
    _step(again, rank, world_size, 2)
    results["forgetful"] = _found(again)
    again.load(str(root / "fresh"))
    results["fresh"] = _found(again)
    worker.stop()
    return results


def load_alone(rank: int, world_size: int, address: str, model: Path, root: Path) -> dict[str, Any]:
    worker = _worker(rank, world_size, address, model)
    worker.load(str(root / "two"))
    batch = make_batch(worker.policy.config.vocab_size, 1, 4, 2, halves=True)
    worker.load_batch(batch.per_rank[0], batch.totals, batch.half_sizes)
    for domain in batch.domains:
        worker.accumulate(domain)
    assert worker.probe_steps(2).norm_S.isfinite().all()  # it tries steps, and remembers none
    results = _found(worker)
    (root / "two" / SURGERY).write_bytes(b"\0" * 100)
    with pytest.raises(CheckpointError, match="surgery"):
        worker.load(str(root / "two"))
    worker.stop()
    return results


@pytest.mark.timeout(900)
def test_memory_in_a_checkpoint(tiny_model: Path, tmp_path: Path) -> None:
    ranks = spawn(save_and_go_on, 2, tiny_model, tmp_path)
    for found in ranks:
        for before, after in (("saved", "loaded"), ("went on", "resumed")):
            _same(found[before], found[after])
        assert found["saved"]["memory"]["target"].count_nonzero() > 0
        assert found["fresh"]["memory"] == {}
        weights, forgotten = found["went on"]["weights"], found["forgetful"]["weights"]
        assert any(not torch.equal(weights[name], forgotten[name]) for name in weights)
    _same(ranks[0]["went on"], ranks[1]["went on"])
    assert not (tmp_path / "fresh" / SURGERY).exists()
    _same(ranks[0]["saved"], spawn(load_alone, 1, tiny_model, tmp_path)[0])


def _same(first: dict[str, Any], second: dict[str, Any]) -> None:
    for kind in ("memory", "weights"):
        assert first[kind].keys() == second[kind].keys() != set()
        for name, tensor in first[kind].items():
            assert torch.equal(tensor, second[kind][name]), (kind, name)
