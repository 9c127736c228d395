"""Exact fingerprints of weights: equal on both sides of a publish, whatever layout an engine uses.

A fingerprint is the sum of the squares of the elements' bit patterns, modulo 2 ** 64. It is
- exact: one changed bit of one element changes it (two sets of bfloat16 values share a sum by
  chance about once in 2 ** 32), where a projection in bfloat16 rounds a small step away;
- additive and blind to order: a packed matrix has the sum of its parts, padding with zeros adds
  nothing, and neither a kernel's own layout nor a reordering of rows by the loader matters.

An engine that has packed a matrix away gives its columns back as products with unit vectors,
which are exact in every type. So each matrix also has the sums of a few of its columns, other
ones for every version. A publish that did not arrive changes all columns; what is not seen at one
version is a fault confined to other columns.

Pure: tensors in, whole numbers out. On a CPU large tensors go through a compiled loop
(`bit_sums.py`).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from sys import modules

import torch

COLUMNS = 32
"""Columns of a matrix that are looked at per version."""
CHUNK = {"cpu": 1 << 14, "cuda": 1 << 24}
"""Elements squared at once. On a CPU they stay in a core's cache and are few enough for PyTorch not
to call other threads, which cost more than they help (and far more on a busy machine). On a GPU
they take 17 bytes each for a moment, 0.3 GiB beside an engine."""
WORTH_COMPILING = 1 << 20
"""Elements of a CPU's tensor that pay for loading the compiled loop; a process that has it uses it
for all."""
COMPILED = "mgsrl.sync.bit_sums"
EXPONENT = 0x7F800000
"""The exponent's bits of a float32; all 0 in zeros and denormals."""
MODULUS = 1 << 64


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """Of one published tensor, in one type."""

    whole: int
    """Sum over all elements."""
    columns: tuple[int, ...] = ()
    """Sum over each of `sampled_columns`; empty for a vector."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What an engine computes with, where it holds one published tensor or several together.

    `whole` or `columns` as in `Fingerprint`, the other None. With several `parts` it is the sum
    of theirs.
    """

    name: str
    """The engine's name, for messages."""
    parts: tuple[str, ...]
    """Published names."""
    whole: int | None = None
    columns: tuple[int, ...] | None = None
    sharded: bool = False
    """Under tensor parallelism each rank holds a share, and the shares' sums add up."""


@dataclass(frozen=True)
class Proof:
    """The outcome of comparing an engine with what was published."""

    stale: tuple[str, ...]
    """Engine's names that hold other values than the published ones."""
    unseen: tuple[str, ...]
    """Published names that the engine could not report."""
    num_seen: int
    """Published tensors that were compared."""


def sampled_columns(in_features: int, version: int, count: int = COLUMNS) -> torch.Tensor:
    """int64 [min(count, in_features)]: the columns to look at, the same on every machine."""
    generator = torch.Generator(device="cpu").manual_seed(version + 1)
    return torch.randperm(in_features, generator=generator)[:count]


def square_sum(values: torch.Tensor, *, rows: bool = False) -> torch.Tensor:
    """Sum of the squared bit patterns as int64: a scalar, or [n] for the `rows` of [n, m].

    Squared, because a step up of one element and a step down of another would cancel in a plain
    sum. Every type is read as float32, which holds the narrower ones exactly. Zeros of either
    sign and denormals (which kernels may flush) count as 0.
    """
    if values.device.type == "cpu" and (values.numel() >= WORTH_COMPILING or COMPILED in modules):
        from mgsrl.sync.bit_sums import row_sums

        return row_sums(values) if rows else row_sums(values.reshape(1, -1))[0]
    chunk = CHUNK["cuda" if values.is_cuda else "cpu"]
    if rows:
        parts = values.split(max(1, chunk // len(values)), dim=1)
        return torch.stack([_squares(part).sum(-1) for part in parts]).sum(0)
    sums = [_squares(part).sum() for part in values.reshape(-1).split(chunk)]
    return torch.stack(sums).sum()


def _squares(values: torch.Tensor) -> torch.Tensor:
    bits = values.float().contiguous().view(torch.int32)
    bits = bits.masked_fill((bits & EXPONENT) == 0, 0).to(torch.int64)
    return bits.mul_(bits)


def fingerprint(tensor: torch.Tensor, version: int, *, transposed: bool = False) -> Fingerprint:
    """Of a whole tensor. `transposed`: its inputs run along the rows (GPT-2's Conv1D)."""
    whole = int(square_sum(tensor)) % MODULUS
    if tensor.ndim < 2:
        return Fingerprint(whole)
    matrix = tensor.reshape(-1, tensor.shape[-1])
    if transposed:
        matrix = matrix.T
    columns = sampled_columns(matrix.shape[1], version).to(matrix.device)
    sums = square_sum(matrix.index_select(1, columns).T, rows=True)
    return Fingerprint(whole, as_unsigned(sums))


def as_unsigned(sums: torch.Tensor) -> tuple[int, ...]:
    """int64 [n] -> whole numbers modulo 2 ** 64."""
    return tuple(value % MODULUS for value in sums.tolist())


Published = Mapping[str, tuple[Fingerprint, ...]]
"""Published name -> its fingerprint as sent, and as rounded to a narrower type of the engine's."""


def over_ranks(ranks: Sequence[Sequence[Seen]]) -> list[Seen]:
    """One report from those of all tensor-parallel ranks (which hold the same layers)."""
    return [_over_ranks(items) for items in zip(*ranks, strict=True)]


def _over_ranks(items: Sequence[Seen]) -> Seen:
    first = items[0]
    if first.whole is None or not (first.sharded or len({item.whole for item in items}) > 1):
        return first  # whole on every rank
    return replace(first, whole=sum(item.whole or 0 for item in items) % MODULUS)


def compare(seen: Iterable[Seen], published: Published) -> Proof:
    """Hold what an engine computes with against what was published."""
    stale, covered = [], set[str]()
    for item in seen:
        if not all(name in published for name in item.parts):
            continue
        covered |= set(item.parts)
        choices = zip(*(published[name] for name in item.parts))
        if not any(_equal(item, parts) for parts in choices):
            stale.append(item.name)
    unseen = tuple(name for name in published if name not in covered)
    return Proof(tuple(stale), unseen, len(covered))


def _equal(item: Seen, parts: Sequence[Fingerprint]) -> bool:
    if item.whole is not None:
        return sum(part.whole for part in parts) % MODULUS == item.whole
    columns = [sum(column) % MODULUS for column in zip(*(part.columns for part in parts))]
    return columns == list(item.columns or ())
