"""The one place that decides how weights travel."""

from typing import TYPE_CHECKING, Any

from mgsrl.errors import ConfigError, InvariantError
from mgsrl.sync.fingerprint import Published
from mgsrl.sync.publication import Publication

if TYPE_CHECKING:  # it imports Ray, which a learner by itself does without
    from mgsrl.sync.client import RolloutClient


def choose_transfer(transfer: str, device: str, *, colocated: bool = False) -> str:
    """`rollout.sync.transfer` -> `"nccl"`, `"ipc"` or `"object_store"`.

    `auto` on GPUs (`device == "cuda"`) is CUDA IPC where engines share the learners' (`colocated`)
    and NCCL where they have their own; without GPUs it is the object store.

    Raises:
        ConfigError: NCCL or IPC without GPUs, NCCL between processes of one GPU, IPC between GPUs.
    """
    if transfer == "auto":
        return ("ipc" if colocated else "nccl") if device == "cuda" else "object_store"
    if transfer == "object_store":
        return transfer
    between = "processes that share a GPU" if transfer == "ipc" else "GPUs"
    if device != "cuda" or colocated != (transfer == "ipc"):
        where = "in one place with the learners" if colocated else "apart from the learners"
        raise ConfigError(
            f"{'CUDA IPC' if transfer == 'ipc' else 'NCCL'} moves weights between {between}.",
            expected=f"{between}, or rollout.sync.transfer=object_store",
            found=f"rollout.sync.transfer={transfer} on {device}, engines {where}",
            todo="set rollout.sync.transfer=auto",
        )
    return transfer


class WeightLine:
    """A learner rank's line to the rollout actors, by a chosen transfer: rank 0 speaks, the others
    help gathering.

    Args:
        publication: the weights.
        rank: of this learner.
        host: the address of rank 0's machine.
    """

    def __init__(
        self, transfer: str, publication: Publication, client: "RolloutClient", rank: int, host: str
    ) -> None:
        self._publication, self._client = publication, client
        self._sender = _sender(transfer, publication, client, rank, host)

    def publish(self, version: int) -> list[int]:
        """Send the current weights as `version`; positions of the actors that died meanwhile."""
        self._publication.version = version
        self._sender.send_weights(version)
        return self._client.lost

    @property
    def fingerprints(self) -> Published:
        """Of what was last published; on rank 0, empty on the others."""
        return self._publication.fingerprints

    def close(self) -> None:
        self._sender.shutdown()


def _sender(transfer: str, source: Any, client: "RolloutClient", rank: int, host: str) -> Any:
    if transfer == "nccl":
        from mgsrl.sync.nccl import NcclSender

        return NcclSender(source, client, rank, master_address=host)
    if transfer == "ipc":
        from mgsrl.sync.ipc import IpcSender

        return IpcSender(source, client, rank)
    if transfer != "object_store":
        raise InvariantError(f"transfer {transfer!r} should have been chosen before")
    from mgsrl.sync.object_store import ObjectStoreSender

    return ObjectStoreSender(source, client, rank == 0)
