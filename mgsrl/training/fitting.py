"""Whether a run fits machines, there or not, and which change would make it fit.

A change is tried by planning the run with it; what is named fits by the same arithmetic as the run
itself. First each change alone, in the order in which they cost least, then several together,
the one that helps most first.

Left out: changes to what is learnt (fewer samples, shorter responses, another model). Adapters, the
last but one of the changes, are told as what they are.
"""

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from mgsrl.cluster.demand import LEARNER_GIB, Demand, check_demand
from mgsrl.cluster.hardware import Hardware
from mgsrl.cluster.memory import GIB
from mgsrl.cluster.preflight import machine_memory_gib, usable_cores
from mgsrl.cluster.seating import seating
from mgsrl.config import Config
from mgsrl.config.checks import check_config
from mgsrl.config.model_shape import ModelShape
from mgsrl.errors import ConfigError, UserError
from mgsrl.training.estimate import Estimate, estimate
from mgsrl.training.machine import demands
from mgsrl.training.places import choose_placement, use_all, wanted_gpus

Change = dict[str, Any]
"""Values by configuration key."""
MOST_RANKS = 1024
NO_GPU = 1e4
"""What a GPU that is not there weighs, in GiB."""
ADAPTERS = 64
"""Rank of the adapters that are tried."""


@dataclass(frozen=True)
class Verdict:
    problems: tuple[str, ...]
    """One line each; none for a run that fits."""
    lacking: float = 0.0
    """GiB, and for GPUs that are not there a great deal more: what a change should make less."""
    seats: list[list[list[str]]] = field(default_factory=list)
    """[nodes][GPUs] who is there; empty without GPUs, and for a run that does not fit."""


def judge(config: Config, found: Estimate, hardware: Hardware) -> Verdict:
    """Of the run whose memory `found` is."""
    if found.device == "cpu":
        problems = tuple(_cpu_problems(config, found))
        return Verdict(problems, found.learner.peak[1] / GIB if problems else 0.0)
    lacks = dict(_gpu_problems(found, hardware.gib))
    heads, parallel = found.shape.num_heads, config.rollout.tensor_parallel_size
    if heads % parallel:
        lacks[f"{parallel} GPUs of an engine cannot share {heads} heads of attention"] = NO_GPU
    lacking, seats = sum(lacks.values()), list[list[list[str]]]()
    nodes, gpus = hardware.nodes, hardware.gpus_per_node
    try:
        placement = choose_placement(config, nodes * gpus)
        if not lacks:  # or it is of no use where everybody sits
            seats = seating(placement, wanted_gpus(config), guests(config), nodes, gpus)
    except ConfigError as error:
        more = max(1.0, found.gpus - nodes * gpus)
        return Verdict((*lacks, _in_a_line(error)), lacking + NO_GPU * more)
    return Verdict(tuple(lacks), lacking, seats)


def guests(config: Config) -> dict[str, float]:
    """GPUs of each reward worker, by name."""
    return {
        f"reward {name}" + (f" {number}" if domain.reward.num_workers > 1 else ""): float(
            domain.reward.num_gpus
        )
        for name, domain in config.domains.items()
        for number in range(domain.reward.num_workers)
    }


def _gpu_problems(found: Estimate, gib: float) -> Iterator[tuple[str, float]]:
    """(what does not fit, GiB that it is too much)."""
    phase, peak = found.learner.peak
    turns = found.turns or {f"a learner rank ({phase})": peak}
    for what, size in turns.items():
        if size > gib * GIB:
            yield f"{what} takes {size / GIB:.1f} GiB of a GPU's {gib:.1f}", size / GIB - gib
    if found.engine is not None and not found.cached_sequences:
        lacking = 1.0 - min(0, found.engine.held["KV cache"]) / GIB
        yield "an engine's weights leave no room in its cache for a whole sequence", lacking


def _cpu_problems(config: Config, found: Estimate) -> Iterator[str]:
    others = [demand for demand in demands(config, "cpu") if demand.key != "learner.world_size"]
    ranks = config.learner.world_size
    own = Demand(
        "learner ranks", "learner.world_size", ranks, LEARNER_GIB + found.learner.peak[1] / GIB
    )
    try:
        check_demand(
            [*others, own],
            cores=usable_cores(),
            memory_gib=machine_memory_gib(),
            other_gib=config.cluster.object_store_gib,
        )
    except ConfigError as error:
        yield _in_a_line(error)


def _in_a_line(error: ConfigError) -> str:
    """The problem, and what was found."""
    problem = error.problem.rstrip(".")
    return f"{problem[:1].lower()}{problem[1:]} ({error.reason})"


def changes(config: Config, device: str) -> list[Change]:
    """What can be tried, the least first."""
    learner, rollout, ranks = config.learner, config.rollout, config.learner.world_size
    tries: list[Change] = []
    longest = config.data.max_prompt_tokens + max(config.response_limits.values())
    tries += [{"learner.zero_stage": stage} for stage in range(learner.zero_stage + 1, 4)]
    if learner.tokens_per_micro_batch is None:
        size = learner.micro_batch_size
        while size > 1:
            size //= 2
            tries.append({"learner.micro_batch_size": size})
    elif learner.tokens_per_micro_batch > longest:
        tries.append({"learner.tokens_per_micro_batch": longest})
    if not learner.gradient_checkpointing:
        tries.append({"learner.gradient_checkpointing": True})
    if device == "cuda":
        use = rollout.gpu_memory_utilization
        tries += [
            {"rollout.gpu_memory_utilization": round(use + step, 2)}
            for step in (-0.1, -0.2, -0.3, -0.4, 0.1, 0.2, 0.3)
            if 0.1 <= use + step <= 0.95
        ]
        tries += [{"placement": "colocated", "rollout.staleness": 0}]
        if not learner.offload_reference and config.regularised:
            tries.append({"learner.offload_reference": True})
        tries.append({"learner.offload_during_rollout": True})
    if learner.dtype == "float32" and device == "cuda":
        tries.append({"learner.dtype": "bfloat16", "rollout.dtype": "bfloat16"})
    if config.surgery.buffer_dtype == "float32":
        tries.append({"surgery.buffer_dtype": "bfloat16"})
    if device == "cuda":
        tries += [
            {"rollout.tensor_parallel_size": n}
            for n in (2, 4, 8)
            if n > rollout.tensor_parallel_size
        ]
    stage = max(3 if device == "cuda" else 2, learner.zero_stage)
    while device == "cuda" and (ranks := 2 * ranks) <= MOST_RANKS:
        tries.append({"learner.world_size": ranks, "learner.zero_stage": stage})
    if device == "cuda" and not learner.offload_optimizer:
        tries.append({"learner.offload_optimizer": True})
    if not config.policy.lora.rank:
        tries.append({"policy.lora.rank": ADAPTERS})
    fewer = max(1, rollout.num_workers // 2)
    if config.rollout.assignment == "shared" and fewer < rollout.num_workers:
        tries.append({"rollout.num_workers": fewer})
    return tries


def remedy(config: Config, found: Estimate, hardware: Hardware) -> Change | None:
    """The first change, or else a few of them together, with which the run fits; None if none does.

    Args:
        found: of the run as it is.
    """
    tries = changes(config, found.device)
    if found.device == "cuda" and hardware.given and found.gpus > hardware.num_gpus:
        fewer: Change = {}
        for word in use_all(config, hardware.num_gpus):
            key, number = word.split("=")
            fewer[key] = int(number)
        tries[:0] = [fewer] if fewer else []
    shapes = {config.policy.lora.rank: found.shape}

    def lacks(change: Change) -> float:
        return _lacking(config, change, hardware, shapes)

    for change in tries:
        if not lacks(change):
            return change
    together, lacking = dict[str, Any](), lacks({})
    while lacking:  # what helps most, again and again
        steps = [(lacks(together | change), change) for change in tries]
        least, change = min(steps, key=lambda step: step[0])
        if least >= lacking:
            return None
        together, lacking = together | change, least
    for key in list(together):
        fewer = {k: v for k, v in together.items() if k != key}
        if fewer and not lacks(fewer):
            together = fewer
    return together


def changed(config: Config, change: Change) -> Config:
    """A copy with other values.

    Raises:
        ConfigError: such a run cannot be.
    """
    other = copy.deepcopy(config)
    for key, value in change.items():
        *groups, name = key.split(".")
        place: Any = other
        for group in groups:
            place = getattr(place, group)
        setattr(place, name, value)
    check_config(other)
    return other


def _lacking(
    config: Config, change: Change, hardware: Hardware, shapes: dict[int, ModelShape]
) -> float:
    """What the changed run lacks; infinite where it cannot be. `shapes` by rank of adapters."""
    try:
        other = changed(config, change)
        rank = other.policy.lora.rank
        planned = estimate(other, hardware.num_gpus, hardware.gib, shapes.get(rank))
        shapes[rank] = planned.shape
        return judge(other, planned, machines_for(planned, hardware)).lacking
    except UserError:
        return math.inf


def machines_for(found: Estimate, hardware: Hardware) -> Hardware:
    """`hardware`, or as many machines like it as the run asks for."""
    if hardware.given or found.device == "cpu":
        return hardware
    most = hardware.gpus_per_node
    gpus = max(1, round(found.gpus + 0.49))
    return replace(hardware, nodes=-(-gpus // most), gpus_per_node=min(gpus, most))
