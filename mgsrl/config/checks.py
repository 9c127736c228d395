"""Rules across configuration groups; each group's own rules stand beside its fields."""

from mgsrl.config.data import check_curriculum, check_mixture
from mgsrl.config.keys import type_at, unknown_key
from mgsrl.config.require import at_least, one_of, plain_name, within
from mgsrl.config.root import PLACEMENTS, Config
from mgsrl.errors import ConfigError, nearest, shortened


def check_config(config: Config) -> None:
    """Raise `ConfigError` for the first rule that does not hold. Looks at nothing but `config`."""
    for group in (
        config.policy,
        config.data,
        config.strategy,
        config.rollout,
        config.algo,
        config.surgery,
        config.learner,
        config.train,
        config.checkpoint,
        config.evaluate,
        config.trackers,
        config.cluster,
        config.run,
        config.resume,
    ):
        group.validate()
    for key in config.resume.allow:
        if type_at(Config, key) is None:
            raise unknown_key(Config, key, "resume.allow has an unknown key")
    for name, domain in config.domains.items():
        plain_name("domains", name)
        domain.validate(f"domains.{name}")
    at_least("seed", config.seed, 0)
    one_of("placement", config.placement, PLACEMENTS)
    within("max_abstained_share", config.max_abstained_share, 0.0, 1.0)
    _check_domains(config)
    for name, domain in config.domains.items():
        config.algo_of(name).validate(f"domains.{name}.algo" if domain.algo else "algo")
    _check_teachers(config)
    check_mixture(config.data, config.domains)
    together = [
        [name for name in names if config.domains[name].weight > 0]
        for names in config.strategy.together(config.domains)
    ]
    check_curriculum(config.data, together)
    _check_protect(config.surgery.protect, together)
    _check_overlong(config)
    _check_token_budget(config)
    _check_devices(config)
    _check_staleness(config)


def _check_domains(config: Config) -> None:
    if not config.domains:
        raise ConfigError(
            "There is no domain to train on.",
            expected="at least one entry under `domains`",
            found="none",
            todo="choose a set with domains=NAME (see configs/domains/)",
        )
    named = [("strategy.domain_order", name) for name in config.strategy.domain_order]
    if config.surgery.protect:
        named.append(("surgery.protect", config.surgery.protect))
    for index, phase in enumerate(config.strategy.phases):
        named += [(f"strategy.phases[{index}].domains", name) for name in phase.domains]
    for key, name in named:
        if name not in config.domains:
            raise ConfigError(
                f"{key} names a domain that does not exist.",
                expected=f"one of {', '.join(config.domains)}",
                found=shortened(repr(name)),
                todo=f"correct the name ({nearest(name, config.domains)})",
            )
    for index, phase in enumerate(config.strategy.phases):
        if not phase.domains:
            raise ConfigError(
                f"strategy.phases[{index}].domains is empty.",
                expected=f"some of {', '.join(config.domains)}",
                found="none",
                todo="name the domains that this phase trains",
            )
    fixed_steps = sum(phase.steps for phase in config.strategy.phases)
    if config.strategy.phases and fixed_steps > config.train.num_steps:
        raise ConfigError(
            "The phases are longer than the run.",
            expected=f"at most train.num_steps={config.train.num_steps} steps",
            found=f"{fixed_steps}",
            todo="raise train.num_steps or shorten strategy.phases",
        )


def _check_teachers(config: Config) -> None:
    """Weights beside a teacher, in every domain that is trained. What is set for all domains is
    refused if one of them would not heed it, unless that one says that it has no teacher."""
    algos = config.algos
    taught = any(algo.teacher for algo in algos.values())
    for name, algo in algos.items():
        for coef in ("teacher_coef", "reward_coef"):
            here, value = f"domains.{name}.algo.{coef}", getattr(algo, coef)
            key = here if coef in config.domains[name].algo else f"algo.{coef}"
            if not algo.teacher and value != 1:
                raise ConfigError(
                    f"{key} is a weight beside a teacher, and domain {name!r} has none.",
                    expected=f"domains.{name}.algo.teacher beside it",
                    found=f"{key}={value:g}",
                    todo=f"set {here if taught else key}=1, or name a teacher "
                    f"(domains.{name}.algo.teacher=PATH)",
                )
            if algo.teacher and coef == "teacher_coef" and value == 0:
                raise ConfigError(
                    f"{key} is 0: nothing is distilled from the teacher of domain {name!r}.",
                    expected="a number above 0 beside a teacher",
                    found=f"{key}=0 teacher={algo.teacher}",
                    todo=f"set {here}=1, or leave the teacher out",
                )


def _check_protect(protected: str, together: list[list[str]]) -> None:
    """`together`: the domains that each phase trains."""
    if protected and not any(protected in names and len({*names}) > 1 for names in together):
        raise ConfigError(
            "surgery.protect guards a domain against those that are trained beside it.",
            expected=f"a phase of {protected} and another domain, both with a weight above 0",
            found="; then ".join(", ".join(names) or "none" for names in together),
            todo="leave surgery.protect out, or train domains together (strategy=mgs)",
        )


def _check_overlong(config: Config) -> None:
    for name, domain in config.domains.items():
        longest = config.response_limits[name]
        if domain.reward.overlong_buffer > longest:
            raise ConfigError(
                f"domains.{name}.reward.overlong_buffer is longer than the longest response.",
                expected=f"at most max_new_tokens={longest}",
                found=str(domain.reward.overlong_buffer),
                todo="shorten the buffer or raise max_new_tokens",
            )


def _check_token_budget(config: Config) -> None:
    budget, prompt = config.learner.tokens_per_micro_batch, config.data.max_prompt_tokens
    response = max(config.response_limits.values())
    longest = prompt + response
    if budget is not None and budget < longest:
        raise ConfigError(
            "learner.tokens_per_micro_batch is less than one sequence may have.",
            expected=f"{longest} or more: data.max_prompt_tokens={prompt} and a response of "
            f"{response}",
            found=str(budget),
            todo=f"set learner.tokens_per_micro_batch={longest}, or lower one of the two limits",
        )


def _check_devices(config: Config) -> None:
    learner = config.learner
    for key, on, what in (
        ("learner.offload_optimizer", learner.offload_optimizer, "optimizer state"),
        ("learner.offload_reference", learner.offload_reference, "reference model"),
    ):
        if on and learner.device == "cpu":
            raise ConfigError(
                f"{key} moves the {what} from a GPU to the CPU.",
                expected="learner.device=cuda",
                found="learner.device=cpu",
                todo=f"set {key}=false",
            )


def _check_staleness(config: Config) -> None:
    rollout = config.rollout
    uncorrected = [n for n, algo in config.algos.items() if algo.importance_cap is None]
    if rollout.staleness and uncorrected:
        own = config.domains[uncorrected[0]].algo
        key = f"domains.{uncorrected[0]}.algo" if "importance_cap" in own else "algo"
        raise ConfigError(
            "Rollouts of older weights need the importance weight: without it the gradient is of "
            "another policy than the one that is trained.",
            expected=f"{key}.importance_cap >= 1 beside rollout.staleness",
            found=f"rollout.staleness={rollout.staleness} {key}.importance_cap=null",
            todo=f"set {key}.importance_cap=2.0, or rollout.staleness=0",
        )
    if rollout.inflight_updates and not rollout.staleness:
        raise ConfigError(
            "rollout.inflight_updates is for rollouts that are ahead of the learners.",
            expected="rollout.staleness >= 1 beside it",
            found="rollout.staleness=0",
            todo="set rollout.staleness=1, or leave rollout.inflight_updates out",
        )
