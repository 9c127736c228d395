"""Every family: the learner against the transformers engine and a plain model, before and after
an update; or refused, with the cause."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from mgsrl.config import PolicyConfig, RolloutConfig
from mgsrl.data.token_row import lay_out
from mgsrl.errors import UserError
from mgsrl.learner.forward import PolicyForward
from mgsrl.learner.policy import load_forward
from mgsrl.rollout.decoding import Decoder
from mgsrl.rollout.transformers_engine import TransformersEngine
from mgsrl.sync.source import WeightSource
from mgsrl.sync.wire import pack_group
from tests.zoo.families import FAMILIES, VOCAB, build_family

TRAINED = [name for name, family in FAMILIES.items() if not family.refused]
REFUSED = [name for name, family in FAMILIES.items() if family.refused]
SEQUENCES = [(5, 9, 30, 31, 32, 77, 120), (8, 9, 299, 200), tuple(range(40, 60))]
PARITY = 2e-4
"""Largest difference of a log-probability, in nats."""
LEARNING_RATE = 0.02


def scores(forward: PolicyForward, sequences: Sequence[Sequence[int]]) -> torch.Tensor:
    """[B, L] as the learner's worker computes them, in training mode; 0 for the first token."""
    row_T, layout = lay_out([(tokens[:1], tokens[1:]) for tokens in sequences])
    mask_BL = torch.zeros(len(sequences), max(map(len, sequences)) - 1)
    for row, tokens in enumerate(sequences):
        mask_BL[row, : len(tokens) - 1] = 1
    found_BL: torch.Tensor = forward.train()(row_T, layout, mask_BL, 0.8)[0]
    return torch.nn.functional.pad(found_BL, (1, 0))


def assert_equal_scores(found_BL: torch.Tensor, engine: Sequence[Sequence[float]]) -> None:
    for row, expected in zip(found_BL.detach(), engine, strict=True):
        error = (row[: len(expected)] - torch.tensor(expected)).abs().max()
        assert error < PARITY, f"{error:.3g} nats"


def step(parameters: Any, loss: torch.Tensor) -> None:
    """One plain gradient step, of length `LEARNING_RATE` whatever the family's scale."""
    parameters = [p for p in parameters if p.requires_grad]
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    norm = torch.sqrt(sum((g.double() ** 2).sum() for g in gradients if g is not None))
    with torch.no_grad():
        for parameter, gradient in zip(parameters, gradients):
            if gradient is not None:
                parameter -= LEARNING_RATE / norm * gradient


def plain_loss(model: Any) -> torch.Tensor:
    """The same sum of log-probabilities from the model's own logits, one sequence at a time."""
    total = torch.zeros(())
    for tokens in SEQUENCES:
        ids = torch.tensor([tokens])
        table = torch.log_softmax(model(input_ids=ids, use_cache=False).logits[0, :-1] / 0.8, -1)
        total = total + table.gather(1, ids[0, 1:, None]).sum()
    return total


@pytest.mark.parametrize("name", TRAINED)
def test_learner_engine_and_plain_model_agree(name: str, tiny_model: Path, tmp_path: Path) -> None:
    path = build_family(FAMILIES[name], tmp_path / name, tiny_model)
    forward = load_forward(PolicyConfig(path=str(path)), torch.float32)
    config = RolloutConfig(engine="transformers", max_prompts_in_flight=4)
    engine = TransformersEngine(str(path), config, Decoder(str(path)))

    before_BL = scores(forward, SEQUENCES)
    first = engine.logprobs(SEQUENCES, 0.8)
    assert_equal_scores(before_BL, first)

    step(forward.policy.parameters(), before_BL.sum())
    engine.start_weight_update()
    for names, tensors in WeightSource(forward.policy).iter_groups():
        engine.update_weights(pack_group(names, tensors))
    engine.finish_weight_update("1")
    after = engine.logprobs(SEQUENCES, 0.8)
    assert max(abs(a - b) for x, y in zip(first, after) for a, b in zip(x, y)) > 10 * PARITY
    assert_equal_scores(scores(forward, SEQUENCES), after)

    plain = type(engine.model).from_pretrained(path).eval()
    step(plain.parameters(), plain_loss(plain))
    engine.model = plain
    assert_equal_scores(scores(forward, SEQUENCES), engine.logprobs(SEQUENCES, 0.8))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", REFUSED)
def test_other_logits_are_refused_by_their_cause(
    name: str, dtype: torch.dtype, tiny_model: Path, tmp_path: Path
) -> None:
    path = build_family(FAMILIES[name], tmp_path / name, tiny_model)
    with pytest.raises(UserError, match=FAMILIES[name].refused):
        load_forward(PolicyConfig(path=str(path)), dtype)


def test_every_family_fits_the_tokenizer() -> None:
    """Padding, stop and test tokens are inside the vocabulary."""
    assert max(map(max, SEQUENCES)) == VOCAB - 1
