"""Whether the models and hub data sets that a configuration names are there.

Answers in a second, without the libraries that load them. Left out: local files of data, which are
read whole before a run starts, and what a model's folder holds.
"""

from pathlib import Path

from mgsrl.config.data import SourceConfig
from mgsrl.config.hub import check_on_hub
from mgsrl.config.model_path import POCKET_POLICY, find_model
from mgsrl.config.reward import REWARDS, ScoreConfig
from mgsrl.config.root import Config
from mgsrl.config.task import task_source, with_file


def check_places(config: Config, *, models: bool = True) -> None:
    """Look for every model and hub data set of a run.

    Args:
        models: false leaves policy and reward models out.

    Raises:
        MissingPathError: names the first key whose model or data set is not there.
    """
    if models:
        find_model(config.policy.path, "policy.path", POCKET_POLICY)
    for name, domain in config.domains.items():
        key = f"domains.{name}"
        scores: dict[str, ScoreConfig] = {f"{key}.reward": domain.reward}
        scores |= {f"{key}.reward.extra.{n}": score for n, score in domain.reward.extra.items()}
        for place, score in scores.items() if models else ():
            REWARDS.load(score.kind, f"{place}.kind")(score.options).check(place)
        if not domain.weight:
            continue
        check_hub_source(domain.source, f"{key}.source")
        for extra, source in domain.extra_sources.items():
            check_hub_source(source, f"{key}.extra_sources.{extra}")
        if domain.heldout is not None:
            check_hub_source(domain.heldout, f"{key}.heldout")


def check_hub_source(source: SourceConfig, key: str, file_hint: str = "") -> None:
    """Raise `MissingPathError` for a hub data set that the hub does not know.

    Args:
        file_hint: how the user names a file instead, for the message.
    """
    if source.kind == "task":
        task, source = task_source(source, key)
        file_hint = with_file(task, key)
    repo = split_hub_path(source.path)[0]
    if source.kind == "hub" and not Path(repo).exists():
        hint = file_hint or f"use {key}.kind=file"
        check_on_hub(repo, "dataset", f"{key}.path", f"download it and {hint}")


def split_hub_path(path: str) -> tuple[str, str | None, str | None]:
    """(repository, configuration, file) of a hub path; a local folder is its own repository.

    >>> split_hub_path("openai/gsm8k:main")
    ('openai/gsm8k', 'main', None)
    >>> split_hub_path("owner/name/folder/train.parquet")
    ('owner/name', None, 'folder/train.parquet')
    """
    if Path(path).is_dir():
        return path, None, None
    repo, _, config = path.partition(":")
    parts = repo.split("/", 2)
    if len(parts) == 3:
        return "/".join(parts[:2]), config or None, parts[2]
    return repo, config or None, None
