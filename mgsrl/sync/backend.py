"""The one place that decides how weights travel."""

from mgsrl.errors import ConfigError


def choose_transfer(transfer: str, device: str) -> str:
    """`rollout.sync.transfer` -> `"nccl"` or `"object_store"`.

    `auto` is NCCL when learners and rollout workers compute on GPUs (`device == "cuda"`), else
    the object store. NCCL without GPUs raises `ConfigError`.
    """
    if transfer == "auto":
        return "nccl" if device == "cuda" else "object_store"
    if transfer == "nccl" and device != "cuda":
        raise ConfigError(
            "NCCL moves weights between GPUs.",
            expected="GPUs, or rollout.sync.transfer=object_store",
            found=f"rollout.sync.transfer=nccl on {device}",
            todo="set rollout.sync.transfer=auto",
        )
    return transfer
