"""Whether a run can start on the cluster that was joined: before its actors do, and in seconds.

Left out: whether each actor finds a machine with room for it: Ray shares out the machines' memory
itself, and GPUs are reserved by `cluster/placement.py`, which waits for a bounded time.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from mgsrl.cluster.demand import check_demand
from mgsrl.cluster.nodes import Cluster, Needs, look_at_cluster
from mgsrl.cluster.placement import Placement
from mgsrl.cluster.preflight import checks_table, choose_device
from mgsrl.config import Config
from mgsrl.config.data import SourceConfig
from mgsrl.config.model_path import POCKET_POLICY, POCKET_REWARD_MODEL, resolve_model_path
from mgsrl.errors import ConfigError, WorkerDiedError
from mgsrl.plugins import plugin_files
from mgsrl.rewards.factory import rewards_of
from mgsrl.training.machine import demands
from mgsrl.training.places import choose_placement, wanted_gpus

if TYPE_CHECKING:
    from rich.table import Table


def check_cluster(
    config: Config,
    show: Callable[["Table"], None],
    note: Callable[[str], None],
    *,
    all_: bool = False,
) -> None:
    """Look at every machine of the cluster and refuse what cannot run there.

    Args:
        show: prints the table, which is shown where a check fails.
        note: prints one line.
        all_: show the table in any case.

    Raises:
        ConfigError: a machine is not as the run needs it, or the run asks for more than all have.
        WorkerDiedError: a machine was lost meanwhile.
    """
    import ray

    num_gpus = int(ray.cluster_resources().get("GPU", 0))
    device = choose_device(config.learner.device, num_gpus)
    seen = look_at_cluster(needs(config, choose_placement(config, num_gpus), device))
    if seen.lost:
        raise WorkerDiedError(
            "a machine was lost while the cluster was looked at: "
            + "; ".join(f"{name}: {why}" for name, why in seen.lost.items())
        )
    if all_ or seen.failed:
        show(checks_table(seen.checks))
    if seen.failed:
        raise ConfigError(
            "The cluster is not ready for this run.",
            expected="machines that are alike and reach the same files and each other",
            found=f"{len(seen.failed)} of {len(seen.checks)} checks fail: "
            + ", ".join(check.name for check in seen.failed),
            todo="what the table says beside each; `mgsrl doctor` with the same overrides looks "
            "again without a run",
        )
    check_demand(
        demands(config, device),
        cores=seen.cores,
        memory_gib=seen.memory_gib,
        machines=seen.machines,
    )
    if not all_:
        for check in seen.checks:
            if check.status == "warn":
                note(f"{check.name}: {check.found} ({check.todo})")
    note(summary(seen))


def summary(seen: Cluster) -> str:
    """One line."""
    return (
        f"cluster: {seen.machines} machine{'s' if seen.machines > 1 else ''}, {seen.cores} cores, "
        f"{seen.memory_gib:.0f} GiB; "
        f"{len(seen.checks)} checks in {seen.seconds:.1f} s"
    )


def needs(config: Config, placement: Placement, device: str) -> Needs:
    """What the run expects of every machine."""
    models = {"policy.path": (config.policy.path, POCKET_POLICY)}
    for name, domain in config.domains.items():
        for reward in rewards_of(domain.reward, f"domains.{name}.reward"):
            if reward.model_path:
                models[reward.key] = (reward.model_path, POCKET_REWARD_MODEL)
    found = {key: resolve_model_path(path, key, pocket) for key, (path, pocket) in models.items()}
    files = {f"plug-in {name}": facts["file"] for name, facts in plugin_files().items()}
    return Needs(
        run_folder=Path(config.run.dir).expanduser().resolve(),
        gpus=_gpus(config, placement, device),
        everywhere={key: path for key, path in found.items() if os.path.isabs(path)} | files,
        of_driver=_data(config),
        hub={key: path for key, path in found.items() if not os.path.isabs(path)},
    )


def _gpus(config: Config, placement: Placement, device: str) -> float:
    wanted = wanted_gpus(config)
    if device == "cpu":
        return wanted.rewards
    if not placement.colocated:
        return wanted.disjoint
    return wanted.ranks + (wanted.rewards if placement.share == 1 else 0.0)


def _data(config: Config) -> dict[str, str]:
    """The local files that prompts are read from, by key."""
    sources: dict[str, SourceConfig] = {}
    for name, domain in config.domains.items():
        sources[f"domains.{name}.source"] = domain.source
        if domain.heldout is not None:
            sources[f"domains.{name}.heldout"] = domain.heldout
        for extra, source in domain.extra_sources.items():
            sources[f"domains.{name}.extra_sources.{extra}"] = source
    paths = {
        key: os.path.abspath(
            os.path.expanduser(source.path if source.kind == "file" else source.file)
        )
        for key, source in sources.items()
        if source.kind == "file" or source.file
    }
    return {key: path for key, path in paths.items() if os.path.exists(path)}
