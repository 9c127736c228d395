"""What goes out: a checkpoint's names and tensors for every family, fingerprints of what was sent,
and the same under ZeRO-3."""

from pathlib import Path
from typing import Any

import pytest
import torch

from mgsrl.learner.layout import gathered, whole_shape
from mgsrl.sync.fingerprint import fingerprint
from mgsrl.sync.publication import Publication, transposed_weights
from mgsrl.sync.source import WeightSource
from tests.learner.parts import Case, make_spec, spawn
from tests.zoo.families import FAMILIES, build_family

EXPERTS = ("mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "granitemoe", "gpt_oss")


def on_disk(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def publication(model: Any, *, as_checkpoint: bool = True, **options: Any) -> Publication:
    settings = {"engine_dtype": torch.float32, "keep": True, **options}
    return Publication(
        WeightSource(model, gathered, whole_shape), model, as_checkpoint=as_checkpoint, **settings
    )


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_goes_out_as_its_checkpoint(
    name: str, tiny_model: Path, tmp_path: Path
) -> None:
    """Names, shapes and bits are those of the file from which the model was loaded."""
    from transformers import AutoModelForCausalLM

    folder = build_family(FAMILIES[name], tmp_path, tiny_model)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    out = publication(model)
    sent, metadata = list(out), out.metadata()
    assert [(meta.name, meta.shape, meta.dtype) for meta in metadata] == [
        (name, tuple(tensor.shape), tensor.dtype) for name, tensor in sent
    ]
    assert [name for group in out.groups() for name in group] == [name for name, _ in sent]
    expected, buffers = on_disk(folder), dict(model.named_buffers())
    assert set(expected) - set(dict(sent)) <= set(buffers)
    for parameter, tensor in sent:
        assert torch.equal(tensor, expected[parameter]), parameter
    assert list(out.fingerprints) == [name for name, _ in sent]


def test_layers_stay_together(tiny_model: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    folder = build_family(FAMILIES["mixtral"], tmp_path, tiny_model)
    groups = publication(AutoModelForCausalLM.from_pretrained(folder)).groups()
    assert len(groups) == 4  # embedding, two layers, norm and head
    for index, group in enumerate(groups[1:3]):
        assert all(name.startswith(f"model.layers.{index}.") for name in group)
        assert f"model.layers.{index}.block_sparse_moe.experts.3.w2.weight" in group


def test_the_plain_engine_gets_the_learners_names(tiny_model: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    folder = build_family(FAMILIES["mixtral"], tmp_path, tiny_model)
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert {name for name, _ in publication(model, as_checkpoint=False)} == {
        name for name, _ in model.named_parameters()
    }


def test_a_narrower_engine_is_held_against_rounded_weights(tiny_model: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    out = publication(model, engine_dtype=torch.bfloat16)
    out.version = 5
    assert {name for name, _ in out} == {name for name, _ in model.named_parameters()}
    for name, tensor in out:
        assert out.fingerprints[name] == (
            fingerprint(tensor, 5),
            fingerprint(tensor.bfloat16(), 5),
        )
    wider = publication(model.bfloat16(), engine_dtype=torch.float32)
    assert all(len(wider.fingerprints[name]) == 1 for name, _ in wider)


def test_only_the_sender_takes_fingerprints(tiny_model: Path) -> None:
    from transformers import AutoModelForCausalLM

    out = publication(AutoModelForCausalLM.from_pretrained(tiny_model), keep=False)
    assert list(out)
    assert out.fingerprints == {}


def test_columns_of_transposed_layers_are_their_inputs(tiny_model: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    folder = build_family(FAMILIES["gpt2"], tmp_path, tiny_model)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert "transformer.h.1.attn.c_attn.weight" in transposed_weights(model)
    out = publication(model)
    weight = dict(out)["transformer.h.1.attn.c_attn.weight"]
    assert weight.shape == (64, 192)  # [in, out]
    assert out.fingerprints["transformer.h.1.attn.c_attn.weight"] == (fingerprint(weight.T, 0),)


def publish_experts(
    rank: int, world_size: int, address: str, folder: Path
) -> dict[str, torch.Tensor]:
    from mgsrl.learner.worker import LearnerWorker

    case = Case(zero_stage=3, kl_coef=0.0)
    worker = LearnerWorker(make_spec(folder, case, world_size), rank, world_size, "cpu", 1)
    worker.start(address)
    out = publication(worker.policy)
    alive = max(sum(t.numel() for t in tensors) for _, tensors in out.iter_groups())
    sent = {name: tensor.clone() for name, tensor in out}
    total = sum(tensor.numel() for tensor in sent.values())
    assert alive < total / 2  # a layer at a time, never the whole model
    assert [meta.name for meta in out.metadata()] == list(sent)
    assert all(sent[meta.name].shape == meta.shape for meta in out.metadata())
    worker.stop()
    return sent


@pytest.mark.slow
def test_experts_under_zero_3(tiny_model: Path, tmp_path: Path) -> None:
    folder = build_family(FAMILIES["qwen3_moe"], tmp_path, tiny_model)
    expected = on_disk(folder)
    assert expected
    for sent in spawn(publish_experts, 2, folder):
        assert set(sent) == set(expected)
        assert all(torch.equal(sent[name], expected[name]) for name in expected)
