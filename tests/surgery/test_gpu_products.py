"""The GPU's inner products, on CPU tensors: the same operations, whatever the device."""

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mgsrl.surgery import gpu_products
from mgsrl.surgery.gpu_products import span_products
from mgsrl.surgery.gramian import _add_rows

CHUNK, BLOCK = 8, 64


@pytest.fixture(scope="module", autouse=True)
def _small() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpu_products, "CHUNK", CHUNK)
        patch.setattr(gpu_products, "BLOCK", BLOCK)
        yield


def _rows(num_rows: int, length: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(num_rows, length, generator=torch.Generator().manual_seed(0)).to(dtype)


lengths = st.lists(
    st.sampled_from([1, 3, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 5, BLOCK, 2 * BLOCK + 3]),
    min_size=1,
    max_size=7,
)


@given(lengths=lengths, gap=st.integers(0, 2 * CHUNK), num_rows=st.integers(1, 8))
@settings(max_examples=80, deadline=None)
def test_every_span_has_its_own_columns_only(lengths: list[int], gap: int, num_rows: int) -> None:
    spans, end = [], gap
    for length in lengths:
        spans.append((end, end + length))
        end += length
    rows_DN = _rows(num_rows, end + gap)
    rows_DN[:, :gap] = torch.nan
    rows_DN[:, end:] = torch.nan
    for products, (start, stop) in zip(span_products(rows_DN, spans), spans, strict=True):
        span = rows_DN[:, start:stop]
        torch.testing.assert_close(products, span @ span.T)


@pytest.mark.parametrize("position", [0, 17, 4 * CHUNK, BLOCK + 1])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_bad_number_is_seen_in_its_span_and_rows_only(bad: float, position: int) -> None:
    rows_DN = _rows(3, 2 * BLOCK)
    rows_DN[1, position] = bad
    spans = [(start, start + 13) for start in range(0, 2 * BLOCK - 13, 13)]
    for products, (start, stop) in zip(span_products(rows_DN, spans), spans, strict=True):
        finite = products.isfinite()
        assert finite[[0, 0, 2], [0, 2, 2]].all()
        assert not (finite[1].any() or finite[:, 1].any()) or not start <= position < stop
        assert finite.all() or start <= position < stop


def test_rows_far_apart_are_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    rows_DN = _rows(2, 300)[:, 7:207]
    monkeypatch.setattr(gpu_products, "MAX_STRIDE", 299)
    expected = rows_DN[:, 1:190] @ rows_DN[:, 1:190].T
    torch.testing.assert_close(span_products(rows_DN, [(1, 190)])[0], expected)


def test_the_precision_of_products_is_given_back() -> None:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        span_products(_rows(2, 20, torch.float32), [(0, 20)])
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)


def test_rows_of_a_narrow_type_are_added_in_the_targets() -> None:
    rows, weights = _rows(3, 100, torch.bfloat16), [0.3, -1.7, 2.1]
    target = torch.zeros(100)
    _add_rows(target, rows, weights)
    expected = torch.tensor(weights, dtype=torch.float64) @ rows.double()
    torch.testing.assert_close(target.double(), expected, rtol=1e-6, atol=1e-6)
