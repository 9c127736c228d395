"""How the judge of a benchmark is asked and how its answer is read: one YAML file each.

The keys are those of the reward `judge` without `judge_` (`rewards/judge.py` explains them). The
files in `configs/judge/` hold short templates in our own words. Numbers that are to be compared
with a leaderboard need the benchmark's own template, judge model and baseline: put them into a
copy.
"""

from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from mgsrl.config.compose import config_dir
from mgsrl.config.typed import read_config
from mgsrl.errors import ConfigError, MissingPathError, nearest
from mgsrl.rewards.judge import JudgeConfig

NAMES = {
    item.name.removeprefix("judge_"): item.name
    for item in fields(JudgeConfig)
    if item.name.startswith("judge_")
} | {"user": "judge_template", "minimum": "judge_min", "maximum": "judge_max"}
"""Key of a file -> key of the reward."""


def judge_config_path(given: Path | None, task: str) -> Path:
    """The file given, or the example for `task` in `configs/judge/`."""
    path = given or config_dir() / "judge" / f"{task}.yaml"
    if not path.is_file():
        folder = config_dir() / "judge"
        known = ", ".join(sorted(file.stem for file in folder.glob("*.yaml")))
        raise MissingPathError(
            f"The task {task!r} has no judge configuration.",
            expected=f"a YAML file (examples in configs/judge/: {known})",
            found=f"no file {path}" if given else "none given",
            todo="--judge-config FILE.yaml",
        )
    return path


def load_judge_config(path: Path, **server: Any) -> JudgeConfig:
    """Read and check one file.

    Args:
        server: keys that no file holds: `url`, `model`, ...

    Raises:
        ConfigError: no YAML mapping, an unknown key, a value that cannot be.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        values = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    if not isinstance(values, dict):
        raise _bad(path, "a YAML mapping of names to values", str(values)[:200])
    for name, value in values.items():
        if name not in NAMES:
            raise _bad(path, nearest(str(name), NAMES), repr(name))
        if isinstance(value, dict):  # a verdict may be a number
            values[name] = {str(label): share for label, share in value.items()}
    try:
        config = read_config(JudgeConfig, {NAMES[k]: v for k, v in values.items()} | server)
        config.validate_asking("")
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    return config


def _bad(path: Path, expected: str, found: str) -> ConfigError:
    return ConfigError(
        f"{path} is no judge configuration.",
        expected=expected,
        found=found,
        todo="mend the file; those in configs/judge/ are examples",
    )
