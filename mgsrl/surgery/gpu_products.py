"""Inner products of the rows of a buffer on a GPU, in one pass over its memory.

Chunks of columns of all rows are multiplied by batched products, whose sums in float32 are short,
and added up in float64. The chunks lie on one grid over the buffer; what of a span fills none of
them is gathered into two chunks of its own, so nothing of a neighbour gets into its sums, nan
neither. All sums have a fixed order: the same buffer gives the same bits.

cuBLAS has no kernel for a few very long rows: on an H200 the float64 product of three of them took
38 times the reading of the memory.
"""

import torch
from torch import Tensor

CHUNK = 2048
"""Columns whose products are summed in float32."""
BLOCK = 1 << 26
"""Columns cut into chunks by one call."""
MAX_STRIDE = 2**31 - 1
"""Distance of rows that cuBLAS takes."""


def span_products(rows_DN: Tensor, spans: list[tuple[int, int]]) -> Tensor:
    """As `inner_products.span_products`, for rows on a GPU of 16-bit types too.

    Returns:
        float64 [spans, D, D] on the CPU (one read-back).
    """
    owners: list[int] = []
    products: list[Tensor] = []
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")  # else the products may silently be TF32
    try:
        for low in range(0, rows_DN.shape[1], BLOCK):
            block = rows_DN[:, low : low + BLOCK]
            if rows_DN.stride(0) > MAX_STRIDE:
                block = block.contiguous()
            cut = [(max(a - low, 0), min(b - low, block.shape[1])) for a, b in spans]
            inside = [i for i, (start, stop) in enumerate(cut) if start < stop]
            if inside:
                owners += inside
                products += _block_products(block, [cut[i] for i in inside])
    finally:
        torch.set_float32_matmul_precision(precision)
    num_rows = rows_DN.shape[0]
    found_SDD = torch.zeros(len(spans), num_rows, num_rows, dtype=torch.float64)
    if products:
        found_SDD.index_add_(0, torch.tensor(owners), torch.stack(products).to("cpu"))
    return found_SDD


def _block_products(block: Tensor, spans: list[tuple[int, int]]) -> list[Tensor]:
    """float64 [D, D] of each span, none of them empty."""
    num_chunks = block.shape[1] // CHUNK
    grid_DBC = block[:, : num_chunks * CHUNK].unflatten(1, (num_chunks, CHUNK))
    whole_BDD = _batched(grid_DBC.transpose(0, 1))
    first = [-(-start // CHUNK) for start, _ in spans]
    last = [stop // CHUNK for _, stop in spans]
    ends = []
    for (start, stop), low, high in zip(spans, first, last):
        head = min(stop, low * CHUNK)
        ends += [(start, head), (max(head, high * CHUNK), stop)]
    bounds_E2 = torch.tensor(ends, device=block.device)
    columns_EC = bounds_E2[:, :1] + torch.arange(CHUNK, device=block.device)
    outside_EC = columns_EC >= bounds_E2[:, 1:]
    ends_DEC = block[:, columns_EC.clamp_(max=block.shape[1] - 1)].masked_fill_(outside_EC, 0)
    ends_EDD = _batched(ends_DEC.transpose(0, 1))
    return [
        whole_BDD[low:high].sum(0) + ends_EDD[2 * i] + ends_EDD[2 * i + 1]
        for i, (low, high) in enumerate(zip(first, last))
    ]


def _batched(rows_BDC: Tensor) -> Tensor:
    """float64 [B, D, D]; 16-bit rows are multiplied exactly and summed in float32."""
    if rows_BDC.dtype in (torch.float32, torch.float64):
        return torch.bmm(rows_BDC, rows_BDC.mT).double()
    return torch.bmm(rows_BDC, rows_BDC.mT, out_dtype=torch.float32).double()
