"""`manifest.json` of a checkpoint: every file with size and sha256, and whether it still holds.

A checkpoint is damaged when its manifest cannot be read, leaves out a file that is there, or names
one that is absent or changed. Whatever the damage, the answer is one `CheckpointError` that says
which file and why. Left out: signatures (it guards against accidents, not against people).
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from mgsrl.errors import CheckpointError

FILE = "manifest.json"
FORMAT = 1
STATE = "state.json"
LEARNER = "learner"
_SHA256 = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class _Facts:
    size: int
    """Bytes."""
    sha256: str


def write_manifest(folder: Path) -> None:
    """Write the manifest of what is in `folder`."""
    files = {
        path.relative_to(folder).as_posix(): {"size": path.stat().st_size, "sha256": _sha256(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    (folder / FILE).write_text(json.dumps({"format": FORMAT, "files": files}, indent=1))


def check_files(folder: Path, *, content: bool) -> None:
    """Compare the files of a checkpoint with its manifest.

    Args:
        content: read and hash every file; without it only names and sizes are compared (which
            costs no more than a directory listing).

    Raises:
        CheckpointError: a file is missing, cut short, changed or not listed.
    """
    name = FILE
    try:
        listed = _read(folder)
        for name, facts in listed.items():
            _check_file(folder, name, facts, content)
        for path in folder.rglob("*"):
            name = path.relative_to(folder).as_posix()
            hidden = any(part.startswith(".") for part in PurePosixPath(name).parts)
            if path.is_file() and name not in listed and name != FILE and not hidden:
                raise damaged(folder, f"{name} is not listed in {FILE}")
    except OSError as error:  # no permission, a broken disk, a name that is none
        raise damaged(folder, f"{name} cannot be read ({error.strerror or error})") from error


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
        raise damaged(folder, f"{FILE} cannot be read ({error.strerror or error})") from error


def damaged(folder: Path, found: str) -> CheckpointError:
    """The one message about a damaged checkpoint."""
    return CheckpointError(
        f"The checkpoint {folder} is damaged.",
        expected="every file of its manifest, unchanged",
        found=found,
        todo="restore it from a copy, go on from another checkpoint (resume=PATH) or start "
        "anew (resume=never)",
    )


def _check_file(folder: Path, name: str, facts: _Facts, content: bool) -> None:
    file = folder / name
    if not file.is_file():
        raise damaged(folder, f"{name} is missing")
    size = file.stat().st_size
    if size != facts.size:
        raise damaged(folder, f"{name} has {size} bytes, not {facts.size}")
    if content and _sha256(file) != facts.sha256:
        raise damaged(folder, f"{name} does not match its sha256")


def _read(folder: Path) -> dict[str, _Facts]:
    """The listed files; OSError when there is no such file."""
    path = folder / FILE
    if not path.is_file():
        raise damaged(folder, f"no {FILE}")
    try:
        manifest = json.loads(path.read_bytes().decode("utf-8"))
    except (ValueError, RecursionError) as error:  # JSON and UTF-8 both
        raise damaged(folder, f"{FILE} cannot be read ({error})") from error
    if not isinstance(manifest, Mapping) or manifest.get("format") != FORMAT:
        raise damaged(folder, f"{FILE} is not of format {FORMAT}")
    files = manifest.get("files")
    if not isinstance(files, Mapping):
        raise damaged(folder, f"{FILE} lists no files")
    listed = {name: _facts(folder, name, facts) for name, facts in files.items()}
    if STATE not in listed or not any(name.startswith(f"{LEARNER}/") for name in listed):
        raise damaged(folder, f"{FILE} does not list {STATE} and the files of {LEARNER}/")
    return listed


def _facts(folder: Path, name: str, facts: Any) -> _Facts:
    parts = PurePosixPath(name).parts
    inside = bool(parts) and name[0] != "/" and ".." not in parts and name.isprintable()
    size = facts.get("size") if isinstance(facts, Mapping) else None
    digest = facts.get("sha256") if isinstance(facts, Mapping) else None
    whole = isinstance(size, int) and not isinstance(size, bool) and size >= 0
    if not (inside and whole and isinstance(digest, str) and _SHA256.fullmatch(digest)):
        raise damaged(folder, f"{FILE} has no size and sha256 for {name!r}")
    assert isinstance(size, int)
    return _Facts(size, digest)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
