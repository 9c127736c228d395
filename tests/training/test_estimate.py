"""`mgsrl plan` and what it is made of."""

import json
from pathlib import Path

import pytest

from mgsrl.cli import main
from mgsrl.config.compose import compose_config, list_choices
from mgsrl.errors import ConfigError, MissingPathError
from mgsrl.training.estimate import estimate
from mgsrl.training.plan import check_parts
from tests.zoo.families import FAMILIES, tiny_config


def test_the_published_recipe_is_planned_without_a_network(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["plan", "+experiment=qwen_mgs", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["gpus"] == 8
    assert {place["what"]: place["count"] * place["gpus_each"] for place in found["placement"]} == {
        "learner ranks": 4,
        "rollout engines (vllm)": 3,
        "reward workers (math: math)": 0,
        "reward workers (chat: reward_model)": 1,
        "reward workers (instruction_following: constraints)": 0,
    }
    assert found["batch"]["responses"] == 64 * 8
    assert found["batch"]["micro-batches of a rank"] == 44 + 42 + 42
    assert found["batch"]["tokens of a micro-batch"] == 5120
    assert "published shape" in found["model"]["source"]


def test_a_shared_gpu_is_planned_by_turns(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "+experiment=qwen_mgs_1gpu", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["gpus"] == 1  # the reward model is a guest
    learning, rolling = found["turns_bytes"].values()
    assert learning > found["learner_rank"]["peak_gib"] * 2**30
    assert main(["plan", "+experiment=qwen_mgs_1gpu", "--gpu-gib", "42"]) == 2
    said = capsys.readouterr()
    assert "on a shared GPU the learner's turn takes" in said.out
    assert "the learner's turn takes 43.6 GiB of a GPU's 42.0" in said.err
    assert main(["plan", "+experiment=qwen_mgs", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["turns_bytes"] is None


def test_every_experiment_can_be_planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # away from a checkout whose `models/` may be filled
    for name in list_choices("experiment"):
        config = compose_config([f"+experiment={name}"])
        if config.policy.path.startswith("./"):  # a folder that the reader fills
            with pytest.raises(MissingPathError, match=r"policy\.path"):
                estimate(config, 0)
            continue
        found = estimate(config, 0)
        assert found.learner.peak[1] > 0
        assert (found.device == "cuda") == (found.gpus > 0)


def test_phases_are_not_added_up() -> None:
    mixed, one_by_one = (
        estimate(compose_config([f"strategy={name}"]), 0) for name in ("mixed", "sequential")
    )
    assert (mixed.batch["domains"], one_by_one.batch["domains"]) == (3, 1)
    assert mixed.batch["prompts"] == one_by_one.batch["prompts"]
    rows = "domains' gradients"
    assert mixed.learner.held[rows] == 3 * one_by_one.learner.held[rows]


def test_measuring_keeps_two_gradients_per_domain() -> None:
    held = [
        estimate(compose_config([f"surgery.reliability.every={every}"]), 0).learner.held
        for every in (0, 5)
    ]
    assert held[1]["domains' gradients"] == 2 * held[0]["domains' gradients"]


def test_trying_steps_takes_two_more_numbers_a_parameter() -> None:
    kept = "weights put back, step tried"
    found = estimate(compose_config(["surgery.step_probe.every=5"]), 0)
    measured = estimate(compose_config(["surgery.reliability.every=5"]), 0)
    assert found.learner.held == measured.learner.held
    assert found.learner.phases["step probe"][kept] == 8 * found.shape.trained
    assert "step probe" not in measured.learner.phases
    gpu = ["learner.device=cuda", "rollout.engine=transformers", "learner.offload_optimizer=true"]
    away = estimate(compose_config([*gpu, "surgery.step_probe.every=5"]), 1)
    assert away.learner.host[kept] == 8 * away.shape.trained


def test_what_does_not_fit_is_said_with_a_change_that_makes_it_fit(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for words, key in {
        ("--gpu-gib", "55"): "surgery.buffer_dtype=bfloat16",
        ("--gpu", "RTX4090-24GB"): "learner.world_size=16",
        ("--gpu", "RTX4090-24GB", "--nodes", "1"): "learner.offload_optimizer=true",
        ("--nodes", "1", "--gpus-per-node", "5"): "rollout.gpu_memory_utilization=0.55",
        ("--nodes", "1", "--gpus-per-node", "4"): "learner.world_size=2 rollout.num_workers=1 ",
    }.items():
        assert main(["plan", "+experiment=qwen_mgs", *words]) == 2
        told = capsys.readouterr().err
        assert "The run does not fit." in told
        assert f"it fits with: {key}" in told, told
        change = told.partition("it fits with: ")[2].split()
        assert change, told
        assert main(["plan", "+experiment=qwen_mgs", *words, *change]) == 0
        capsys.readouterr()
    assert main(["plan", "+experiment=qwen_mgs", "rollout.tensor_parallel_size=3"]) == 2
    assert "3 GPUs of an engine cannot share 28 heads" in capsys.readouterr().err
    assert main(["plan", "+experiment=qwen_mgs", "learner.micro_batch_size=2"]) == 0
    assert "learner.micro_batch_size=2 has no effect" in capsys.readouterr().out
    assert main(["plan", "+experiment=qwen_mgs", "--gpu-gib", "1"]) == 2
    assert "no change that was tried is enough" in capsys.readouterr().err


def test_machines_that_are_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    """Options may stand between overrides. GPUs of a machine are filled before the next one's."""
    words = ["--nodes", "2", "--gpus-per-node", "8", "--gpu", "a100-80gb", "learner.world_size=8"]
    assert main(["plan", "+experiment=qwen_mgs", *words, "--json", "train.num_steps=10"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["fits"]
    assert found["hardware"]["gpu"]["name"] == "A100-80GB"
    first, second = found["seats"]
    assert first == [[f"learner {rank}"] for rank in range(8)]
    assert second[:4] == [["engine 0"], ["engine 1"], ["engine 2"], ["reward chat"]]
    time = found["time"]
    assert time["num_steps"] == 10
    assert time["step_s"] == pytest.approx(sum(time["seconds"].values()))
    assert time["checkpoint_bytes"] == 12 * found["model"]["trained"]
    assert main(["plan", "+experiment=qwen_mgs", *words, "--json", "rollout.staleness=1"]) == 0
    ahead = json.loads(capsys.readouterr().out)["time"]
    assert ahead["step_s"] == pytest.approx(time["step_s"] - ahead["hidden"])
    assert 0 < ahead["hidden"] <= time["seconds"]["rollout"]


def test_a_card_that_is_named_is_used(capsys: pytest.CaptureFixture[str]) -> None:
    """Although this machine has none, on which `learner.device=auto` is the CPU."""
    words = ["plan", "learner.device=auto", "rollout.engine=transformers", "--json"]
    for more, device in (["--gpu", "L40S-48GB"], "cuda"), (["--gpu-gib", "20"], "cuda"):
        assert main([*words, *more]) == 0
        assert json.loads(capsys.readouterr().out)["device"] == device


def test_a_reward_model_on_cores_of_machines_that_are_not_there(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Theirs, not those of the machine that plans; said."""

    def reward_s(*words: str) -> float:
        assert main(["plan", "+experiment=llama3_2_1b", "--json", *words]) == 0
        time = json.loads(capsys.readouterr().out)["time"]
        cores = [line for line in time["assumptions"] if "reward model" in line]
        assert len(cores) == 1
        assert " 8 cores" in cores[0] if not words else " 32 cores" in cores[0]
        found: float = time["seconds"]["reward"]
        return found

    assert reward_s() == pytest.approx(4 * reward_s("--nodes", "1", "--gpus-per-node", "4"))


def test_shorter_responses_and_more_engines_take_less(capsys: pytest.CaptureFixture[str]) -> None:
    def seconds(*words: str) -> dict[str, float]:
        assert main(["plan", "+experiment=qwen_mgs", "--json", *words]) == 0
        found: dict[str, float] = json.loads(capsys.readouterr().out)["time"]["seconds"]
        return found

    usual, short = seconds(), seconds("--response-tokens", "500")
    assert all(short[stage] < usual[stage] for stage in ("rollout", "reward", "backward"))
    engines = seconds("rollout.num_workers=6")
    assert engines["rollout"] < usual["rollout"]
    assert engines["backward"] == usual["backward"]


def test_a_model_whose_prompts_cannot_be_shared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Told where `auto` was asked for, refused where it must be; as before a run."""
    tiny_config(FAMILIES["gpt_oss"]).save_pretrained(tmp_path)
    words = [f"policy.path={tmp_path}", "rollout.engine=transformers"]
    reason = "more in its attention than products and a softmax"
    assert main(["plan", *words]) == 0
    assert reason in " ".join(capsys.readouterr().out.split())
    assert main(["plan", *words, "learner.share_prompts=never"]) == 0
    assert reason not in " ".join(capsys.readouterr().out.split())
    always = [*words, "learner.share_prompts=always"]
    assert main(["plan", *always]) == 2
    assert "learner.share_prompts=always is not possible" in capsys.readouterr().err
    with pytest.raises(ConfigError, match=reason):
        check_parts(compose_config(always))
    check_parts(compose_config(words))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--gpu-gib", "-3"], "the memory of one GPU"),
        (["--nodes", "0"], "--nodes cannot be 0."),
        (["--gpu", "h100"], "did you mean 'H100-80GB'"),
        (["--prompt-tokens", "193"], "--prompt-tokens is above the limit of a prompt"),
        (["--response-tokens", "65"], "to do:    correct it, or set rollout.max_new_tokens"),
        (["policy.path=/nowhere"], "policy.path does not name a model"),
        (["policy.pth=x"], "did you mean 'path'"),
        (["--jsn"], "does not take --jsn"),
    ],
)
def test_mistakes_are_one_message(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", *words]) == 2
    assert said in capsys.readouterr().err
