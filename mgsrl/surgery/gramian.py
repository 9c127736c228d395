"""Gramians of gradients, and combining gradients, at the speed of memory.

The domains' gradients are the rows of one [D, N] buffer; a *piece* is a range of its columns that
belongs to one module. On a CPU both functions read each element from memory once and run on all
cores: the Gramian by a compiled loop (`inner_products.py`), the combination by one BLAS call a
piece. Looping over rows or pairs of rows reads memory D times or more.
On a GPU both are kernels of our own (`gpu_products.py`).

Left out: anything distributed. Under data parallelism each rank calls these on the columns it owns
and adds the Gramians up.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

Piece = tuple[int, Tensor]
"""(module index, [D, n] view of the [D, N] buffer of gradients)"""

Span = tuple[int, int, int]
"""(module index, first column, end column) inside a view of the buffer."""

BLOCK = 1 << 18
"""Columns converted at a time where the buffer is not in a type or place that BLAS sums well."""
LARGEST_STRIDE = (1 << 31) - 1
"""BLAS's leading dimension is a 32-bit number. Rows that start further apart are added one by one:
PyTorch refuses such products on GPUs and falls back to a slow loop on CPUs."""


def gramian(pieces: Sequence[Piece], num_modules: int) -> Tensor:
    """Inner products of the rows per module, `G[m, d, e] = sum over pieces of m of <row d, row e>`.

    Args:
        pieces: at least one, all with the same number of rows D; float32 or float64, or bfloat16
            and float16 (multiplied in float32). A module may have many pieces or none.
        num_modules: M.

    Returns:
        float64 [M, D, D] on the CPU, symmetric; zero for modules without a piece. Under data
        parallelism these are partial sums: add them up over ranks.

    Raises:
        ValueError: no piece, pieces that do not fit each other, a module index out of range.
    """
    num_domains = _num_rows(pieces, num_modules)
    gram_MDD = torch.zeros(num_modules, num_domains, num_domains, dtype=torch.float64)
    for run, spans in _runs(pieces):
        if run.device.type == "cpu" and run.dtype not in (torch.float32, torch.float64):
            _add_converted_gramian(gram_MDD, run, spans)
        else:
            _add_run_gramian(gram_MDD, run, spans)
    return (gram_MDD + gram_MDD.transpose(1, 2)) / 2


def combine_(pieces: Sequence[Piece], weights_MD: Tensor) -> None:
    """Write `sum_d weights[m, d] * row d` into row 0 of each piece, in place.

    Rows 1.. are left as they are; a row of weight 0 is not the same as an absent one when it
    holds NaN (check the Gramian first).

    Args:
        pieces: as for `gramian`, all of one type on one device.
        weights_MD: [M, D].

    Raises:
        ValueError: no piece, or weights that do not fit the pieces.
    """
    _check_weights(_num_rows(pieces, weights_MD.shape[0]), weights_MD)
    first = pieces[0][1]
    if first.device.type != "cpu" or first.dtype not in (torch.float32, torch.float64):
        combine_into(pieces, weights_MD, [piece[0] for _, piece in pieces])
        return
    own_M = weights_MD[:, 0].tolist()  # one read-back, not one per piece
    weights_MD = weights_MD.to(first.dtype)
    for run, spans in _runs(pieces):
        for module, start, stop in spans:
            _combine_piece(run[:, start:stop], own_M[module], weights_MD[module])


def combine_into(pieces: Sequence[Piece], weights_MD: Tensor, targets: Sequence[Tensor]) -> None:
    """As `combine_`, but piece i's combination goes to `targets[i]`, [n] of any type and device.

    For pieces kept in another type or place than the update is needed in.
    """
    _check_weights(_num_rows(pieces, weights_MD.shape[0]), weights_MD)
    kind = torch.promote_types(pieces[0][1].dtype, torch.float32)
    weights_MD = weights_MD.to(device=pieces[0][1].device, dtype=kind)
    for (module, piece), target in zip(pieces, targets, strict=True):
        if piece.device.type != "cpu" and target.device == piece.device:
            from mgsrl.surgery.gpu_products import combine

            combine(piece, weights_MD[module], target)
            continue
        for part, block in zip(target.split(BLOCK), piece.split(BLOCK, dim=1), strict=True):
            if block.stride(0) > LARGEST_STRIDE:
                block = block.contiguous()
            part.copy_(weights_MD[module] @ block.to(kind))


def _check_weights(num_domains: int, weights_MD: Tensor) -> None:
    if weights_MD.ndim != 2 or weights_MD.shape[1] != num_domains:
        raise ValueError(
            f"weights_MD should be [modules, {num_domains}], found {list(weights_MD.shape)}"
        )


def _add_run_gramian(gram_MDD: Tensor, run: Tensor, spans: Sequence[Span]) -> None:
    """Add the Gramians of all spans of one buffer."""
    if run.device.type == "cpu":
        from mgsrl.surgery.inner_products import span_products  # numba takes half a second
    else:
        from mgsrl.surgery.gpu_products import span_products

    products_SDD = span_products(run, [(start, stop) for _, start, stop in spans])
    modules_S = torch.tensor([module for module, _, _ in spans], dtype=torch.int64)
    gram_MDD.index_add_(0, modules_S, products_SDD)


def _add_converted_gramian(gram_MDD: Tensor, run: Tensor, spans: Sequence[Span]) -> None:
    """The same for a buffer in a type that the CPU does not sum well."""
    for module, start, stop in spans:
        for block in run[:, start:stop].split(4 * BLOCK, dim=1):
            _add_run_gramian(gram_MDD, block.float(), [(module, 0, block.shape[1])])


def _combine_piece(piece: Tensor, own: float, weights_D: Tensor) -> None:
    target, rest = piece[0], piece[1:]
    if len(rest) == 0:
        target.mul_(own)
    elif piece.stride(0) > LARGEST_STRIDE:
        target.mul_(own)
        for row, weight in zip(rest, weights_D[1:].tolist()):
            target.add_(row, alpha=weight)
    else:
        target.addmv_(rest.T, weights_D[1:], beta=own)


def _runs(pieces: Sequence[Piece]) -> Iterator[tuple[Tensor, list[Span]]]:
    """The same pieces, neighbours in the buffer joined into one view with their spans in it.

    Fewer, longer calls: the shards of a rank are usually one buffer without gaps.
    """
    run, spans = pieces[0][1], [(pieces[0][0], 0, pieces[0][1].shape[1])]
    for module, piece in pieces[1:]:
        end = run.shape[1] + piece.shape[1]
        if _adjacent(run, piece):
            last_module, start, stop = spans[-1]
            if last_module == module:
                spans[-1] = (module, start, end)
            else:
                spans.append((module, stop, end))
            run = run.as_strided((run.shape[0], end), run.stride(), run.storage_offset())
            continue
        yield run, spans
        run, spans = piece, [(module, 0, piece.shape[1])]
    yield run, spans


def _adjacent(left: Tensor, right: Tensor) -> bool:
    return (
        left.dtype == right.dtype
        and left.stride() == right.stride()
        and left.stride(1) == 1
        and left.untyped_storage().data_ptr() == right.untyped_storage().data_ptr()
        and left.storage_offset() + left.shape[1] == right.storage_offset()
        # Rows of the joined view must not overlap.
        and left.shape[1] + right.shape[1] <= max(left.stride(0), 1)
    )


def _num_rows(pieces: Sequence[Piece], num_modules: int) -> int:
    if not pieces:
        raise ValueError("pieces should hold at least one piece, found none")
    if any(piece.ndim != 2 for _, piece in pieces) or len({p.shape[0] for _, p in pieces}) != 1:
        shapes = sorted({tuple(piece.shape) for _, piece in pieces})[:5]
        raise ValueError(f"pieces should be [D, n] with the same D, found {shapes}")
    outside = sorted({module for module, _ in pieces if not 0 <= module < num_modules})
    if outside:
        raise ValueError(f"module indices should be 0..{num_modules - 1}, found {outside[:5]}")
    return pieces[0][1].shape[0]
