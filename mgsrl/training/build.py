"""Puts a run together: starts the actors, yields the `Run`, and takes them down again.

`launch.py` and `plan.py` beside it are the only others that see the whole configuration.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray

from mgsrl.algo.losses import only_advantages_teach
from mgsrl.cluster.placement import Placement, Seat, place
from mgsrl.config import Config, RolloutConfig
from mgsrl.config.compose import config_from_yaml, config_to_yaml
from mgsrl.config.resume import resume_changes
from mgsrl.config.typed import plain
from mgsrl.data.packing import Packing
from mgsrl.files.backlog import Backlog
from mgsrl.learner.checkpoint import BYTES_PER_PARAMETER
from mgsrl.learner.group import LearnerGroup
from mgsrl.learner.spec import Engines
from mgsrl.obs.console import Console
from mgsrl.obs.run_record import write_run_record
from mgsrl.obs.tracker import TrackedRun
from mgsrl.obs.trackers import make_trackers
from mgsrl.rewards.pool import RewardPool
from mgsrl.rewards.scorer import Scorer
from mgsrl.rewards.shaping import Shaper
from mgsrl.rollout.actor import check_engine, check_tensor_parallel, rollout_pools, transfer_of
from mgsrl.rollout.engine import EngineSpec, rollout_engine
from mgsrl.rollout.sampler import Sampler
from mgsrl.sync.canary import MAX_TOKENS
from mgsrl.training.checkpoint import Checkpoint
from mgsrl.training.choreography import Choreography
from mgsrl.training.evaluation import Evaluation
from mgsrl.training.fingerprint import Models
from mgsrl.training.joined import check_cluster
from mgsrl.training.journal import Journal
from mgsrl.training.places import choose_placement, placed_rollout, same_device, wanted_gpus
from mgsrl.training.plan import Plan
from mgsrl.training.publisher import Publisher
from mgsrl.training.run import Run
from mgsrl.training.saver import Saver
from mgsrl.training.skips import SkipWatch
from mgsrl.types import Sampling


@contextmanager
def build(
    config: Config,
    plan: Plan,
    checkpoint: Checkpoint | None,
    console: Console,
    models: Models,
) -> Iterator[Run]:
    """Start the actors (inside a Ray session), yield the run, stop the actors."""
    device, placement = _placement(config, checkpoint, console)
    rollout = placed_rollout(config, device, colocated=placement.colocated)
    engine = check_engine(rollout, device, colocated=placement.colocated, facts=plan.facts)
    runs: list[Run] = []  # the pools know the run before it is built
    with ExitStack() as stack:
        seats = place(placement, wanted_gpus(config), device, config.rollout.start_limit_s)
        stack.callback(seats.release)
        # All actors load side by side: the pools return at once, the learners when they are up.
        scorer = _scorer(config, plan)
        stack.callback(scorer.stop)
        if placement.share < 1:  # an engine measures what a reward model leaves of its GPU
            with console.stage("waiting for reward workers"):
                scorer.wait_ready()
        sampler = _sampler(
            config,
            plan,
            _engine_spec(replace(config, rollout=rollout), plan, device, placement),
            seats.engines,
            send_weights=lambda handle: runs[0].publisher.republish(handle),
        )
        stack.callback(sampler.stop)
        for pool in (*sampler.distinct_pools, *scorer.reward_pools):
            pool.note = console.note
        turns, engine_facts = _turns(config, placement, sampler, console)
        with console.stage(
            f"starting learners, rollout and reward workers side by side{engine.hint}"
        ):
            learners = LearnerGroup(
                plan.learner,
                loopback=config.cluster.address == "local",
                seats=seats.learners,
                engines=_engines(config.rollout, takes_checkpoints=engine.takes_checkpoints),
            )
        stack.callback(learners.stop)
        turns.admit(learners)
        with console.stage("waiting for rollout workers"):
            engine_facts = engine_facts or sampler.wait_ready()
        with console.stage("waiting for reward workers"):
            scorer.wait_ready()
        publisher = _publisher(config, plan, sampler, learners, turns, console)
        runs.append(_run(config, plan, publisher, scorer, console, checkpoint, models))
        stack.callback(runs[0].saver.close)  # first of all: the learners are writing it
        num_gpus_taken = placement.taken(wanted_gpus(config), device)
        _record(config, plan, publisher, placement, engine_facts, num_gpus_taken)
        yield runs[0]


def _placement(
    config: Config, checkpoint: Checkpoint | None, console: Console
) -> tuple[str, Placement]:
    """Where learners and engines compute (a cluster's GPUs are known only now), and who shares a
    GPU."""
    num_gpus = int(ray.cluster_resources().get("GPU", 0))
    device = same_device(config.learner.device, num_gpus, checkpoint)
    placement = choose_placement(config, num_gpus)
    if config.cluster.address != "local":
        with console.stage("looking at the machines of the cluster"):
            check_cluster(config, console.show, console.note)
    if device == "cuda" or placement.colocated:
        console.note(f"placement: {placement.name} ({placement.why})")
    return device, placement


def _engines(config: RolloutConfig, *, takes_checkpoints: bool) -> Engines:
    return Engines(
        limit_s=config.sync.time_limit_s,
        busy_limit_s=config.time_limit_s,
        ranks_per_worker=config.tensor_parallel_size,
        take_checkpoints=takes_checkpoints,
        dtype=config.dtype,
    )


def _turns(
    config: Config, placement: Placement, sampler: Sampler, console: Console
) -> tuple[Choreography, list[dict[str, Any]]]:
    """With engines that share the learners' GPUs loaded and asleep, and what they said: each
    measures what is free of its GPU, so that no learner may be loading there."""
    if not placement.colocated:
        return Choreography(), []
    engine = rollout_engine(config.rollout.engine)
    turns = Choreography(
        sampler, sleep_level=engine.sleep_level, offload=config.learner.offload_during_rollout
    )
    with console.stage(f"starting rollout workers{engine.hint}, which sleep at first"):
        facts = sampler.wait_ready()
        turns.learn()
    return turns, facts


def _scorer(config: Config, plan: Plan) -> Scorer:
    return Scorer(
        {
            name: RewardPool(
                name, domain.reward, special_tokens=plan.special_tokens, date=config.policy.date
            )
            for name, domain in config.domains.items()
        },
        {
            name: Shaper(domain.reward, plan.sampling[name].max_new_tokens)
            for name, domain in config.domains.items()
        },
        max_abstained_share=config.max_abstained_share,
    )


def _engine_spec(config: Config, plan: Plan, device: str, placement: Placement) -> EngineSpec:
    check_tensor_parallel(config.rollout, device)
    longest_response = max(sampling.max_new_tokens for sampling in plan.sampling.values())
    return EngineSpec(
        config=config.rollout,
        model_path=plan.model_path,
        max_model_len=config.data.max_prompt_tokens + longest_response,
        device=device,
        trust_remote_code=config.policy.trust_remote_code,
        sleeps=placement.colocated,
    )


def _sampler(
    config: Config,
    plan: Plan,
    engine: EngineSpec,
    seats: Sequence[Seat],
    send_weights: Callable[[Any], None],
) -> Sampler:
    workers = {name: domain.num_workers for name, domain in config.domains.items()}
    return Sampler(
        rollout_pools(engine, workers, seats),
        plan.sampling,
        samples_per_prompt=config.algo.samples_per_prompt,
        seed=config.seed,
        limit_s=config.rollout.time_limit_s,
        send_weights=send_weights,
        staleness=config.rollout.staleness,
    )


def _publisher(
    config: Config,
    plan: Plan,
    sampler: Sampler,
    learners: LearnerGroup,
    turns: Choreography,
    console: Console,
) -> Publisher:
    rollout = placed_rollout(config, learners.device, colocated=turns.shared)
    transfer = transfer_of(rollout, learners.device, colocated=turns.shared, facts=plan.facts)
    return Publisher(
        sampler,
        learners,
        replace(config.rollout.sync, transfer=transfer),
        rounds="bfloat16" in (config.learner.dtype, config.rollout.dtype),
        note=console.note,
        max_tokens=min(MAX_TOKENS, (plan.facts.positions or MAX_TOKENS + 1) - 1),
        turns=turns,
    )


def _run(
    config: Config,
    plan: Plan,
    publisher: Publisher,
    scorer: Scorer,
    console: Console,
    checkpoint: Checkpoint | None,
    models: Models,
) -> Run:
    journal = _journal(config, console)
    evaluation = Evaluation(
        config=config.evaluate,
        checkpoints=config.checkpoint,
        prompts=plan.heldout,
        sampling=_evaluation_sampling(config, plan),
        sampler=publisher.sampler,
        scorer=scorer,
        journal=journal,
    )
    return Run(
        folder=journal.folder,
        num_steps=config.train.num_steps,
        schedule=plan.schedule,
        adaptive=plan.adaptive,
        mixture=plan.mixture,
        sampler=publisher.sampler,
        scorer=scorer,
        learners=publisher.learners,
        publisher=publisher,
        evaluation=evaluation,
        journal=journal,
        algos=config.algos,
        updates_per_batch=config.algo.updates_per_batch,
        surgery=config.surgery,
        skips=SkipWatch(console.note, config.train.max_skipped_steps),
        saver=_saver(config, publisher, evaluation, first_checkpoint_bytes(config, models)),
        packing=Packing(
            micro_batch_size=config.learner.micro_batch_size,
            world_size=config.learner.world_size,
            max_response_length=max(s.max_new_tokens for s in plan.sampling.values()),
            temperatures={name: s.temperature for name, s in plan.sampling.items()},
            only_advantages_teach=[n for n, a in config.algos.items() if only_advantages_teach(a)],
            mask_overlong=[name for name, algo in config.algos.items() if algo.mask_overlong],
            distilled=[name for name, algo in config.algos.items() if algo.distils_alone],
            dead_group_weights={
                name: algo.dead_group_weight
                for name, algo in config.algos.items()
                if algo.dead_group_weight < 1
            },
            tokens_per_micro_batch=config.learner.tokens_per_micro_batch,
            share_prompts=plan.packs_rows,
        ),
        console=console,
        checkpoint=checkpoint,
        models=models,
        keeps_ahead=checkpoint is None or not _is_another(config, checkpoint),
        staleness=config.rollout.staleness,
        inflight_updates=config.rollout.inflight_updates,
    )


def _saver(config: Config, publisher: Publisher, evaluation: Evaluation, size: int) -> Saver:
    return Saver(
        folder=evaluation.journal.folder,
        config=config.checkpoint,
        num_steps=config.train.num_steps,
        learners=publisher.learners,
        turns=publisher.turns,
        evaluation=evaluation,
        console=evaluation.journal.console,
        config_yaml=config_to_yaml(config),
        first_bytes=size,
    )


def _is_another(config: Config, checkpoint: Checkpoint) -> bool:
    """Whether `resume.allow` lets another experiment go on with the checkpoint."""
    changes = resume_changes(config_from_yaml(checkpoint.config_file), config)
    return any(change.allowed for change in changes)


def first_checkpoint_bytes(config: Config, models: Models) -> int:
    """What a checkpoint of the run takes, from the parameters alone; 0 when that is not known."""
    known = models.policy.fingerprint()
    if known is None or config.policy.lora.rank:  # adapters are small
        return 0
    return int(known["num_parameters"]) * BYTES_PER_PARAMETER


def _journal(config: Config, console: Console) -> Journal:
    folder, backlog = Path(config.run.dir), Backlog(console.note)
    return Journal(
        backlog=backlog,
        folder=folder,
        console=console,
        surgery=config.surgery,
        tracking=config.trackers,
        open_trackers=lambda next_step, last_step: make_trackers(
            config.trackers,
            TrackedRun(folder, folder.name, plain(config), next_step, console.note, last_step),
            console,
            backlog,
        ),
    )


def _evaluation_sampling(config: Config, plan: Plan) -> dict[str, Sampling]:
    return {
        name: Sampling(config.evaluate.temperature, sampling.max_new_tokens, config.evaluate.top_p)
        for name, sampling in plan.sampling.items()
    }


def _record(
    config: Config,
    plan: Plan,
    publisher: Publisher,
    placement: Placement,
    engine_facts: list[dict[str, Any]],
    num_gpus: float,
) -> None:
    write_run_record(
        Path(config.run.dir),
        engines={
            "rollout": config.rollout.engine,
            "learner": f"deepspeed zero {config.learner.zero_stage}, {publisher.learners.device}",
            "transfer": publisher.sync.transfer,
        },
        placement={
            "placement": placement.name,
            "why": placement.why,
            "gpus": num_gpus,
            "rollout_workers": engine_facts,
            "assignment": config.rollout.assignment,
            "learner_ranks": config.learner.world_size,
            "learner_addresses": publisher.learners.addresses,
            "reward_workers": {n: d.reward.num_workers for n, d in config.domains.items()},
        },
        data=plan.data,
    )
