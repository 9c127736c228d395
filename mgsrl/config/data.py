"""Domains: where each one's prompts come from, how they are sampled and rewarded."""

import math
from dataclasses import dataclass, field
from typing import Any

from mgsrl.config.curriculum import CurriculumConfig
from mgsrl.config.policy import check_template_kwargs
from mgsrl.config.quoting import as_override
from mgsrl.config.require import (
    at_least,
    full_distribution,
    more_than,
    one_of,
    plain_name,
    temperature,
    within,
)
from mgsrl.config.reward import RewardConfig
from mgsrl.errors import ConfigError, shortened

SOURCE_KINDS = ("pocket", "file", "hub", "task")
TASK_SPLITS = ("train", "test")
BAD_ROWS = ("error", "skip")
OVERLONG = ("truncate_left", "drop", "error")
MAX_POCKET_ROWS = 1_000_000


@dataclass
class SourceConfig:
    kind: str = "pocket"
    """`pocket` (generated), `file` (.jsonl, .json, .parquet, .csv), `hub` (datasets id) or `task`
    (a file of mgsrl/tasks/, or of yours, says where the rows are and how they are read)."""
    path: str = ""
    """File path or hub id; for `pocket` the generator's domain (default: the domain's name); for
    `task` its name, or `my_task.py:TASK`."""
    file: str = ""
    """`task`: a local file, or another hub data set, instead of the task's own."""
    split: str = "train"
    """Split of a hub data set, `train` | `heldout` of the pocket generator, `train` | `test` of a
    task."""
    revision: str | None = None
    """`hub`: commit, tag or branch; null is the newest, or the one that a task names."""
    columns: dict[str, str] = field(default_factory=dict)
    """Our column -> theirs: `prompt` | `messages`, `answer`, `instruction_id_list`, `kwargs`,
    `id`; `reference.NAME` goes to the reward as it stands, lists and records too. A dotted name
    reaches into nested records (`reward_model.ground_truth`)."""
    answer_pattern: str = ""
    """Regular expression whose first group is the answer inside the answer column."""
    prompt_suffix: str = ""
    """Added to the end of every prompt, e.g. how to mark the final answer (instead of a task's)."""
    start: int = 0
    """First row used."""
    limit: int | None = None
    """Number of rows used; null takes all."""
    size: int = 2000
    """`pocket`: how many prompts the generator makes."""
    bad_rows: str = "error"
    """A row without its prompt or reference, or with one that the reward cannot use: `error`
    stops before the run starts, `skip` leaves it out with a warning that counts them."""
    weight: float = 1.0
    """Share of the domain's prompts, relative to the domain's other sources."""

    def validate(self, key: str) -> None:
        one_of(f"{key}.kind", self.kind, SOURCE_KINDS)
        one_of(f"{key}.bad_rows", self.bad_rows, BAD_ROWS)
        at_least(f"{key}.start", self.start, 0)
        if self.limit is not None:
            at_least(f"{key}.limit", self.limit, 1)
        within(f"{key}.size", self.size, 1, MAX_POCKET_ROWS)
        more_than(f"{key}.weight", self.weight, 0, "Leave the source out instead.")
        if self.kind == "pocket" and ("/" in self.path or "." in self.path):
            raise ConfigError(
                f"{key}.path names a file or a hub id, but {key}.kind is pocket.",
                expected="a domain of the pocket generator, or kind file or hub",
                found=repr(self.path),
                todo=f"set {key}.kind=file (or {key}.kind=hub)",
            )
        if self.kind != "pocket" and not self.path:
            raise ConfigError(
                f"{key}.path is empty.",
                expected="a file path, a hub id or a task",
                found="''",
                todo=f"set {key}.path",
            )
        tasks = self.kind == "task"
        if tasks:
            one_of(f"{key}.split", self.split, TASK_SPLITS)
        for name in ("columns", "answer_pattern") if tasks else ("file",):
            if value := getattr(self, name):
                raise ConfigError(
                    f"{key}.{name} cannot stand beside {key}.kind={self.kind}.",
                    expected="none: the task says it" if tasks else f"{key}.kind=task",
                    found=shortened(repr(value)),
                    todo=f"leave it out, or choose another {key}.kind",
                )


@dataclass
class DomainConfig:
    source: SourceConfig = field(default_factory=SourceConfig)
    """Training prompts."""
    extra_sources: dict[str, SourceConfig] = field(default_factory=dict)
    """More training prompts, by a name of yours; every step takes from each by its `weight`."""
    heldout: SourceConfig | None = None
    """Prompts for the evaluation before, during and after the run; null skips the domain."""
    reward: RewardConfig = field(default_factory=RewardConfig)
    """How its responses are scored."""
    prompts_per_step: int | None = None
    """Quota of this domain per step; null takes `algo.prompts_per_domain`."""
    weight: float = 1.0
    """Multiplies this domain's share of the step's prompts; the other domains get or give the
    difference. 0 trains without it."""
    schedule: list[Any] = field(default_factory=list)
    """A curriculum, `[[step, factor], ...]`: from each step on, `weight` is multiplied by the
    factor (`data.curriculum=linear` interpolates between them)."""
    temperature: float | None = None
    """Overrides `rollout.temperature`."""
    top_p: float | None = None
    """Overrides `rollout.top_p`."""
    max_new_tokens: int | None = None
    """Overrides `rollout.max_new_tokens`."""
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)
    """Arguments of the chat template for this domain's prompts, over those of
    `policy.chat_template_kwargs`."""
    algo: dict[str, Any] = field(default_factory=dict)
    """What of `algo` is otherwise in this domain: its advantage, loss, clips, KL, entropy bonus,
    importance weight."""
    num_workers: int = 1
    """Rollout workers of this domain under `rollout.assignment=dedicated`."""

    def validate(self, key: str) -> None:
        self.source.validate(f"{key}.source")
        if self.heldout is not None:
            self.heldout.validate(f"{key}.heldout")
        for name, source in self.extra_sources.items():
            plain_name(f"{key}.extra_sources", name)
            source.validate(f"{key}.extra_sources.{name}")
        at_least(f"{key}.weight", self.weight, 0.0)
        _check_schedule(f"{key}.schedule", self.schedule)
        self.reward.validate(f"{key}.reward")
        if self.prompts_per_step is not None:
            at_least(f"{key}.prompts_per_step", self.prompts_per_step, 1)
        if self.temperature is not None:
            temperature(f"{key}.temperature", self.temperature)
        if self.top_p is not None:
            full_distribution(f"{key}.top_p", self.top_p)
        if self.max_new_tokens is not None:
            at_least(f"{key}.max_new_tokens", self.max_new_tokens, 1)
        check_template_kwargs(f"{key}.chat_template_kwargs", self.chat_template_kwargs)
        at_least(f"{key}.num_workers", self.num_workers, 1)


@dataclass
class DataConfig:
    max_prompt_tokens: int = 896
    """Longest templated prompt in tokens."""
    overlong: str = "truncate_left"
    """Longer prompts: `truncate_left` keeps their end, `drop` leaves them out, `error` stops."""
    shuffle: bool = True
    """Seeded shuffle of each domain at every epoch."""
    prompts_per_step: int | None = None
    """Prompts of all domains together per step; null takes the sum of the domains' quotas."""
    mixing_temperature: float | None = None
    """Share the prompts of a step in proportion to (number of prompts)^(1/T) instead of the
    domains' quotas: 1 is by size, larger values come closer to equal shares. null is off."""
    curriculum: CurriculumConfig = field(default_factory=CurriculumConfig)
    """How the domains' shares of a step change over the run."""

    def validate(self) -> None:
        at_least("data.max_prompt_tokens", self.max_prompt_tokens, 8)
        one_of("data.overlong", self.overlong, OVERLONG)
        self.curriculum.validate("data.curriculum")
        if self.prompts_per_step is not None:
            at_least("data.prompts_per_step", self.prompts_per_step, 1)
        if self.mixing_temperature is not None:
            at_least("data.mixing_temperature", self.mixing_temperature, 0.1)


def check_mixture(data: DataConfig, domains: dict[str, DomainConfig]) -> None:
    """Raise `ConfigError` for quotas that nothing would heed."""
    with_quota = [name for name, domain in domains.items() if domain.prompts_per_step is not None]
    if data.mixing_temperature is not None and with_quota:
        raise ConfigError(
            "data.mixing_temperature shares a step by the size of the data.",
            expected="no quotas beside it",
            found=f"domains.{with_quota[0]}.prompts_per_step",
            todo="leave one of them out; domains.NAME.weight works with both",
        )


def check_curriculum(data: DataConfig, together: list[list[str]]) -> None:
    """Raise `ConfigError` for a curriculum that has nothing to share.

    Args:
        together: the domains that each phase trains, those of weight 0 left out.
    """
    if data.curriculum.adapts and max(map(len, together)) < 2:
        raise ConfigError(
            f"data.curriculum={data.curriculum.kind} shares a step among domains.",
            expected="two domains or more with a weight above 0 in some phase",
            found="; then ".join(", ".join(names) or "none" for names in together),
            todo="set data.curriculum=steps, or train domains together "
            "(strategy=mixed or strategy=mgs)",
        )


def _check_schedule(key: str, schedule: list[Any]) -> None:
    # Checked by hand: the configuration's own lists of lists refuse `0` where a float is due.
    steps, factors = [], []
    for point in schedule:
        if not isinstance(point, list) or len(point) != 2:
            break
        steps.append(point[0])
        factors.append(point[1])
    if (
        len(factors) < len(schedule)
        or any(type(step) is not int or step < 0 for step in steps)
        or sorted(set(steps)) != steps
        or any(type(factor) not in (int, float) or not 0 <= factor < math.inf for factor in factors)
    ):
        raise ConfigError(
            f"{key} is no curriculum.",
            expected="[[step, factor], ...] with whole steps that rise and factors >= 0",
            found=str(schedule),
            todo=f"mend it, as in {as_override(key, [[0, 1.0], [100, 0.5]])}",
        )
