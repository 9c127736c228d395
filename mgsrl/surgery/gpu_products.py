"""Inner products and combinations of the rows of a buffer on a GPU, at the speed of its memory.

Two Triton kernels. In the first each program multiplies one pair of rows over a range of columns:
the programs of a range run side by side, so its rows come from memory once and from the cache for
the other pairs. The second reads a block of columns of all rows and writes their weighted sum.
All sums have a fixed order: the same buffer gives the same bits.

cuBLAS has no kernel for a few very long rows. On an H200, for three rows of 494M elements, its
float64 product took 38 times the reading of the memory and its matrix-vector product 4 times the
bytes (these kernels: 1.6 and 1.1); batched products of short chunks took 5 times, lost digits in
bfloat16, and read outside the buffer where eight rows span more than 2^32 elements.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

UNIT = 1 << 17
"""Columns of one program of the products; its sums are added up in float64."""
BLOCK = 1024
"""Columns read at once."""


# Triton reads parameters' annotations as its own.
@triton.jit
def _pair_products(  # type: ignore[no-untyped-def]
    rows,
    stride,
    bounds,
    num_units,
    pairs,
    out,
    K: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    pair, unit = tl.program_id(0) % K, tl.program_id(0) // K
    start, stop = tl.load(bounds + unit), tl.load(bounds + num_units + unit)
    left = rows + tl.load(pairs + pair) * stride
    right = rows + tl.load(pairs + K + pair) * stride
    total = tl.zeros((BLOCK,), WIDE)
    for first in range(start, stop, BLOCK):
        at = first + tl.arange(0, BLOCK)
        a = tl.load(left + at, mask=at < stop, other=0.0).to(WIDE)
        b = tl.load(right + at, mask=at < stop, other=0.0).to(WIDE)
        total += a * b
    tl.store(out + tl.program_id(0), tl.sum(total.to(tl.float64), 0))


@triton.jit
def _weighted_sum(  # type: ignore[no-untyped-def]
    rows, stride, length, weights, out, D: tl.constexpr, P: tl.constexpr, BLOCK: tl.constexpr
):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    d = tl.arange(0, P).to(tl.int64)
    weight = tl.load(weights + d, mask=d < D, other=0.0)
    inside = (d[:, None] < D) & (at[None, :] < length)
    block = tl.load(rows + d[:, None] * stride + at[None, :], mask=inside, other=0.0)
    total = tl.sum(block.to(weight.dtype) * weight[:, None], 0)
    tl.store(out + at, total, mask=at < length)


def span_products(rows_DN: Tensor, spans: list[tuple[int, int]]) -> Tensor:
    """As `inner_products.span_products`, for rows on a GPU and of 16-bit types too.

    Returns:
        float64 [spans, D, D] on the CPU (one read-back), symmetric to the bit.
    """
    rows_DN = _with_unit_stride(rows_DN)
    num_rows = len(rows_DN)
    owner_U, bounds_2U = _units(spans)
    first_K, second_K = torch.triu_indices(num_rows, num_rows)
    device, num_pairs = rows_DN.device, len(first_K)
    out_UK = torch.empty(len(owner_U), num_pairs, dtype=torch.float64, device=device)
    if len(owner_U):
        with torch.cuda.device_of(rows_DN):
            _pair_products[(out_UK.numel(),)](
                rows_DN,
                rows_DN.stride(0),
                bounds_2U.to(device),
                len(owner_U),
                torch.stack([first_K, second_K]).to(device),
                out_UK,
                K=num_pairs,
                WIDE=tl.float64 if rows_DN.dtype == torch.float64 else tl.float32,
                BLOCK=BLOCK,
            )
    sums_SK = torch.zeros(len(spans), num_pairs, dtype=torch.float64)
    sums_SK.index_add_(0, owner_U, out_UK.cpu())
    products_SDD = torch.empty(len(spans), num_rows, num_rows, dtype=torch.float64)
    products_SDD[:, first_K, second_K] = sums_SK
    products_SDD[:, second_K, first_K] = sums_SK
    return products_SDD


def combine(piece: Tensor, weights_D: Tensor, target: Tensor) -> None:
    """`target = weights @ piece`, computed in the type of the weights.

    Args:
        piece: [D, n] of any floating type.
        weights_D: float32 or float64, on the same device.
        target: [n] of any floating type on the same device; may be one of the rows.
    """
    piece = _with_unit_stride(piece)
    num_rows, length = piece.shape
    if not length:
        return
    with torch.cuda.device_of(piece):
        _weighted_sum[(triton.cdiv(length, BLOCK),)](
            piece,
            piece.stride(0),
            length,
            weights_D,
            target,
            D=num_rows,
            P=triton.next_power_of_2(num_rows),
            BLOCK=BLOCK,
        )


def _units(spans: list[tuple[int, int]]) -> tuple[Tensor, Tensor]:
    """int64 [U] the span that each unit is of, and its first and end column, [2, U]."""
    starts_S, stops_S = torch.tensor(spans, dtype=torch.int64).reshape(-1, 2).T
    counts_S = (stops_S - starts_S + UNIT - 1) // UNIT
    owner_U = torch.repeat_interleave(torch.arange(len(spans)), counts_S)
    place_U = torch.arange(len(owner_U)) - (counts_S.cumsum(0) - counts_S)[owner_U]
    low_U = starts_S[owner_U] + place_U * UNIT
    return owner_U, torch.stack([low_U, torch.minimum(low_U + UNIT, stops_S[owner_U])])


def _with_unit_stride(rows: Tensor) -> Tensor:
    return rows if rows.stride(1) == 1 else rows.contiguous()
