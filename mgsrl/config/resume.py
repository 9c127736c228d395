"""What may change between a run and its continuation, and what would make it another run.

Keys are compared from their beginning; `*` stands for one name (a domain's, a source's).
"""

import re
from collections.abc import Callable, Iterable

from mgsrl.config.compose import differences
from mgsrl.config.root import Config

# What may change between a run and its continuation without changing the numbers.
FREE_KEYS = (
    "resume",
    "run.",
    "strategy.name",
    "trackers.",
    "checkpoint.",
    "cluster.",
    "evaluate.every",
    "evaluate.forgetting_alarm",
    "train.num_steps",
    "train.max_skipped_steps",
    "max_abstained_share",
    "surgery.alarm_",
    "learner.time_limit_s",
    "learner.assert_purity",
    "rollout.time_limit_s",
    "rollout.start_limit_s",
    "rollout.max_restarts",
    "rollout.restart_window",
    "domains.*.reward.num_workers",
    "domains.*.reward.num_gpus",
    "domains.*.reward.start_limit_s",
    "domains.*.reward.call_limit_s",
    "domains.*.reward.max_restarts",
    "domains.*.reward.restart_window",
    # Where a server is and how patiently it is asked; what it is (`model`) is not free.
    *(
        f"domains.*.reward.{extra}{name}"
        for extra in ("", "extra.*.")
        for name in ("url", "api_key_env", "concurrency", "max_retries", "request_limit_s")
    ),
)

# The layout of ranks and workers: the update does not depend on it (up to rounding).
LAYOUT_KEYS = (
    "placement",
    "learner.world_size",
    "learner.zero_stage",
    "learner.micro_batch_size",
    "learner.tokens_per_micro_batch",
    "learner.threads_per_rank",
    "learner.gradient_checkpointing",
    "learner.offload_optimizer",
    "learner.offload_during_rollout",
    "surgery.buffer_device",
    "surgery.reliability.every",
    "rollout.num_workers",
    "rollout.assignment",
    "rollout.num_gpus",
    "rollout.tensor_parallel_size",
    "rollout.gpu_memory_utilization",
    "rollout.kv_cache_gib",
    "rollout.max_prompts_in_flight",
    "rollout.enforce_eager",
    "domains.*.num_workers",
)

# How many prompts of what: the run goes on, with other batches than it would have had.
MIXTURE_KEYS = (
    "algo.prompts_per_domain",
    "data.prompts_per_step",
    "data.mixing_temperature",
    "data.curriculum",
    "domains.*.prompts_per_step",
    "domains.*.weight",
    "domains.*.schedule",
    "domains.*.source.weight",
    "domains.*.extra_sources.*.weight",
)


def resume_obstacles(old: Config, new: Config, note: Callable[[str], None]) -> list[str]:
    """What forbids going on with `old`'s checkpoint under `new`.

    The length of a run may change unless the schedule depends on it. The layout of ranks and
    workers may change, which is noted because equality then holds up to rounding only. Domains
    and sources may be weighted anew, added and removed, which is noted because the batches change.
    """
    moves = _domain_moves(old, new)
    free = FREE_KEYS if old.policy.date else (*FREE_KEYS, "policy.date")  # not recorded then
    lines = _outside(differences(old, new), free)
    # Their own keys say nothing more than that they came or went.
    lines = _outside(lines, [f"domains.{name}." for name in moves])
    moved, lines = _parted(lines, LAYOUT_KEYS)
    mixed, changed = _parted(lines, _mixture_keys(new))
    changed += _schedule_obstacles(old, new)
    if not changed:
        if moved:
            note(f"resuming on another layout, equal up to rounding: {'; '.join(moved)}")
        if mixed or moves:
            note(f"resuming with another mixture: {'; '.join([*moves.values(), *mixed])}")
    return changed


def _schedule_obstacles(old: Config, new: Config) -> list[str]:
    """Changes that would have made earlier steps other ones."""
    found = []
    lengths = old.train.num_steps, new.train.num_steps
    open_phases = [phase for phase in new.strategy.phases if not phase.steps]
    several = len(new.strategy.phases) > 1 if new.strategy.phases else new.strategy.sequential
    decays = new.learner.optimizer.schedule != "constant"
    if lengths[0] != lengths[1] and (
        decays or (several and (open_phases or new.strategy.sequential))
    ):
        found.append(f"train.num_steps: {lengths[0]} -> {lengths[1]} (the schedule depends on it)")
    if new.strategy.sequential and not new.strategy.phases:
        orders = [config.strategy.domain_order or list(config.domains) for config in (old, new)]
        if orders[0] != orders[1]:
            found.append(
                f"domains: {orders[0]} -> {orders[1]} (strategy.sequential: one phase each)"
            )
    return found


def _domain_moves(old: Config, new: Config) -> dict[str, str]:
    """Domains and extra sources that only one of the two has: key below `domains.` -> in words."""
    had, have = _parts(old), _parts(new)
    added = {key: f"{key} added" for key in have if key not in had}
    return added | {key: f"{key} removed" for key in had if key not in have}


def _parts(config: Config) -> list[str]:
    extra = [
        f"{name}.extra_sources.{key}"
        for name, domain in config.domains.items()
        for key in domain.extra_sources
    ]
    return [*config.domains, *extra]


def _mixture_keys(new: Config) -> tuple[str, ...]:
    # The domains that take part; elsewhere their order makes the phases.
    together = not new.strategy.sequential and not new.strategy.phases
    return (*MIXTURE_KEYS, "strategy.domain_order") if together else MIXTURE_KEYS


def _parted(lines: Iterable[str], keys: Iterable[str]) -> tuple[list[str], list[str]]:
    """The lines whose key matches one of `keys`, and the others."""
    names = "|".join(re.escape(key).replace(r"\*", "[^.]+") for key in keys)
    pattern = re.compile(names) if names else re.compile("(?!)")
    lines = list(lines)
    return (
        [line for line in lines if pattern.match(line)],
        [line for line in lines if not pattern.match(line)],
    )


def _outside(lines: Iterable[str], keys: Iterable[str]) -> list[str]:
    return _parted(lines, keys)[1]
