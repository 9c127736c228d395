"""What a journal does with surgery's reports: alarms when entered, the heat map, and no harm."""

import io
from pathlib import Path

import pytest
import torch

from mgsrl.config import SurgeryConfig, TrackersConfig
from mgsrl.obs.console import Console
from mgsrl.obs.rewind import last_logged_step
from mgsrl.obs.surgery_log import write_surgery
from mgsrl.obs.tracker import TrackedRun, Trackers
from mgsrl.obs.trackers import TensorBoardTracker
from mgsrl.surgery.report import surgery_report
from mgsrl.training.journal import Journal
from mgsrl.types import SurgeryReport


def journal_in(folder: Path) -> tuple[Journal, io.StringIO]:
    """A journal, and what its console shows."""
    shown = io.StringIO()
    console = Console(False, 9, file=shown)
    journal = Journal(folder, console, SurgeryConfig(), TrackersConfig(), lambda *_: Trackers([]))
    return journal, shown


def test_a_process_that_is_killed_while_trackers_open_leaves_the_logs(tmp_path: Path) -> None:
    """The next one has to tell wandb, too, that steps are done again."""
    journal, _ = journal_in(tmp_path)
    seen = list[int]()

    def killed(_: int, last_step: int) -> Trackers:
        seen.append(last_step)
        raise KeyboardInterrupt

    for step in (1, 2, 3):
        write_surgery(tmp_path, step, report_of(1.0, 2.0))
    journal.open_trackers = killed
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            journal.open(2, 1)
    assert seen == [3, 3]
    journal.open_trackers = lambda *_: Trackers([])
    journal.open(2, 1)
    assert last_logged_step(tmp_path) == 1


def report_of(*norms: float) -> SurgeryReport:
    gram = torch.diag(torch.tensor(norms, dtype=torch.float64)).square().expand(2, -1, -1)
    eye = torch.eye(len(norms), dtype=torch.float64).expand_as(gram)
    modules = ("layers.0.mlp", "layers.1.mlp")
    return surgery_report(("math", "chat")[: len(norms)], modules, gram, eye.sum(1), eye)


def test_an_alarm_is_printed_when_it_is_entered_and_not_again(tmp_path: Path) -> None:
    journal, shown = journal_in(tmp_path)
    history = ((1.0, 1.0), (99.0, 1.0), (99.0, 1.0), (1.0, 99.0), (1.0, 1.0), (99.0, 1.0))
    for step, norms in enumerate(history, start=1):
        journal.note_alarms(step, report_of(*norms))
    lines = shown.getvalue().splitlines()
    assert [line.split(":")[1].split(" has ")[0] for line in lines] == [
        " the gradient of math",
        " the gradient of chat",
        " the gradient of math",
    ]
    assert [line.split("at step ")[1][0] for line in lines] == ["2", "4", "6"]


def test_the_heat_map_goes_to_the_trackers(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    journal, shown = journal_in(tmp_path)
    journal.trackers = Trackers([TensorBoardTracker(TrackedRun(tmp_path))])
    write_surgery(tmp_path, 3, report_of(1.0, 2.0))
    journal.draw_heat_map(3)
    journal.trackers.close()
    assert (tmp_path / "surgery" / "heat_map.png").is_file()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [image.step for image in events.Images("surgery/heat_map")] == [3]
    assert shown.getvalue() == ""


def test_a_heat_map_that_cannot_be_drawn_is_a_line_and_not_the_end(tmp_path: Path) -> None:
    journal, shown = journal_in(tmp_path)
    write_surgery(tmp_path, 1, report_of(1.0, 2.0)).write_bytes(b"PAR1 no")
    journal.draw_heat_map(1)
    assert shown.getvalue().startswith("the surgery heat map was not drawn: DataError(")
    assert not (tmp_path / "surgery" / "heat_map.png").exists()


def test_one_domain_draws_and_says_nothing(tmp_path: Path) -> None:
    journal, shown = journal_in(tmp_path)
    write_surgery(tmp_path, 1, report_of(1.0))
    journal.note_alarms(1, report_of(1.0))
    journal.draw_heat_map(1)
    assert shown.getvalue() == ""
    assert not (tmp_path / "surgery" / "heat_map.png").exists()
