"""Gramian and combination against explicit float64 arithmetic."""

import sys
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mgsrl.surgery.gramian import LARGEST_STRIDE, combine_, combine_into, gramian
from mgsrl.surgery.inner_products import CHUNK, UNIT

Pieces = list[tuple[int, Tensor]]


def _buffer(num_domains: int, sizes: list[int], dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(num_domains, sum(sizes), generator=generator).to(dtype)


def _pieces(buffer: Tensor, sizes: list[int], modules: list[int]) -> Pieces:
    return list(zip(modules, buffer.split(sizes, dim=1)))


def _explicit(pieces: Pieces, num_modules: int) -> Tensor:
    rows = pieces[0][1].shape[0]
    gram = torch.zeros(num_modules, rows, rows, dtype=torch.float64)
    for module, piece in pieces:
        gram[module] += piece.double() @ piece.double().T
    return gram


sizes_and_modules = st.lists(
    st.tuples(
        st.sampled_from([1, 2, 7, 100, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 5]),
        st.integers(0, 3),
    ),
    min_size=1,
    max_size=8,
)


@given(layout=sizes_and_modules, num_domains=st.integers(1, 8))
@settings(max_examples=60, deadline=None)
def test_gramian_and_combination_equal_explicit_sums(
    layout: list[tuple[int, int]], num_domains: int
) -> None:
    sizes, modules = [size for size, _ in layout], [module for _, module in layout]
    buffer = _buffer(num_domains, sizes)
    pieces = _pieces(buffer, sizes, modules)
    gram = gramian(pieces, 4)
    torch.testing.assert_close(gram, _explicit(pieces, 4), rtol=1e-5, atol=1e-3)
    assert torch.equal(gram, gram.transpose(1, 2))

    weights = torch.randn(4, num_domains, generator=torch.Generator().manual_seed(1)).double()
    expected = torch.cat([weights[m] @ piece.double() for m, piece in pieces])
    before = buffer[1:].clone()
    combine_(pieces, weights)
    torch.testing.assert_close(buffer[0].double(), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(buffer[1:], before), "only row 0 is written"


def test_neighbours_across_the_end_of_a_row_are_not_joined() -> None:
    # Column ranges [2:4] then [0:2]: the storage offsets of other rows would line up.
    buffer = _buffer(3, [4])
    pieces = [(0, buffer[:, 2:]), (0, buffer[:, :2])]
    torch.testing.assert_close(gramian(pieces, 1), _explicit(pieces, 1), rtol=1e-6, atol=1e-6)
    expected = 2.0 * buffer[0] + buffer[1] - buffer[2]
    combine_(pieces, torch.tensor([[2.0, 1.0, -1.0]]))
    torch.testing.assert_close(buffer[0], expected)


def test_separate_buffers_with_equal_layout_are_not_joined() -> None:
    pieces = [(0, _buffer(2, [5])), (0, _buffer(2, [6]))]
    torch.testing.assert_close(gramian(pieces, 1), _explicit(pieces, 1), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 1e-6), (torch.bfloat16, 1e-5)]
)
def test_precision_by_buffer_type(dtype: torch.dtype, tolerance: float) -> None:
    sizes = [300_000, 17]
    pieces = _pieces(_buffer(3, sizes, dtype), sizes, [0, 1])
    expected = _explicit(pieces, 2)
    norms = expected.diagonal(dim1=1, dim2=2).sqrt()
    error = (gramian(pieces, 2) - expected).abs() / (norms.unsqueeze(1) * norms.unsqueeze(2))
    assert error.max() < tolerance


def test_bfloat16_rows_are_combined_in_float32() -> None:
    buffer = _buffer(3, [1000], torch.bfloat16)
    expected = (torch.tensor([1.0, 0.301, -0.777]) @ buffer.float()).bfloat16()
    combine_([(0, buffer)], torch.tensor([[1.0, 0.301, -0.777]]))
    torch.testing.assert_close(buffer[0], expected, rtol=8e-3, atol=8e-3)


def test_partial_gramians_of_shards_add_up() -> None:
    buffer = _buffer(3, [10_000])
    whole = gramian([(0, buffer)], 1)
    shards = gramian([(0, buffer[:, :3333])], 1) + gramian([(0, buffer[:, 3333:])], 1)
    torch.testing.assert_close(shards, whole, rtol=1e-6, atol=1e-4)


def test_modules_without_a_piece_are_zero() -> None:
    gram = gramian([(2, _buffer(2, [3]))], 4)
    assert gram.shape == (4, 2, 2)
    assert gram[[0, 1, 3]].abs().max() == 0


def test_non_finite_gradients_stay_visible_in_the_gramian() -> None:
    buffer = _buffer(2, [2 * CHUNK])
    buffer[1, 17] = float("nan")
    assert not torch.isfinite(gramian([(0, buffer)], 1)).all()


@pytest.mark.parametrize(
    "pieces",
    [
        [],
        [(0, torch.zeros(3))],
        [(0, torch.zeros(2, 3)), (0, torch.zeros(3, 3))],
        [(5, torch.zeros(2, 3))],
        [(-1, torch.zeros(2, 3))],
    ],
)
def test_impossible_pieces_are_refused(pieces: Pieces) -> None:
    with pytest.raises(ValueError, match="should"):
        gramian(pieces, 2)


def test_weights_of_another_number_of_domains_are_refused() -> None:
    with pytest.raises(ValueError, match="weights_MD should be"):
        combine_([(0, torch.zeros(2, 3))], torch.ones(1, 3))


def test_no_temporary_of_the_size_of_a_gradient() -> None:
    buffer = _buffer(3, [2_000_000])
    pieces = [(0, buffer[:, :1_200_000]), (1, buffer[:, 1_200_000:])]
    with torch.profiler.profile(profile_memory=True) as profile:
        weights = gramian(pieces, 2).sum(1)
        combine_(pieces, weights)
    events = profile.events()
    assert events is not None
    largest = max(event.self_cpu_memory_usage for event in events)
    assert largest <= 3 * CHUNK * 8, "at most one remainder of a chunk, in float64"
    assert largest < 0.02 * buffer[0].nbytes


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_number_of_threads_changes_no_bit(dtype: torch.dtype) -> None:
    sizes = [UNIT + 3, 5 * UNIT, 17, 2 * UNIT - 1]
    pieces = _pieces(_buffer(3, sizes, dtype), sizes, [0, 1, 0, 2])
    threads = torch.get_num_threads()
    grams = []
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            grams.append(gramian(pieces, 3))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(grams[0], grams[1])
    assert torch.equal(grams[0], grams[2])


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("position", [0, CHUNK, 3 * CHUNK + 1])
def test_one_bad_number_is_seen_in_its_module_only(bad: float, position: int) -> None:
    buffer = _buffer(3, [3 * CHUNK + 2, CHUNK])
    buffer[1, position] = bad
    gram = gramian([(0, buffer[:, : 3 * CHUNK + 2]), (1, buffer[:, 3 * CHUNK + 2 :])], 2)
    finite = torch.isfinite(gram)
    assert not finite[0, 1].any()
    assert finite[0, [0, 0, 2], [0, 2, 2]].all()
    assert finite[1].all()


@pytest.mark.parametrize("rows", [1, 2, 7])
def test_rows_of_any_layout(rows: int) -> None:
    buffer = _buffer(rows, [2 * CHUNK + 5])
    for piece in (buffer, buffer[:, 3:], buffer[:, ::2], buffer.T.contiguous().T, buffer[:, :1]):
        expected = piece.double() @ piece.double().T
        torch.testing.assert_close(gramian([(0, piece)], 1)[0], expected, rtol=1e-5, atol=1e-4)


def test_every_module_can_be_looked_through() -> None:
    """As vLLM's CPU build does when an engine starts in a process that computed a Gramian."""
    gramian([(0, _buffer(2, [5]))], 1)
    modules = [sys.modules[name] for name in sys.modules if name.startswith("llvmlite")]
    assert modules
    for module in modules:
        for value in list(vars(module).values()):
            if hasattr(value, "__dict__"):
                assert hasattr(vars(value), "get"), (module, type(value))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_may_start_further_apart_than_blas_counts(dtype: torch.dtype, tmp_path: Path) -> None:
    """Rows of 3 billion parameters: here their beginnings, in a file that is a hole else."""
    stride, width = LARGEST_STRIDE + 9, 1000
    size = 2 * stride + width
    try:
        whole = torch.from_file(str(tmp_path / "rows"), shared=True, size=size, dtype=dtype)
    except (OSError, RuntimeError) as error:
        pytest.skip(f"no sparse file of {size * dtype.itemsize >> 30} GiB: {error}")
    buffer = whole.as_strided((3, width), (stride, 1))
    buffer.copy_(_buffer(3, [width]))
    near = buffer.clone()
    weights = torch.tensor([[1.5, -0.5, 2.0], [0.0, 1.0, 0.25]])
    pieces, copies = (_pieces(each, [400, 600], [0, 1]) for each in (buffer, near))
    torch.testing.assert_close(gramian(pieces, 2), gramian(copies, 2))
    targets = [torch.empty(400), torch.empty(600)]
    combine_into(pieces, weights, targets)
    expected = torch.cat([weights[m].double() @ piece.double() for m, piece in copies])
    torch.testing.assert_close(torch.cat(targets).double(), expected, rtol=1e-5, atol=1e-5)
    combine_(pieces, weights)
    torch.testing.assert_close(buffer[0], expected.to(dtype), rtol=1e-5, atol=1e-5)
    assert torch.equal(buffer[1:], near[1:])


@given(sizes=st.lists(st.integers(1, 300), min_size=1, max_size=5), num_domains=st.integers(1, 8))
@settings(max_examples=30, deadline=None)
def test_adding_row_by_row_is_the_same_sum(sizes: list[int], num_domains: int) -> None:
    weights = torch.randn(1, num_domains, generator=torch.Generator().manual_seed(1)).double()
    rows = [_buffer(num_domains, sizes) for _ in range(2)]
    combine_(_pieces(rows[0], sizes, [0] * len(sizes)), weights)
    with patch("mgsrl.surgery.gramian.LARGEST_STRIDE", 0):
        combine_(_pieces(rows[1], sizes, [0] * len(sizes)), weights)
    torch.testing.assert_close(rows[0], rows[1], rtol=1e-5, atol=1e-5)
