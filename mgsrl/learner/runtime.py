"""One torch rank's process: environment, threads, process group, DeepSpeed's own set-up.

Left out: launchers and `env://` rendezvous. The ranks are Ray actors (or spawned test
processes), so they are told where to meet: a socket that rank 0 bound itself, on the loopback
interface when all ranks are on one machine, or a file.
"""

import logging
import os
import socket
import warnings
from dataclasses import dataclass
from datetime import timedelta

import psutil
import torch
import torch.distributed as dist

from mgsrl.errors import InvariantError

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Rank:
    """This process's place among the learners."""

    index: int
    world_size: int
    device: torch.device


def prepare_process(rank: int, world_size: int, device: str, num_threads: int) -> Rank:
    """Set what has to be set before DeepSpeed is imported.

    Args:
        device: `cpu` or `cuda` (one visible GPU per rank, as Ray arranges it).
        num_threads: CPU threads of this rank; 0 leaves torch's choice.
    """
    os.environ["RANK"] = str(rank)
    os.environ["LOCAL_RANK"] = "0"  # every rank sees its own GPU as number 0
    os.environ["WORLD_SIZE"] = str(world_size)
    os.environ["DS_ACCELERATOR"] = device
    if num_threads:
        torch.set_num_threads(num_threads)
    for name in ("DeepSpeed", "torch.distributed", "transformers"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # DeepSpeed calls torch functions by their former names.
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    return Rank(
        rank, world_size, torch.device("cuda", 0) if device == "cuda" else torch.device(device)
    )


def free_cache(device: torch.device) -> None:
    """Give the GPU back what PyTorch's allocator keeps for later; nothing on a CPU."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


def listen(host: str) -> socket.socket:
    """A listening socket on a free port of `host`, for rank 0's side of the rendezvous."""
    server = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    server.bind((host, 0))
    server.listen(128)
    return server


def interface_to(address: str) -> str:
    """The network interface over which this machine reaches `HOST:PORT`; nothing is sent."""
    host, _, port = address.rpartition(":")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((host, int(port)))
        own = probe.getsockname()[0]
    for name, addresses in psutil.net_if_addrs().items():
        if any(entry.address.partition("%")[0] == own for entry in addresses):
            return name
    raise InvariantError(f"no network interface has {own}, by which {address} is reached")


def join(rank: Rank, address: str, limit_s: float, server: socket.socket | None = None) -> None:
    """Join the ranks' process group and hand it to DeepSpeed; once per process.

    Args:
        address: `HOST:PORT` (where rank 0's `server` listens) or `file:///PATH`.
        limit_s: longest wait of any collective, so that a lost rank cannot hang the others.
    """
    if dist.is_initialized():
        return
    if address.startswith(f"{LOOPBACK}:"):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        os.environ.setdefault("NCCL_SOCKET_IFNAME", "lo")
    elif not address.startswith("file://"):
        # By itself gloo asks for the address of the host's name, which many machines say is a
        # loopback one; NCCL looks for itself.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface_to(address))
    timeout = timedelta(seconds=limit_s)
    # DeepSpeed's own groups take their limit from here, in whole minutes.
    os.environ.setdefault("DEEPSPEED_TIMEOUT", str(max(1, round(limit_s / 60))))
    backend = "nccl" if rank.device.type == "cuda" else "gloo"
    if rank.device.type == "cuda":
        torch.cuda.set_device(rank.device)
    dist.init_process_group(
        backend,
        store=_store(rank, address, timeout, server),
        rank=rank.index,
        world_size=rank.world_size,
        timeout=timeout,
    )
    import deepspeed

    if rank.device.type == "cpu":
        # It would compile an op now (with g++, and a lock that a killed build leaves behind); only
        # inference calls it. Not on a GPU, which has no such op: asking tries all of them.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(dist_backend=backend, dist_init_required=False, timeout=timeout)


def _store(
    rank: Rank, address: str, timeout: timedelta, server: socket.socket | None
) -> dist.Store:
    if address.startswith("file://"):
        return dist.FileStore(address.removeprefix("file://"), rank.world_size)
    host, _, port = address.rpartition(":")
    return dist.TCPStore(
        host,
        int(port),
        rank.world_size,
        is_master=rank.index == 0,
        timeout=timeout,
        # The store would bind every interface; given a bound socket it listens there only.
        master_listen_fd=server.detach() if server is not None else None,
    )


def all_equal(values: list[int], device: torch.device) -> bool:
    """Whether all ranks passed the same integers (one small all-reduce)."""
    mine = torch.tensor(values, dtype=torch.int64, device=device)
    bounds = torch.cat([mine, -mine])
    dist.all_reduce(bounds, op=dist.ReduceOp.MAX)
    return bool((bounds[: len(values)] == -bounds[len(values) :]).all())
