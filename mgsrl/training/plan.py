"""What is known of a run before any actor starts: models and data are found, read and checked."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from mgsrl.algo.advantages import check_advantages
from mgsrl.algo.losses import check_loss
from mgsrl.config import Config
from mgsrl.config.algo import LOSSES, AlgoConfig
from mgsrl.config.model_facts import ModelFacts, model_facts
from mgsrl.config.surgery import SURGERY_METHODS
from mgsrl.data.domain import load_prompts, rows_digest, source_weights, training_prompts
from mgsrl.data.mixture import Mixture
from mgsrl.data.templates import PromptTokenizer
from mgsrl.learner.policy import load_tokenizer, packs_rows, resolve_policy, sharing_note
from mgsrl.learner.spec import LearnerSpec
from mgsrl.obs.run_record import HELD_OUT
from mgsrl.obs.trackers import check_trackers
from mgsrl.rewards.factory import check_reward, row_needs
from mgsrl.rollout.actor import check_engine
from mgsrl.rollout.decoding import Decoder
from mgsrl.rollout.sampler import training_sampling
from mgsrl.surgery import check_method
from mgsrl.training.adaptive import AdaptiveShares, check_curriculum, make_curriculum
from mgsrl.training.export import check_export
from mgsrl.training.fit import check_context, check_tokens, end_of_turn_note
from mgsrl.training.refill import check_refill
from mgsrl.training.schedule import Schedule, check_staleness, curve, make_schedule
from mgsrl.training.teachers import teacher_paths
from mgsrl.types import Prompt, Sampling


@dataclass(frozen=True)
class Plan:
    """What is known before any actor starts."""

    model_path: str
    facts: ModelFacts
    """What the policy's configuration says."""
    special_tokens: tuple[str, ...]
    """The policy's; reward models must not see them."""
    prompts: Mapping[str, list[Prompt]]
    heldout: Mapping[str, list[Prompt]]
    schedule: Schedule
    adaptive: AdaptiveShares | None
    """What chooses the quotas of every step, under a curriculum that adapts."""
    mixture: Mixture
    sampling: Mapping[str, Sampling]
    learner: LearnerSpec
    teachers: Mapping[str, str]
    """The models to distil from, by their keys."""
    packs_rows: bool
    """Whether responses share their prompt in the learner."""
    notes: tuple[str, ...]
    """What the user should know about the data."""
    data: Mapping[str, Any]
    """What became of the rows of every source, and their digest, for the record of the run."""


def plan(config: Config) -> Plan:
    """Find, read and check models and data.

    Raises:
        UserError: a model, file or row that is not what it should be.
    """
    model_path, facts = check_parts(config)
    schedule = schedule_of(config)
    tokenizer = load_tokenizer(config.policy)
    decoder = Decoder(
        model_path, trust_remote_code=config.policy.trust_remote_code, tokenizer=tokenizer
    )
    check_export(config.policy, tokenizer)
    templates = PromptTokenizer(config.policy, tokenizer, config.data)
    prompts, heldout = _prompts(config, templates, schedule)
    shares = {name: source_weights(name, config.domains[name]) for name in schedule.domains}
    if config.data.mixing_temperature is not None:
        sizes = {name: sum(len(prompts[key]) for key in keys) for name, keys in shares.items()}
        schedule = schedule_of(config, sizes)
    sampling = training_sampling(config.rollout, config.domains)
    taught = [name for name, domain in config.domains.items() if "teacher" in domain.algo]
    teachers = teacher_paths(config.algos, taught, tokenizer, config.policy.trust_remote_code)
    for each in (prompts, heldout):
        check_tokens(each, tokenizer, facts)
        check_context(each, sampling, facts)
    turn = end_of_turn_note(templates.end_of_turn(), decoder.stop_token_ids, tokenizer)
    sharing = sharing_note(config.learner.share_prompts, facts.not_packed)
    return Plan(
        model_path=model_path,
        facts=facts,
        special_tokens=tuple(tokenizer.all_special_tokens),
        prompts=prompts,
        heldout=heldout,
        schedule=schedule,
        adaptive=_adaptive(config, schedule),
        mixture=Mixture(prompts, schedule.largest(), config.seed, config.data.shuffle, shares),
        sampling=sampling,
        learner=LearnerSpec(
            policy=replace(config.policy, path=model_path),
            learner=config.learner,
            algos={name: _located(algo, teachers) for name, algo in config.algos.items()},
            surgery=replace(config.surgery, method=SURGERY_METHODS.located(config.surgery.method)),
            seed=config.seed,
            num_steps=config.train.num_steps,
            updates_per_batch=config.algo.updates_per_batch,
        ),
        teachers=dict(teachers.values()),
        packs_rows=packs_rows(config.learner.share_prompts, facts.not_packed, model_path),
        notes=(*templates.notes(), *filter(None, (turn, sharing, config.learner.size_note))),
        data=_data(templates, prompts, heldout),
    )


def _data(
    templates: PromptTokenizer,
    prompts: Mapping[str, list[Prompt]],
    heldout: Mapping[str, list[Prompt]],
) -> dict[str, Any]:
    rows = {**prompts, **{f"{name}{HELD_OUT}": each for name, each in heldout.items()}}
    counts = templates.counts
    return {name: asdict(counts[name]) | {"digest": rows_digest(rows[name])} for name in counts}


def _located(algo: AlgoConfig, teachers: Mapping[str, tuple[str, str]]) -> AlgoConfig:
    """With the places of its loss and its teacher."""
    _, teacher = teachers.get(algo.teacher, ("", ""))
    return replace(algo, loss=LOSSES.located(algo.loss), teacher=teacher)


def check_parts(config: Config) -> tuple[str, ModelFacts]:
    """What can be said before anything is loaded: schedule, method, engine, models.

    Returns:
        Where the policy is, and what its configuration says.

    Raises:
        UserError: one of them cannot be.
    """
    schedule = schedule_of(config)
    check_staleness(schedule, config.rollout.staleness)
    check_method(config.surgery, len(config.domains))
    algos, tried = config.algos, list[AlgoConfig]()
    for algo in algos.values():
        if algo not in tried:  # a part of one's own may be slow
            tried.append(algo)
            alike = [name for name, other in algos.items() if other == algo]
            check_advantages(algo, {name: config.domains[name].reward for name in alike})
            check_loss(algo)
    trained = {name: algos[name] for name in schedule.domains}
    check_curriculum(config.data.curriculum, trained)
    check_refill(trained, {name: domain.reward for name, domain in config.domains.items()})
    check_trackers(config.trackers)
    model_path = resolve_policy(config.policy.path)
    device = "cpu" if config.learner.device == "cpu" else None  # else Ray will know
    engine = check_engine(config.rollout, device)
    for name, domain in config.domains.items():
        check_reward(domain.reward, f"domains.{name}.reward")
    facts = model_facts(model_path, trust_remote_code=config.policy.trust_remote_code)
    engine.check_model(facts, device)
    packs_rows(config.learner.share_prompts, facts.not_packed, config.policy.path)
    return model_path, facts


def _adaptive(config: Config, schedule: Schedule) -> AdaptiveShares | None:
    curriculum = config.data.curriculum
    if not curriculum.adapts:
        return None
    made = make_curriculum(curriculum, schedule.domains)
    return AdaptiveShares(made, schedule, curriculum.kind)


def _prompts(
    config: Config, templates: PromptTokenizer, schedule: Schedule
) -> tuple[dict[str, list[Prompt]], dict[str, list[Prompt]]]:
    """Training prompts by source and held-out ones by domain."""
    prompts, heldout = dict[str, list[Prompt]](), {}
    for name, domain in config.domains.items():
        needs = row_needs(domain.reward, f"domains.{name}.reward")
        if name in schedule.domains:
            prompts |= training_prompts(templates, name, domain, needs)
        if domain.heldout is not None and config.evaluate.prompts_per_domain:
            limits = [config.evaluate.prompts_per_domain, domain.heldout.limit]
            source = replace(domain.heldout, limit=min(n for n in limits if n is not None))
            heldout[name] = load_prompts(
                templates,
                name,
                domain,
                source,
                needs,
                key=f"domains.{name}.heldout",
                counted_as=f"{name}{HELD_OUT}",
            )
    return prompts, heldout


def schedule_of(config: Config, sizes: Mapping[str, int] | None = None) -> Schedule:
    """The quotas of every step; `sizes` (prompts by domain) is for `data.mixing_temperature`."""
    quotas = {
        name: domain.prompts_per_step or config.algo.prompts_per_domain
        for name, domain in config.domains.items()
    }
    shares: Mapping[str, float] = quotas
    if config.data.mixing_temperature is not None and sizes is not None:
        power = 1 / config.data.mixing_temperature
        shares = {name: sizes.get(name, 0) ** power for name in config.domains}
    curriculum = config.data.curriculum
    between = curriculum.kind if not curriculum.adapts else "steps"
    return make_schedule(
        config.strategy,
        shares,
        config.train.num_steps,
        total=config.data.prompts_per_step or sum(quotas.values()),
        curves={
            name: curve(domain.weight, domain.schedule, between)
            for name, domain in config.domains.items()
        },
        floor=curriculum.floor if curriculum.adapts else None,
    )
