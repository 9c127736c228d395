"""Real runs of a comparison: stopped by Ctrl-C, gone on with, one of them failing."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from mgsrl.compare.cells import Arm, Cell, plan_cells, read_plan, standing
from mgsrl.compare.runner import gpu_slots, run_cells
from mgsrl.config.compose import config_to_yaml
from mgsrl.errors import ConfigError
from mgsrl.obs.run_record import begin_run_record, finish_run_record
from mgsrl.training.lock import locked
from tests.training import runs

COMMON = ["train.num_steps=3"]


def finished(cell: Cell, steps: int = 3) -> None:
    """The folder as a run that ended well leaves it."""
    cell.dir.mkdir(parents=True, exist_ok=True)
    (cell.dir / "config.yaml").write_text(config_to_yaml(cell.config))
    begin_run_record(cell.dir, first_step=0)
    rows = [json.dumps({"step": step}) + "\n" for step in range(1, steps + 1)]
    (cell.dir / "metrics.jsonl").write_text("".join(rows))
    finish_run_record(cell.dir, status="finished", last_step=steps)


def test_what_is_there_is_not_run_again(tmp_path: Path) -> None:
    cells = plan_cells(tmp_path / "c", [Arm("mixed", ("strategy=mixed",), (0, 1))], COMMON)
    for cell in cells:
        finished(cell)
    told: list[str] = []
    outcomes = run_cells(cells, note=told.append)
    assert [(o.cell.seed, o.finished, o.code) for o in outcomes] == [
        (0, True, None),
        (1, True, None),
    ]
    assert told == ["2 of 2 runs are there already"]
    assert not (tmp_path / "c/logs").exists()
    assert list(read_plan(tmp_path / "c")["cells"]) == ["mixed-seed0", "mixed-seed1"]


def test_some_cells_leave_the_others_in_the_plan(tmp_path: Path) -> None:
    cells = plan_cells(tmp_path / "c", [Arm("mixed", ("strategy=mixed",), (0, 1))], COMMON)
    finished(cells[0])
    run_cells(cells[:1], planned=cells)
    assert list(read_plan(tmp_path / "c")["cells"]) == ["mixed-seed0", "mixed-seed1"]


def test_two_commands_do_not_run_one_comparison(tmp_path: Path) -> None:
    cells = plan_cells(tmp_path, [Arm("mixed", ("strategy=mixed",), (0,))], COMMON)
    with locked(tmp_path), pytest.raises(ConfigError, match=r"one process per compare\.dir"):
        run_cells(cells)


def test_a_folder_that_cannot_be_made_is_one_message() -> None:
    cells = plan_cells(Path("/proc/no"), [Arm("mixed", ("strategy=mixed",), (0,))], COMMON)
    with pytest.raises(ConfigError, match=r"^compare\.dir cannot be written"):
        run_cells(cells)


HOLDER = """
import sys
from pathlib import Path
from mgsrl.training.lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_folder_that_a_leaving_run_holds_is_waited_for(tmp_path: Path) -> None:
    """The run of a killed comparison saves and goes; meanwhile the next command is there."""
    arms = [Arm("mixed", ("strategy=mixed",), (0, 1))]
    cells = plan_cells(tmp_path / "c", arms, [*COMMON, "checkpoint.every=1"])
    finished(cells[1])
    cells[0].dir.mkdir()
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(cells[0].dir)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    told: list[str] = []

    def note(line: str) -> None:
        told.append(line)
        if "waits" in line:  # it is done, and leaves a finished run
            finished(cells[0])
            holder.communicate()

    (outcome, _) = run_cells(cells, jobs=10**12, note=note)
    assert told[1] == "mixed-seed0 waits: another process has its folder"
    assert outcome.finished
    assert holder.returncode == 0


def test_runs_of_earlier_commands_are_not_left_out_in_silence(tmp_path: Path) -> None:
    for seed in (0, 1):
        cells = plan_cells(tmp_path / "c", [Arm("mixed", ("strategy=mixed",), (seed,))], COMMON)
        finished(cells[0])
        told: list[str] = []
        run_cells(cells, note=told.append)
    assert "1 more runs of an earlier command, which this one leaves out (mixed-seed0)" in told[0]


def test_jobs_share_out_the_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    assert gpu_slots(3) == [None] * 3  # a machine without
    monkeypatch.setattr("mgsrl.compare.runner.has_gpu_device", lambda: True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3,5,7,8")
    assert gpu_slots(1) == [None]
    assert gpu_slots(2) == ["2,3", "5,7"]
    with pytest.raises(ConfigError, match="--jobs 5"):
        gpu_slots(6)


CHILD = """
import subprocess
from mgsrl.compare.runner import _end_with_parent
child = subprocess.Popen(["sleep", "300"], start_new_session=True, preexec_fn=_end_with_parent)
print(child.pid, flush=True)
child.wait()
"""


def test_runs_end_with_the_process_that_started_them() -> None:
    parent = subprocess.Popen([sys.executable, "-c", CHILD], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.wait(timeout=30)
    runs.none_left([child])


def compare(folder: Path, *words: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "mgsrl.cli", "compare", f"compare.dir={folder}", *words]
    log = folder.with_suffix(".log").open("a")
    return subprocess.Popen(
        [*command, *runs.SMALL, "train.num_steps=4"],
        stdout=log,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL) and None,
    )


@pytest.mark.slow
@pytest.mark.ray_cluster
@pytest.mark.timeout(900)
def test_a_comparison_is_stopped_and_goes_on_and_a_failed_run_is_a_gap(tmp_path: Path) -> None:
    folder, log = tmp_path / "c", tmp_path / "c.log"
    good, bad = folder / "mixed-prompts_per_domain-2-seed3", "mixed-prompts_per_domain-5000-seed3"
    words = ("strategies=[mixed]", "axes.algo.prompts_per_domain=[2,5000]", "seeds=[3]")
    process = compare(folder, *words, "--jobs", "2")
    runs.wait_for(lambda: runs.steps_done(good) >= 1 or process.poll() is not None, "a step", 400)
    family = [process, *psutil.Process(process.pid).children(recursive=True)]
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=200) == 1, log.read_text()
    runs.none_left([p for p in family if isinstance(p, psutil.Process)])
    told = log.read_text()
    assert "the same command goes on from there" in told
    assert "Traceback" not in told
    done = runs.steps_done(good)
    assert done >= 1
    assert json.loads((good / "run.json").read_text())["status"] in ("interrupted", "finished")

    process = compare(folder, *words, "--jobs", "2")
    assert process.wait(timeout=500) == 1  # one of two failed
    told = log.read_text().removeprefix(told)
    assert "Traceback" not in told
    assert f"{bad} FAILED: The domain" in told
    assert f"1 of 2 runs failed ({bad})" in told
    record = json.loads((good / "run.json").read_text())
    assert record["status"] == "finished"
    assert record["sessions"][-1]["first_step"] == done or len(record["sessions"]) == 1
    assert [row["step"] for row in runs.metrics(good)] == [1, 2, 3, 4]
    entry = read_plan(folder)["cells"][bad]
    assert entry["exit"] == 2
    assert entry["attempts"] >= 1
    page = (folder / "comparison.html").read_text()
    assert "has fewer prompts than one step takes" in page
    found = json.loads((folder / "comparison.json").read_text())["arms"]
    assert found["mixed prompts_per_domain=2"]["seeds"] == [3]
    assert found["mixed prompts_per_domain=5000"]["seeds"] == []
    assert standing_of(good) == "finished"


def standing_of(run_dir: Path) -> str:
    arm = Arm("mixed prompts_per_domain=2", ("strategy=mixed", "algo.prompts_per_domain=2"), (3,))
    common = [word for word in runs.SMALL if not word.startswith("algo.prompts_per_domain")]
    (cell,) = plan_cells(run_dir.parent, [arm], [*common, "train.num_steps=4"])
    assert cell.dir == run_dir
    return standing(cell).state
