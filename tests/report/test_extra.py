"""Without matplotlib: what cannot be drawn says how to get it, all else goes on."""

import io
import subprocess
import sys

import pytest

from mgsrl.cli import main
from mgsrl.config import SurgeryConfig, TrackersConfig
from mgsrl.errors import ConfigError
from mgsrl.obs.console import Console
from mgsrl.obs.tracker import Trackers
from mgsrl.report import evaluation
from mgsrl.report.compare import Entry, comparison, write_comparison
from mgsrl.report.page import build_report
from mgsrl.training.journal import Journal
from tests.report.synthetic import make_run

BLOCKED = """
import sys
class NotInstalled:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "matplotlib":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, NotInstalled())
import mgsrl.training.launch, mgsrl.evaluate.runner, mgsrl.report.evaluation
from mgsrl.cli import COMMANDS, main
sys.exit(main(["report", sys.argv[1]]))
"""


@pytest.fixture
def no_matplotlib(monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)


def test_everything_is_imported_without_it(tmp_path):
    run = make_run(tmp_path / "run", steps=2)
    command = [sys.executable, "-c", BLOCKED, str(run)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("mgsrl: The report needs a package that is not installed.\n")
    assert done.stderr.endswith('to do:    pip install "mgsrl[report]"\n')


def test_pages_of_runs_are_refused(no_matplotlib, tmp_path):
    run = make_run(tmp_path / "run", steps=2)
    with pytest.raises(ConfigError, match=r"mgsrl\[report\]"):
        build_report(run)
    found = comparison([Entry(run), Entry(make_run(tmp_path / "other", steps=2, seed=1))])
    with pytest.raises(ConfigError, match=r"mgsrl\[report\]"):
        write_comparison(found, tmp_path / "compared")
    assert main(["compare", "seeds=[0,1]", f"compare.dir={tmp_path / 'compared'}"]) == 2
    assert not (run / "report.html").exists()
    assert not (tmp_path / "compared").exists()


def test_a_page_of_scores_has_no_picture(no_matplotlib):
    share = {"value": 0.5, "low": 0.4, "high": 0.6}
    assert evaluation._scores({"gsm8k": {"metrics": {"accuracy": share}}}) == ""


def test_no_heat_map_is_drawn_and_nothing_is_said(no_matplotlib, tmp_path):
    run, shown = make_run(tmp_path / "run", steps=2), io.StringIO()
    console = Console(False, 2, file=shown)
    Journal(run, console, SurgeryConfig(), TrackersConfig(), lambda *_: Trackers([])).draw_heat_map(
        2
    )
    assert shown.getvalue() == ""
    assert not (run / "surgery" / "heat_map.png").exists()
