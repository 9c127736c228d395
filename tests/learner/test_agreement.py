"""The proof at loading: what is measured, what is silenced, and which cause a refusal names.

Families as they are published are tried in `tests/zoo`; here are models made wrong on purpose.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mgsrl.config.policy import LoraConfig, PolicyConfig
from mgsrl.data.token_row import lay_out
from mgsrl.errors import UserError
from mgsrl.learner.agreement import proven_forward, switch_dropout_off
from mgsrl.learner.forward import PolicyForward
from mgsrl.learner.policy import load_forward

IDS = torch.tensor([[5, 9, 30, 31, 32, 77]])
ROW, LAYOUT = lay_out([((5,), (9, 30, 31, 32, 77))])
MASK = torch.ones(1, 5)


def load(path: Path, dtype: torch.dtype = torch.float32) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(path, dtype=dtype)


def change_logits(model: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Behind the LM head, as Granite and Gemma 2 do."""

    def hook(_m: nn.Module, _a: Any, out: Any) -> Any:
        out.logits = change(out.logits)
        return out

    model.register_forward_hook(hook)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rank", [0, 2])
def test_a_healthy_model_is_left_alone(rank: int, dtype: torch.dtype, tiny_model: Path) -> None:
    """No random number is drawn, no weight changes, and not a bit of what is computed."""
    config = PolicyConfig(path=str(tiny_model), lora=LoraConfig(rank=rank))
    torch.manual_seed(5)
    forward = load_forward(config, dtype)
    drawn = torch.rand(3)
    torch.manual_seed(5)
    if rank:  # drawing the adapters is all that may be drawn
        from mgsrl.learner.policy import load_policy

        load_policy(config, dtype)
    assert torch.equal(drawn, torch.rand(3))
    assert forward.logit_scale == 1.0
    assert not forward.training
    plain = PolicyForward(load(tiny_model, dtype), packed=True)
    for found, expected in zip(
        forward.train()(ROW, LAYOUT, MASK, 0.7), plain(ROW, LAYOUT, MASK, 0.7), strict=True
    ):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("factor", [0.0625, 3.0, -1.0])
def test_a_constant_factor_is_measured(factor: float, tiny_untied_model: Path) -> None:
    """Values and gradients are those of the model's own logits."""
    model, expected = load(tiny_untied_model), load(tiny_untied_model)
    for each in (model, expected):
        change_logits(each, lambda logits: factor * logits)
    forward = proven_forward(model, "x")
    assert forward.logit_scale == pytest.approx(factor, rel=1e-6)
    found = forward.train()(ROW, LAYOUT, MASK, 0.7)[0].sum()
    table = torch.log_softmax(expected(IDS).logits[0, :-1] / 0.7, -1)
    wanted = table.gather(1, IDS[0, 1:, None]).sum()
    assert found.item() == pytest.approx(wanted.item(), rel=1e-5)
    found.backward()
    wanted.backward()
    for value, same in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(value.grad, same.grad, rtol=1e-3, atol=1e-5)


def test_a_soft_cap_is_refused_however_small_the_logits(tiny_model: Path) -> None:
    model = load(tiny_model)
    model.get_output_embeddings().weight.data *= 1e-4  # a cap of 30 changes less than a bit
    change_logits(model, lambda logits: 30 * torch.tanh(logits / 30))
    with pytest.raises(UserError, match="more than a constant factor"):
        proven_forward(model, "x")


class Noisy(nn.Module):
    """Dropout that no attribute gives away."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return nn.functional.dropout(self.inner(hidden), 0.2, self.training)


def test_hidden_dropout_is_named(tiny_model: Path) -> None:
    model = load(tiny_model)
    for layer in model.model.layers:
        layer.mlp = Noisy(layer.mlp)
    with pytest.raises(
        UserError, match=r"training mode only.*: model\.layers\.\*\.mlp \(Noisy\)\n"
    ):
        proven_forward(model, "x")


def see_the_future(_m: nn.Module, _a: Any, out: Any) -> Any:
    hidden = out[0]
    out.last_hidden_state = hidden + 0.3 * hidden.roll(-1, 1)
    return out


def reshape_hidden(model: Any) -> None:
    head = model.get_output_embeddings()
    head.register_forward_pre_hook(lambda _m, args: (args[0].tanh(),))


@pytest.mark.parametrize(
    ("spoil", "cause"),
    [
        (lambda model: model.model.register_forward_hook(see_the_future), "not causal"),
        (reshape_hidden, "layers between the last hidden state and the LM head"),
        (lambda model: model.set_output_embeddings(nn.Identity()), "LM head is a Identity"),
    ],
)
def test_the_cause_is_named(spoil: Callable[[Any], Any], cause: str, tiny_model: Path) -> None:
    model = load(tiny_model)
    spoil(model)
    with pytest.raises(UserError, match=cause):
        proven_forward(model, "x")


def test_every_probability_of_dropout_is_silenced(tiny_model: Path) -> None:
    model = load(tiny_model)
    model.extra = nn.Dropout1d(0.3)
    model.model.layers[0].layerdrop = 0.2
    model.config.hidden_dropout = 0.1
    model.model.drop_ratio_is_no_float = True
    switch_dropout_off(model)
    assert (model.extra.p, model.model.layers[0].layerdrop, model.config.hidden_dropout) == (0,) * 3
    assert model.model.drop_ratio_is_no_float is True


@torch.no_grad()
def nan_weights(model: Any) -> None:
    model.model.layers[1].mlp.up_proj.weight[0, 0] = torch.nan


@torch.no_grad()
def no_weights(model: Any) -> None:
    for parameter in model.parameters():
        parameter.zero_()


@pytest.mark.parametrize(
    ("spoil", "cause"),
    [
        (nan_weights, r"nan or infinite: model\.layers\.1\.mlp\.up_proj\.weight"),
        (no_weights, "0 for every token"),
    ],
)
def test_weights_that_are_no_numbers_are_named(
    spoil: Callable[[Any], None], cause: str, tiny_model: Path
) -> None:
    model = load(tiny_model)
    spoil(model)
    with pytest.raises(UserError, match=cause):
        proven_forward(model, "m")
