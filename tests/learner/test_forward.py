"""Response log-probabilities: values, gradients and chunking of the LM head."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from mgsrl.config.learner import LearnerConfig
from mgsrl.config.policy import PolicyConfig
from mgsrl.data.token_row import lay_out, scoring_batch
from mgsrl.learner import forward
from mgsrl.learner.forward import PolicyForward, TokenLogprobs
from mgsrl.learner.reference import Reference


@pytest.mark.parametrize("chunk", [1, 3, 100])
@pytest.mark.parametrize("with_bias", [False, True])
def test_gradients_of_both_outputs(chunk: int, with_bias: bool) -> None:
    torch.manual_seed(0)
    hidden = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(7, 4, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(7, dtype=torch.float64, requires_grad=True) if with_bias else None
    targets = torch.tensor([0, 6, 2, 2, 5])
    assert torch.autograd.gradcheck(
        lambda h, w, b: TokenLogprobs.apply(h, w, b, targets, 0.7, chunk), (hidden, weight, bias)
    )


def test_logits_that_were_kept_are_those_computed_again() -> None:
    """The first backward uses up what the forward kept."""
    torch.manual_seed(0)
    hidden, weight = torch.randn(6, 8, requires_grad=True), torch.randn(11, 8, requires_grad=True)
    targets = torch.randint(0, 11, (6,))
    logprobs, entropy = TokenLogprobs.apply(hidden, weight, None, targets, 1.3, 100)
    total = (logprobs**2).sum() + entropy.sum()
    first, second = (
        torch.autograd.grad(total, [hidden, weight], retain_graph=True) for _ in range(2)
    )
    for kept, again in zip(first, second, strict=True):
        torch.testing.assert_close(kept, again)


@pytest.mark.parametrize("chunk", [1, 2, 100])
def test_values_are_those_of_log_softmax(chunk: int) -> None:
    torch.manual_seed(0)
    hidden, weight = torch.randn(6, 8), torch.randn(11, 8)
    targets = torch.randint(0, 11, (6,))
    logprobs, entropy = TokenLogprobs.apply(hidden, weight, None, targets, 1.3, chunk)
    table = torch.log_softmax(hidden @ weight.T / 1.3, -1)
    torch.testing.assert_close(logprobs, table.gather(1, targets[:, None])[:, 0])
    torch.testing.assert_close(entropy, -(table.exp() * table).sum(-1))


@pytest.mark.parametrize("slice_elements", [1 << 24, 3 * 16])
def test_bfloat16_logits_are_not_rounded(
    slice_elements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As exact as the product of the same bfloat16 numbers in float64, slice by slice."""
    monkeypatch.setitem(forward.CHUNK_ELEMENTS, "cpu", slice_elements)
    torch.manual_seed(0)
    hidden, weight = torch.randn(20, 16).bfloat16(), 4 * torch.randn(32, 16).bfloat16()
    targets = torch.randint(0, 32, (20,))
    logprobs, entropy = TokenLogprobs.apply(hidden, weight, None, targets, 0.7, 8)
    table = torch.log_softmax(hidden.double() @ weight.double().T / 0.7, -1)
    assert logprobs.dtype == entropy.dtype == torch.float32
    error = (logprobs - table.gather(1, targets[:, None])[:, 0]).abs().max()
    assert error < 1e-4
    rounded = torch.log_softmax((hidden @ weight.T).double() / 0.7, -1)
    assert (rounded - table).abs().max() > 100 * error  # what rounding the logits would cost


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_float32_product_is_the_plain_one(dtype: torch.dtype) -> None:
    hidden, weight = torch.randn(20, 16, dtype=dtype), torch.randn(32, 16, dtype=dtype)
    assert torch.equal(forward._product(hidden, weight, dtype), hidden @ weight.T)


def test_no_tokens_give_zero_gradients() -> None:
    hidden = torch.zeros(0, 4, requires_grad=True)
    weight = torch.randn(7, 4, requires_grad=True)
    empty = torch.zeros(0, dtype=torch.int64)
    logprobs, entropy = TokenLogprobs.apply(hidden, weight, None, empty, 1.0, 8)
    (logprobs.sum() + entropy.sum()).backward()
    assert weight.grad is not None
    assert not weight.grad.any()


@pytest.mark.parametrize("chunk", [16, 512])
def test_a_bfloat16_gradient_of_the_head_is_rounded_once(chunk: int) -> None:
    """Against float64, however many slices: the gradient of the logits is in bfloat16."""
    torch.manual_seed(0)
    hidden, weight = torch.randn(512, 16).bfloat16(), torch.randn(1024, 16).bfloat16()
    targets = torch.randint(0, 1024, (512,))

    def gradients(exact: bool) -> list[torch.Tensor]:
        h, w = (
            (leaf.double() if exact else leaf.clone()).requires_grad_() for leaf in (hidden, weight)
        )
        logprobs, entropy = TokenLogprobs.apply(h, w, None, targets, 1.0, chunk)
        return list(torch.autograd.grad(logprobs.sum() + 0.1 * entropy.sum(), [h, w]))

    for ours, exact in zip(gradients(exact=False), gradients(exact=True), strict=True):
        assert ours.dtype == torch.bfloat16
        assert (ours.double() - exact).norm() < 3e-3 * exact.norm()


def test_nothing_of_the_heads_size_is_held_in_fp32() -> None:
    hidden = torch.randn(64, 32).bfloat16().requires_grad_()
    weight = torch.randn(20_000, 32).bfloat16().requires_grad_()
    logprobs, _ = TokenLogprobs.apply(hidden, weight, None, torch.arange(64), 1.0, 1)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        logprobs.sum().backward()
    events = sorted(recorded.profiler.kineto_results.events(), key=lambda event: event.start_ns())
    changes = torch.tensor([event.nbytes() for event in events], dtype=torch.int64)
    size = weight.numel() * weight.element_size()
    assert size <= changes.cumsum(0).max() < 1.5 * size  # the gradient itself, and a slice


@pytest.mark.parametrize("chunk", [2, 100])
def test_without_the_entropy_nothing_else_changes(chunk: int) -> None:
    torch.manual_seed(0)
    hidden, weight = torch.randn(6, 8, requires_grad=True), torch.randn(11, 8, requires_grad=True)
    targets = torch.randint(0, 11, (6,))
    found = []
    for entropy in (True, False):
        inputs = (hidden, weight, None, targets, 1.3, chunk, entropy)
        logprobs_T, entropy_T = TokenLogprobs.apply(*inputs)
        assert entropy_T.isnan().logical_not().all() if entropy else entropy_T.isnan().all()
        found.append([logprobs_T, *torch.autograd.grad((logprobs_T**2).sum(), [hidden, weight])])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_passes_that_only_score_compute_no_entropy(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The references, teachers and the canary; a step of training does, for its metric."""
    from mgsrl.learner.worker import LearnerWorker

    seen: list[torch.Tensor] = []
    head = forward.ResponseHead.forward

    def watched(*args: Any) -> tuple[torch.Tensor, torch.Tensor]:
        found = head(*args)
        seen.append(found[1])
        return found

    monkeypatch.setattr(forward.ResponseHead, "forward", watched)
    sequences = [(5, 9, 7, 3), (4, 6)]
    policy, batch = PolicyConfig(path=str(tiny_model)), scoring_batch(sequences, 0.8)
    reference = Reference(policy, LearnerConfig(), torch.float32, torch.device("cpu"))
    worker = object.__new__(LearnerWorker)
    worker._engine = reference._forward
    worker._rank = SimpleNamespace(device=torch.device("cpu"))  # type: ignore[assignment]
    worker._spec = SimpleNamespace(learner=LearnerConfig())  # type: ignore[assignment]
    seen.clear()
    scored_BL, rows = reference.logprobs(batch), worker.logprobs(sequences, 0.8)
    assert len(seen) == 2
    assert all(entropy_T.isnan().all() for entropy_T in seen)
    logprobs_BL, entropy_BL = worker._forward(batch)
    assert entropy_BL[batch.response_mask_BL.bool()].all()
    assert not entropy_BL.isnan().any()
    assert torch.equal(scored_BL, logprobs_BL)
    assert rows[0][1:] == logprobs_BL[0].tolist()


@pytest.mark.parametrize("packed", [False, True])
def test_whole_sequences_are_scored(packed: bool, tiny_model: Path) -> None:
    """Also one of a single token, in which nothing is predicted, and equal ones."""
    from transformers import AutoModelForCausalLM

    sequences = [(5, 9, 7, 3), (5,), (4, 6, 1), (5, 9, 7, 3)]
    plain = AutoModelForCausalLM.from_pretrained(tiny_model)
    model = PolicyForward(AutoModelForCausalLM.from_pretrained(tiny_model), packed=packed)
    batch = scoring_batch(sequences, 0.8)
    found_BL, _ = model(batch.token_ids_T, batch.layout, batch.response_mask_BL, 0.8)
    assert found_BL.shape == (4, 3)
    assert not found_BL[1].any()
    for found, tokens in zip(found_BL, sequences, strict=True):
        table = torch.log_softmax(plain(torch.tensor([tokens])).logits[0] / 0.8, -1)
        wanted = table[torch.arange(len(tokens) - 1), torch.tensor(tokens[1:], dtype=torch.int64)]
        torch.testing.assert_close(found[: len(tokens) - 1], wanted, rtol=0, atol=1e-5)
    alone = scoring_batch([(5,)], 0.8)
    assert not model(alone.token_ids_T, alone.layout, alone.response_mask_BL, 0.8)[0].any()


def test_padded_rows_are_the_plain_formula_to_the_bit(tiny_model: Path) -> None:
    """Values and gradients of right-padded rows and a mask over all of their positions."""
    from transformers import AutoModelForCausalLM

    sequences = [([5, 9], [7, 3, 8, 2]), ([4], [6, 1]), ([5, 9], [8])]
    ids_BL = torch.tensor([[5, 9, 7, 3, 8, 2], [4, 6, 1, 0, 0, 0], [5, 9, 8, 0, 0, 0]])
    mask_BL = torch.tensor([[0, 0, 1, 1, 1, 1], [0, 1, 1, 0, 0, 0], [0, 0, 1, 0, 0, 0]]).bool()
    plain = PolicyForward(AutoModelForCausalLM.from_pretrained(tiny_model))
    hidden_BLH = plain.policy.base_model(input_ids=ids_BL, use_cache=False)[0]
    head = plain.policy.get_output_embeddings()
    wanted_T, _ = head(hidden_BLH[:, :-1][mask_BL[:, 1:]], ids_BL[mask_BL], 0.8)

    model = PolicyForward(AutoModelForCausalLM.from_pretrained(tiny_model))
    row, layout = lay_out(sequences)
    responses_BL = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]]).float()
    found_BL, _ = model(row, layout, responses_BL, 0.8)
    assert torch.equal(found_BL[responses_BL.bool()], wanted_T)
    (found_BL**2).sum().backward()
    (wanted_T**2).sum().backward()
    for found, wanted in zip(model.parameters(), plain.parameters(), strict=True):
        assert found.grad is not None
        assert wanted.grad is not None
        assert torch.equal(found.grad, wanted.grad)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("model_fixture", ["tiny_model", "tiny_untied_model"])
def test_every_response_is_its_own_sequence(
    model_fixture: str,
    packed: bool,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from transformers import AutoModelForCausalLM

    path: Path = request.getfixturevalue(model_fixture)
    plain = AutoModelForCausalLM.from_pretrained(path)
    sequences = [([5, 9], [7, 3, 8, 2]), ([4], [6, 1])]
    expected = [
        torch.log_softmax(plain(torch.tensor([prompt + response])).logits[0].float() / 0.8, -1)
        for prompt, response in sequences
    ]
    monkeypatch.setitem(forward.CHUNK_ELEMENTS, "cpu", 600)  # two rows of the vocabulary
    model = PolicyForward(AutoModelForCausalLM.from_pretrained(path), packed=packed)
    row, layout = lay_out(sequences)
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]]).float()
    logprobs, entropy = model(row, layout, mask, 0.8)
    assert logprobs[0, 1].item() == pytest.approx(expected[0][2, 3].item(), abs=1e-5)
    assert logprobs[1, 1].item() == pytest.approx(expected[1][1, 1].item(), abs=1e-5)
    own = expected[1][0]
    assert entropy[1, 0].item() == pytest.approx(-(own.exp() * own).sum().item(), abs=1e-5)
    assert not logprobs[mask == 0].any()
    assert [name for name, _ in model.policy.named_parameters()] == [
        name for name, _ in plain.named_parameters()
    ]
