"""What this project calls of vLLM's sleep and CUDA IPC is there, and means what it is taken for.

No GPU: signatures are inspected, and the trainer's side is driven with the two steps that need a
GPU (the packed bucket's handle, the card's name) replaced. Nothing of this proves a transfer.
"""

import dataclasses
import inspect
import pickle
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mgsrl.config.rollout import RolloutConfig
from mgsrl.errors import ConfigError, InvariantError
from mgsrl.rollout.actor import transfer_of
from mgsrl.rollout.residency import PARTS
from mgsrl.rollout.vllm_engine import vllm_environment
from mgsrl.sync.backend import WeightLine, choose_transfer
from mgsrl.sync.publication import Publication
from mgsrl.sync.source import WeightSource

pytest.importorskip("vllm")


def takes(call: Callable[..., Any], *arguments: Any, **named: Any) -> None:
    """The signature of a bound `call` fits these arguments."""
    inspect.signature(call).bind(*arguments, **named)


def test_the_engines_verbs() -> None:
    from vllm import LLM
    from vllm.engine.arg_utils import EngineArgs
    from vllm.v1.executor.abstract import SLEEP_TAGS

    takes(LLM.sleep, "self", level=2, mode="abort")
    takes(LLM.wake_up, "self", tags=list(PARTS))
    assert set(PARTS) == SLEEP_TAGS
    takes(LLM.init_weight_transfer_engine, "self", {"init_info": {}})
    takes(LLM.shutdown_weight_transfer_engine, "self")
    takes(LLM.start_weight_update, "self")
    takes(LLM.update_weights, "self", {"update_info": {}})
    takes(LLM.finish_weight_update, "self", "7")
    fields = {field.name: field for field in dataclasses.fields(EngineArgs)}
    assert fields["enable_sleep_mode"].default is False
    assert "sleep_preserve_parameter_names" in fields  # read when an engine falls asleep
    assert "weight_transfer_config" in fields


def test_the_worker_lets_go_of_a_former_group() -> None:
    from vllm.distributed.weight_transfer.nccl_engine import NCCLWeightTransferEngine
    from vllm.v1.worker.gpu_worker import Worker

    freed: list[str] = []
    engine: Any = object.__new__(NCCLWeightTransferEngine)
    engine.model_update_group = SimpleNamespace(destroy=lambda: freed.append("group"))
    worker: Any = SimpleNamespace(weight_transfer_engine=engine, _weight_update_active=False)
    for _ in range(2):  # the first time there may be none
        Worker.shutdown_weight_transfer_engine(worker)
    assert freed == ["group"]


def test_what_no_publish_brings_back_is_kept_through_a_deep_sleep() -> None:
    """The routing bias of DeepSeek-V3, GLM-4-MoE, ...: a buffer of transformers', a parameter of
    vLLM's, which keeps the parameters that its configuration names."""
    from vllm.v1.worker.gpu_worker import Worker

    from mgsrl.sync.vllm_receiver import WorkerExtension

    gate = torch.nn.Linear(3, 4, bias=False)
    plain, routed = torch.nn.Sequential(torch.nn.Linear(2, 3)), torch.nn.Sequential(gate)
    gate.e_score_correction_bias = torch.nn.Parameter(torch.randn(4))
    for model, names in ((plain, []), (routed, ["0.e_score_correction_bias"])):
        worker: Any = SimpleNamespace(
            model_runner=SimpleNamespace(get_model=lambda model=model: model),
            model_config=SimpleNamespace(sleep_preserve_parameter_names=None),
            get_draft_model=lambda: None,
        )
        worker._get_sleep_parameters = lambda model: dict(model.named_parameters())
        WorkerExtension.keep_unpublished(worker)
        assert worker.model_config.sleep_preserve_parameter_names == names
        Worker._save_sleep_parameters(worker, model)  # refuses what it does not find
        worker.model_config.sleep_preserve_parameter_names = ["0.of_another_model"]
        with pytest.raises(ValueError, match="No parameter matches"):
            Worker._save_sleep_parameters(worker, model)


def test_the_worker_takes_what_the_actor_hands_on() -> None:
    from vllm.distributed.weight_transfer import WeightTransferEngineFactory
    from vllm.distributed.weight_transfer.ipc_engine import (
        IPCWeightTransferEngine,
        IPCWeightTransferInitInfo,
        IPCWeightTransferUpdateInfo,
    )

    assert "ipc" in WeightTransferEngineFactory._registry
    assert IPCWeightTransferEngine.init_info_cls is IPCWeightTransferInitInfo
    assert IPCWeightTransferInitInfo(packed=True).packed
    takes(IPCWeightTransferEngine.start_weight_update, "self")
    takes(IPCWeightTransferEngine.finish_weight_update, "self")
    takes(IPCWeightTransferEngine.receive_weights, "self", "info")
    handle = {"GPU-1": ("handle",)}
    info = IPCWeightTransferUpdateInfo(["w"], ["float32"], [[1]], handle, tensor_sizes=[4])
    assert info.ipc_handles == handle


@pytest.mark.parametrize("parallel", [1, 2])
def test_no_pickle_of_strangers(parallel: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM refuses pickled handles unless a variable is set, and nothing here sets it. An engine
    split over GPUs is driven in the actor's own process: else its handles would need that too."""
    from vllm.distributed.weight_transfer.ipc_engine import IPCWeightTransferUpdateInfo

    monkeypatch.delenv("VLLM_ALLOW_INSECURE_SERIALIZATION", raising=False)
    environment = vllm_environment(RolloutConfig(tensor_parallel_size=parallel), "cuda")
    assert "VLLM_ALLOW_INSECURE_SERIALIZATION" not in environment
    assert environment["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"
    with pytest.raises(ValueError, match="Refusing to deserialize"):
        IPCWeightTransferUpdateInfo(
            [], [], [], ipc_handles_pickled=pickle.dumps({}).decode("latin-1")
        )


class Client:
    """Records the calls of a sender; has what `RolloutClient` has."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.next_version: int | None = None
        self.lost: list[int] = []

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        self.calls.append(("init", init_info))

    def start_weight_update(self) -> None:
        self.calls.append("start")

    def update_weights(self, update_info: dict[str, Any]) -> None:
        self.calls.append(("update", update_info))

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        self.calls.append(("finish", weight_version or str(self.next_version)))


def _packed(
    iterator: Iterator[tuple[str, torch.Tensor]],
    gpu_uuid: str,
    post_iter_func: Callable[[Any], torch.Tensor],
    buffer_size_bytes: int,
) -> Iterator[Any]:
    """As vLLM's `packed_ipc_producer`, a bucket per tensor and no memory shared."""
    from vllm.distributed.weight_transfer.packed_tensor import PackedIpcChunk

    for item in iterator:
        size = post_iter_func(item).nbytes
        assert size <= buffer_size_bytes
        name, tensor = item
        yield PackedIpcChunk(
            [name], [list(tensor.shape)], ["float32"], [size], {gpu_uuid: ("handle", name)}
        )


def test_the_trainers_side_sends_all_weights_in_buckets(monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.distributed.weight_transfer import ipc_engine, packed_tensor

    assert list(inspect.signature(_packed).parameters) == list(
        inspect.signature(packed_tensor.packed_ipc_producer).parameters
    )
    monkeypatch.setattr(ipc_engine, "packed_ipc_producer", _packed)
    monkeypatch.setattr(torch.accelerator, "current_device_index", lambda: 0)
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda index: SimpleNamespace(uuid="GPU-1")
    )
    monkeypatch.setattr(torch.cuda, "ipc_collect", lambda: None)
    model, client = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2)), Client()
    source = Publication(
        WeightSource(model), model, as_checkpoint=False, engine_dtype=torch.float32, keep=True
    )
    line = WeightLine("ipc", source, client, 0, "127.0.0.1")  # type: ignore[arg-type]
    assert line.publish(3) == []
    assert client.calls[:2] == [("init", {"packed": True}), "start"]
    assert client.calls[-1] == ("finish", "3")
    updates = [call[1] for call in client.calls[2:-1]]
    assert [update["names"] for update in updates] == [[n] for n, _ in model.named_parameters()]
    for update in updates:  # what the worker makes of it
        info = ipc_engine.IPCWeightTransferUpdateInfo(**update)
        assert info.ipc_handles == {"GPU-1": ("handle", info.names[0])}
    assert set(line.fingerprints) == {name for name, _ in model.named_parameters()}
    line.close()


def test_who_moves_weights_how() -> None:
    assert choose_transfer("auto", "cuda", colocated=True) == "ipc"
    assert choose_transfer("auto", "cuda") == "nccl"
    assert choose_transfer("auto", "cpu", colocated=True) == "object_store"
    assert choose_transfer("object_store", "cuda", colocated=True) == "object_store"
    for transfer, device, colocated in (
        ("ipc", "cpu", True),
        ("ipc", "cuda", False),
        ("nccl", "cuda", True),
    ):
        with pytest.raises(ConfigError, match="moves weights between"):
            choose_transfer(transfer, device, colocated=colocated)
    light = RolloutConfig(engine="transformers")
    assert transfer_of(light, "cuda", colocated=True) == "object_store"
    assert transfer_of(RolloutConfig(), "cuda", colocated=True) == "ipc"
    with pytest.raises(InvariantError, match="should have been chosen"):
        WeightLine("auto", None, None, 0, "")  # type: ignore[arg-type]
