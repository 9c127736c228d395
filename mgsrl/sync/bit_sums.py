"""The CPU's loop behind `sync.fingerprint`: sums of squared bit patterns, memory read once.

Twenty times faster than the same sums by PyTorch, which writes four tensors on the way.
Imports numba (see `mgsrl.compiled`).
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from mgsrl.compiled import compiled

EXPONENT = np.int32(0x7F800000)


@compiled()
def _row_sums(bits_nm: Any, shift: Any, sums_n: Any) -> None:
    for i in range(bits_nm.shape[0]):
        total = np.int64(0)
        for j in range(bits_nm.shape[1]):
            bits = np.int32(np.int32(bits_nm[i, j]) << shift)
            if bits & EXPONENT == 0:
                bits = np.int32(0)
            total += np.int64(bits) * np.int64(bits)
        sums_n[i] = total


def row_sums(values_nm: Tensor) -> Tensor:
    """int64 [n]: the sums over the rows of a matrix, see `fingerprint.square_sum`."""
    values_nm = values_nm.detach()
    if values_nm.dtype == torch.bfloat16:  # the upper half of a float32's bits
        bits_nm, shift = values_nm.view(torch.int16).numpy(), np.int32(16)
    else:
        bits_nm, shift = values_nm.float().view(torch.int32).numpy(), np.int32(0)
    sums_n = np.empty(len(bits_nm), dtype=np.int64)
    # NumPy's copy: PyTorch's would wake other threads for a few rows of an engine's answer.
    _row_sums(np.ascontiguousarray(bits_nm), shift, sums_n)
    return torch.from_numpy(sums_n)
