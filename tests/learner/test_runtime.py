"""Joining the process group: what is asked of DeepSpeed on the way."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from mgsrl.learner import runtime


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_ops_are_tried_on_cpus_only(
    device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU DeepSpeed would look for compilers, and compile, for an op that is not there."""
    import deepspeed

    tried: list[str] = []

    def probe() -> dict[str, bool]:
        tried.append(device)
        return {"deepspeed_shm_comm": True}

    monkeypatch.delitem(vars(deepspeed.ops), "__compatible_ops__", raising=False)
    monkeypatch.setattr(deepspeed.ops, "_probe_compatible_ops", probe)
    monkeypatch.setattr(deepspeed, "init_distributed", lambda **_: None)
    monkeypatch.setattr(dist, "init_process_group", lambda *_, **__: None)
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)
    for name in ("DEEPSPEED_TIMEOUT", "GLOO_SOCKET_IFNAME"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)  # join sets them: both are as before afterwards
    runtime.join(runtime.Rank(0, 1, torch.device(device)), f"file://{tmp_path}/meet", 60.0)
    answers = vars(deepspeed.ops).pop("__compatible_ops__", None)
    assert tried == ["cpu"] * (device == "cpu")
    assert answers == ({"deepspeed_shm_comm": False} if device == "cpu" else None)
