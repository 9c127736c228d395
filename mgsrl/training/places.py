"""Which actors of a run want GPUs, and which of them share one: what can be said without Ray."""

import math
from collections.abc import Sequence
from dataclasses import replace

from mgsrl.cluster.placement import Placement, Wanted, decide
from mgsrl.cluster.preflight import check_resources, choose_device
from mgsrl.config import Config, RolloutConfig
from mgsrl.errors import ConfigError
from mgsrl.rollout.actor import gpus_per_worker, transfer_of
from mgsrl.rollout.engine import rollout_engine, sleep_verbs_missing
from mgsrl.training.checkpoint import Checkpoint


def choose_placement(config: Config, num_gpus: int) -> Placement:
    """Who shares a GPU with whom when there are `num_gpus`.

    Raises:
        ConfigError: they are not enough, or the run cannot be placed as it is asked for.
    """
    device = choose_device(config.learner.device, num_gpus)
    wanted = wanted_gpus(config)
    obstacle = obstacle_to_sharing(config, device)
    placement = decide(config.placement, wanted, num_gpus, device, obstacle)
    if not placement.colocated or device == "cpu":
        check_resources(
            learner_gpus=wanted.ranks,
            rollout_gpus=wanted.engines * wanted.engine_gpus,
            reward_gpus=wanted.rewards,
            available_gpus=num_gpus,
            device=config.learner.device,
        )
    if config.rollout.num_gpus and device == "cpu":
        raise ConfigError(
            "rollout.num_gpus asks for GPUs where the run computes on the CPU.",
            expected="0 or null without GPUs and with learner.device=cpu",
            found=f"rollout.num_gpus={config.rollout.num_gpus:g}, "
            f"learner.device={config.learner.device}, {num_gpus} GPUs to use",
            todo="set rollout.num_gpus=null (the default), or run where there are GPUs",
        )
    return placement


def wanted_gpus(config: Config) -> Wanted:
    """GPUs that the run's actors want."""
    rewards = [domain.reward for domain in config.domains.values()]
    return Wanted(
        ranks=config.learner.world_size,
        engines=rollout_workers(config),
        engine_gpus=gpus_per_worker(config.rollout),
        tensor_parallel=config.rollout.tensor_parallel_size,
        rewards=sum(reward.num_gpus * reward.num_workers for reward in rewards),
    )


def use_all(config: Config, num_gpus: int, given: Sequence[str] = ()) -> list[str]:
    """Overrides with which the run uses all of `num_gpus`: reward models keep theirs, the rest goes
    to learner ranks and engines in equal parts.

    Args:
        given: overrides whose numbers stay; where they leave nothing to choose, so does this.

    Returns:
        Nothing where all are used already, or there are too few to share out.
    """
    wanted, given = wanted_gpus(config), [text.partition("=")[0] for text in given]
    each, keys = wanted.engine_gpus, ("learner.world_size", "rollout.num_workers")
    fixed = [key in given for key in keys]
    fixed[1] = fixed[1] or config.rollout.assignment == "dedicated"
    free = num_gpus - math.ceil(wanted.rewards)
    if all(fixed) or config.learner.device == "cpu" or each < 1 or each % 1:
        return []
    colocated = config.placement == "colocated"
    if not colocated and math.ceil(wanted.disjoint) == num_gpus:
        return []
    if colocated:
        ranks = wanted.ranks if fixed[0] else free
        engines = wanted.engines if fixed[1] else int(ranks // each)
    else:
        engines = int((free - wanted.ranks if fixed[0] else free / 2) // each)
        engines = wanted.engines if fixed[1] else engines
        ranks = wanted.ranks if fixed[0] else int(free - engines * each)
    if ranks < 1 or engines < 1:
        return []
    pairs = zip(keys, (ranks, engines), (wanted.ranks, wanted.engines), strict=True)
    return [f"{key}={new}" for key, new, old in pairs if new != old]


def obstacle_to_sharing(config: Config, device: str) -> ConfigError | None:
    """Why engines and learners of this run cannot share GPUs, however many there are."""
    rollout, wanted = config.rollout, wanted_gpus(config)
    missing = sleep_verbs_missing(rollout_engine(rollout.engine))
    if missing:
        return ConfigError(
            "An engine that shares its GPU has to sleep while the learners work.",
            expected="an engine with `sleep` and `wake_up` (see mgsrl.rollout.engine.Engine)",
            found=f"rollout.engine={rollout.engine} without {' and '.join(missing)}",
            todo="add them, take rollout.engine=vllm, or set placement=disjoint",
        )
    if rollout.staleness:
        return ConfigError(
            "Rollouts ahead of the learners need GPUs of their own: shared ones are used by turns.",
            expected="rollout.staleness=0 with placement=colocated",
            found=f"rollout.staleness={rollout.staleness}",
            todo="set rollout.staleness=0, or placement=disjoint with a GPU for everybody",
        )
    slots = wanted.engines * wanted.tensor_parallel
    if slots > wanted.ranks:
        return ConfigError(
            "There are more engines than learner ranks whose GPUs they could share.",
            expected=f"at most learner.world_size={wanted.ranks} GPUs for engines",
            found=f"{wanted.engines} engines of {wanted.tensor_parallel} GPUs",
            todo="lower rollout.num_workers or rollout.tensor_parallel_size, or raise "
            "learner.world_size",
        )
    if slots < wanted.ranks and rollout.sync.transfer == "ipc":
        return ConfigError(
            "CUDA IPC is for as many engines as learner ranks: what a rank exports and no engine "
            "opens stays in its GPU's memory.",
            expected=f"{wanted.ranks} GPUs for engines, or rollout.sync.transfer=auto",
            found=f"{wanted.engines} engines of {wanted.tensor_parallel} GPUs, "
            f"rollout.sync.transfer=ipc, learner.world_size={wanted.ranks}",
            todo="set rollout.sync.transfer=auto (Ray's object store), or raise "
            "rollout.num_workers",
        )
    if rollout.num_gpus is not None:
        return ConfigError(
            "rollout.num_gpus is of an engine with GPUs of its own.",
            expected="rollout.num_gpus=null with placement=colocated",
            found=f"rollout.num_gpus={rollout.num_gpus:g}",
            todo="set rollout.num_gpus=null: engines share the learners' GPUs",
        )
    try:
        transfer_of(rollout, device, colocated=True)
    except ConfigError as error:
        return error
    return None


def placed_rollout(config: Config, device: str, *, colocated: bool) -> RolloutConfig:
    """`rollout`, where `sync.transfer=auto` is the object store if some learner rank has no engine
    on its GPU: what it exports by CUDA IPC is freed only after an engine has opened it.

    Args:
        device: `cpu` or `cuda`, where learners and engines compute.
        colocated: engines share the learners' GPUs.
    """
    rollout, wanted = config.rollout, wanted_gpus(config)
    alone = wanted.engines * wanted.tensor_parallel < wanted.ranks
    if not (colocated and device == "cuda" and alone and rollout.sync.transfer == "auto"):
        return rollout
    return replace(rollout, sync=replace(rollout.sync, transfer="object_store"))


def rollout_workers(config: Config) -> int:
    """Rollout actors of all domains together."""
    if config.rollout.assignment == "shared":
        return config.rollout.num_workers
    return sum(domain.num_workers for domain in config.domains.values())


def same_device(wanted: str, num_gpus: int, checkpoint: Checkpoint | None) -> str:
    """Where the run computes, which `auto` does not change under way: to whom lost a GPU, days on a
    CPU are no going on.

    Raises:
        ConfigError: `auto` finds another device than the checkpoint was written with.
    """
    device = choose_device(wanted, num_gpus)
    before = checkpoint.state.get("device", device) if checkpoint else device
    if wanted == "auto" and device != before:
        raise ConfigError(
            f"The run computed on {before}, and would go on on {device}.",
            expected=f"learner.device=auto to find {before} again",
            found=f"{num_gpus} GPUs",
            todo=f"see to the GPUs, or say learner.device={device} if it is meant",
        )
    return device
