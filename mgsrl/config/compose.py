"""Command-line overrides -> one validated `Config`, with Hydra doing the composing.

Every mistake becomes one `ConfigError` that names the key, what was expected, what was found
and the nearest valid name. Nothing heavy is imported here, so mistakes surface in a second.
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, cast

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from mgsrl.config.checks import check_config
from mgsrl.config.data import DomainConfig
from mgsrl.config.root import Config
from mgsrl.errors import ConfigError, MissingPathError, explain, nearest

DEFAULT_EXPERIMENT = "pocket_mgs"

ConfigStore.instance().store(name="schema", node=Config)


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


def normalize_overrides(overrides: Iterable[str]) -> list[str]:
    """Accept `experiment=NAME` and `+experiment=NAME`; without either, take the default."""
    normalized = [re.sub(r"^experiment=", "+experiment=", item) for item in overrides]
    if not any(item.startswith("+experiment=") for item in normalized):
        normalized.insert(0, f"+experiment={DEFAULT_EXPERIMENT}")
    return normalized


def compose_config(overrides: Sequence[str]) -> Config:
    """Compose, type-check and validate.

    Raises:
        ConfigError: an unknown experiment, key or value, a wrong type, an impossible combination.
    """
    try:
        with initialize_config_dir(version_base="1.3", config_dir=str(config_dir())):
            composed = compose("config", overrides=normalize_overrides(overrides))
        config = cast(Config, OmegaConf.to_object(composed))
    except MissingConfigException as error:
        raise _unknown_choice(error) from error
    except (HydraException, OmegaConfBaseException) as error:
        raise _bad_override(error) from error
    check_config(config)
    return config


def config_to_yaml(config: Config) -> str:
    """The resolved configuration as YAML."""
    return OmegaConf.to_yaml(OmegaConf.structured(config), resolve=True)


def config_from_yaml(path: Path) -> Config:
    """Read what `config_to_yaml` wrote.

    Raises:
        MissingPathError: there is no such file.
    """
    if not path.is_file():
        raise MissingPathError(f"{path} does not exist; is it a run folder of mgsrl?")
    try:
        merged = OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.load(path))
        return cast(Config, OmegaConf.to_object(merged))
    except (OmegaConfBaseException, YAMLError) as error:
        raise ConfigError(
            explain(
                f"{path} is not a configuration of this version.",
                expected="what mgsrl wrote",
                found=str(error).splitlines()[0],
                todo="use the version of mgsrl that wrote it, or another run.dir",
            )
        ) from error


def differences(old: Config, new: Config, ignore: Iterable[str] = ()) -> list[str]:
    """`key: old -> new` for every leaf that differs, keys that start with `ignore` left out."""
    flat_old, flat_new = _flat(old), _flat(new)
    skip = tuple(ignore)
    return [
        f"{key}: {flat_old.get(key)!r} -> {flat_new.get(key)!r}"
        for key in sorted(flat_old.keys() | flat_new.keys())
        if flat_old.get(key) != flat_new.get(key) and not key.startswith(skip)
    ]


def _flat(config: Config) -> dict[str, Any]:
    def walk(node: Any, prefix: str) -> Iterable[tuple[str, Any]]:
        if isinstance(node, dict):
            for key, value in node.items():
                yield from walk(value, f"{prefix}.{key}" if prefix else str(key))
        else:
            yield prefix, node

    container = OmegaConf.to_container(OmegaConf.structured(config), resolve=True)
    return dict(walk(container, ""))


def _unknown_choice(error: MissingConfigException) -> ConfigError:
    group, _, name = (error.missing_cfg_file or "").rpartition("/")
    options = list(error.options or [])
    return ConfigError(
        explain(
            f"There is no {group or 'configuration'} {name!r}.",
            expected=f"one of {', '.join(options) or '(none)'}",
            found=repr(name),
            todo=f"choose another name ({nearest(name, options)})",
        )
    )


def _bad_override(error: Exception) -> ConfigError:
    """Turn Hydra's and OmegaConf's wording into the house form."""
    causes: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in causes:
        causes.append(link)
        link = link.__cause__ or link.__context__
    text = str(causes[-1] if isinstance(error, ConfigCompositionException) else error)
    full_key = next((key for cause in causes if (key := getattr(cause, "full_key", None))), None)
    match = re.search(r"(?:Key|key) '([^']+)'", text)
    if full_key and match and ("not in" in text):
        parent, _, leaf = str(full_key).rpartition(".")
        valid = _valid_keys(parent)
        return ConfigError(
            explain(
                f"Unknown configuration key {full_key!r}.",
                expected=f"a key of {parent or 'the configuration'}",
                found=repr(leaf),
                todo=f"correct the name ({nearest(leaf, valid)})",
            )
        )
    first = str(error).strip().splitlines()[0]
    detail = text.strip().splitlines()[0]
    return ConfigError(
        explain(
            f"The configuration cannot be composed: {first}",
            expected="KEY=VALUE overrides whose types fit",
            found=detail if not full_key else f"{full_key}: {detail}",
            todo="see `mgsrl train --help` for examples",
        )
    )


def _valid_keys(parent: str) -> list[str]:
    schema = OmegaConf.structured(Config)
    if not parent:
        return [*map(str, schema), "experiment"]
    if parent == "domains":
        files = (config_dir() / "domains").glob("*.yaml")
        return sorted({str(name) for file in files for name in OmegaConf.load(file)})
    parts = parent.split(".")
    if parts[0] == "domains":
        schema, parts = OmegaConf.structured(DomainConfig), parts[2:]
    for part in parts:
        schema = schema.get(part) if schema is not None else None
    return [str(key) for key in schema] if schema is not None else []
