"""Whether a run fits the machine: what its actors take, before one starts or anything is loaded.

Left out: the memory of GPUs that nobody shares, which `mgsrl plan` tells.
"""

from pathlib import Path

import torch

from mgsrl.cluster.demand import (
    LEARNER_GIB,
    REWARD_MODEL_GIB,
    VERIFIER_GIB,
    Demand,
    check_demand,
    check_threads,
)
from mgsrl.cluster.preflight import (
    choose_device,
    gpu_memories,
    machine_memory_gib,
    usable_cores,
)
from mgsrl.cluster.session import check_address, check_no_session, check_temp_dir
from mgsrl.config import Config
from mgsrl.config.model_path import POCKET_POLICY, POCKET_REWARD_MODEL, resolve_model_path
from mgsrl.errors import ConfigError, MissingPathError
from mgsrl.rewards.factory import rewards_of
from mgsrl.rollout.actor import check_tensor_parallel
from mgsrl.rollout.engine import rollout_engine
from mgsrl.training.estimate import check_sharing
from mgsrl.training.places import choose_placement, obstacle_to_sharing, rollout_workers

GIB = 2**30


def check_fits(config: Config) -> int | None:
    """Check the run against this machine; against a cluster, only that one answers.

    Returns:
        The GPUs that a Ray on this machine should hand out; None for a cluster, which knows.

    Raises:
        ConfigError: more processes, memory or GPUs than there are, no place for Ray's files, a Ray
            session that this process has already, or a cluster that does not answer.
    """
    if config.cluster.address != "local":
        check_address(config.cluster.address)
        obstacle = obstacle_to_sharing(config, "cuda")
        if config.placement == "colocated" and obstacle is not None:
            raise obstacle
        return None
    check_no_session()
    check_temp_dir()
    gpus = _local_gpus(config)
    placement = choose_placement(config, gpus)
    device = choose_device(config.learner.device, gpus)
    if placement.colocated and device == "cuda":
        check_sharing(config, min(gib for _, gib in gpu_memories()), placement.share)
    check_tensor_parallel(config.rollout, device)
    cores, memory = usable_cores(), machine_memory_gib()
    check_threads("learner.threads_per_rank", config.learner.threads_per_rank, cores)
    rollout_engine(config.rollout.engine).check_memory(config.rollout, device, memory)
    check_demand(
        demands(config, device),
        cores=cores,
        memory_gib=memory,
        other_gib=config.cluster.object_store_gib,
    )
    return gpus


def demands(config: Config, device: str) -> list[Demand]:
    """The processes of a run; memory is the machine's, GPUs have their own."""
    weights = weights_gib(config.policy.path, POCKET_POLICY) if device == "cpu" else 0.0
    engine = rollout_engine(config.rollout.engine).memory_gib
    shared = config.rollout.assignment == "shared"
    ranks = config.learner.world_size
    # Weights and gradients on every rank; AdamW's moments and a gradient per domain over all.
    learner = weights * (2 + (2 + len(config.domains)) / ranks)
    if config.policy.lora.rank:
        learner = weights
    found = [
        Demand(
            "rollout workers",
            "rollout.num_workers" if shared else "domains.NAME.num_workers",
            rollout_workers(config),
            engine + weights,
        ),
        Demand("learner ranks", "learner.world_size", ranks, LEARNER_GIB + learner),
    ]
    for name, domain in config.domains.items():
        reward, own = domain.reward, VERIFIER_GIB
        paths = [each.model_path for each in rewards_of(reward)]
        if any(paths) and not reward.num_gpus:
            own = REWARD_MODEL_GIB
            own += sum(weights_gib(path, POCKET_REWARD_MODEL) for path in paths if path)
        key = f"domains.{name}.reward.num_workers"
        found.append(Demand(f"reward workers ({name})", key, reward.num_workers, own))
    return found


def weights_gib(path: str, pocket: str) -> float:
    """GiB of a model's weight files; 0 where they are not on this machine (yet)."""
    try:
        folder = Path(resolve_model_path(path, "policy.path", pocket))
    except MissingPathError:  # told where the model is looked for
        return 0.0
    return sum(file.stat().st_size for file in folder.glob("*.safetensors")) / GIB


def _local_gpus(config: Config) -> int:
    """GPUs that a Ray on this machine should hand out: none when nothing would use them."""
    wanted = config.learner.device != "cpu" or any(
        domain.reward.num_gpus > 0 for domain in config.domains.values()
    )
    limit = config.cluster.num_gpus
    if limit is None:
        return torch.cuda.device_count() if wanted else 0
    found = torch.cuda.device_count()
    if limit > found:
        raise ConfigError(
            "cluster.num_gpus is more than the machine has.",
            expected=f"at most {found}",
            found=str(limit),
            todo="set cluster.num_gpus=null to use all that there are",
        )
    return limit if wanted else 0
