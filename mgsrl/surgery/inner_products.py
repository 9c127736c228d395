"""Inner products of the rows of a buffer on the CPU, in one pass over its memory.

For every span of columns the products of all pairs of rows, `sum_i row_d[i] row_e[i]`. A chunk of
columns of all rows fits the first-level cache, where each pair is multiplied and summed in the
rows' own type; chunks are added up in float64. Only the upper half is computed. Compiled by numba,
since BLAS has no kernel for a few very long rows that is fast on every CPU: MKL's batched products
take 1.1 times the reading of the memory on Intel's and 3 to 5 times on AMD's.

Left out: GPUs and 16-bit rows (`gramian.py`).
"""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mgsrl.compiled import compiled

CHUNK = 512
"""Columns whose products are summed in the rows' own type; 8 rows of float32 are 16 KiB."""
UNIT = 1 << 17
"""Columns that one thread takes at a time. The sums do not depend on the number of threads."""


# Sums may be reordered (SIMD); NaN and infinity must stay what they are.
@compiled(fastmath={"reassoc", "contract"}, error_model="numpy")
def _add_products(flat: Any, stride: int, bounds_U2: Any, out_UDD: Any) -> None:
    num_rows = out_UDD.shape[1]
    for u in range(len(bounds_U2)):
        for start in range(bounds_U2[u, 0], bounds_U2[u, 1], CHUNK):
            stop = min(start + CHUNK, bounds_U2[u, 1])
            for d in range(num_rows):
                left = flat[d * stride + start : d * stride + stop]
                for e in range(d, num_rows):
                    right = flat[e * stride + start : e * stride + stop]
                    total = flat.dtype.type(0)
                    for i in range(len(left)):
                        total += left[i] * right[i]
                    out_UDD[u, d, e] += total


def span_products(rows_DN: Tensor, spans: list[tuple[int, int]]) -> Tensor:
    """Inner products of the rows inside each span of columns.

    Args:
        rows_DN: float32 or float64 [D, N] on the CPU.
        spans: (first, end column), as many as one likes.

    Returns:
        float64 [spans, D, D], symmetric to the bit.
    """
    rows_DN = rows_DN.detach()
    if rows_DN.stride(1) != 1:
        rows_DN = rows_DN.contiguous()
    num_rows, num_columns = rows_DN.shape
    stride = rows_DN.stride(0)
    # One vector that the compiler knows to be contiguous; the rows start `stride` apart in it.
    flat = rows_DN.as_strided(((num_rows - 1) * stride + num_columns,), (1,)).numpy()
    units = [
        (index, low, min(low + UNIT, stop))
        for index, (start, stop) in enumerate(spans)
        for low in range(start, stop, UNIT)
    ]
    bounds_U2 = np.array([unit[1:] for unit in units], dtype=np.int64).reshape(-1, 2)
    out_UDD = np.zeros((len(units), num_rows, num_rows))
    _on_all_threads(flat, stride, bounds_U2, out_UDD)
    upper_SDD = torch.zeros(len(spans), num_rows, num_rows, dtype=torch.float64)
    owner_U = torch.tensor([unit[0] for unit in units], dtype=torch.int64)
    upper_SDD.index_add_(0, owner_U, torch.from_numpy(out_UDD))
    return upper_SDD + upper_SDD.triu(1).transpose(1, 2)


def _on_all_threads(flat: Any, stride: int, bounds_U2: Any, out_UDD: Any) -> None:
    columns = int((bounds_U2[:, 1] - bounds_U2[:, 0]).sum())
    threads = min(torch.get_num_threads(), -(-columns // UNIT))
    if threads <= 1:
        _add_products(flat, stride, bounds_U2, out_UDD)
        return
    with ThreadPoolExecutor(threads) as pool:
        # Small blocks of units, taken as threads become free: the spans differ in length.
        blocks = np.array_split(np.arange(len(bounds_U2)), min(len(bounds_U2), 8 * threads))
        jobs = [
            pool.submit(
                _add_products,
                flat,
                stride,
                bounds_U2[block[0] : block[-1] + 1],
                out_UDD[block[0] : block[-1] + 1],
            )
            for block in blocks
        ]
        for job in jobs:
            job.result()
