"""What a run leaves behind of its steps: metrics, samples, surgery's tables, alarms, pictures."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from mgsrl.config import SurgeryConfig, TrackersConfig
from mgsrl.errors import disk_problem
from mgsrl.files.backlog import Backlog
from mgsrl.obs.completions import console_table, sampled_completions
from mgsrl.obs.console import Console
from mgsrl.obs.health import HealthWatch, watched
from mgsrl.obs.metrics import read_metrics
from mgsrl.obs.rewind import last_logged_step, rewind_logs, torn_logs
from mgsrl.obs.rollout_log import FOLDER as ROLLOUTS
from mgsrl.obs.rollout_log import write_rollouts
from mgsrl.obs.surgery_log import FOLDER as SURGERY
from mgsrl.obs.surgery_log import write_surgery
from mgsrl.obs.tracker import Trackers
from mgsrl.report.extra import can_draw
from mgsrl.surgery.alarms import surgery_alarms
from mgsrl.types import DomainStats, RolloutGroup, SurgeryReport


@dataclass
class Journal:
    """The run folder's logs and the trackers."""

    folder: Path
    console: Console
    surgery: SurgeryConfig
    tracking: TrackersConfig
    open_trackers: Callable[[int, int], Trackers]
    """Opens the trackers, given the first step that will be logged and the last that was."""
    backlog: Backlog = field(default_factory=lambda: Backlog(print))
    """Every file but checkpoints is written through it."""
    trackers: Trackers = field(default_factory=lambda: Trackers([]))
    health: HealthWatch = field(default_factory=HealthWatch)
    """What keeps the run from learning."""
    _alarms: set[str] = field(default_factory=set)
    """Surgery's alarms of the last step."""

    def open(self, next_step: int, weight_version: int) -> None:
        """Take the logs back to where the run goes on, and open the trackers.

        Args:
            next_step: the first step that will be logged.
            weight_version: evaluations of later versions go; -1 when there is no checkpoint.
        """
        for line in torn_logs(self.folder):
            self.console.note(line)
        # The logs go back last: killed before, the next process still tells wandb of those steps.
        self.trackers = self.open_trackers(next_step, last_logged_step(self.folder))
        rewind_logs(self.folder, next_step=next_step, weight_version=weight_version)
        self.health = watched(read_metrics(self.folder))

    def log_step(
        self,
        step: int,
        scalars: Mapping[str, float],
        groups: Mapping[str, Sequence[RolloutGroup]],
        report: SurgeryReport,
        losses: Mapping[str, DomainStats],
    ) -> None:
        """Metrics, sampled responses and surgery's tables of one step."""
        self.trackers.log(step, scalars)
        self.show_completions(step, groups)
        most = self.tracking.samples_per_domain
        shown = {domain: of_domain[:most] for domain, of_domain in groups.items()}  # others may go
        self.backlog.add(ROLLOUTS, partial(write_rollouts, self.folder, step, shown, most))
        tokens = {domain: stats.num_tokens for domain, stats in losses.items()}
        self.backlog.add(SURGERY, partial(write_surgery, self.folder, step, report, tokens))
        self.note_alarms(step, report)
        for line in self.health.step(step, scalars):
            self.console.note(line)

    def show_completions(self, step: int, groups: Mapping[str, Sequence[RolloutGroup]]) -> None:
        """Some responses of the step, to the trackers and on the console when they are due."""
        wanted = self.tracking.completions
        rows = sampled_completions(step, groups, wanted.per_domain)
        if wanted.every and (step - 1) % wanted.every == 0:
            self.trackers.completions(step, rows)
        if wanted.console_every and (step - 1) % wanted.console_every == 0:
            self.console.show(console_table(rows, self.console.width))

    def close(self) -> None:
        """The run came to its end: say so if it taught nothing, and close the trackers."""
        for line in self.health.finish():
            self.console.note(line)
        self.backlog.close()
        self.trackers.close()

    def note_alarms(self, step: int, report: SurgeryReport) -> None:
        """Say which of surgery's alarms were entered with this step."""
        alarms = surgery_alarms(report, step, self.surgery)
        for key, text in alarms.items():
            if key not in self._alarms:
                self.console.note(text)
        self._alarms = set(alarms)

    def draw_heat_map(self, step: int) -> None:
        """Surgery's conflicts over time as a picture; a failure is a line, not the end."""
        if not can_draw():  # the run's last line says so
            return
        try:
            from mgsrl.report.heat_map import draw_heat_map

            path = draw_heat_map(self.folder)
            if path is not None:
                self.trackers.image(step, "surgery/heat_map", path)
        # Any exception: a picture must not end hours of training. The user is told.
        except Exception as error:
            problem = disk_problem(error) or repr(error)
            self.console.note(f"the surgery heat map was not drawn: {problem}")
