"""What may change between a run and its continuation, and what would make it another run.

Keys are compared from their beginning; `*` stands for one name (a domain's, a source's). Left out:
what no key says (weights and data under the same path: fingerprints are compared for these).
"""

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from mgsrl.config.root import Config
from mgsrl.config.typed import flattened, plain
from mgsrl.errors import ConfigError

# What may change between a run and its continuation without changing the numbers.
FREE_KEYS = (
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
    "learner.max_restarts",
    "learner.restart_window",
    "learner.assert_purity",
    "rollout.sync.",
    "rollout.time_limit_s",
    "rollout.start_limit_s",
    "rollout.max_restarts",
    "rollout.restart_window",
    "domains.*.reward.num_workers",
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
    "learner.share_prompts",
    "learner.offload_optimizer",
    "learner.offload_reference",
    "learner.offload_during_rollout",
    "surgery.buffer_device",
    "surgery.reliability.every",
    "surgery.step_probe.every",
    "rollout.num_workers",
    "rollout.assignment",
    "rollout.num_gpus",
    "rollout.tensor_parallel_size",
    "rollout.gpu_memory_utilization",
    "rollout.kv_cache_gib",
    "rollout.max_prompts_in_flight",
    "rollout.enforce_eager",
    "domains.*.num_workers",
    # A model's batches, and whether it computes on a GPU.
    *(
        f"domains.*.reward.{extra}{name}"
        for extra in ("", "extra.*.")
        for name in ("batch_size", "num_gpus")
    ),
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
PROMPT_KEYS = (
    *("policy.path", "policy.prompt_template", "policy.chat_template_kwargs", "policy.date"),
    *("data.max_prompt_tokens", "data.overlong"),
)
"""What decides the prompts of every source."""
OWN_KEYS = ("resume.",)
"""About this start alone: they are no part of the run."""
FREE, LAYOUT, MIXTURE, ANOTHER = (
    "no number changes",
    "equal up to rounding",
    "other batches from here on",
    "another experiment",
)
LONGEST = 60
"""Characters of a value that stands on the line of its key."""
_ABSENT = "(not there)"


@dataclass(frozen=True)
class Change:
    """One key, or one domain or source, that is not as it was."""

    key: str
    text: str
    """`old -> new`, or what happened to it; long values on lines of their own."""
    effect: str
    """`FREE`, `LAYOUT`, `MIXTURE` or `ANOTHER`."""
    allowed: bool = False
    """Named by `resume.allow`."""

    @property
    def refused(self) -> bool:
        """Whether the run cannot go on with it."""
        return self.effect == ANOTHER and not self.allowed

    def __str__(self) -> str:
        why = " (resume.allow)" if self.allowed else ""
        first, *more = self.text.splitlines()
        return "\n".join([f"{self.key}: {first} [{self.effect}{why}]", *more])


def resume_changes(old: Config, new: Config) -> list[Change]:
    """All that differs between the run that wrote a checkpoint and the one that goes on with it.

    The length of a run may change unless the schedule depends on it. The layout of ranks and
    workers may change: equality then holds up to rounding. Domains and sources may be weighted
    anew, added and removed: the batches change. Whatever else changes the numbers must be named by
    `resume.allow`.

    Raises:
        ConfigError: an entry of `resume.allow` is a key of neither.
    """
    flat = [flattened(plain(config)) for config in (old, new)]
    _check_allow(new.resume.allow, flat[0].keys() | flat[1].keys())
    moves = _domain_moves(old, new)
    found = [(key, text, MIXTURE) for key, text in moves.items()]
    # Their own keys say nothing more than that they came or went.
    skip = key_pattern([*OWN_KEYS, *(f"{key}." for key in moves)])
    patterns = [
        (FREE, key_pattern(FREE_KEYS if old.policy.date else (*FREE_KEYS, "policy.date"))),
        (LAYOUT, key_pattern(LAYOUT_KEYS)),
        (MIXTURE, key_pattern(_mixture_keys(new))),
        (ANOTHER, re.compile("")),
    ]
    for key in sorted(flat[0].keys() | flat[1].keys()):
        values = [each.get(key, _ABSENT) for each in flat]
        if values[0] != values[1] and not skip.match(key):
            effect = next(effect for effect, pattern in patterns if pattern.match(key))
            found.append((key, _shown(*values), effect))
    schedule = _schedule_changes(old, new)
    found = [each for each in found if each[0] not in schedule]
    found += [(key, text, ANOTHER) for key, text in schedule.items()]
    return [
        Change(key, text, effect, effect == ANOTHER and names(new.resume.allow, key))
        for key, text, effect in found
    ]


def other_data_allowed(allow: Sequence[str], source: str) -> bool:
    """Whether `resume.allow` names what decides the prompts of `source` (`math`, `math/more`)."""
    domain, _, more = source.partition("/")
    own = f"domains.{domain}.extra_sources.{more}" if more else f"domains.{domain}.source"
    deciding = (own, f"domains.{domain}.chat_template_kwargs", *PROMPT_KEYS)
    return any(_below(key, each) or _below(each, key) for key in allow for each in deciding)


def names(allow: Sequence[str], key: str) -> bool:
    """Whether an entry of `resume.allow` is `key` or a record that it is in."""
    return any(_below(key, entry) for entry in allow)


def _below(key: str, record: str) -> bool:
    return key == record or key.startswith(f"{record}.")


def _check_allow(allow: Sequence[str], keys: Iterable[str]) -> None:
    """Static checks know the names of keys, but not which domains and sources there are."""
    known = {".".join(parts[:n]) for key in keys for parts in [key.split(".")] for n in range(9)}
    for entry in allow:
        if entry not in known:
            close = difflib.get_close_matches(entry, known, n=1, cutoff=0.5)
            raise ConfigError(
                "resume.allow has an unknown key.",
                expected="a key of this run or of the one that goes on",
                found=repr(entry),
                todo=f"correct it{f' (did you mean {close[0]!r}?)' if close else ''}",
            )


def _shown(old: Any, new: Any) -> str:
    """`old -> new`, or the lines that differ of long values."""
    texts = [value if value is _ABSENT else repr(value) for value in (old, new)]
    if all(len(text) <= LONGEST for text in texts):
        return f"{texts[0]} -> {texts[1]}"
    lines = [
        value.splitlines() if isinstance(value, str) else [text]
        for value, text in zip((old, new), texts, strict=True)
    ]
    compared = difflib.ndiff(lines[0], lines[1])
    return "\n".join(["old -> new", *(f"  {line}" for line in compared if line[0] in "+-")])


def _schedule_changes(old: Config, new: Config) -> dict[str, str]:
    """Changes that would have made earlier steps other ones: key -> in words."""
    found = {}
    lengths = old.train.num_steps, new.train.num_steps
    open_phases = [phase for phase in new.strategy.phases if not phase.steps]
    several = len(new.strategy.phases) > 1 if new.strategy.phases else new.strategy.sequential
    decays = new.learner.optimizer.schedule != "constant"
    if lengths[0] != lengths[1] and (
        decays or (several and (open_phases or new.strategy.sequential))
    ):
        found["train.num_steps"] = f"{lengths[0]} -> {lengths[1]} (the schedule depends on it)"
    if new.strategy.sequential and not new.strategy.phases:
        orders = [config.strategy.domain_order or list(config.domains) for config in (old, new)]
        if orders[0] != orders[1]:
            text = f"{orders[0]} -> {orders[1]} (strategy.sequential: one phase each)"
            found["strategy.domain_order"] = text
    return found


def _domain_moves(old: Config, new: Config) -> dict[str, str]:
    """Domains and extra sources that only one of the two has: key -> in words."""
    had, have = _parts(old), _parts(new)
    added = {f"domains.{key}": "added" for key in have if key not in had}
    return added | {f"domains.{key}": "removed" for key in had if key not in have}


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


def key_pattern(keys: Iterable[str]) -> re.Pattern[str]:
    """Matches the keys that begin with one of `keys`."""
    names = "|".join(re.escape(key).replace(r"\*", "[^.]+") for key in keys)
    return re.compile(names or "(?!)")
