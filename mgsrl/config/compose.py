"""Command-line overrides -> one validated `Config`.

Hydra composes the YAML files that are chosen; what the keys are and what their values may be is
decided by `typed.py`, the same for a file, an override and a saved run. Every mistake is one
`ConfigError`. Nothing heavy is imported here, so mistakes surface in a second.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from mgsrl.config.checks import check_config
from mgsrl.config.label import strategy_label
from mgsrl.config.overrides import apply_changes, read_overrides
from mgsrl.config.own_files import FILE_CHOICE, all_names, own_folders
from mgsrl.config.root import Config
from mgsrl.config.task import reward_keys
from mgsrl.config.typed import plain, read_config
from mgsrl.errors import ConfigError, MissingPathError

DEFAULT_EXPERIMENT = "+experiment=pocket_mgs"
# Plain values, not the dataclasses: Hydra would bend and refuse values in words of its own.
ConfigStore.instance().store(name="schema", node=plain(Config()))
_PYTHON_ERRORS = (ValueError, TypeError, KeyError, AttributeError, AssertionError, RecursionError)


def config_dir() -> Path:
    """The folder of the YAML files: inside the installed package, or at the root of a checkout."""
    package = Path(__file__).resolve().parents[1]
    for candidate in (package / "configs", package.parent / "configs"):
        if (candidate / "config.yaml").is_file():
            return candidate
    raise MissingPathError(f"no configs/ folder beside {package}; reinstall mgsrl")


def list_choices(group: str) -> dict[str, str]:
    """Names in a configuration group with the first comment line of each file."""
    choices = {}
    for path in sorted((config_dir() / group).glob("*.yaml")):
        comments = [
            line.lstrip("# ").strip()
            for line in path.read_text().splitlines()
            if line.startswith("#") and "@package" not in line
        ]
        choices[path.stem] = comments[0] if comments else ""
    return choices


def compose_config(
    overrides: Sequence[str], file: str | Path | None = None, folder: str | Path | None = None
) -> Config:
    """Compose, type-check and validate.

    Args:
        file: an experiment of the user's own (`--config`).
        folder: files of the user's own beside ours (`--config-dir`); None takes `./configs`.

    Raises:
        ConfigError: an unknown experiment, key or value, a wrong type, an impossible combination.
        MissingPathError: `file` or `folder` is not there.
    """
    if isinstance(overrides, str):
        raise ConfigError(
            "Overrides are a list.",
            expected='texts such as ["seed=1", "train.num_steps=5"]',
            found=f"one text, {overrides!r}",
            todo=f"write [{overrides!r}]",
        )
    ours = config_dir()
    file, folder = (None if path is None else Path(path) for path in (file, folder))
    with own_folders(ours, file, folder) as own:
        choices = all_names([ours, *own])
        if file is not None:
            overrides = [f"+experiment={FILE_CHOICE}", *overrides]
        chosen, changes = read_overrides(overrides, choices)
        if not any(item.startswith("+experiment=") for item in chosen):
            chosen.insert(0, DEFAULT_EXPERIMENT)
        if own:
            listed = ",".join(f'"file://{path}"' for path in own)
            chosen.append(f"hydra.searchpath=[{listed}]")
        try:
            with initialize_config_dir(version_base="1.3", config_dir=str(ours)):
                composed = compose("config", overrides=chosen)
            apply_changes(composed, changes)
            # Twice, because the name of the run's folder holds the label.
            composed.strategy.name = strategy_label(_typed(composed))
            config = _typed(composed)
        except (HydraException, OmegaConfBaseException, YAMLError, RecursionError) as error:
            raise _not_composed(error, file) from error
    config.resume.checkpoint = os.path.expanduser(config.resume.checkpoint)
    check_config(config)
    return config


def checked_config(config: Config) -> Config:
    """A copy of a configuration that was changed in Python, checked as `compose_config` does.

    Raises:
        ConfigError: a value of a wrong type, an impossible combination.
    """
    copy = read_config(Config, plain(config))
    check_config(copy)
    copy.strategy.name = strategy_label(copy)
    return copy


def _typed(composed: DictConfig) -> Config:
    values: Any = OmegaConf.to_container(composed, resolve=True)
    for name, domain in (values.get("domains") or {}).items():
        if isinstance(domain, dict) and (reward := reward_keys(domain, f"domains.{name}")):
            domain["reward"] = reward
    return read_config(Config, values)


def config_to_yaml(config: Config) -> str:
    """The resolved configuration as YAML."""
    return OmegaConf.to_yaml(OmegaConf.create(plain(config)), resolve=True)


def completed(saved: dict[str, Any]) -> dict[str, Any]:
    """The values of a saved configuration, and the defaults of keys that it does not have.

    Raises:
        ConfigError: it is of another version, or needs a plug-in that is not here.
    """
    values: dict[str, Any] = plain(read_config(Config, saved))
    return values


def config_from_yaml(path: Path) -> Config:
    """Read what `config_to_yaml` wrote.

    Raises:
        MissingPathError: there is no such file.
        ConfigError: it is empty, damaged, or of another version.
    """
    if not path.is_file():
        raise MissingPathError(f"{path} does not exist; is it a run folder of mgsrl?")
    try:
        saved = OmegaConf.create(path.read_text(encoding="utf-8"))
        if not saved:  # nothing would be read: the defaults, another configuration
            raise ValueError("it is empty")
        return read_config(Config, OmegaConf.to_container(saved, resolve=True))
    # Whatever a changed byte can make of a YAML file, UTF-8, OmegaConf's assertions included.
    except (OmegaConfBaseException, YAMLError, OSError, *_PYTHON_ERRORS) as error:
        found = str(error).splitlines() or [type(error).__name__]
        raise ConfigError(
            f"{path} is damaged, or not a configuration of this version.",
            expected="what mgsrl wrote",
            found=found[0],
            todo="restore it from a copy, use the version of mgsrl that wrote it, or another "
            "run.dir",
        ) from error


def _not_composed(error: Exception, file: Path | None) -> ConfigError:
    """What the overrides alone do not show: a file or a reference (`${...}`) is at fault."""
    key = getattr(error, "full_key", None)
    found = str(error).strip().splitlines() or [type(error).__name__]
    found[0] = found[0].replace(f"experiment/{FILE_CHOICE}", str(file))
    return ConfigError(
        f"The configuration cannot be composed{f': {key}' if key else ''}.",
        expected="files of configs/, and references such as ${oc.env:NAME} that are there",
        found=found[0],
        todo=f"correct {key or 'the file or reference'} (see `mgsrl train --help`)",
    )
