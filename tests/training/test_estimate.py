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
    assert main(["plan", "+experiment=qwen_mgs_1gpu", "--gpu-gib", "47"]) == 0
    said = capsys.readouterr().out
    assert "on a shared GPU the learner's turn takes" in said
    assert "IT DOES NOT FIT" in said
    assert main(["plan", "+experiment=qwen_mgs", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["turns_bytes"] is None


def test_every_experiment_can_be_planned() -> None:
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


def test_what_does_not_fit_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "+experiment=qwen_mgs", "--gpu-gib", "15"]) == 0
    text = capsys.readouterr().out
    assert "IT DOES NOT FIT" in text
    assert "NO ROOM" in text
    assert main(["plan", "+experiment=qwen_mgs", "--gpu-gib", "79"]) == 0
    text = capsys.readouterr().out
    assert "7,615,616,512 parameters" in text
    assert "NOT FIT" not in text


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
