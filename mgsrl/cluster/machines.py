"""The machines of a cluster: which are there, what each of them answers, and the wait for one that
was lost.

Left out: machines that nobody asked for (an autoscaler's), and who starts Ray on a machine again:
its supervisor does (Slurm, KubeRay, a person).
"""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from mgsrl.cluster import probe
from mgsrl.cluster.wait import short_reason

ANSWER_LIMIT_S = 60.0
"""For a machine to start a process and look; it takes 2 s on a quiet one. Longer than Ray takes to
notice that a machine is gone (half a minute)."""
LOOK_S = 1.0


class Asked:
    """An actor on every machine that is alive, by address; the driver's machine first."""

    def __init__(self, limit_s: float) -> None:
        import ray
        import ray.cloudpickle as pickle
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        pickle.register_pickle_by_value(probe)  # the other machine's mgsrl may be another one
        self._limit_s = limit_s
        self.silent: dict[str, str] = {}
        """Why a machine gave no answer."""
        here = ray.get_runtime_context().get_node_id()
        nodes = sorted(ray.nodes(), key=lambda node: (node["NodeID"] != here, node["NodeID"]))
        alive = [node for node in nodes if node["Alive"]]
        self.lost = {n["NodeManagerAddress"] for n in nodes if not n["Alive"]}
        self.lost -= {n["NodeManagerAddress"] for n in alive}
        self.handles: dict[str, Any] = {}
        self.driver = alive[0]["NodeManagerAddress"] if alive else ""
        for node in alive:
            address = node["NodeManagerAddress"]
            name = address if address not in self.handles else f"{address}/{node['NodeID'][:6]}"
            at = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            actor = ray.remote(probe.Probe).options(num_cpus=0, scheduling_strategy=at)
            self.handles[name] = actor.remote(address)

    def ask(self, method: str, arguments: Any) -> dict[str, Any]:
        """`method(*arguments(name))` of every machine, by name; who fails is `silent` from then."""
        import ray

        refs = {
            getattr(handle, method).remote(*arguments(name)): name
            for name, handle in self.handles.items()
        }
        answered = set(ray.wait(list(refs), num_returns=len(refs), timeout=self._limit_s)[0])
        answers = {}
        for ref, name in refs.items():
            try:
                if ref not in answered:
                    raise TimeoutError(f"no answer within {self._limit_s:.0f} s")
                answers[name] = ray.get(ref, timeout=self._limit_s)
            except Exception as error:  # whatever it is, that machine's row tells it
                self.silent[name] = short_reason(error)
                with suppress(Exception):
                    ray.kill(self.handles.pop(name))
        return answers

    def leave(self) -> None:
        import ray

        for handle in self.handles.values():
            ray.kill(handle)


@dataclass(frozen=True)
class Machines:
    """Those that Ray takes for alive."""

    addresses: tuple[str, ...]
    gpus: float

    def __str__(self) -> str:
        return f"{', '.join(self.addresses)} ({self.gpus:g} GPUs)"

    def lack(self, before: "Machines") -> list[str]:
        """Addresses of `before` that are not here, or what else there was more of; empty when
        nothing is missing, whatever the machines are called now."""
        if len(self.addresses) >= len(before.addresses) and self.gpus >= before.gpus:
            return []
        gone = [address for address in before.addresses if address not in self.addresses]
        return gone or [f"{before.gpus - self.gpus:g} GPUs"]


def machines_now() -> Machines:
    """What the cluster has at this moment."""
    import ray

    alive = [node for node in ray.nodes() if node["Alive"]]
    addresses = sorted(node["NodeManagerAddress"] for node in alive)
    return Machines(tuple(addresses), sum(node["Resources"].get("GPU", 0.0) for node in alive))


def wait_for_machines(before: Machines, limit_s: float, note: Callable[[str], None]) -> None:
    """Wait until the cluster has again what it had; returns after `limit_s` in any case.

    Args:
        note: told for what is waited, and what came of it, each in one line.
    """
    if len(before.addresses) > 1:
        settle()
    now = machines_now()
    missing = now.lack(before)
    if not missing:
        return
    note(
        f"waiting {limit_s:g} s at most (cluster.node_wait_s) for {', '.join(missing)} to come "
        f"back; here: {now}"
    )
    end = time.monotonic() + limit_s
    while (now := machines_now()).lack(before) and time.monotonic() < end:
        time.sleep(LOOK_S)
    note(f"{'going on with what is left' if now.lack(before) else 'whole again'}: {now}")


def settle(limit_s: float = ANSWER_LIMIT_S) -> None:
    """Wait until each machine that Ray takes for alive has answered, or is known to be dead: a lost
    machine is noticed by its ranks' connections before Ray notices it."""
    machines = Asked(limit_s)
    try:
        machines.ask("ping", lambda _: ())
    finally:
        machines.leave()
