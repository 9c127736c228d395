"""What GPUs can do at best, for machines that are not there: one table, from data sheets.

Dense bfloat16 products with fp32 sums (no sparsity); memory as PyTorch shows it; links and network
in one direction. Sources: NVIDIA's data sheets of each card (H100, H200 SXM, A100, L40S, L4, A10,
HGX B200) and the Ada and Ampere (GA102) whitepapers for the GeForce cards; the network is that of
NVIDIA's own machines (DGX B200/H200/H100: 400 Gb/s a GPU, DGX A100: 200) and 100 Gb/s for eight of
the others.

Left out: cards of other makers, what clocks and power limits take.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from mgsrl.errors import ConfigError, nearest

GB = 10**9


@dataclass(frozen=True)
class Gpu:
    name: str
    card: str
    """A part of the name that the card gives itself."""
    tflops: float
    gib: float
    memory_gbs: float
    """GB/s of its memory."""
    link_gbs: float
    """GB/s to another GPU of the machine: NVLink, or PCIe."""
    network_gbs: float
    """GB/s to another machine, of each GPU."""


GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("B200-180GB", "B200", 2250, 178.4, 8000, 900, 50),
        Gpu("H200-141GB", "H200", 989, 139.8, 4800, 450, 50),
        Gpu("H100-PCIe-80GB", "H100 PCIe", 756, 79.1, 2000, 64, 1.5),
        Gpu("H100-80GB", "H100", 989, 79.1, 3350, 450, 50),
        Gpu("A100-80GB", "A100-SXM4-80GB", 312, 79.1, 2039, 300, 25),
        Gpu("A100-40GB", "A100", 312, 39.4, 1555, 300, 25),
        Gpu("L40S-48GB", "L40S", 362, 44.4, 864, 32, 1.5),
        Gpu("L4-24GB", "L4", 121, 22.0, 300, 32, 1.5),
        Gpu("A10-24GB", "A10", 125, 22.1, 600, 32, 1.5),
        Gpu("RTX4090-24GB", "RTX 4090", 165, 23.5, 1008, 32, 1.5),
        Gpu("RTX3090-24GB", "RTX 3090", 71, 23.6, 936, 32, 1.5),
    )
}
"""By name; the first whose `card` is in a card's name is that card."""
USUAL = "H100-80GB"
CORES_PER_GPU = 8
"""Of a machine that is not there: fewer than data centres have."""
CORE_GFLOPS = 50.0
"""Of a core beside GPUs."""


@dataclass(frozen=True)
class Hardware:
    """The machines of a run, all alike."""

    nodes: int
    gpus_per_node: int
    gpu: Gpu | None
    """None without GPUs, or for a card that is not in the table."""
    gib: float
    """Of one GPU."""
    given: bool
    """Whether it is known how many there are; else as many as the run asks for."""
    cores: int | None = None
    """Of each; None where that is not known."""

    @property
    def num_gpus(self) -> int:
        return self.nodes * self.gpus_per_node


def gpu_named(name: str) -> Gpu:
    """Of the table.

    Raises:
        ConfigError: it is not there.
    """
    names = {each.casefold(): gpu for each, gpu in GPUS.items()}
    if (found := names.get(name.casefold())) is not None:
        return found
    raise ConfigError(
        "--gpu is not a card that is known.",
        expected="a card of the plan's table",
        found=repr(name),
        todo=f"correct the name ({nearest(name.upper(), GPUS)}), or give the card that is most "
        "like yours and its memory: --gpu NAME --gpu-gib N",
    )


def gpu_of_card(card: str, gib: float) -> Gpu | None:
    """The table's row of a card that is here; None if it is not in the table."""
    found = next((gpu for gpu in GPUS.values() if gpu.card in card), None)
    return found and replace(found, gib=gib)


@dataclass(frozen=True)
class Cores:
    """What this machine's cores do, measured for an instant."""

    count: int
    gflops: float
    """fp32 products of all cores together, 10^9 operations a second."""
    memory_gbs: float


def cores_beside(machines: Hardware) -> Cores:
    """Of one machine with GPUs: assumed, as it may not be there."""
    count = machines.cores or CORES_PER_GPU * machines.gpus_per_node
    return Cores(count, CORE_GFLOPS * count, 20.0)


def measured_cores(count: int, width: int, seconds: float = 0.1) -> Cores:
    """Products of `width` and copies in memory on one core, for an instant: rough.

    The core's own time is counted, so that other programs on it matter little.
    """
    import torch

    left, right = torch.rand(256, width), torch.rand(width, width)
    block, threads = torch.zeros(1 << 22), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        product = _fastest(lambda: left @ right, seconds)
        copy = _fastest(block.clone, seconds)
    finally:
        torch.set_num_threads(threads)
    return Cores(
        count, count * 2 * 256 * width**2 / product / GB, 2 * 4 * block.numel() / copy / GB
    )


def _fastest(work: Callable[[], object], seconds: float) -> float:
    """Its own seconds, the least of several times."""
    work()
    best, until = math.inf, time.thread_time() + seconds
    while (begin := time.thread_time()) < until:
        work()
        best = min(best, time.thread_time() - begin)
    return best
