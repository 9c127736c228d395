"""All that `mgsrl plan` knows of a run: memory, places, seconds, and whether it fits."""

import json
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mgsrl.cluster.hardware import Cores, Hardware, cores_beside, measured_cores
from mgsrl.cluster.memory import GIB, Memory
from mgsrl.cluster.preflight import usable_cores
from mgsrl.config import Config
from mgsrl.errors import ConfigError
from mgsrl.training.estimate import Estimate, estimate
from mgsrl.training.fitting import Change, Verdict, judge, machines_for, remedy
from mgsrl.training.forecast import Forecast, Lengths, forecast
from mgsrl.training.places import use_all

MEASURED = Path(__file__).resolve().parents[1] / "assets" / "plan_measured.json"
"""Memory and seconds that were measured, and what the plan said (`scripts/plan_check.py`)."""


@dataclass(frozen=True)
class Planned:
    config: Config
    hardware: Hardware
    """With as many machines as the run asks for, where that was left open."""
    asked: Hardware
    """As it was given."""
    memory: Estimate
    verdict: Verdict
    time: Forecast | None
    """None for a card whose rates are not known."""

    @cached_property
    def remedy(self) -> Change | None:
        """What would make it fit; None where it fits, or nothing does."""
        if not self.verdict.problems:
            return None
        return remedy(self.config, self.memory, self.asked)

    @property
    def idle(self) -> int:
        """GPUs of the given machines that nobody uses."""
        seats = self.verdict.seats if self.asked.given else ()
        return sum(not who for machine in seats for who in machine)

    def misfit(self) -> ConfigError:
        """For a run that does not fit."""
        gpu = self.hardware.gpu.name if self.hardware.gpu else "GPU"
        where = "this machine"
        if self.memory.device == "cuda":
            shape = f"{self.hardware.nodes} x {self.hardware.gpus_per_node}"
            where = f"{shape} {gpu} of {self.hardware.gib:.1f} GiB"
        if self.remedy is None:
            todo = (
                "no change that was tried is enough: take more or larger GPUs, or a smaller model"
            )
        else:
            words = " ".join(f"{key}={_word(value)}" for key, value in self.remedy.items())
            todo = f"it fits with: {words}"
        return ConfigError(
            "The run does not fit.",
            expected=f"a run that fits {where}",
            found="; ".join(self.verdict.problems),
            todo=todo,
        )

    def record(self) -> dict[str, Any]:
        """For programs; sizes in bytes, times in seconds unless they say otherwise."""
        found, time = self.memory, self.time
        return {
            "fits": not self.verdict.problems,
            "problems": list(self.verdict.problems),
            "remedy": self.remedy,
            "device": found.device,
            "gpus": found.gpus,
            "gpu_gib": self.hardware.gib,
            "hardware": asdict(self.hardware) if found.device == "cuda" else None,
            "model": asdict(found.shape),
            "placement": [asdict(place) for place in found.places],
            "seats": self.verdict.seats,
            "idle_gpus": self.idle,
            "use_all": use_all(self.config, self.hardware.num_gpus) if self.idle else [],
            "batch": found.batch,
            "learner_rank": _memory_record(found.learner),
            "engine_gpu": found.engine and _memory_record(found.engine),
            "cached_sequences": found.cached_sequences,
            "turns_bytes": found.turns,
            "time": time and asdict(time) | {"step_s": time.step_s, "run_hours": time.hours},
            "measured": measured(),
        }


def plan_run(config: Config, hardware: Hardware, lengths: Lengths) -> Planned:
    """Plan the run on these machines.

    Raises:
        UserError: the configuration or the policy is not what it should be. That the run does not
            fit is in the result.
    """
    found = estimate(config, hardware.num_gpus, hardware.gib)
    machines = machines_for(found, hardware)
    cores = _cores(found, machines)
    return Planned(
        config=config,
        hardware=machines,
        asked=hardware,
        memory=found,
        verdict=judge(config, found, machines),
        time=forecast(config, found, machines, cores, lengths),
    )


def measured() -> dict[str, str]:
    """How far plans were from measurements, in words, by what was measured."""
    return {what: _range(part) for what, part in json.loads(MEASURED.read_text()).items()}


def _range(part: dict[str, Any]) -> str:
    errors = [row["planned"] / row["measured"] - 1 for row in part["rows"]]
    return f"measured against {part['of']}: {min(errors):+.0%} to {max(errors):+.0%}"


def _cores(found: Estimate, machines: Hardware) -> Cores:
    if found.device == "cuda":  # for reward models beside GPUs
        return cores_beside(machines)
    return measured_cores(usable_cores(), found.shape.hidden_size)


def _word(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _memory_record(memory: Memory) -> dict[str, Any]:
    phase, peak = memory.peak
    return {
        "held_bytes": dict(memory.held),
        "phase_bytes": {name: dict(terms) for name, terms in memory.phases.items()},
        "host_bytes": dict(memory.host),
        "peak_phase": phase,
        "peak_gib": round(peak / GIB, 2),
    }
