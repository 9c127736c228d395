"""Configuration files outside the package: `--config FILE`, `--config-dir DIR`, and `./configs`.

A folder has the layout of our own `configs/` (`experiment/mine.yaml`, `domains/mine.yaml`, ...);
what is in it can be chosen like what is in ours: `+experiment=mine`. A single file is an
experiment, whatever it is called and wherever it lies. No file needs a Hydra header. Left out:
replacing one of our files by another of the same name, which would make a command mean something
else in another folder.
"""

import itertools
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import yaml

from mgsrl.errors import ConfigError, MissingPathError

GROUPS = ("experiment", "domains", "strategy", "recipe")
"""Folders of `configs/` from which a run is composed."""
OF_THE_RUN = ("experiment", "strategy", "recipe")
"""Those whose files hold keys of the whole run."""
NO_DOMAINS = "none"
"""The file of `configs/domains/` that names none."""
FILE_CHOICE = "own_file"
"""The name under which the file of `--config` is chosen."""
_PACKAGE = re.compile(r"^#[ \t]*@package[^\n]*\n", re.MULTILINE)


def names_in(folder: Path, group: str) -> list[str]:
    """Names of the files of one group."""
    return sorted(path.stem for path in (folder / group).glob("*.yaml"))


@contextmanager
def own_folders(ours: Path, file: Path | None, folder: Path | None) -> Iterator[list[Path]]:
    """The folders of a user's files, beside `ours`; a temporary one has them as Hydra wants them.

    Args:
        file: an experiment; it is `experiment/FILE_CHOICE.yaml` of its folder.
        folder: laid out as `ours`; None takes `./configs` where there is one.

    Raises:
        MissingPathError: there is no such file or folder.
        ConfigError: it is no YAML mapping, has no group in it, or a name that we use.
    """
    here = Path("configs")
    # Of a checkout that is not the installed one, `configs/` is another copy of ours.
    checkout = (here.absolute().parent / "mgsrl" / "__init__.py").is_file()
    if folder is None and not checkout and any((here / group).is_dir() for group in GROUPS):
        folder = here
    folders = [] if folder is None or _same(folder, ours) else [_checked(folder.expanduser(), ours)]
    texts = {}
    if file is not None:
        texts["experiment", FILE_CHOICE] = _text(file.expanduser(), "experiment")
    for each, group in itertools.product(folders, OF_THE_RUN):
        for path in (each / group).glob("*.yaml"):
            with suppress(ConfigError):  # whoever chooses it is told
                texts[group, path.stem] = _text(path, group)
    if not texts:
        yield folders
        return
    with tempfile.TemporaryDirectory(prefix="mgsrl-config-") as made:
        for (group, name), text in texts.items():
            (Path(made) / group).mkdir(exist_ok=True)
            (Path(made) / group / f"{name}.yaml").write_text(text, encoding="utf-8")
        yield [Path(made), *folders]  # Hydra takes the first that it finds


def _same(folder: Path, other: Path) -> bool:
    return folder.is_dir() and folder.samefile(other)


def _checked(folder: Path, ours: Path) -> Path:
    if not folder.is_dir():
        raise _missing("--config-dir", folder, "a folder")
    groups = {group: names_in(folder, group) for group in GROUPS}
    if not any(groups.values()):
        expected = " or ".join(f"{group}/NAME.yaml" for group in GROUPS)
        raise _wrong(
            f"{folder} holds no configuration.", expected, "none of them", "add such a file"
        )
    for group, names in groups.items():
        if taken := sorted({*names} & {*names_in(ours, group)}):
            file = folder / group / f"{taken[0]}.yaml"
            raise _wrong(
                f"{file} has a name of mgsrl's own.",
                f"another name than {taken[0]}",
                f"{group}={taken[0]}, twice",
                "rename the file",
            )
    return folder.resolve()


def _text(file: Path, group: str) -> str:
    """The text of a user's file as one of `group`, whose keys are those of the whole run."""
    if not file.is_file():
        raise _missing("--config", file, "a YAML file")
    try:
        text = file.read_text(
            encoding="utf-8-sig"
        )  # some editors mark UTF-8 with a first character
        content = yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        found = " ".join(str(error).split())
        raise _wrong(f"{file} cannot be read.", "YAML in UTF-8", found, "mend it") from error
    if not isinstance(content, dict):
        found = type(content).__name__
        raise _wrong(f"{file} holds no configuration.", "KEY: VALUE, ...", found, "mend it")
    text = _PACKAGE.sub("", text)
    if group == "experiment" and "domains" in content and "defaults" not in content:
        # Whoever names domains and asks for no others wants these, not ours beside them.
        text = f"defaults:\n  - override /domains: {NO_DOMAINS}\n  - _self_\n{text}"
    return f"# @package _global_\n{text}"


def _missing(option: str, path: Path, expected: str) -> MissingPathError:
    return MissingPathError(
        f"{option} names nothing.",
        expected=expected,
        found=f"no {path} (in {Path.cwd()})",
        todo="correct the path",
    )


def _wrong(problem: str, expected: str, found: str, todo: str) -> ConfigError:
    return ConfigError(problem, expected=expected, found=found, todo=todo)


def all_names(folders: Sequence[Path]) -> dict[str, list[str]]:
    """Group -> every name that can be chosen in `folders`."""
    return {
        group: sorted({name for folder in folders for name in names_in(folder, group)})
        for group in GROUPS
    }
