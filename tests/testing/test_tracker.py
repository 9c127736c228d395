"""The contract of trackers: ours keep it, and what breaks it is found."""

import re
import time

import pytest

from mgsrl.config.training import TrackersConfig
from mgsrl.errors import ContractError
from mgsrl.obs.console import Console
from mgsrl.obs.tracker import TrackedRun, Tracker
from mgsrl.obs.trackers import ConsoleTracker, JsonlTracker, TensorBoardTracker
from mgsrl.obs.wandb_tracker import WandbTracker
from mgsrl.testing import check_tracker
from tests.documented import ROOT


class OnlyLogs(Tracker):
    def __init__(self, run: TrackedRun) -> None:
        self.seen: list[int] = []

    def log(self, step, scalars) -> None:
        self.seen.append(step)


OURS = {
    "none of the methods": lambda run: Tracker(),
    "only one": OnlyLogs,
    "jsonl": lambda run: JsonlTracker(run.folder, run.next_step),
    "console": lambda run: ConsoleTracker(Console(False, 2)),
    "tensorboard": TensorBoardTracker,
    "wandb": lambda run: WandbTracker(run, TrackersConfig(), "offline"),
}


@pytest.mark.parametrize("name", OURS)
def test_ours_keep_it(name, tmp_path):
    if name == "tensorboard":
        pytest.importorskip("tensorboard")
    check_tracker(OURS[name], tmp_path)


class Formats(OnlyLogs):
    def log(self, step, scalars):
        int(scalars["kl/math"])  # NaN is no whole number


class Compares(OnlyLogs):
    def completions(self, step, rows):
        assert all(row["reward"] > -1 for row in rows)  # one abstained


class OncePerFolder(OnlyLogs):
    def __init__(self, run):
        (run.folder / "mine").mkdir()  # a run goes on in the same folder


class Crooked(OnlyLogs):
    def close(self):
        raise OSError("gone")


class Slow(OnlyLogs):
    def image(self, step, name, path):
        time.sleep(20)


class NoTracker:
    def __init__(self, run): ...


@pytest.mark.parametrize("made", [Formats, Compares, OncePerFolder, Crooked, Slow, NoTracker])
def test_what_breaks_it_is_found(made, monkeypatch):
    monkeypatch.setattr("mgsrl.obs.tracker.CALL_LIMIT_S", 1.0)
    with pytest.raises(ContractError, match=r"(?s)does not keep its contract.*found:    tracker: "):
        check_tracker(made)


def test_the_one_of_the_page_keeps_it(tmp_path):
    page = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    (tmp_path / "rewards.py").write_text(code)
    name = f"{tmp_path / 'rewards.py'}:Rewards"
    assert f"trackers.also=[mylab.trackers:{name.rpartition(':')[2]}]" in page
    check_tracker(name, tmp_path)
    assert (tmp_path / "rewards.tsv").read_text() == "1\t0.500\n2\t0.500\n2\t0.500\n"
