"""What a run would take and do, from its configuration alone: nothing is started or loaded.

Left out: the machine's own processes and Ray's object store (`machine.py` checks them), reward
models on GPUs, the memory of an engine of one's own.
"""

from dataclasses import dataclass, replace

from mgsrl.cluster.memory import (
    CONTEXT,
    ENGINE_ASLEEP,
    GIB,
    Load,
    Memory,
    engine_memory,
    learner_memory,
    resting_bytes,
)
from mgsrl.cluster.placement import share_beside
from mgsrl.cluster.preflight import choose_device
from mgsrl.config import Config
from mgsrl.config.model_path import POCKET_POLICY, resolve_model_path
from mgsrl.config.model_shape import ModelShape, model_shape
from mgsrl.errors import ConfigError, MissingPathError
from mgsrl.learner.checkpoint import BYTES_PER_PARAMETER
from mgsrl.learner.policy import packs_rows, sharing_note
from mgsrl.rollout.actor import gpus_per_worker
from mgsrl.training.places import rollout_workers, wanted_gpus
from mgsrl.training.plan import schedule_of

GPU_GIB = 79.0
"""What an "80 GB" GPU shows."""


@dataclass(frozen=True)
class Place:
    """Equal processes of a run."""

    what: str
    count: int
    gpus_each: float
    key: str
    """The configuration key that says how many."""


@dataclass(frozen=True)
class Estimate:
    device: str
    """`cpu` or `cuda`, where learners and engines compute."""
    shape: ModelShape
    sharing: str | None
    """Why every response is computed with its prompt, in words."""
    places: tuple[Place, ...]
    batch: dict[str, int]
    """The largest step: sizes by what they are of. Under a curriculum that adapts the configured
    shares', and the most prompts that it may take of a domain."""
    learner: Memory
    """Of one rank."""
    engine: Memory | None
    """Of one GPU of an engine; None without GPUs or for another engine than vLLM."""
    cached_sequences: int
    """Longest sequences that an engine's cache holds at once."""
    turns: dict[str, int] | None = None
    """By whose turn it is, bytes of a GPU that a learner rank and an engine share; None where they
    do not share any."""

    @property
    def gpus(self) -> float:
        rewards = sum(place.count * place.gpus_each for place in self.places[2:])
        inside = self.turns is not None and share_beside(rewards, self.places[0].count)
        guests = rewards if inside else 0.0
        return sum(place.count * place.gpus_each for place in self.places) - guests


def estimate(
    config: Config, num_gpus: int, gpu_gib: float = GPU_GIB, shape: ModelShape | None = None
) -> Estimate:
    """Of the run with this configuration on GPUs of `gpu_gib` each.

    Args:
        num_gpus: that there are, for `learner.device=auto` and `placement=auto`; 0 for as many as
            it wants.
        shape: of the policy, where it is known already.

    Raises:
        MissingPathError: the policy is not there, or its shape is not known.
        ConfigError: responses should share their prompt, and cannot with this model.
    """
    device = choose_device(config.learner.device, num_gpus)
    path = resolve_model_path(config.policy.path, "policy.path", POCKET_POLICY)
    if shape is None:
        code = config.policy.trust_remote_code
        shape = model_shape(path, config.policy.lora, trust_remote_code=code)
    packs_rows(config.learner.share_prompts, shape.not_packed, config.policy.path)
    batch = _batch(config)
    engine, sequences = None, 0
    if device == "cuda" and config.rollout.engine == "vllm":
        engine, sequences = engine_memory(
            shape, config.rollout, round(gpu_gib * GIB), batch["tokens of the longest sequence"]
        )
    learner = learner_memory(shape, config.learner, config.surgery, _load(config, batch, device))
    if config.checkpoint.background:
        copy = BYTES_PER_PARAMETER * shape.trained // config.learner.world_size
        learner = replace(learner, host={**learner.host, "a checkpoint's copy": copy})
    shares = config.placement == "colocated" or (
        config.placement == "auto" and 0 < num_gpus < wanted_gpus(config).disjoint
    )
    turns = None
    if device == "cuda" and shares:
        rest = resting_bytes(learner, offload=config.learner.offload_during_rollout)
        turns = {
            "the learner's turn": learner.peak[1] + ENGINE_ASLEEP,
            # vLLM measures after its context is there: it is no part of the utilization.
            "the engine's turn": rest
            + CONTEXT
            + int(config.rollout.gpu_memory_utilization * gpu_gib * GIB),
        }
    return Estimate(
        device=device,
        shape=shape,
        sharing=sharing_note(config.learner.share_prompts, shape.not_packed),
        places=_places(config, device, shares),
        batch=batch,
        learner=learner,
        engine=engine,
        cached_sequences=sequences,
        turns=turns,
    )


def check_sharing(config: Config, gpu_gib: float, share: float = 1.0) -> None:
    """Raise `ConfigError` when `share` of a GPU of `gpu_gib` cannot hold a learner rank and an
    engine by turns. Says nothing about a policy whose shape is not known."""
    try:
        found = estimate(replace(config, placement="colocated"), 1, gpu_gib)
    except MissingPathError:  # told where the policy is looked for
        return
    turns, room = found.turns or {}, gpu_gib * share * GIB
    too_much = [f"{turn} takes {size / GIB:.1f} GiB" for turn, size in turns.items() if size > room]
    if not too_much and found.engine is not None and not found.cached_sequences:
        too_much = ["the engine's weights leave no room for a sequence of full length"]
    if not too_much:
        return
    rest = resting_bytes(found.learner, offload=config.learner.offload_during_rollout)
    free = max(0.0, (room - rest - CONTEXT) / (gpu_gib * GIB))
    raise ConfigError(
        "A learner rank and an engine do not fit on one GPU, even by turns.",
        expected=f"at most {room / GIB:.1f} GiB in each turn",
        found=", ".join(too_much),
        todo=f"the learner's turn: learner.zero_stage=3 on more ranks, policy.lora.rank, "
        "surgery.buffer_dtype=bfloat16, learner.micro_batch_size=1; the engine's: "
        f"rollout.gpu_memory_utilization={free:.2f} at most, "
        "learner.offload_during_rollout=true (`mgsrl plan` shows what takes how much)",
    )


def _load(config: Config, batch: dict[str, int], device: str) -> Load:
    surgery = config.surgery
    return Load(
        num_domains=batch["domains"],
        reference=config.regularised,
        teachers=len({algo.teacher for algo in config.algos.values() if algo.teacher}),
        tokens=batch["tokens of a micro-batch"],
        entropy=any(algo.entropy_coef > 0 for algo in config.algos.values()),
        measures=surgery.ever_measures,
        probes=surgery.step_probe.every > 0,
        cuda=device == "cuda",
    )


def _batch(config: Config) -> dict[str, int]:
    learner, samples = config.learner, config.algo.samples_per_prompt
    limits = config.response_limits
    longest = config.data.max_prompt_tokens + max(limits.values())
    budget = learner.tokens_per_micro_batch
    size = learner.micro_batch_size if budget is None else budget // longest
    # A domain's sequences, all of them long, are dealt in runs of a micro-batch for every rank.
    run = size * learner.world_size
    schedule = schedule_of(config)
    steps = schedule.by_step
    most = max(steps, key=lambda quotas: sum(quotas.values()))
    bounds = schedule.largest() if schedule.shares else {}
    return {
        "domains": max(map(len, steps)),
        **{f"prompts of {name}": count for name, count in most.items()},
        **{f"prompts of {name} at most": count for name, count in bounds.items()},
        "prompts": sum(most.values()),
        "responses": samples * sum(most.values()),
        "response tokens": samples * sum(count * limits[name] for name, count in most.items()),
        "micro-batches of a rank": sum(-(-count * samples // run) for count in most.values()),
        "tokens of a micro-batch": budget or size * longest,
        "tokens of the longest sequence": longest,
        "updates": config.algo.updates_per_batch,
    }


def _places(config: Config, device: str, shares: bool) -> tuple[Place, ...]:
    gpu = device == "cuda"
    shared = config.rollout.assignment == "shared"
    rewards = [
        Place(
            f"reward workers ({name}: {domain.reward.kind})",
            domain.reward.num_workers,
            domain.reward.num_gpus,
            f"domains.{name}.reward.num_workers",
        )
        for name, domain in config.domains.items()
    ]
    return (
        Place("learner ranks", config.learner.world_size, float(gpu), "learner.world_size"),
        Place(
            f"rollout engines ({config.rollout.engine}"
            + (", on the learners' GPUs)" if gpu and shares else ")"),
            rollout_workers(config),
            gpus_per_worker(config.rollout) if gpu and not shares else 0.0,
            "rollout.num_workers" if shared else "domains.NAME.num_workers",
        ),
        *rewards,
    )
