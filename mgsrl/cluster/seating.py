"""Which GPU of which machine an actor gets, without Ray: `placement.py`'s groups on paper.

What is reserved, and which actor has which part of it, is what `place` asks Ray for. Left to this
file is what Ray does with it: bundles go to the fullest machine that has room (`PACK`), and a
machine's GPUs are handed out from 0 on. Actors without a GPU are left out: Ray puts them anywhere.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from mgsrl.cluster.placement import Placement, Wanted, by_machine, groups_of, spots
from mgsrl.errors import ConfigError


@dataclass
class Machine:
    """The GPUs of one machine; by index, what is free and who is there."""

    free: list[float]
    who: list[list[str]] = field(default_factory=list)

    def take(self, gpus: float) -> list[int] | None:
        """Indices of whole GPUs, or of the one that a part is of; None where there is no room."""
        whole = max(1, round(gpus))
        need = gpus / whole
        found = [index for index, free in enumerate(self.free) if free >= need - 1e-9][:whole]
        if len(found) < whole:
            return None
        for index in found:
            self.free[index] -= need
        return found


def seating(
    placement: Placement, wanted: Wanted, guests: Mapping[str, float], nodes: int, gpus: int
) -> list[list[list[str]]]:
    """[nodes][GPUs] names of the actors there.

    Args:
        guests: by name, GPUs of each reward worker.
        gpus: of one machine.

    Raises:
        ConfigError: there is no room for one of them, though there may be GPUs enough in all.
    """
    machines = [Machine([1.0] * gpus, [[] for _ in range(gpus)]) for _ in range(nodes)]
    reserved, orders = [], []
    for bundles in groups_of(placement, wanted):
        where = {n: _put(machines, bundle["GPU"]) for n, bundle in enumerate(bundles)}
        reserved.append(where)
        orders.append(by_machine({n: node for n, (node, _) in where.items()}, len(bundles)))
    learners, engines = spots(placement, wanted, orders)
    for name, actors in (("learner", learners), ("engine", engines)):
        for number, spot in enumerate(actors):
            seats = [reserved[spot.group][bundle] for bundle in spot.bundles]
            if len({node for node, _ in seats}) > 1:
                raise _no_room(
                    f"engine {number} over {len(seats)} GPUs of one machine", nodes, gpus
                )
            for node, indices in seats:
                for index in indices:
                    machines[node].who[index].append(f"{name} {number}")
    for name, share in guests.items():
        if share:
            node, indices = _put(machines, share)
            for index in indices:
                machines[node].who[index].append(name)
    return [machine.who for machine in machines]


def _put(machines: list[Machine], gpus: float) -> tuple[int, list[int]]:
    """On the fullest machine with room: (machine, GPUs)."""
    room = [sum(machine.free) for machine in machines]
    for node in sorted(
        (n for n, free in enumerate(room) if free >= gpus - 1e-9), key=room.__getitem__
    ):
        if (found := machines[node].take(gpus)) is not None:
            return node, found
    raise _no_room(f"{gpus:g} GPUs on one machine", len(machines), len(machines[0].free))


def _no_room(what: str, nodes: int, gpus: int) -> ConfigError:
    return ConfigError(
        "The run cannot be placed on these machines.",
        expected=f"room for {what}",
        found=f"{nodes} x {gpus} GPUs, the others taken",
        todo="take fewer or smaller workers (learner.world_size, rollout.num_workers, "
        "rollout.tensor_parallel_size), or machines with more GPUs",
    )
