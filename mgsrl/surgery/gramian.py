"""Gramians of gradients, and combining gradients, at the speed of memory.

The domains' gradients are the rows of one [D, N] buffer; a *piece* is a column range of it that
belongs to one module. Both functions walk each piece in column blocks that fit the cache, so each
element is read from memory once, and need no temporary larger than a block.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

Piece = tuple[int, Tensor]
"""(module index, [D, n] view of the [D, N] buffer of gradients)"""

CHUNK = 4096
"""Columns multiplied as one small matrix product; partial products are summed in float64."""
BLOCK = 65536
"""Columns per block of the combination: D rows of it fit in a core's L2 cache."""


def gramian(pieces: Sequence[Piece], num_modules: int) -> Tensor:
    """Inner products of the rows per module, `G[m, d, e] = sum over pieces of m of <row d, row e>`.

    Args:
        pieces: at least one; all with the same number of rows D. Modules may have many or none.
        num_modules: M.

    Returns:
        float64 [M, D, D] on the CPU; zero for modules without a piece. Under data parallelism
        these are partial sums: add them up over ranks.

    Raises:
        ValueError: no piece, or pieces that do not fit each other.
    """
    num_domains = _num_rows(pieces)
    gram_MDD = torch.zeros(num_modules, num_domains, num_domains, dtype=torch.float64)
    for module, piece in pieces:
        gram_MDD[module] += _gramian_of(piece).to("cpu")
    return (gram_MDD + gram_MDD.transpose(1, 2)) / 2


def _gramian_of(piece: Tensor) -> Tensor:
    num_rows, columns = piece.shape
    total_DD = torch.zeros(num_rows, num_rows, dtype=torch.float64, device=piece.device)
    whole = columns - columns % CHUNK
    if whole:
        chunks = piece[:, :whole].unflatten(1, (-1, CHUNK)).transpose(0, 1)
        total_DD += (chunks @ chunks.transpose(1, 2)).sum(0, dtype=torch.float64)
    if whole < columns:
        rest = piece[:, whole:].double()
        total_DD += rest @ rest.T
    return total_DD


def combine_(pieces: Sequence[Piece], weights_MD: Tensor) -> None:
    """Write `sum_d weights[m, d] * row d` into row 0 of each piece, in place.

    Args:
        pieces: as for `gramian`; rows 1.. are left as they are.
        weights_MD: [M, D].

    Raises:
        ValueError: no piece, or weights that do not fit the pieces.
    """
    num_domains = _num_rows(pieces)
    if weights_MD.ndim != 2 or weights_MD.shape[1] != num_domains:
        raise ValueError(
            f"weights_MD should be [modules, {num_domains}], found {list(weights_MD.shape)}"
        )
    weights = weights_MD.tolist()
    for module, piece in pieces:
        row_weights = weights[module]
        for start in range(0, piece.shape[1], BLOCK):
            block = piece[:, start : start + BLOCK]
            target = block[0].mul_(row_weights[0])
            for row, weight in zip(block[1:], row_weights[1:]):
                target.add_(row, alpha=weight)


def _num_rows(pieces: Sequence[Piece]) -> int:
    if not pieces:
        raise ValueError("pieces should hold at least one piece, found none")
    rows = {piece.shape[0] for _, piece in pieces if piece.ndim == 2}
    if len(rows) != 1 or any(piece.ndim != 2 for _, piece in pieces):
        shapes = sorted({tuple(piece.shape) for _, piece in pieces})[:5]
        raise ValueError(f"pieces should be [D, n] with the same D, found {shapes}")
    return rows.pop()
