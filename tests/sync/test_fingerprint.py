"""Fingerprints: exact, blind to layout, additive; and what comparing them says."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mgsrl.sync import fingerprint as sync_fingerprint
from mgsrl.sync.fingerprint import (
    CHUNK,
    COLUMNS,
    MODULUS,
    Fingerprint,
    Seen,
    as_unsigned,
    compare,
    fingerprint,
    over_ranks,
    sampled_columns,
    square_sum,
)

unhurried = settings(deadline=None)  # a first example compiles the loop
DTYPES = [torch.float32, torch.bfloat16]
seeds = st.integers(0, 10_000)


def matrix(seed: int, rows: int = 6, columns: int = 40) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


@given(seeds, st.integers(0, 239), st.sampled_from(DTYPES))
@unhurried
def test_one_step_of_one_element_is_seen(seed: int, at: int, dtype: torch.dtype) -> None:
    """The nearest other value of the type, which no projection in that type would show."""
    old = matrix(seed).to(dtype)
    bits = torch.int32 if dtype == torch.float32 else torch.int16
    new = old.clone()
    new.view(-1).view(bits)[at] += 1
    assert fingerprint(old, 0).whole != fingerprint(new, 0).whole


@given(seeds)
@unhurried
def test_steps_up_and_down_do_not_cancel(seed: int) -> None:
    old = matrix(seed).bfloat16()
    new = old.clone()
    flat = new.view(-1).view(torch.int16)
    flat[::2] += 1
    flat[1::2] -= 1
    assert fingerprint(old, 0).whole != fingerprint(new, 0).whole


@given(seeds, st.integers(0, 5), st.sampled_from(DTYPES))
@unhurried
def test_layout_padding_and_type_do_not_matter(seed: int, version: int, dtype: torch.dtype) -> None:
    value = matrix(seed).to(dtype)
    rows = torch.randperm(len(value), generator=torch.Generator().manual_seed(seed))
    padded = torch.cat([value, torch.zeros(3, 40, dtype=dtype)])
    expected = fingerprint(value, version)
    assert fingerprint(value[rows], version) == expected
    assert fingerprint(padded, version) == expected
    assert fingerprint(value.float(), version) == expected
    assert fingerprint(value.T.contiguous(), version, transposed=True) == expected
    assert fingerprint(value.T.contiguous(), version).whole == expected.whole


@given(seeds, st.integers(0, 5))
@unhurried
def test_a_packed_matrix_is_the_sum_of_its_parts(seed: int, version: int) -> None:
    first, second = matrix(seed, 4), matrix(seed + 1, 3)
    together = fingerprint(torch.cat([first, second]), version)
    parts = [fingerprint(first, version), fingerprint(second, version)]
    assert together.whole == sum(part.whole for part in parts) % MODULUS
    assert together.columns == tuple(
        sum(column) % MODULUS for column in zip(*(part.columns for part in parts))
    )


@given(seeds, st.sampled_from(DTYPES))
@unhurried
def test_products_with_unit_vectors_give_the_columns(seed: int, dtype: torch.dtype) -> None:
    value = matrix(seed).to(dtype)
    value[0, :] = -0.0  # a product gives 0.0
    columns = sampled_columns(40, 3)
    units = torch.zeros(len(columns), 40, dtype=dtype)
    units[torch.arange(len(columns)), columns] = 1
    sums = square_sum(units @ value.T, rows=True)
    assert as_unsigned(sums) == fingerprint(value, 3).columns


def test_zeros_and_denormals_count_nothing() -> None:
    assert fingerprint(torch.tensor([0.0, -0.0, 1e-40, -1e-42]), 0).whole == 0


def test_chunks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    value = matrix(0)
    expected = fingerprint(value, 0)
    monkeypatch.setattr(sync_fingerprint, "COMPILED", "no such module")
    monkeypatch.setitem(CHUNK, "cpu", 7)
    assert fingerprint(value, 0) == expected
    assert fingerprint(torch.empty(0), 0).whole == 0


@given(seeds, st.sampled_from([*DTYPES, torch.float16]), st.booleans(), st.booleans())
@unhurried
def test_the_compiled_loop_sums_what_pytorch_sums(
    seed: int, dtype: torch.dtype, transposed: bool, rows: bool
) -> None:
    value = matrix(seed).to(dtype) * 10.0 ** (seed % 80 - 42)  # denormal ... infinite
    value[seed % 6] = 0.0
    value = value.T if transposed else value
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sync_fingerprint, "COMPILED", "no such module")
        plain = square_sum(value, rows=rows)
        patch.setattr(sync_fingerprint, "WORTH_COMPILING", 0)
        assert torch.equal(square_sum(value, rows=rows), plain)


def test_columns_are_the_same_everywhere_and_change_with_the_version() -> None:
    assert sampled_columns(8, 0).tolist() == sampled_columns(8, 0).tolist()
    # Pinned: learner and engine may run different builds of torch.
    assert sampled_columns(1000, 0, 3).tolist() == [845, 303, 66]
    assert sampled_columns(1000, 0).tolist() != sampled_columns(1000, 1).tolist()
    assert len(sampled_columns(1000, 0)) == COLUMNS
    assert sorted(sampled_columns(5, 0).tolist()) == list(range(5))


def test_what_is_stale_and_what_is_unseen() -> None:
    old, new = matrix(0), matrix(1)
    names = ("q", "k", "norm", "expert")
    published = {name: (fingerprint(new, 2),) for name in names}
    packed = fingerprint(torch.cat([new, old]), 2)
    seen = [
        Seen("qkv", ("q", "k"), columns=packed.columns),
        Seen("norm", ("norm",), whole=fingerprint(new, 2).whole),
        Seen("other", ("of another model",), whole=0),
    ]
    proof = compare(seen, published)
    assert (proof.stale, proof.unseen, proof.num_seen) == (("qkv",), ("expert",), 3)


def test_an_engine_in_a_narrower_type_may_hold_either() -> None:
    """What it keeps in float32 has the value that was sent, the rest the rounded one."""
    value = matrix(0)
    published = {"w": (fingerprint(value, 0), fingerprint(value.bfloat16(), 0))}
    for held in (value, value.bfloat16()):
        assert not compare([Seen("w", ("w",), whole=fingerprint(held, 0).whole)], published).stale
    stale = Seen("w", ("w",), whole=fingerprint(value.half(), 0).whole)
    assert compare([stale], published).stale == ("w",)


def test_shares_of_tensor_parallel_ranks_add_up() -> None:
    value, norm = matrix(0), matrix(1, 1)
    whole = fingerprint(value, 0).whole

    def rank(part: torch.Tensor, sinks: torch.Tensor) -> list[Seen]:
        return [
            Seen("linear", ("linear",), whole=fingerprint(part, 0).whole, sharded=True),
            Seen("norm", ("norm",), whole=fingerprint(norm, 0).whole),
            Seen("sinks", ("sinks",), whole=fingerprint(sinks, 0).whole),
        ]

    ranks = [rank(value[:3], norm[0, :9]), rank(value[3:], norm[0, 9:])]
    linear, norms, sinks = over_ranks(ranks)
    assert linear.whole == whole
    assert norms.whole == sinks.whole == fingerprint(norm, 0).whole
    assert over_ranks([rank(value, norm)]) == rank(value, norm)


def test_a_vector_has_no_columns() -> None:
    assert fingerprint(torch.ones(3), 0) == Fingerprint(3 * 0x3F800000**2 % MODULUS)
