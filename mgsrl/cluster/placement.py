"""Where actors go: who shares a GPU with whom, and on which machines Ray puts them.

`decide` says whether engines have GPUs of their own (disjoint) or share those of the learner ranks
(colocated). `place` asks Ray for it, by placement groups: learner ranks on as few machines as
possible, all GPUs of an engine on one. Where they compute on CPUs nothing is reserved: ranks and
engines are dealt out over the machines, and what is made again after a machine is lost goes to
another.

Left out: GPUs of several sizes, engines over several machines, several learner ranks on one GPU.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mgsrl.errors import ConfigError, UserError

NO_RAY_DEVICES = "RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES"
"""In an actor's environment: it sees the GPUs that its own CUDA_VISIBLE_DEVICES names."""

GUESTS = 0.5
"""Of a shared GPU, at most, for reward models that have none of their own; any of the GPUs can
take all of them. Less where there are several: Ray fills one GPU with two halves, and so with two
learner ranks."""
PARTS = 10_000
"""Of a GPU, in which Ray counts."""


@dataclass(frozen=True)
class Wanted:
    """GPUs that the actors of a run want."""

    ranks: int
    """Learner ranks, one GPU each."""
    engines: int
    engine_gpus: float
    """Of one engine of its own."""
    tensor_parallel: int
    """GPUs that one engine is split over."""
    rewards: float
    """Of all reward workers together."""

    @property
    def disjoint(self) -> float:
        return self.ranks + self.engines * self.engine_gpus + self.rewards


@dataclass(frozen=True)
class Placement:
    """What was decided, and why."""

    colocated: bool
    why: str
    """One line, for the console and `run.json`."""
    share: float = 1.0
    """Of a GPU, that a learner rank and an engine have together; reward models have the rest."""

    @property
    def name(self) -> str:
        return "colocated" if self.colocated else "disjoint"

    def taken(self, wanted: Wanted, device: str) -> float:
        """GPUs that the run has while it lasts: engines that share have none beside the learners',
        and reward models that find room there none either.

        Args:
            device: `cpu` or `cuda`, where learners and engines compute.
        """
        if device == "cpu":
            return wanted.rewards
        if not self.colocated:
            return wanted.disjoint
        return wanted.ranks + (wanted.rewards if self.share == 1 else 0.0)


@dataclass(frozen=True)
class Seat:
    """Where one actor goes."""

    options: dict[str, Any] = field(default_factory=dict)
    """Of Ray's `options`: `num_gpus`, `scheduling_strategy`."""
    environment: dict[str, str] = field(default_factory=dict)
    node: str = ""
    """Ray's id of the machine, where nothing is reserved."""

    def options_with(self, environment: Mapping[str, str]) -> dict[str, Any]:
        """Ray's options with an actor's own environment and the place's, as it is now: where the
        machine is gone, another one's."""
        env_vars = {**environment, **self.environment}
        return self.options | self._machine() | {"runtime_env": {"env_vars": env_vars}}

    def _machine(self) -> dict[str, Any]:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        nodes = _cpu_nodes() if self.node else []
        if not nodes:
            return {}
        node = self.node if self.node in nodes else nodes[int(self.node[:8], 16) % len(nodes)]
        # Ray puts an actor that reserves nothing anywhere, unless it has to be on one machine.
        return {"scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=False)}


def decide(
    placement: str, wanted: Wanted, num_gpus: int, device: str, obstacle: UserError | None
) -> Placement:
    """Disjoint or colocated.

    Args:
        placement: the configuration's `auto`, `disjoint` or `colocated`.
        device: `cpu` or `cuda`, where learners and engines compute.
        obstacle: why this run cannot be colocated, whatever the GPUs; None if it can.

    Returns:
        Disjoint also where there are too few GPUs for either (`check_resources` says that).

    Raises:
        UserError: `obstacle`, or a `ConfigError` for too few GPUs where it should be colocated.
    """
    if placement == "colocated":
        if obstacle is not None:
            raise obstacle
        return _colocated(wanted, num_gpus, device, "placement=colocated")
    if device == "cpu":
        return Placement(False, "nothing to share: learners and engines compute on the CPU")
    apart = Placement(False, f"{wanted.disjoint:g} of {num_gpus} GPUs: everybody has their own")
    if placement == "disjoint" or wanted.disjoint <= num_gpus:
        return apart
    need = f"apart, learners, engines and rewards want {wanted.disjoint:g} GPUs of {num_gpus}"
    try:
        shared = _colocated(wanted, num_gpus, device, need)
    except ConfigError:  # sharing does not help: it is too few GPUs, whoever has them
        return apart
    if obstacle is not None:
        raise ConfigError(
            "The run has too few GPUs for learners and engines apart, and cannot share them.",
            expected=f"at least {wanted.disjoint:g} GPUs, or a run that can share",
            found=f"{num_gpus} GPUs; {str(obstacle).replace(chr(10), ';')}",
            todo="mend what stands in the way of sharing, or take fewer workers",
        ) from obstacle
    return shared


def _colocated(wanted: Wanted, num_gpus: int, device: str, why: str) -> Placement:
    if device == "cpu":
        return Placement(True, f"{why}; on the CPU only the turns are kept")
    if wanted.ranks + wanted.rewards <= num_gpus:
        return Placement(True, why)
    share = share_beside(wanted.rewards, wanted.ranks)
    if wanted.ranks <= num_gpus and share is not None:
        return Placement(True, why, share)
    raise ConfigError(
        "The run asks for more GPUs than there are, even if engines share the learners'.",
        expected=f"at most {num_gpus} GPUs",
        found=f"{wanted.ranks} for learners and engines, {wanted.rewards:g} for reward workers",
        todo="lower learner.world_size, or the num_gpus of rewards (they find room with less than "
        "half a GPU in all, or half of the only one), or join a larger cluster with "
        "cluster.address=HOST:PORT",
    )


def share_beside(rewards: float, ranks: int) -> float | None:
    """Of a GPU, what a learner rank and an engine have where all reward models together take
    `rewards` of any one of the ranks' GPUs; None where that leaves too little."""
    share = round(1 - rewards, 4)
    return share if share > 1 - GUESTS or (share == 1 - GUESTS and ranks == 1) else None


class Seats:
    """What Ray granted.

    Attributes:
        learners, engines: a place per rank and per engine; empty on one machine without GPUs.
    """

    def __init__(self, learners: Sequence[Seat] = (), engines: Sequence[Seat] = ()) -> None:
        self.learners, self.engines = list(learners), list(engines)
        self._groups: list[Any] = []

    def reserve(self, placement: Placement, wanted: Wanted, limit_s: float) -> None:
        """Take GPUs for all; what is taken when this fails is for `release`."""
        orders = []
        for bundles in groups_of(placement, wanted):
            group, order = _reserve(bundles, limit_s)
            self._groups.append(group)
            orders.append(order)
        learners, engines = spots(placement, wanted, orders)
        for spot in engines:
            seat = _at(self._groups[spot.group], spot.bundles[0], spot.gpus)
            if len(spot.bundles) > 1:
                seen = _same_machine(self._groups[spot.group], spot.bundles, limit_s)
                seat.environment.update({NO_RAY_DEVICES: "1", "CUDA_VISIBLE_DEVICES": seen})
            self.engines.append(seat)
        self.learners += [_at(self._groups[s.group], s.bundles[0], s.gpus) for s in learners]
        for seat in self.learners if placement.colocated else ():
            seat.environment.update(shareable_memory())

    def release(self) -> None:
        """Give everything back."""
        from ray.util import remove_placement_group

        for group in self._groups:
            remove_placement_group(group)
        self._groups = []


def place(placement: Placement, wanted: Wanted, device: str, limit_s: float) -> Seats:
    """Reserve GPUs for all ranks and engines; inside a Ray session, before any of them starts.

    Raises:
        ConfigError: Ray cannot place them: the GPUs of an engine are not on one machine.
    """
    if device == "cpu":
        nodes = _cpu_nodes()
        return Seats(_dealt(wanted.ranks, nodes), _dealt(wanted.engines, nodes))
    seats = Seats()
    try:
        seats.reserve(placement, wanted, limit_s)
    except BaseException:  # a run that begins again would find its GPUs taken by itself
        seats.release()
        raise
    return seats


@dataclass(frozen=True)
class Spot:
    """What one actor has of what is reserved."""

    group: int
    bundles: tuple[int, ...]
    """Several for an engine that is split over GPUs which ranks have as well."""
    gpus: float
    """Of each bundle."""


def groups_of(placement: Placement, wanted: Wanted) -> list[list[dict[str, float]]]:
    """The bundles of each placement group: one group of shared GPUs, or the learners' and the
    engines'."""
    if placement.colocated:
        return [[{"GPU": placement.share, "CPU": 1.0}] * wanted.ranks]
    return [
        [{"GPU": 1.0}] * wanted.ranks,
        [{"GPU": wanted.engine_gpus, "CPU": 1.0}] * wanted.engines,
    ]


def spots(
    placement: Placement, wanted: Wanted, orders: Sequence[Sequence[int]]
) -> tuple[list[Spot], list[Spot]]:
    """(of each learner rank, of each engine).

    Args:
        orders: of each group, its bundles machine by machine.
    """
    if not placement.colocated:
        ranks, engines = orders
        return (
            [Spot(0, (bundle,), 1.0) for bundle in ranks],
            [Spot(1, (bundle,), wanted.engine_gpus) for bundle in engines],
        )
    (order,), parallel = orders, wanted.tensor_parallel
    half = round(placement.share * PARTS) // 2 / PARTS  # not more: both have to fit
    return (
        [Spot(0, (bundle,), half) for bundle in order],
        [
            Spot(0, tuple(order[engine * parallel :][:parallel]), half)
            for engine in range(wanted.engines)
        ],
    )


def _cpu_nodes() -> list[str]:
    """The machines that lend CPUs, this process's first."""
    import ray

    here = ray.get_runtime_context().get_node_id()
    lending = [n["NodeID"] for n in ray.nodes() if n["Alive"] and n["Resources"].get("CPU", 0) > 0]
    return sorted(lending, key=lambda node: (node != here, node))


def _dealt(count: int, nodes: Sequence[str]) -> list[Seat]:
    """As many seats on each of `nodes` as on the others, neighbours together."""
    if len(nodes) < 2:
        return []
    return [Seat(node=nodes[index * len(nodes) // count]) for index in range(count)]


def shareable_memory() -> dict[str, str]:
    """Settings of PyTorch's allocator for a learner whose weights an engine reads: this process's,
    without expandable segments.

    Their handles pass between processes by a system call that containers often forbid. vLLM's own
    allocator, which lets an engine sleep, switches them off by itself while it takes memory.
    """
    given = os.environ.get("PYTORCH_ALLOC_CONF") or os.environ.get("PYTORCH_CUDA_ALLOC_CONF", "")
    kept = [part for part in given.split(",") if part and "expandable_segments" not in part]
    settings = ",".join([*kept, "expandable_segments:False"])
    return dict.fromkeys(("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"), settings)


def _reserve(bundles: list[dict[str, float]], limit_s: float) -> tuple[Any, list[int]]:
    """A placement group on as few machines as possible, and its bundles machine by machine."""
    import ray
    from ray.util import placement_group, placement_group_table, remove_placement_group

    group = placement_group(bundles, strategy="PACK")
    if not ray.wait([group.ready()], timeout=limit_s)[0]:
        remove_placement_group(group)
        nodes = [node["Resources"].get("GPU", 0.0) for node in ray.nodes() if node["Alive"]]
        raise ConfigError(
            "Ray cannot place the run's actors.",
            expected=f"{len(bundles)} x {bundles[0]['GPU']:g} GPUs free, each on one machine",
            found=f"machines with {', '.join(f'{gpus:g}' for gpus in nodes)} GPUs, perhaps in use",
            todo="wait for other jobs to end, or take fewer or smaller workers "
            "(learner.world_size, rollout.num_workers, rollout.tensor_parallel_size)",
        )
    return group, by_machine(placement_group_table(group)["bundles_to_node_id"], len(bundles))


def by_machine(nodes_of: Any, count: int) -> list[int]:
    """Bundles, those on one machine after each other."""
    return sorted(range(count), key=lambda index: (nodes_of[index], index))


def _at(group: Any, bundle: int, gpus: float) -> Seat:
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    strategy = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=bundle)
    return Seat({"num_gpus": gpus, "scheduling_strategy": strategy})


def _same_machine(group: Any, bundles: Sequence[int], limit_s: float) -> str:
    """CUDA_VISIBLE_DEVICES over the GPUs of `bundles`, as Ray numbers them on their machine."""
    import ray

    look: Callable[[], tuple[str, str]] = _visible
    refs = [
        ray.remote(look).options(num_cpus=0, **_at(group, bundle, 0.01).options).remote()
        for bundle in bundles
    ]
    found = ray.get(refs, timeout=limit_s)
    if len({node for node, _ in found}) > 1:
        raise ConfigError(
            "The GPUs of an engine are on several machines.",
            expected=f"rollout.tensor_parallel_size={len(bundles)} GPUs on one",
            found=f"learner ranks' GPUs on {len({node for node, _ in found})}",
            todo="make rollout.tensor_parallel_size a divisor of the GPUs of each machine",
        )
    return ",".join(devices for _, devices in found)


def _visible() -> tuple[str, str]:
    import ray

    return ray.get_runtime_context().get_node_id(), os.environ["CUDA_VISIBLE_DEVICES"]
