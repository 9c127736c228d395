"""`import mgsrl` as a library: what it costs, what it offers, how it is typed, what it reads.

That a run from Python equals the command line's is in `training/test_end_to_end.py`.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import mgsrl
from mgsrl.errors import ConfigError, DataError, MissingPathError
from mgsrl.obs.evaluation_log import FILE as EVALUATIONS
from mgsrl.obs.metrics import FILE as METRICS
from tests.report.synthetic import DOMAINS, make_run
from tests.training.runs import SMALL

ROOT = Path(__file__).parents[1]


def python(code: str, *arguments: object, limit_s: float = 240) -> str:
    """Run `code` in a process of its own, from the repository; its output."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=limit_s,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_importing_it_costs_next_to_nothing() -> None:
    code = (
        "import sys, time; begin = time.perf_counter(); import mgsrl\n"
        "print(time.perf_counter() - begin)\n"
        "heavy = {'torch', 'ray', 'pandas', 'hydra', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    assert min(float(python(code)) for _ in range(3)) < 0.1


def test_all_that_is_promised_is_there_and_documented() -> None:
    assert set(mgsrl.__all__) <= set(dir(mgsrl))
    for name in mgsrl.__all__:
        assert getattr(mgsrl, name).__doc__, name
    with pytest.raises(AttributeError, match="trian"):
        mgsrl.trian  # noqa: B018


def test_rooms_do_not_hide_the_functions() -> None:
    """A submodule called like a function would take its name when it is imported."""
    rooms = {path.stem for path in (ROOT / "mgsrl").iterdir()}
    assert not rooms & set(mgsrl._HOMES)


SCRIPT = """
import mgsrl
import torch
from mgsrl.surgery import gramian, module_map, surgery_weights

config = mgsrl.compose_config(["strategy=mixed"])
config.train.num_steps = 3
run: mgsrl.RunFolder = mgsrl.train(config)
again = mgsrl.load_run(run.dir)
print(again.metrics["reward/math"].mean(), again.record["status"], again.config.seed + 1)
steps: list[int] = list(again.checkpoints)
names: dict[str, str] = module_map(["model.layers.0.mlp.up_proj.weight"], "layer")
probe = mgsrl.SurgeryProbe(torch.nn.Linear(2, 2).named_parameters(), ["math", "chat"])
weights_MD: torch.Tensor = probe.record(torch.ones(1, 2, 2)).weights_MD
try:
    mgsrl.train(["seed=1"])
except mgsrl.MgsrlError as error:
    print(error.args)
"""
MISTAKES = """
import mgsrl

mgsrl.trian([])
mgsrl.train([1])
mgsrl.load_run("runs/a").metrix
mgsrl.compose_config([]).train.num_stepz = 3
mgsrl.SurgeryProbe([], ["math"]).take(7)
"""
ERRORS = ("attr-defined", "list-item", "attr-defined", "attr-defined", "arg-type")


@pytest.mark.slow
def test_users_scripts_are_type_checked(tmp_path: Path) -> None:
    def mypy(text: str) -> str:
        script = tmp_path / "script.py"
        script.write_text(text)
        done = subprocess.run(
            # what an installed package with py.typed gets: its own errors are nobody's
            [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent",
             "--config-file=", f"--cache-dir={tmp_path / 'cache'}", str(script)],
            cwd=tmp_path,
            env={**os.environ, "MYPYPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )  # fmt: skip
        return done.stdout

    assert mypy(SCRIPT).startswith("Success"), mypy(SCRIPT)
    errors = mypy(MISTAKES).splitlines()
    for line, what in enumerate(ERRORS, 4):
        assert any(f"script.py:{line}: error" in e and f"[{what}]" in e for e in errors), errors


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("seed=1", r"write \['seed=1'\]"),
        (["seeed=1"], "did you mean 'seed'"),
        (["policy.path=no/such/model"], "no/such/model"),
    ],
)
def test_mistakes_are_exceptions(overrides: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(mgsrl.UserError, match=message):
        mgsrl.train(overrides)
    with pytest.raises(MissingPathError, match=r"none\.yaml"):
        mgsrl.train(file=tmp_path / "none.yaml")


def test_a_changed_configuration_is_checked_and_left_alone(tmp_path: Path) -> None:
    config = mgsrl.compose_config([f"run.dir={tmp_path / 'run'}"])
    config.train.num_steps = "many"  # type: ignore[assignment]
    with pytest.raises(ConfigError, match=r"train\.num_steps"):
        mgsrl.train(config)
    config.train.num_steps, config.surgery.method = 3, "pcgrid"
    with pytest.raises(ConfigError, match="did you mean 'pcgrad'"):
        mgsrl.train(config)
    config.surgery.method = "none"
    with pytest.raises(ConfigError, match=r"strategy\.name=mgs is what another strategy is called"):
        mgsrl.train(config)
    assert config.strategy.name == "mgs"
    assert not (tmp_path / "run").exists()


def test_a_run_is_read(tmp_path: Path) -> None:
    run = mgsrl.load_run(str(make_run(tmp_path / "run", steps=12)))
    assert run.config.strategy.name == "mgs"
    assert list(run.config.domains) == list(DOMAINS)
    assert run.record["status"] == "finished"
    assert list(run.metrics.index) == list(range(1, 13))
    assert run.metrics["reward/math"].between(0, 1).all()
    wide = run.evaluations.pivot(index="step", columns="domain", values="mean")
    assert list(wide.index) == [0, 12]
    assert set(wide.columns) == set(DOMAINS)
    assert set(run.surgery["step"]) == set(range(1, 13))
    assert run.surgery["cosine"].abs().max() <= 1
    assert (run.checkpoints, run.best) == ({}, None)
    with open(Path(run) / METRICS) as file:
        assert len(file.readlines()) == 12


def test_a_run_that_did_not_get_far_is_read(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", steps=1, finished=False)
    for name in (METRICS, EVALUATIONS):
        (folder / name).unlink()
    for part in (folder / "surgery").iterdir():
        part.unlink()
    run = mgsrl.load_run(folder)
    assert run.record["status"] == "running"
    assert (len(run.metrics), run.metrics.index.name) == (0, "step")
    assert run.evaluations.empty
    assert {"step", "domain", "mean", "standard_error"} <= set(run.evaluations.columns)
    assert run.surgery.empty
    assert {"step", "module", "cosine"} <= set(run.surgery.columns)
    (folder / "config.yaml").unlink()
    with pytest.raises(MissingPathError, match=r"config\.yaml"):
        _ = mgsrl.load_run(folder).config
    assert mgsrl.load_run(folder).metrics.empty


@pytest.mark.parametrize("what", ["nothing", "an empty folder"])
def test_what_is_no_run_is_told(what: str, tmp_path: Path) -> None:
    folder = tmp_path if what == "an empty folder" else tmp_path / "none"
    with pytest.raises(MissingPathError, match="not a run folder"):
        mgsrl.load_run(folder)


def test_ragged_repeated_and_half_written_lines(tmp_path: Path) -> None:
    lines = [
        '{"step": 2, "loss/math": 1.5, "kl/math": null, "reward/new": 1}',
        '{"step": 1, "loss/math": null, "kl/math": null, "mode": "warm-up"}',
        '{"step": 2, "loss/math": 2.5, "kl/math": null, "reward/new": 0}',  # a resumed run's
        '{"step": 3, "loss/mat',
    ]
    (tmp_path / METRICS).write_text("\n".join(lines))
    metrics = mgsrl.load_run(tmp_path).metrics
    assert list(metrics.index) == [1, 2]
    assert metrics["loss/math"].tolist()[1] == 2.5
    assert metrics["loss/math"].isna().tolist() == [True, False]
    assert metrics["kl/math"].dtype == float  # though no step has a number
    assert metrics["reward/new"].sum() == 0
    assert metrics["mode"][1] == "warm-up"
    (tmp_path / METRICS).write_text("\n".join(lines[::-1]))
    with pytest.raises(DataError, match="line 1"):
        _ = mgsrl.load_run(tmp_path).metrics


RAY_OF_THE_USER = """
import sys, time, mgsrl, psutil, ray
ray.init(address="local", include_dashboard=False, num_cpus=8, object_store_memory=2 * 10**8)
arguments = sys.argv[2:] + [f"run.dir={sys.argv[1]}", "train.num_steps=1"]
try:
    mgsrl.train(arguments)
except mgsrl.UserError as error:
    assert "This process has a Ray session already" in str(error), error
mgsrl.train([*arguments, "cluster.address=auto"])
assert ray.is_initialized()
def held():
    names = []
    for process in psutil.Process().children(recursive=True):
        try:
            names += process.cmdline()
        except psutil.Error:
            pass
    actors = [name for name in names if name.startswith("ray::") and "Worker" in name]
    return actors or ray.available_resources().get("CPU") != ray.cluster_resources()["CPU"]

deadline = time.monotonic() + 30
while held():
    assert time.monotonic() < deadline, held()
    time.sleep(0.5)
"""
INTERRUPTED = """
import os, pathlib, signal, sys, threading, time, mgsrl
folder = pathlib.Path(sys.argv[1])
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell has it ignored

def interrupt():
    while not list(folder.glob("checkpoints/step_[1-9]*/manifest.json")):
        time.sleep(0.2)
    os.kill(os.getpid(), signal.SIGINT)

threading.Thread(target=interrupt, daemon=True).start()
arguments = sys.argv[2:] + [f"run.dir={folder}"]
try:
    mgsrl.train([*arguments, "train.num_steps=50"])
    raise SystemExit("not interrupted")
except KeyboardInterrupt:
    pass
import ray
assert not ray.is_initialized()
assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
run = mgsrl.load_run(folder)
assert run.record["status"] == "interrupted", run.record
done = max(run.checkpoints)
again = mgsrl.train([*arguments, f"train.num_steps={done + 1}"])
assert again.metrics.index[-1] == done + 1 and again.record["status"] == "finished"
"""


@pytest.mark.slow
@pytest.mark.ray_cluster
@pytest.mark.timeout(600)
def test_a_ray_session_of_the_user_is_left_as_it_is(tmp_path: Path) -> None:
    output = python(RAY_OF_THE_USER, tmp_path / "run", *SMALL, limit_s=500)
    assert "report:" in output


@pytest.mark.slow
@pytest.mark.ray_cluster
@pytest.mark.timeout(600)
def test_an_interrupted_run_goes_on_in_the_same_process(tmp_path: Path) -> None:
    output = python(INTERRUPTED, tmp_path / "run", *SMALL, limit_s=500)
    assert "mgsrl: stopping (Ctrl-C)" in output
    assert "To go on: mgsrl train rollout.engine=transformers" in output
