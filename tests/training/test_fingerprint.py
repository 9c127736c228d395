"""The fingerprint of a policy: the same for the same weights, another for any other."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mgsrl.config import DomainConfig, RewardConfig
from mgsrl.errors import CheckpointError
from mgsrl.training.fingerprint import ModelIdentity, Models, fingerprint


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


def _policy(model: Path) -> ModelIdentity:
    return ModelIdentity("policy.path", str(model))


def test_it_counts_the_parameters(model: Path) -> None:
    known = fingerprint(str(model))
    assert known is not None
    tensors = load_file(model / "model.safetensors")
    assert known["num_parameters"] == sum(tensor.numel() for tensor in tensors.values())


def test_one_changed_weight_is_another_model(model: Path) -> None:
    saved = json.loads(json.dumps(_policy(model).fingerprint()))
    _policy(model).check(saved)
    tensors = load_file(model / "model.safetensors")
    for name in list(tensors)[::5]:
        changed = {key: tensor.clone() for key, tensor in tensors.items()}
        flat = changed[name].view(-1)
        flat[-1] = torch.nextafter(flat[-1], torch.tensor(9.0))
        save_file(changed, model / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(CheckpointError, match=r"other weights(.|\n)*resume=never"):
            _policy(model).check(saved)


def test_how_the_same_weights_are_stored_does_not_matter(model: Path) -> None:
    whole = fingerprint(str(model))
    tensors = load_file(model / "model.safetensors")
    (model / "model.safetensors").unlink()
    names = sorted(tensors, reverse=True)
    for number, part in enumerate((names[::2], names[1::2]), 1):
        save_file(
            {name: tensors[name] for name in part}, model / f"model-{number}-of-2.safetensors"
        )
    config = json.loads((model / "config.json").read_text())
    config |= {"transformers_version": "0", "dtype": "float16"}
    (model / "config.json").write_text(json.dumps(config, indent=7))
    assert fingerprint(str(model)) == whole


def test_the_configuration_is_part_of_a_model(model: Path) -> None:
    saved = fingerprint(str(model))
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 0.1}))
    with pytest.raises(CheckpointError, match=r"other config\.json"):
        _policy(model).check(saved)


def test_the_base_of_an_adapter_is_part_of_it(model: Path, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    save_file({"a": torch.ones(2)}, adapter / "adapter_model.safetensors")
    facts = json.dumps({"base_model_name_or_path": str(model)})
    (adapter / "adapter_config.json").write_text(facts)
    before = fingerprint(str(adapter))
    tensors = load_file(model / "model.safetensors")
    name = next(iter(tensors))
    save_file(tensors | {name: tensors[name] + 1}, model / "model.safetensors")
    after = fingerprint(str(adapter))
    assert before is not None
    assert after is not None
    assert before["weights"] != after["weights"]


def test_other_formats_and_damaged_files_are_hashed_whole(model: Path) -> None:
    (model / "model.safetensors").write_bytes(b"\xff" * 64)
    damaged = fingerprint(str(model))
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    binary = fingerprint(str(model))
    assert damaged is not None
    assert binary is not None
    assert damaged["num_parameters"] == binary["num_parameters"] == 0


def test_what_is_not_here_yet_is_not_compared() -> None:
    policy = ModelIdentity("policy.path", "nobody/nothing-of-this-name")
    assert policy.fingerprint() is None
    policy.check({"weights": "0", "config": "0"})
    (told,) = Models(policy).check({})
    assert "which policy it began with: not compared" in told


@pytest.mark.parametrize("name", ["tokenizer_config.json", "chat_template.jinja"])
def test_the_tokenizer_is_part_of_a_model(model: Path, name: str) -> None:
    saved = fingerprint(str(model))
    assert saved is not None
    (model / name).write_text('{"chat_template": "another"}')
    with pytest.raises(CheckpointError, match="other tokenizer or template"):
        _policy(model).check(saved)
    del saved["tokenizer"]  # of an older checkpoint
    _policy(model).check(saved)


def test_reward_models_are_compared_by_their_weights_and_served_ones_by_name(model: Path) -> None:
    judge = {"kind": "judge", "url": "http://127.0.0.1:1/v1", "model": "first"}
    reward = RewardConfig.of("reward_model", path=str(model), extra={"tone": judge})
    domains = {"chat": DomainConfig(reward=reward), "math": DomainConfig()}
    state = json.loads(json.dumps(Models.of(str(model), domains).state()))
    assert list(state["reward_models"]) == [
        "domains.chat.reward.path",
        "domains.chat.reward.extra.tone.model",
    ]
    assert Models.of(str(model), domains).check(state) == []
    (told,) = Models.of(str(model), domains).check({"policy": state["policy"]})
    assert "which reward models it began with" in told
    reward.extra["tone"].options.model = "second"
    with pytest.raises(CheckpointError, match=r"tone\.model holds another model"):
        Models.of(str(model), domains).check(state)
    reward.extra["tone"].options.model = "first"
    other = Path(shutil.copytree(model, model.with_name("other")))
    tensors = load_file(model / "model.safetensors")
    name = next(iter(tensors))
    save_file(tensors | {name: tensors[name] + 1}, model / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"domains\.chat\.reward\.path(.|\n)*other weights"):
        Models.of(str(other), domains).check(state)
