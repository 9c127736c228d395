"""Distillation: where teachers are found, which are refused, and a run that has some."""

import json
from pathlib import Path

import pytest

from mgsrl.config.compose import compose_config
from mgsrl.errors import ConfigError, MissingPathError
from mgsrl.learner.policy import load_tokenizer
from mgsrl.training.estimate import estimate
from mgsrl.training.export import is_model_folder
from mgsrl.training.teachers import EXPORTED, teacher_paths
from tests.capabilities import of_run
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
    assert is_model_folder(teacher / EXPORTED / "step_2")
    rows = metrics(student)
    assert all(row["teacher_kl/math"] > 0 for row in rows)
    assert rows[1]["teacher_kl/math"] < rows[0]["teacher_kl/math"]
    assert "teacher_kl/chat" not in rows[0]
    train(student, *taught, "train.num_steps=3")
    assert len(metrics(student)) == 3, "it goes on with the same teacher"
    train(teacher, "strategy=single", "train.num_steps=3", "learner.optimizer.lr=0.01")
    with pytest.raises(AssertionError, match="holds another model than the run began with"):
        train(student, *taught, "train.num_steps=4")
