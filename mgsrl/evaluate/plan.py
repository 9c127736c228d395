"""What an evaluation is: the settings of a call, and of each task what is to be made of it."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mgsrl.config.task import Task
from mgsrl.data.rows import Row
from mgsrl.evaluate.store import Key, SampleRow, TaskFiles
from mgsrl.rewards.judge import JudgeConfig
from mgsrl.types import Sampling


@dataclass(frozen=True)
class EvalSettings:
    """What an evaluation is; defaults of the tasks hold where a value is None."""

    tasks: Sequence[Task]
    output: Path
    model: Mapping[str, Any]
    """What identifies the weights, JSON-able; a continued evaluation must have the same."""
    positions: int
    """Tokens of prompt and response that the model takes."""
    fresh: bool = False
    """Start again: what the folder holds of an earlier evaluation goes once there is an engine."""
    engine: str = "vllm"
    dtype: str = "auto"
    """Of the engine: `float32`, `bfloat16`, or `auto`: float32 on a CPU, bfloat16 on a GPU."""
    prompt_template: str = "chat"
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    date: str | None = None
    """The day that chat templates take for today; null is that on which the evaluation began."""
    seed: int = 0
    limits: Mapping[str, int] = field(default_factory=dict)
    """First rows used, by task; all where not named."""
    samples: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    max_new_tokens: int | None = None
    reward_model: str = ""
    baseline: Path | None = None
    judge_url: str = ""
    judge_model: str = ""
    judge_key_env: str = ""
    judge_config: Path | None = None


@dataclass
class TaskPlan:
    """One task, ready to run."""

    task: Task
    source: str
    rows: list[Row]
    samples: int
    sampling: Sampling
    files: TaskFiles
    judge: JudgeConfig | None = None
    baselines: dict[str, str] | None = None

    @property
    def keys(self) -> list[Key]:
        return [(row.id, sample) for row in self.rows for sample in range(self.samples)]

    @property
    def missing(self) -> list[tuple[Row, int]]:
        """(row, index of the sample) of the responses that are not stored."""
        stored = self.files.rows
        return [
            (row, sample)
            for row in self.rows
            for sample in range(self.samples)
            if (row.id, sample) not in stored
        ]

    @property
    def stored(self) -> list[SampleRow]:
        return [self.files.rows[key] for key in self.keys if key in self.files.rows]

    def settings(self) -> dict[str, Any]:
        """What a continued evaluation must have in common."""
        content = json.dumps([[r.id, r.messages, r.reference] for r in self.rows], sort_keys=True)
        return {
            "source": self.source,
            "rows": len(self.rows),
            "rows_sha256": hashlib.sha256(content.encode()).hexdigest()[:16],
            "samples_per_prompt": self.samples,
            **asdict(self.sampling),
            "judge": None if self.judge is None else self.judge.asking(),
            "baseline_sha256": _digest(self.baselines),
        }


def _digest(value: object) -> str | None:
    if value is None:
        return None
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
