"""What a run takes, against what the machine (or all of a cluster) has: processes and memory.

The estimates are what such a process is measured to hold for itself, without activations and
caches, so that only what cannot work is refused. Left out: on which machine of a cluster each
process goes, which Ray decides by what is free.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from mgsrl.errors import ConfigError

PROCESSES_PER_CORE = 16
"""Actors take turns on a CPU; with more of them than this they would only wait."""
MAX_THREADS_PER_CORE = 16

LEARNER_GIB = 0.3
VERIFIER_GIB = 0.1
"""Of a reward worker without a model."""
REWARD_MODEL_GIB = 0.3


@dataclass(frozen=True)
class Demand:
    """Equal processes of a run."""

    what: str
    """In words, for messages: `rollout workers`."""
    key: str
    """The configuration key that says how many."""
    count: int
    gib_each: float


def check_demand(
    demands: Sequence[Demand],
    *,
    cores: int,
    memory_gib: float,
    other_gib: float = 0.0,
    machines: int = 0,
) -> None:
    """Stop when a run asks for more processes or memory than there is room for.

    Args:
        cores: that may be used.
        memory_gib: of the machine (or container), used or not.
        other_gib: memory that is no process's own: a local Ray's object store.
        machines: of the cluster that cores and memory are of; 0 for this machine.

    Raises:
        ConfigError: names what asks for most.
    """
    whole = f"cluster of {machines} machines" if machines else "machine"
    more = (
        "make the cluster larger" if machines else "join a cluster with cluster.address=HOST:PORT"
    )
    number = sum(demand.count for demand in demands)
    if number > PROCESSES_PER_CORE * cores:
        most = max(demands, key=lambda demand: demand.count)
        raise ConfigError(
            f"The run asks for more processes than the {whole} can hold.",
            expected=f"at most {PROCESSES_PER_CORE * cores} actors on {cores} CPU cores",
            found=f"{number}: {_listed(demands)}",
            todo=f"lower {most.key}, or {more}",
        )
    needed = other_gib + sum(demand.count * demand.gib_each for demand in demands)
    if needed > memory_gib:
        most = max(demands, key=lambda demand: demand.count * demand.gib_each)
        store = other_gib > most.count * most.gib_each
        shared = f", and {other_gib:g} GiB of shared memory (cluster.object_store_gib)"
        shared = shared if other_gib else ""
        raise ConfigError(
            f"The run asks for more memory than the {whole} has.",
            expected=f"at most {memory_gib:.1f} GiB",
            found=f"at least {needed:.1f} GiB: {_listed(demands)}{shared}",
            todo=f"lower {'cluster.object_store_gib' if store else most.key}, take a smaller "
            f"model, or {more}",
        )


def check_threads(key: str, threads: int, cores: int) -> None:
    """Raise `ConfigError` for more threads than `cores` can take turns on."""
    if threads > MAX_THREADS_PER_CORE * cores:
        raise ConfigError(
            f"{key} is too large.",
            expected=f"at most {MAX_THREADS_PER_CORE * cores} threads on {cores} CPU cores",
            found=str(threads),
            todo=f"set {key}=0 (an equal share of the cores) or a smaller number",
        )


def _listed(demands: Sequence[Demand]) -> str:
    return ", ".join(
        f"{demand.count} {demand.what} of {demand.gib_each:.1f} GiB" for demand in demands
    )
