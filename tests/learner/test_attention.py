"""Packed rows: log-probabilities and gradients of a model's own attention, sequence by sequence.

In float64 (but for norms that compute in float32): what differs is a wrong mask, not rounding.
"""

import contextlib
import inspect
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention import varlen
from transformers import AutoConfig, AutoModelForCausalLM

from mgsrl.config.model_facts import packing_obstacle
from mgsrl.data.token_row import lay_out
from mgsrl.errors import ConfigError, InvariantError
from mgsrl.learner import attention
from mgsrl.learner.attention import PackedRow
from mgsrl.learner.forward import PolicyForward
from mgsrl.learner.policy import packs_rows
from tests.zoo.families import FAMILIES, Family, tiny_config

WINDOW = 4
MODELS = {
    "llama": FAMILIES["llama"],
    "qwen2": FAMILIES["qwen2"],
    "qwen3": FAMILIES["qwen3"],
    "mistral": Family("mistral", {"sliding_window": WINDOW}),
    "gemma3": Family(
        "gemma3_text",
        {"sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"]},
    ),
    "olmo3": Family(
        "olmo3",
        {"sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"]},
    ),
    "starcoder2": Family("starcoder2", {"sliding_window": WINDOW}),
    "gpt2": FAMILIES["gpt2"],
}
WAYS = {"dense": 1 << 62, "by_segment": 0}
"""The number of elements up to which the whole row is masked."""
TEMPERATURE = 0.8

tokens = st.integers(0, 299)
groups = st.lists(
    st.tuples(
        st.lists(tokens, min_size=1, max_size=9),
        st.lists(st.lists(tokens, min_size=1, max_size=9), min_size=1, max_size=4),
    ),
    min_size=1,
    max_size=3,
)
rows = groups.flatmap(
    lambda groups: st.permutations([(prompt, r) for prompt, rs in groups for r in rs])
)
Sequences = list[tuple[list[int], list[int]]]


@cache
def model_of(name: str, checkpointing: bool = False) -> tuple[Any, PolicyForward]:
    """The model as it is, and the same in packed rows."""
    torch.manual_seed(0)
    own = AutoModelForCausalLM.from_config(tiny_config(MODELS[name]), dtype=torch.float64)
    with torch.no_grad():  # a plain random model is almost uniform, and its layers hardly matter
        for parameter in own.parameters():
            if parameter.ndim >= 2:
                parameter.mul_(6.0)
    other = AutoModelForCausalLM.from_config(tiny_config(MODELS[name]), dtype=torch.float64)
    other.load_state_dict(own.state_dict())
    if checkpointing:
        other.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return own.eval(), PolicyForward(other, packed=True).train(checkpointing)


def expected(model: Any, sequences: Sequences) -> list[torch.Tensor]:
    """Each response's log-probabilities, of a forward of its own."""
    found = []
    for prompt, response in sequences:
        logits = model(torch.tensor([prompt + response]), use_cache=False).logits[0]
        table = torch.log_softmax(logits[len(prompt) - 1 : -1] / TEMPERATURE, -1)
        found.append(table[torch.arange(len(response)), torch.tensor(response)])
    return found


def weights(sequences: Sequences) -> list[torch.Tensor]:
    """What the gradients are of: another number for every token."""
    return [torch.arange(1.0, len(r) + 1) * (-1) ** i for i, (_, r) in enumerate(sequences)]


def assert_equal(name: str, sequences: Sequences, checkpointing: bool = False) -> None:
    own, forward = model_of(name, checkpointing)
    row_T, layout = lay_out(sequences)
    mask_BL = torch.nn.utils.rnn.pad_sequence(
        [torch.ones(len(response)) for _, response in sequences], batch_first=True
    )
    found_BL, _ = forward(row_T, layout, mask_BL, TEMPERATURE)
    wanted = expected(own, sequences)
    total = expected_total = torch.zeros((), dtype=torch.float64)
    for found, one, weight in zip(found_BL, wanted, weights(sequences), strict=True):
        torch.testing.assert_close(found[: len(one)], one, rtol=0, atol=1e-9)
        total = total + found[: len(one)] @ weight.double()
        expected_total = expected_total + one @ weight.double()
    gradients = torch.autograd.grad(total, list(forward.parameters()), allow_unused=True)
    exact = torch.autograd.grad(expected_total, list(own.parameters()), allow_unused=True)
    names = [name for name, _ in own.named_parameters()]
    assert names == [name for name, _ in forward.policy.named_parameters()]
    largest = max(one.norm() for one in exact if one is not None)
    for parameter, found, one in zip(names, gradients, exact, strict=True):
        if one is None:
            assert found is None or not found.any(), parameter
            continue
        # A query that has one key has no gradient; what is left of it then is rounding.
        assert (found - one).norm() <= 1e-6 * one.norm() + 1e-9 * largest, parameter


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", MODELS)
@settings(max_examples=8, deadline=None)
@given(sequences=rows)
def test_packed_is_one_by_one(name: str, way: str, sequences: Sequences) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(attention, "DENSE_ELEMENTS", WAYS[way])
        assert_equal(name, sequences)


@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_recomputed_layers_know_the_row(name: str) -> None:
    assert_equal(name, [([1, 2, 3], [4, 5, 6]), ([9], [7, 7]), ([1, 2, 3], [8])], True)


@settings(max_examples=30, deadline=None)
@given(sequences=rows)
def test_a_prompt_stands_once(sequences: Sequences) -> None:
    row_T, layout = lay_out(sequences)
    prompts = {tuple(prompt) for prompt, _ in sequences}
    assert len(layout.prompts) == len(prompts)
    assert len(row_T) == sum(map(len, prompts)) + sum(len(r) for _, r in sequences)
    for (prompt, response), span, place in zip(
        sequences, layout.responses, layout.prompt_of, strict=True
    ):
        assert row_T[span].tolist() == response
        assert row_T[layout.prompts[place]].tolist() == prompt


@settings(max_examples=30, deadline=None)
@given(sequences=rows, window=st.none() | st.integers(1, 8))
def test_three_descriptions_of_one_mask(sequences: Sequences, window: int | None) -> None:
    """Written once more from what a token may see: itself and what stands before it in its
    sequence, as far as the window reaches."""
    row_T, layout = lay_out(sequences)
    row = PackedRow(layout, torch.device("cpu"))
    seen_TT = torch.zeros(len(row_T), len(row_T), dtype=torch.bool)
    for span, place in zip(layout.responses, layout.prompt_of, strict=True):
        prompt = layout.prompts[place]
        places = [*range(prompt.start, prompt.stop), *range(span.start, span.stop)]
        for number, query in enumerate(places):
            assert row.position_ids[query] == number
            first = 0 if window is None else max(0, number + 1 - window)
            seen_TT[query, places[first : number + 1]] = True
    assert torch.equal(row.dense_mask(window), seen_TT)

    query_ends, key_ends, keys, most_queries, most_keys = row.varlen
    fresh = PackedRow(layout, torch.device("cpu"))
    for segment, size in enumerate(row.sizes):
        a, b = query_ends[segment], query_ends[segment + 1]
        places = keys[key_ends[segment] : key_ends[segment + 1]]
        assert b - a == size <= most_queries
        assert len(places) <= most_keys
        band = torch.zeros(size, len(row_T), dtype=torch.bool)
        band[:, places] = fresh.band(segment, window)
        assert torch.equal(band, seen_TT[a:b])
    assert query_ends[-1] == len(row_T)


REQUIRED = ["query", "key", "value", "cu_seq_q", "cu_seq_k", "max_q", "max_k"]
GENERATIONS = {  # of torch
    "2.10": {"is_causal": False, "return_aux": None},
    "2.11": {"return_aux": None, "scale": None, "window_size": (-1, -1)},
    "2.12": {"return_aux": None, "scale": None, "window_size": (-1, -1), "enable_gqa": False},
}


def signature(torch_version: str) -> inspect.Signature:
    """Of that torch's attention over different lengths."""
    kind = inspect.Parameter.KEYWORD_ONLY
    required = [inspect.Parameter(n, inspect.Parameter.POSITIONAL_OR_KEYWORD) for n in REQUIRED]
    by_name = GENERATIONS[torch_version].items()
    return inspect.Signature(
        [*required, *(inspect.Parameter(n, kind, default=default) for n, default in by_name)]
    )


@contextlib.contextmanager
def torch_of(version: str) -> Iterator[None]:
    """Its attention over different lengths, with a loop in the kernels' place."""
    takes = signature(version)

    def attend(*arguments: Any, **named: Any) -> torch.Tensor:
        bound = takes.bind(*arguments, **named)
        bound.apply_defaults()
        return reference_varlen(bound.arguments)

    attend.__signature__ = takes  # type: ignore[attr-defined]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(varlen, "varlen_attn", attend)
        attention._torch_varlen.cache_clear()
        yield
    attention._torch_varlen.cache_clear()


def reference_varlen(given: Mapping[str, Any]) -> torch.Tensor:
    """Attention over sequences of different lengths as torch documents it, in a loop: the last
    query meets the last key, and so many keys before it."""
    query, key, value = (given[name] for name in ("query", "key", "value"))
    assert given.get("enable_gqa") or query.shape[1] == key.shape[1]
    before, after = given["window_size"]
    assert after == 0
    outputs = []
    ends = zip(pairwise(given["cu_seq_q"]), pairwise(given["cu_seq_k"]), strict=True)
    for (a, b), (c, d) in ends:
        assert b - a <= given["max_q"]
        assert d - c <= given["max_k"]
        distance = torch.arange(b - a)[:, None] + (d - c) - (b - a) - torch.arange(d - c)
        seen = (distance >= 0) & ((distance <= before) if before >= 0 else True)
        outputs.append(
            torch.nn.functional.scaled_dot_product_attention(
                *(each.transpose(0, 1) for each in (query[a:b], key[c:d], value[c:d])),
                attn_mask=seen,
                scale=given["scale"],
                enable_gqa=True,
            ).transpose(0, 1)
        )
    return torch.cat(outputs)


@pytest.mark.parametrize("version", ["2.11", "2.12"])
@settings(max_examples=20, deadline=None)
@given(sequences=rows, window=st.none() | st.integers(1, 8))
def test_what_a_gpu_is_asked_for(version: str, sequences: Sequences, window: int | None) -> None:
    """The arguments of torch's attention over different lengths, which has no kernel for CPUs:
    values and gradients of the others' with a loop in its place."""
    row_T, layout = lay_out(sequences)
    row = PackedRow(layout, torch.device("cpu"))
    torch.manual_seed(0)
    inputs = [
        torch.randn(1, heads, len(row_T), 8, dtype=torch.float64, requires_grad=True)
        for heads in (4, 2, 2)
    ]
    with torch_of(version):
        found = attention._varlen(row, *inputs, 0.3, window)
    wanted = attention._by_segment(row, *inputs, 0.3, window).transpose(1, 2)
    torch.testing.assert_close(found, wanted)
    weight = torch.randn(found.shape, dtype=torch.float64)
    for ours, same in zip(
        torch.autograd.grad((found * weight).sum(), inputs),
        torch.autograd.grad((wanted * weight).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(ours, same)


def test_torch_here_is_asked_for_what_it_takes() -> None:
    found = inspect.signature(varlen.varlen_attn).parameters
    known = [signature(version).parameters.keys() <= found.keys() for version in GENERATIONS]
    assert any(known), list(found)


@pytest.mark.parametrize("version", GENERATIONS)
@pytest.mark.parametrize(
    ("dtype", "widths", "kernels"),
    [
        (torch.bfloat16, (128, 128), True),
        (torch.float16, (256, 256), True),
        (torch.float32, (128, 128), False),
        (torch.bfloat16, (264, 264), False),
        (torch.bfloat16, (84, 84), False),  # Flash Attention wants multiples of 8
        (torch.bfloat16, (192, 128), False),
    ],
)
def test_what_a_gpu_has_kernels_for(
    version: str, dtype: torch.dtype, widths: tuple[int, int], kernels: bool
) -> None:
    query, value = (torch.empty(1, 2, 9, w, dtype=dtype, device="meta") for w in widths)
    with torch_of(version):
        assert attention._fits_varlen(query, value) is (kernels and version != "2.10")


def test_before_torch_2_10_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    half = torch.empty(1, 2, 9, 64, dtype=torch.bfloat16, device="meta")
    attention._torch_varlen.cache_clear()
    monkeypatch.setitem(sys.modules, "torch.nn.attention.varlen", None)
    try:
        assert not attention._fits_varlen(half, half)
    finally:
        attention._torch_varlen.cache_clear()


OTHERS = {
    "gpt_oss": "more in its attention",
    "falcon_h1": "layers of the kind hybrid",
    "recurrent_gemma": "a state",
    "gemma2": "more in its attention",
    "bloom": "only its own code can compute",
    "nemotron": "only its own code can compute",
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_models_are_not_packed(name: str) -> None:
    obstacle = packing_obstacle(tiny_config(FAMILIES[name]))
    assert obstacle is not None
    assert OTHERS[name] in obstacle
    assert not packs_rows("auto", obstacle, "m")
    with pytest.raises(ConfigError, match=OTHERS[name]):
        packs_rows("always", obstacle, "m")


def test_foreign_layers_are_not_packed() -> None:
    for model_type in ("qwen3_next", "mamba", "llama4_text", "jamba", "doge"):
        assert packing_obstacle(AutoConfig.for_model(model_type)) is not None, model_type
    mixed = AutoConfig.for_model("lfm2", full_attn_idxs=[2])
    assert "conv" in str(packing_obstacle(mixed))


@pytest.mark.parametrize("setting", ["auto", "always", "never"])
def test_models_that_can_are_packed(setting: str) -> None:
    for family in MODELS.values():
        assert packs_rows(setting, packing_obstacle(tiny_config(family)), "m") is (
            setting != "never"
        )


def test_a_layer_that_hides_its_window_is_refused() -> None:
    """Masks are made here: what the model's own would have hidden must be said."""
    _, forward = model_of("gemma3")
    row_T, layout = lay_out([([1, 2], [3, 4])])
    layer = forward.policy.base_model.layers[0].self_attn
    assert layer.sliding_window == WINDOW
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(layer, "sliding_window", None)
        with pytest.raises(InvariantError, match="does not say its sliding window"):
            forward(row_T, layout, torch.ones(1, 2), TEMPERATURE)


def test_a_row_without_its_description_is_refused() -> None:
    _, forward = model_of("llama")
    with pytest.raises(InvariantError, match="LlamaAttention"):
        forward.policy.base_model(input_ids=torch.tensor([[1, 2]]), use_cache=False)
