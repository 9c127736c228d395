import time

import pytest

from mgsrl.cluster import preflight
from mgsrl.cluster.preflight import (
    Check,
    check_resources,
    checks_table,
    choose_device,
    doctor,
)
from mgsrl.errors import ConfigError
from mgsrl.obs.terminal import output


def test_doctor_answers_quickly_and_in_full(capsys):
    begin = time.monotonic()
    checks = doctor()
    assert time.monotonic() - begin < 20
    names = [check.name for check in checks]
    assert names[0] == "Python"
    for name in ("vLLM", "memory", "GPUs", "pocket models", "can run pocket_mgs"):
        assert name in names
    assert all(check.todo for check in checks if check.status != "ok")
    output().print(checks_table(checks))
    shown = capsys.readouterr().out
    assert "can run" in shown
    assert "to do" in shown


def test_a_missing_package_is_named_with_the_way_to_get_it(monkeypatch):
    monkeypatch.setattr(
        preflight.metadata, "requires", lambda name: ["ray>=2.50", "nosuchpackage>=3", "torch>=99"]
    )
    wrong = preflight.check_packages()
    assert [(c.name, c.status) for c in wrong] == [("nosuchpackage", "fail"), ("torch", "fail")]
    assert wrong[0].todo == "pip install 'nosuchpackage>=3'"
    assert wrong[0].found == "not installed"


def test_missing_vllm_points_to_the_light_engine(monkeypatch):
    monkeypatch.setattr(preflight, "installed", lambda name: None)
    check = preflight.check_vllm()
    assert check.status == "warn"
    assert "rollout.engine=transformers" in check.todo


def test_torchvision_beside_a_cpu_torch_is_a_warning(monkeypatch):
    versions = {"torch": "2.13.0+cpu", "torchvision": "0.28.0"}
    monkeypatch.setattr(preflight, "installed", versions.get)
    check = preflight.check_torchvision()
    assert check.status == "warn"
    assert check.todo.startswith("pip uninstall torchvision")


@pytest.mark.parametrize(("gpus", "status"), [([], "ok"), ([("GPU", 79.0)], "fail")])
def test_no_compiler_fails_on_gpus(monkeypatch, gpus, status):
    monkeypatch.setattr(preflight.shutil, "which", lambda name: None)
    monkeypatch.setattr(preflight, "gpu_memories", lambda: gpus)
    assert preflight.check_compiler().status == status


def test_a_failed_check_means_nothing_can_run():
    verdicts = preflight.verdicts([Check("compiler", "fail", "none", "install it")])
    assert [v.status for v in verdicts[:2]] == ["fail", "fail"]
    assert "compiler" in verdicts[0].found


def test_the_recipe_needs_eight_large_gpus(monkeypatch):
    monkeypatch.setattr(preflight, "gpu_memories", lambda: [("GPU", 79.0)] * 8)
    assert preflight.verdicts([])[-1].status == "ok"
    monkeypatch.setattr(preflight, "gpu_memories", lambda: [("GPU", 23.0)] * 8)
    assert preflight.verdicts([])[-1].found == "no: 0 of 8 such GPUs here"


def test_one_gpu_is_enough_for_the_recipes_of_one(monkeypatch):
    said = {}
    for gib in (15.5, 79.0, None):
        gpus = [("GPU", gib)] if gib else []
        monkeypatch.setattr(preflight, "gpu_memories", lambda gpus=gpus: gpus)
        said[gib] = {check.name: check.status for check in preflight.verdicts([])}
    assert said[15.5]["can run smollm2_mgs_gpu"] == "ok"
    assert said[15.5]["can run qwen_mgs_1gpu"] == "warn"
    assert said[79.0]["can run qwen_mgs_1gpu"] == "ok"
    assert "can run qwen_mgs_1gpu" not in said[None]


def test_asking_for_more_gpus_than_there_are():
    asked = {"learner_gpus": 4, "rollout_gpus": 6, "reward_gpus": 0.5}
    with pytest.raises(ConfigError) as error:
        check_resources(**asked, available_gpus=8)
    message = str(error.value)
    assert "expected: at most 8 GPUs" in message
    assert "10.5 wanted: 4 for learners, 6 for rollout workers, 0.5" in message
    assert "to do:" in message
    check_resources(**asked, available_gpus=11)


def test_choosing_the_device():
    assert choose_device("auto", 0) == "cpu"
    assert choose_device("auto", 8) == "cuda"
    assert choose_device("cpu", 8) == "cpu"
    assert choose_device("cuda", 0) == "cuda"


def test_without_gpus_auto_means_cpu_and_cuda_is_refused():
    none = {"learner_gpus": 1, "rollout_gpus": 1, "reward_gpus": 0, "available_gpus": 0}
    check_resources(**none)
    with pytest.raises(ConfigError, match=r"learner\.device=cpu"):
        check_resources(**none, device="cuda")
    with pytest.raises(ConfigError):
        check_resources(**(none | {"reward_gpus": 1}))
