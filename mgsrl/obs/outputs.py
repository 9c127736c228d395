"""Where a command writes: checked before the work, the same way for every command.

- What is read is never written over, whatever it is called (links, `./`, `..`), not even by force.
- What exists is replaced only by `--force`, and only when it is of the kind that is written there.
- A missing folder of an output file is a mistake, not something to make; an output folder is made
  where the first folder above it that exists is not the root of the file system.

Left out: locks. Two commands that write one file at the same time leave the one that ends last.
"""

import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mgsrl.errors import ConfigError

FORCE_HELP = "replace an output that exists"


def output_file(
    path: Path | str, flag: str, *, inputs: Iterable[Path | str] = (), force: bool = False
) -> Path:
    """`path`, fit to be written as a file: `~` expanded.

    Args:
        flag: what messages call it, such as `--output`.
        inputs: what the command reads; a folder stands for all that is in it.
        force: an existing file may be replaced.

    Raises:
        ConfigError: it is read by the same command, exists, is no file, or has no folder that can
            be written to.
    """
    file = Path(os.path.expanduser(path))
    not_an_input(file, flag, inputs)
    if file.is_dir() or (file.exists() and not file.is_file()):
        found = "a folder" if file.is_dir() else "a device, a pipe or a socket"
        raise _wrong(flag, file, "the name of a file", found, "name a file")
    if not file.parent.is_dir():
        todo = f"make the folder (mkdir -p {file.parent}), or correct the path"
        raise _wrong(flag, file, "a file in a folder that exists", f"no folder {file.parent}", todo)
    _writable(file.parent, file, flag)
    if (file.exists() or file.is_symlink()) and not force:
        raise _exists(flag, file, f"{_size(file)} written before")
    return file


def output_folder(
    path: Path | str,
    flag: str,
    *,
    inputs: Iterable[Path | str] = (),
    force: bool = False,
    is_ours: Callable[[Path], bool],
    kind: str,
) -> Path:
    """`path`, fit to become a folder that is written whole: `~` expanded.

    Args:
        flag, inputs: as of `output_file`.
        force: an existing folder may be replaced, if `is_ours` knows it.
        is_ours: whether a folder that is there is of the kind that is written.
        kind: what that is in words, such as "an exported model".

    Raises:
        ConfigError: as of `output_file`.
    """
    folder = Path(os.path.expanduser(path))
    not_an_input(folder, flag, inputs)
    _can_be_made(folder, flag)
    if folder.is_dir() and not any(folder.iterdir()):
        return folder
    if folder.exists() or folder.is_symlink():
        if not folder.is_dir() or not is_ours(folder):
            found = "a folder with something else" if folder.is_dir() else "a file"
            expected = f"a new folder, or {kind} to replace"
            raise _wrong(flag, folder, expected, found, f"choose another {flag}")
        if not force:
            raise _exists(flag, folder, kind)
    return folder


def shared_folder(path: Path | str, flag: str) -> Path:
    """`path`, fit to be a folder that may hold other things too: `~` expanded, not made yet."""
    folder = Path(os.path.expanduser(path))
    _can_be_made(folder, flag)
    if folder.exists() and not folder.is_dir():
        raise _wrong(flag, folder, "a folder", "a file", f"choose another {flag}")
    return folder


@contextmanager
def replaced_folder(folder: Path) -> Iterator[Path]:
    """A draft beside `folder` that takes its place when the block ends well; else it is removed."""
    draft, old = (folder.with_name(f".{folder.name}.{end}") for end in ("tmp", "old"))
    shutil.rmtree(draft, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield draft
    except BaseException:  # Ctrl-C too
        shutil.rmtree(draft, ignore_errors=True)
        raise
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
        os.replace(folder, old)
    os.replace(draft, folder)
    shutil.rmtree(old, ignore_errors=True)


def not_an_input(output: Path, flag: str, inputs: Iterable[Path | str]) -> None:
    """Raise ConfigError when `output` is one of `inputs`, or a folder that holds one."""
    for each in inputs:
        source = Path(os.path.expanduser(each))
        if not source.exists():
            continue  # a hub id, or a mistake that the reader of it reports
        same = output.exists() and output.samefile(source)
        # The folder of the input, or one above it, would go with the input in it.
        if same or source.resolve().is_relative_to(output.resolve()):
            found = f"it {'is' if same else 'holds'} {source}, which is read"
            todo = f"choose another {flag}; --force does not help here"
            raise _wrong(flag, output, "another place than what is read", found, todo)


def _can_be_made(folder: Path, flag: str) -> None:
    above = next(
        parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists()
    )
    if above == folder.absolute() or folder.parent == above:
        _writable(above if above.is_dir() else above.parent, folder, flag)
        return
    if above == Path(above.anchor):
        todo = f"correct the path, or make its folder (mkdir -p {folder.parent})"
        found = f"nothing of {folder.absolute().parent}"
        raise _wrong(flag, folder, "a place in a folder that exists", found, todo)
    _writable(above, folder, flag)


def _writable(folder: Path, output: Path, flag: str) -> None:
    if not os.access(folder, os.W_OK | os.X_OK):
        found = f"{folder} is read-only for this user"
        todo = f"choose another {flag}, or change its permissions"
        raise _wrong(flag, output, "a folder that can be written to", found, todo)


def _size(file: Path) -> str:
    return f"{file.stat().st_size} bytes" if file.exists() else "a link"


def _exists(flag: str, output: Path, found: str) -> ConfigError:
    todo = f"choose another {flag}, or add --force to replace it"
    return _wrong(flag, output, "something that does not exist yet", found, todo)


def _wrong(flag: str, output: Path, expected: str, found: str, todo: str) -> ConfigError:
    problem = f"{flag} {output} cannot be written."
    return ConfigError(problem, expected=expected, found=found, todo=todo)
