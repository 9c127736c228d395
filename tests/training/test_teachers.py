"""Distillation: where teachers are found, which are refused, and a run that has some."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from mgsrl.config.compose import compose_config
from mgsrl.errors import ConfigError, MissingPathError
from mgsrl.learner.policy import load_tokenizer
from mgsrl.training.checkpoint import Checkpoint
from mgsrl.training.estimate import estimate
from mgsrl.training.export import is_model_folder, write_trained
from mgsrl.training.teachers import EXPORTED, teacher_paths
from tests.capabilities import of_run
from tests.checkpoints import save_run
from tests.training.runs import metrics, train


def found(*overrides: str) -> dict[str, tuple[str, str]]:
    config = compose_config(list(overrides))
    own = [name for name, domain in config.domains.items() if domain.algo]
    return teacher_paths(config.algos, own, load_tokenizer(config.policy))


def test_each_model_is_found_once() -> None:
    assert found() == {}
    (key, path) = found("algo.teacher=pocket")["pocket"]
    assert key == "algo.teacher"
    assert is_model_folder(Path(path))
    ((key, _),) = found("domains.chat.algo.teacher=pocket").values()
    assert key == "domains.chat.algo.teacher"


def test_what_is_no_teacher_is_refused(tmp_path: Path, tiny_model: Path) -> None:
    with pytest.raises(MissingPathError, match=r"algo\.teacher"):
        found("algo.teacher=./nowhere")
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    with pytest.raises(ConfigError, match="no checkpoint"):
        found(f"algo.teacher={tmp_path}/run")
    tokenizer = json.loads((tiny_model / "tokenizer.json").read_text())
    assert tokenizer["model"]["vocab"], "another one than the pocket model's"
    with pytest.raises(ConfigError, match="other tokens than the policy"):
        found(f"algo.teacher={tiny_model}")


def weights(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


@pytest.fixture
def teacher(tiny_model: Path, tmp_path: Path) -> Path:
    """A run of three steps."""
    return save_run(tmp_path / "teacher", tiny_model, weights(tiny_model))


def model_of(teacher: Path, policy: Path) -> Path:
    words = (f"policy.path={policy}", f"algo.teacher={teacher}")
    return Path(found(*words)[str(teacher)][1])


def test_a_run_that_came_to_its_step_by_another_way_is_another_teacher(
    teacher: Path, tiny_model: Path
) -> None:
    first = model_of(teacher, tiny_model)
    written = (first / "model.safetensors").stat().st_mtime_ns
    assert model_of(teacher, tiny_model) == first
    assert (first / "model.safetensors").stat().st_mtime_ns == written, "it is written once"
    other = {name: 2 * tensor for name, tensor in weights(tiny_model).items()}
    save_run(teacher, tiny_model, other)  # what was there is set aside
    second = model_of(teacher, tiny_model)
    for name, value in weights(second).items():
        assert torch.equal(value, other[name])
        assert torch.equal(2 * weights(first)[name], value), "who reads it still has it"


def test_runs_that_begin_together_may_have_one_teacher(
    teacher: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second one comes and is done while the first one writes."""
    seconds: list[Path] = []

    def slow(checkpoint: Checkpoint, draft: Path) -> None:
        write_trained(checkpoint, draft)
        if not seconds:
            monkeypatch.undo()
            seconds.append(model_of(teacher, tiny_model))

    monkeypatch.setattr("mgsrl.training.teachers.write_trained", slow)
    first = model_of(teacher, tiny_model)
    assert seconds == [first]
    assert is_model_folder(first)
    assert list((teacher / EXPORTED).iterdir()) == [first], "no draft is left"


def test_a_teacher_that_cannot_be_written_is_told(teacher: Path, tiny_model: Path) -> None:
    (teacher / EXPORTED).write_text("no folder")
    with pytest.raises(ConfigError, match=r"(?s)algo\.teacher cannot be written.*exists"):
        model_of(teacher, tiny_model)


@pytest.mark.parametrize("loss", ["gspo", "gmpo"])
def test_a_loss_of_whole_sequences_has_no_place_for_it(loss: str) -> None:
    with pytest.raises(ConfigError, match=r"algo\.teacher gives each token"):
        compose_config([f"algo.loss={loss}", "algo.teacher=pocket"])


def test_the_plan_counts_teachers() -> None:
    without = estimate(compose_config(["algo.kl_coef=0"]), 0)
    one = estimate(compose_config(["algo.kl_coef=0", "algo.teacher=pocket"]), 0)
    assert one.learner.held["teachers"] > 0
    assert "teachers" not in without.learner.held


@pytest.mark.slow
@pytest.mark.timeout(600)
@of_run("distillation from a teacher")
def test_a_run_learns_from_another_runs_model(tmp_path: Path) -> None:
    teacher = tmp_path / "teacher"
    train(teacher, "strategy=single", "train.num_steps=2", "learner.optimizer.lr=0.01")
    student = tmp_path / "student"
    taught = (
        "strategy=mixed",
        f"domains.math.algo.teacher={teacher}",
        "domains.math.algo.reward_coef=0",
        "algo.kl_coef=0",
        "learner.optimizer.lr=0.002",
    )
    train(student, *taught, "train.num_steps=2")
    (model,) = (teacher / EXPORTED).iterdir()
    assert is_model_folder(model)
    assert model.name.startswith("step_2-")
    rows = metrics(student)
    assert all(row["teacher_kl/math"] > 0 for row in rows)
    assert rows[1]["teacher_kl/math"] < rows[0]["teacher_kl/math"]
    assert "teacher_kl/chat" not in rows[0]
    train(student, *taught, "train.num_steps=3")
    assert len(metrics(student)) == 3, "it goes on with the same teacher"
    train(teacher, "strategy=single", "train.num_steps=3", "learner.optimizer.lr=0.01")
    with pytest.raises(AssertionError, match="holds another model than the run began with"):
        train(student, *taught, "train.num_steps=4")
