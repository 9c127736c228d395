"""Weights & Biases: a run of the id that is stored in the run folder, resumed when training is.

Where a run goes on from an older step than it was logged to, wandb's run is rewound to that step
(`resume_from`): else wandb would ignore the steps that are done again. A run that begins again has
a new id, and so has one whose server cannot rewind.
Credentials are never prompted for, and when the server cannot be reached the run goes on offline
with one clear message (`wandb sync` uploads it later); `tracker.Guest` bounds every call.
`metrics.jsonl` is the record; this is a view of it. System metrics are wandb's own.
Left out: console capture and code saving; wandb's alerts.
"""

import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mgsrl.config.training import WANDB_MODES, TrackersConfig
from mgsrl.files.jsonl import write_atomic
from mgsrl.obs.completions import COLUMNS
from mgsrl.obs.tracker import Bounded, TrackedRun, Tracker

INIT_LIMIT_S = 45.0
FINISH_LIMIT_S = 30.0
ID_FILE = "wandb_id.txt"
CANNOT_REWIND = "failed to rewind run"
"""What wandb says of a server that cannot."""


class WandbTracker(Tracker):
    """Logs to wandb in `mode` `offline` or `online`; a server is waited for `init_limit_s`.

    Raises:
        RuntimeError: not even an offline run can be started.
    """

    def __init__(
        self, run: TrackedRun, config: TrackersConfig, mode: str, init_limit_s: float = INIT_LIMIT_S
    ) -> None:
        self._first = run.next_step
        again = run.last_step >= run.next_step
        arguments = {
            "project": config.wandb_project,
            "name": run.name,
            "id": stored_id(run.folder, anew=again and run.next_step <= 1),
            "dir": str(run.folder),
            "config": dict(run.config),
            # None leaves it to wandb, which looks into the environment (WANDB_ENTITY, ...).
            "entity": config.wandb_entity,
            "group": config.wandb_group,
            "job_type": config.wandb_job_type,
            "tags": list(config.wandb_tags) or None,
            "notes": config.wandb_notes,
        }
        # Offline too: `wandb sync` then appends the parts of a resumed run to one another (or
        # rewinds it), where it would let the last replace the others.
        goes_on = {"resume": "allow"}
        if again and run.next_step > 1:
            goes_on = {"resume_from": f"{arguments['id']}?_step={run.next_step - 1}"}
        problem: str | None = "not asked for"
        if mode == "online":
            problem, self._run = _start("online", arguments | goes_on, init_limit_s)
            if problem is not None and CANNOT_REWIND in problem:
                new = arguments["id"] = stored_id(run.folder, anew=True)
                goes_on = {"resume": "allow"}
                run.note(f"wandb: {problem}; the run goes on as {new} from step {run.next_step}")
                problem, self._run = _start("online", arguments | goes_on, init_limit_s)
            if problem is not None:
                run.note(
                    f"wandb: going on offline ({problem}). Upload later with: "
                    f"wandb sync {run.folder / 'wandb' / 'offline-run-*'}"
                )
        if problem is not None:
            problem, self._run = _start("offline", arguments | goes_on, INIT_LIMIT_S)
        if problem is not None:
            raise RuntimeError(problem)

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        self._run.log(dict(scalars), step=step)

    def evaluation(self, step: int, scalars: Mapping[str, float]) -> None:
        # wandb adds them to the row of the step. That of a step before this process is closed.
        self.log(max(step, self._first) if self._first > 1 else step, scalars)

    def completions(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        import wandb

        data = [[row[name] for name in COLUMNS] for row in rows]
        # Mixed types: a step whose rewards all abstained has only None in a column
        table = wandb.Table(columns=list(COLUMNS), data=data, allow_mixed_types=True)
        self._run.log({"completions": table}, step=step)

    def image(self, step: int, name: str, path: Path) -> None:
        import wandb

        self._run.log({name: wandb.Image(str(path))}, step=step)

    def close(self) -> None:
        self._run.finish()


def wandb_mode(configured: str) -> str:
    """The more reserved of the configured mode and the environment's WANDB_MODE: a cluster whose
    nodes have no way out sets it for everyone, and nothing opens a way that the run has shut."""
    asked = os.environ.get("WANDB_MODE", "")
    known = asked in WANDB_MODES
    return max(configured, asked, key=WANDB_MODES.index) if known else configured


def _start(mode: str, arguments: dict[str, Any], limit_s: float) -> tuple[str | None, Any]:
    """What went wrong, or None and the run. In a thread of its own: it may never come back."""
    return Bounded("wandb init")(lambda: _init(mode, arguments, limit_s), limit_s + 5.0)


def _init(mode: str, arguments: dict[str, Any], limit_s: float) -> Any:
    import wandb

    settings = wandb.Settings(
        silent=True,
        console="off",
        init_timeout=limit_s,
        finish_timeout=FINISH_LIMIT_S,
        disable_git=True,
        disable_code=True,
    )
    if mode == "online" and not wandb.login(prompt=False):
        raise ConnectionError("no API key; set WANDB_API_KEY or run `wandb login`")
    return wandb.init(
        mode="online" if mode == "online" else "offline",
        reinit="create_new",
        settings=settings,
        **arguments,
    )


def stored_id(run_dir: Path, *, anew: bool = False) -> str:
    """The run's wandb id, made once (or `anew`) and kept in the run folder."""
    path = run_dir / ID_FILE
    known = path.read_text(encoding="utf-8").strip() if path.exists() else ""
    if anew or not known:
        known = secrets.token_hex(4)
        write_atomic(path, known + "\n")
    return known
