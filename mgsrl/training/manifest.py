"""`manifest.json` of a checkpoint: every file with size and sha256, and whether it still holds.

A checkpoint is damaged when its manifest cannot be read, leaves out a file that is there, or names
one that is absent or changed. Whatever the damage, the answer is one `CheckpointError` that says
which file and why. Left out: signatures (it guards against accidents, not against people).
"""

import json
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any

from mgsrl.cluster.preflight import usable_cores
from mgsrl.errors import CheckpointError, NewerVersionError
from mgsrl.files.hashed import FileFacts, facts_of

FILE = "manifest.json"
FORMAT = 1
STATE = "state.json"
LEARNER = "learner"
MAX_THREADS = 8
_SHA256 = re.compile("[0-9a-f]{64}")


def write_manifest(folder: Path, known: Mapping[str, FileFacts] = MappingProxyType({})) -> None:
    """Write the manifest of what is in `folder`.

    Args:
        known: facts that whoever wrote a file has found on the way, by name; only the other files
            are read. They are listed in any case: a machine may not see yet what another one
            wrote into a shared folder.
    """
    seen = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    files = {
        name: asdict(known.get(name) or facts_of(folder / name))
        for name in sorted((seen | known.keys()) - {FILE})
    }
    (folder / FILE).write_text(json.dumps({"format": FORMAT, "files": files}, indent=1))


def check_files(folder: Path, *, content: bool) -> None:
    """Compare the files of a checkpoint with its manifest.

    Args:
        content: read and hash every file, several at once; without it only names and sizes are
            compared (which costs no more than a directory listing).

    Raises:
        CheckpointError: a file is missing, cut short, changed or not listed.
    """
    name = FILE
    try:
        listed = _read(folder)
        for name, facts in listed.items():
            _check_size(folder, name, facts)
        for path in folder.rglob("*"):
            name = path.relative_to(folder).as_posix()
            hidden = any(part.startswith(".") for part in PurePosixPath(name).parts)
            if path.is_file() and name not in listed and name != FILE and not hidden:
                raise damaged(folder, f"{name} is not listed in {FILE}")
    except OSError as error:  # no permission, a broken disk, a name that is none
        raise _unreadable(folder, name, error) from error
    if content:
        with ThreadPoolExecutor(min(MAX_THREADS, usable_cores())) as threads:
            for _ in threads.map(lambda item: _check_content(folder, *item), listed.items()):
                pass


def holds(folder: Path) -> bool:
    """Whether names and sizes are those of the manifest."""
    try:
        check_files(folder, content=False)
    except CheckpointError:
        return False
    return True


def total_bytes(folder: Path) -> int:
    """Bytes of a checkpoint, as its manifest tells them.

    Raises:
        CheckpointError: the manifest cannot be read.
    """
    try:
        return sum(facts.size for facts in _read(folder).values())
    except OSError as error:
        raise _unreadable(folder, FILE, error) from error


def damaged(folder: Path, found: str) -> CheckpointError:
    """The one message about a damaged checkpoint."""
    return CheckpointError(
        f"The checkpoint {folder} is damaged.",
        expected="every file of its manifest, unchanged",
        found=found,
        todo="restore it from a copy, go on from another checkpoint (resume=PATH) or start "
        "anew (resume=never)",
    )


def _check_size(folder: Path, name: str, facts: FileFacts) -> None:
    file = folder / name
    if not file.is_file():
        raise damaged(folder, f"{name} is missing")
    size = file.stat().st_size
    if size != facts.size:
        raise damaged(folder, f"{name} has {size} bytes, not {facts.size}")


def _check_content(folder: Path, name: str, facts: FileFacts) -> None:
    try:
        found = facts_of(folder / name)
    except OSError as error:
        raise _unreadable(folder, name, error) from error
    if found != facts:
        raise damaged(folder, f"{name} does not match its sha256")


def _unreadable(folder: Path, name: str, error: OSError) -> CheckpointError:
    return damaged(folder, f"{name} cannot be read ({error.strerror or error})")


def _read(folder: Path) -> dict[str, FileFacts]:
    """The listed files; OSError when there is no such file."""
    path = folder / FILE
    if not path.is_file():
        raise damaged(folder, f"no {FILE}")
    try:
        manifest = json.loads(path.read_bytes().decode("utf-8"))
    except (ValueError, RecursionError) as error:  # JSON and UTF-8 both
        raise damaged(folder, f"{FILE} cannot be read ({error})") from error
    version = manifest.get("format") if isinstance(manifest, Mapping) else None
    if isinstance(version, int) and version > FORMAT:
        raise NewerVersionError(
            f"The checkpoint {folder} was written by a newer version of mgsrl.",
            expected=f"{FILE} of format {FORMAT}",
            found=f"format {version}",
            todo="use that version, or go on from another checkpoint (resume=PATH)",
        )
    if version != FORMAT:
        raise damaged(folder, f"{FILE} is not of format {FORMAT}")
    files = manifest.get("files")
    if not isinstance(files, Mapping):
        raise damaged(folder, f"{FILE} lists no files")
    listed = {name: _facts(folder, name, facts) for name, facts in files.items()}
    if STATE not in listed or not any(name.startswith(f"{LEARNER}/") for name in listed):
        raise damaged(folder, f"{FILE} does not list {STATE} and the files of {LEARNER}/")
    return listed


def _facts(folder: Path, name: str, facts: Any) -> FileFacts:
    parts = PurePosixPath(name).parts
    inside = bool(parts) and name[0] != "/" and ".." not in parts and name.isprintable()
    size = facts.get("size") if isinstance(facts, Mapping) else None
    digest = facts.get("sha256") if isinstance(facts, Mapping) else None
    whole = isinstance(size, int) and not isinstance(size, bool) and size >= 0
    if not (inside and whole and isinstance(digest, str) and _SHA256.fullmatch(digest)):
        raise damaged(folder, f"{FILE} has no size and sha256 for {name!r}")
    assert isinstance(size, int)
    return FileFacts(size, digest)
