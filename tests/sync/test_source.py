"""Weights as a stream of layer groups (the ZeRO-3 side is in tests/learner/test_checkpoint.py)."""

from pathlib import Path

import pytest
import torch

from mgsrl.sync.source import WeightSource, layer_groups


def test_groups_before_in_and_after_the_layers() -> None:
    names = ["m.embed.weight", "m.layers.0.a", "m.layers.0.experts.7.w", "m.layers.1.a", "m.norm"]
    assert layer_groups(names) == [names[:1], names[1:3], names[3:4], names[4:]]


def test_groups_without_layers() -> None:
    assert layer_groups(["a", "b"]) == [["a", "b"]]


def test_two_stacks_stay_apart() -> None:
    names = ["vision.blocks.0.w", "proj.w", "text.layers.0.w", "text.layers.1.w", "head.w"]
    assert layer_groups(names) == [
        ["vision.blocks.0.w"],
        ["text.layers.0.w"],
        ["text.layers.1.w"],
        ["proj.w", "head.w"],
    ]


@pytest.mark.parametrize(
    ("fixture", "has_head"), [("tiny_model", False), ("tiny_untied_model", True)]
)
def test_stream_agrees_with_metadata(
    fixture: str, has_head: bool, request: pytest.FixtureRequest
) -> None:
    from transformers import AutoModelForCausalLM

    path: Path = request.getfixturevalue(fixture)
    model = AutoModelForCausalLM.from_pretrained(path)
    source = WeightSource(model)
    metadata = source.metadata()
    assert [m.name for m in metadata] == [n for group in source.groups() for n in group]
    assert ("lm_head.weight" in {m.name for m in metadata}) == has_head
    params = dict(model.named_parameters())
    assert {m.name for m in metadata} == set(params)
    for _ in range(2):  # every pass is a fresh one
        for meta, (name, tensor) in zip(metadata, source, strict=True):
            assert (meta.name, meta.shape, meta.dtype) == (name, tuple(tensor.shape), tensor.dtype)
            assert torch.equal(tensor, params[name])
            assert not tensor.requires_grad
