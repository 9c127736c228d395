"""Saving and loading: to the bit at the same world size, elastic over ranks and ZeRO stages."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch

from mgsrl.errors import CheckpointError
from mgsrl.files.hashed import HashedFile, hashed_file
from mgsrl.learner.checkpoint import read_weights
from mgsrl.learner.layout import STATES
from mgsrl.sync.fingerprint import fingerprint
from mgsrl.sync.publication import Publication
from tests.capabilities import named
from tests.learner.parts import (
    Case,
    make_batch,
    make_spec,
    one_step,
    relative_error,
    save_all,
    spawn,
    whole_weights,
)

SAVED = {
    "stage0": Case(zero_stage=0),
    "stage2": Case(zero_stage=2),
    "stage3": Case(zero_stage=3),
    "bf16": Case(zero_stage=3, dtype="bfloat16"),
    "reference_rests1": Case(zero_stage=1, offload_reference=True),
    "reference_rests3": Case(zero_stage=3, offload_reference=True),
}
"""Two steps, the reference moved, saved; one more step. Then the optimizer reset, and again."""


def _worker(case: Case, rank: int, world_size: int, address: str, model: Path) -> Any:
    from mgsrl.learner.worker import LearnerWorker

    worker = LearnerWorker(make_spec(model, case, world_size), rank, world_size, "cpu", 1)
    worker.start(address)
    return worker


def _step(worker: Any, rank: int, world_size: int, step: int) -> None:
    batch = make_batch(worker.policy.config.vocab_size, world_size, 4, seed=step)
    one_step(worker, batch, rank, step)


def _moments(worker: Any) -> list[int]:
    """Where the moments are in memory."""
    states = [worker.layout.state(s, kind) for s in worker.layout.shards for kind in STATES]
    return [state.data_ptr() for state in states]


def _masters(worker: Any) -> list[tuple[str, int, torch.Tensor]]:
    return [(s.name, s.start, worker.layout.master(s).clone()) for s in worker.layout.shards]


@contextmanager
def _slow_disk() -> Iterator[threading.Event]:
    """Nothing is written before the event."""
    goes_on = threading.Event()

    @contextmanager
    def waiting(path: Path) -> Iterator[HashedFile]:
        assert goes_on.wait(120)
        with hashed_file(path) as file:
            yield file

    with patch("mgsrl.learner.shard_file.hashed_file", waiting):
        yield goes_on


def save_and_go_on(
    rank: int, world_size: int, address: str, model: Path, root: Path
) -> dict[str, Any]:
    results = {}
    for name, case in SAVED.items():
        worker = _worker(case, rank, world_size, address, model)
        for step in (0, 1):
            _step(worker, rank, world_size, step)
        worker.move_reference()
        (root / name).mkdir(exist_ok=True)
        saved = _masters(worker)
        with _slow_disk() as goes_on:  # the step changes what is being saved
            worker.save(str(root / name), background=True)
            _step(worker, rank, world_size, 2)
            assert worker.saved(wait=False) is None
            goes_on.set()
            assert worker.saved().problem is None
        torch.distributed.barrier()
        resumed = _resume(case, rank, world_size, address, model, root / name)
        results[name] = {"saved": saved, "weights": whole_weights(worker), **resumed}
        moments = _moments(worker)
        worker.reset_optimizer()
        folder = root / f"{name}_reset"
        save_all(worker, folder)
        _step(worker, rank, world_size, 2)
        results[name]["reset"] = {
            "weights": whole_weights(worker),
            "num_updates": worker.layout.num_updates(),
            "moments_stayed": moments == _moments(worker) != [],
            "fresh": _resume(case, rank, world_size, address, model, folder),
        }
    worker.stop()
    return results


def _resume(
    case: Case, rank: int, world_size: int, address: str, model: Path, folder: Path
) -> dict[str, Any]:
    worker = _worker(case, rank, world_size, address, model)
    worker.load(str(folder))
    loaded, loaded_weights = _masters(worker), whole_weights(worker)
    logprobs = worker.logprobs([(5, 9, 7, 3)], 1.0)
    _step(worker, rank, world_size, 2)
    return {
        "loaded": loaded,
        "loaded_weights": loaded_weights,
        "logprobs": logprobs,
        "resumed_weights": whole_weights(worker),
        "num_updates": worker.layout.num_updates(),
    }


def load_elsewhere(
    rank: int, world_size: int, address: str, model: Path, root: Path
) -> dict[str, Any]:
    """Other world size, other stages; then one step and the queries."""
    results: dict[str, Any] = {}
    for name, stage in (("stage0", 3), ("stage2", 0), ("stage3", 1), ("stage3", 3)):
        case = Case(zero_stage=stage)
        results[f"{name}->{stage}"] = _resume(case, rank, world_size, address, model, root / name)
    worker = _worker(Case(zero_stage=3), rank, world_size, address, model)
    worker.load(str(root / "stage3"))
    results["weights"] = whole_weights(worker)
    publication = Publication(
        worker.source,
        worker.policy,
        as_checkpoint=True,
        engine_dtype=torch.float32,
        keep=rank == 0,
    )
    for _ in publication:
        pass
    results["fingerprints"] = publication.fingerprints
    results["groups"] = publication.groups()
    results["metadata"] = publication.metadata()
    for damage in ("missing_rank", "other_model", "no_json"):
        try:
            worker.load(str(root / damage))
        except CheckpointError as error:
            results[damage] = str(error)
    worker.stop()
    return results


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("checkpoints")


@pytest.fixture(scope="module")
def saved(tiny_model: Path, root: Path) -> list[dict[str, Any]]:
    return spawn(save_and_go_on, 2, tiny_model, root)


@pytest.fixture(scope="module")
def elsewhere(saved: Any, tiny_model: Path, root: Path) -> dict[str, Any]:
    import shutil

    from safetensors.torch import load_file, save_file

    for damage in ("missing_rank", "other_model", "no_json"):
        shutil.copytree(root / "stage3", root / damage)
    (root / "missing_rank" / "rank_1.safetensors").unlink()
    (root / "no_json" / "learner.json").unlink()
    path = root / "other_model" / "rank_1.safetensors"
    tensors = load_file(path)
    save_file(dict(list(tensors.items())[1:]), path)
    return spawn(load_elsewhere, 1, tiny_model, root)[0]


@pytest.mark.parametrize("name", named(SAVED, SAVED, "resuming to the bit"))
def test_going_on_equals_never_having_stopped(name: str, saved: list[dict[str, Any]]) -> None:
    for rank in (0, 1):
        result = saved[rank][name]
        for (_, _, before), (_, _, after) in zip(result["saved"], result["loaded"], strict=True):
            assert torch.equal(before, after)
        assert result["weights"]
        for parameter, weight in result["weights"].items():
            assert torch.equal(weight, result["resumed_weights"][parameter]), parameter
        assert result["num_updates"] == 3


@pytest.mark.parametrize("name", SAVED)
def test_compute_weights_are_the_masters_after_loading(
    name: str, saved: list[dict[str, Any]]
) -> None:
    for result in (saved[0][name], saved[1][name]):
        assert result["loaded"]
        for parameter, start, master in result["loaded"]:
            weight = result["loaded_weights"][parameter].reshape(-1)[start:][: master.numel()]
            assert torch.equal(master.to(weight.dtype), weight), parameter


@pytest.mark.capability(
    feature="resuming with other ranks and another stage",
    zero=(0, 2, 3),
    lora=False,
    dtype="float32",
)
@pytest.mark.parametrize("case", ["stage0->3", "stage2->0", "stage3->1", "stage3->3"])
def test_another_world_size_and_stage(
    case: str, saved: list[dict[str, Any]], elsewhere: dict[str, Any]
) -> None:
    result, original = elsewhere[case], saved[0][case.split("->")[0]]
    for parameter, weight in original["loaded_weights"].items():
        assert torch.equal(weight, result["loaded_weights"][parameter])
    error = relative_error(
        result["resumed_weights"], original["loaded_weights"], original["weights"]
    )
    assert error < 1e-5
    assert result["num_updates"] == 3
    assert result["logprobs"][0] == pytest.approx(original["logprobs"][0], abs=1e-5)


def test_one_process_reads_the_weights_of_all_ranks(
    elsewhere: dict[str, Any], tiny_model: Path, root: Path
) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    read_weights(root / "stage3", model)
    for name, param in model.named_parameters():
        assert torch.equal(param, elsewhere["weights"][name])
    ids = [5, 9, 7, 3]
    table = torch.log_softmax(model(torch.tensor([ids])).logits[0], -1)
    expected = [0.0, *(table[t - 1, ids[t]].item() for t in range(1, 4))]
    assert elsewhere["stage3->3"]["logprobs"][0] == pytest.approx(expected, abs=1e-5)


def test_weights_as_a_source(elsewhere: dict[str, Any]) -> None:
    names = [meta.name for meta in elsewhere["metadata"]]
    assert sorted(names) == sorted(elsewhere["weights"])  # a layer's are sorted on their way out
    assert names == [name for group in elsewhere["groups"] for name in group]
    assert "lm_head.weight" not in names  # tied: once
    assert [len(group) for group in elsewhere["groups"]] == [1, 9, 9, 1]
    for meta in elsewhere["metadata"]:
        weight = elsewhere["weights"][meta.name]
        assert (meta.shape, meta.dtype) == (tuple(weight.shape), weight.dtype)
        assert elsewhere["fingerprints"][meta.name] == (fingerprint(weight, 0),)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("missing_rank", "no rank_1.safetensors"),
        ("other_model", "incomplete"),
        ("no_json", "learner.json"),
    ],
)
def test_damaged_checkpoints(damage: str, words: str, elsewhere: dict[str, Any]) -> None:
    assert words in elsewhere[damage]
    assert "to do:" in elsewhere[damage]


@pytest.mark.parametrize("name", named(SAVED, SAVED, "a phase with a fresh optimizer"))
def test_reset_optimizer(name: str, saved: list[dict[str, Any]], root: Path) -> None:
    """The next step is that of a worker that has the same weights and never made a step."""
    state = json.loads((root / f"{name}_reset" / "learner.json").read_text())
    assert state["num_updates"] == 0
    for rank in (0, 1):
        reset = saved[rank][name]["reset"]
        assert reset["num_updates"] == reset["fresh"]["num_updates"] == 1
        assert reset["moments_stayed"]  # DeepSpeed keeps views: new ones would be a second set
        for parameter, weight in reset["weights"].items():
            assert torch.equal(weight, reset["fresh"]["resumed_weights"][parameter]), parameter
            assert not torch.equal(weight, saved[rank][name]["weights"][parameter])


def test_no_pickle(root: Path, saved: Any) -> None:
    found = {path.suffix for path in (root / "stage3").iterdir()}
    assert found == {".safetensors", ".json"}
