"""Attention over a packed row, in which a prompt stands once before the responses to it.

The row [1, T] goes through a Hugging Face model's own layers: whatever works on single tokens
(embeddings, projections, norms, MLPs, experts) needs no word about it, position ids say where in
its sequence a token stands, and attention is the function of this file, registered with
transformers' `AttentionInterface`. Models hand what they do not know on to it: so the row's
description arrives, and is there again when gradient checkpointing recomputes a layer. A response
attends to its prompt's keys and values and to its own; autograd adds up what all responses ask
of their prompt (Prefix Grouper, arXiv 2506.05433, does so for rows of one prompt).

Three ways compute the same: a mask over the whole row (short rows, where calls cost more than
arithmetic), one call per prompt and response (measured fastest on CPUs from a few hundred tokens
on), and torch's attention on sequences of different lengths (half-precision types on a GPU, from
torch 2.11 on; not run on one yet).

Left out: soft caps, attention sinks and whatever else models add to attention, and layers that mix
tokens otherwise (convolutions, recurrences); `packing_obstacle` says which models have them.
"""

import inspect
from collections.abc import Callable
from functools import cache, cached_property
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from mgsrl.errors import InvariantError
from mgsrl.types import RowLayout

IMPLEMENTATION = "mgsrl_packed"
"""The name under which transformers knows it."""
DENSE_ELEMENTS = 300_000
"""Per prompt and response, the largest T * T * width of all heads at which one masked call over the
row is faster than calls for each: 18 of them in 200 tokens of width 128 took 1.2 ms against 1.4,
in 380 tokens 3.8 against 1.9 (forward and backward on a CPU)."""


class PackedRow:
    """What attention needs to know of one row; made for each forward, shared by its layers.

    Args:
        layout: of the row; without responses of no token, which attend to nothing.
        device: where masks and indices are wanted.
    """

    def __init__(self, layout: RowLayout, device: torch.device) -> None:
        self.device = device
        spans = [(span, place) for place, span in enumerate(layout.prompts)]
        spans += list(zip(layout.responses, layout.prompt_of))
        spans = sorted((s for s in spans if s[0].start < s[0].stop), key=lambda s: s[0].start)
        first = {place: index for index, (_, place) in reversed([*enumerate(spans)])}
        self.sizes = [span.stop - span.start for span, _ in spans]
        self.owners = [first[place] for _, place in spans]
        """The segment of each one's prompt; a prompt's own is itself."""
        self._most_before = max(map(self.before, range(len(self.sizes))))
        self._dense: dict[int | None, torch.Tensor] = {}
        self._bands: dict[int | None, torch.Tensor] = {}

    def before(self, segment: int) -> int:
        """How many tokens of a prompt stand before the segment's."""
        owner = self.owners[segment]
        return 0 if owner == segment else self.sizes[owner]

    @cached_property
    def position_ids(self) -> torch.Tensor:
        """int64, of each token in its sequence."""
        starts = [self.before(segment) for segment in range(len(self.sizes))]
        parts = [torch.arange(start, start + n) for start, n in zip(starts, self.sizes)]
        return torch.cat(parts).to(self.device)

    def dense_mask(self, window: int | None) -> torch.Tensor:
        """bool [T, T]: which tokens each one attends to."""
        if window not in self._dense:
            numbers, sizes = torch.arange(len(self.sizes)), torch.tensor(self.sizes)
            own_T = numbers.repeat_interleave(sizes).to(self.device)
            prompt_T = torch.tensor(self.owners).repeat_interleave(sizes).to(self.device)
            distance_TT = self.position_ids[:, None] - self.position_ids
            seen_TT = (own_T[:, None] == own_T) | (prompt_T[:, None] == own_T)
            self._dense[window] = seen_TT & _reached(distance_TT, window)
        return self._dense[window]

    def band(self, segment: int, window: int | None) -> torch.Tensor:
        """bool [queries, keys] of one segment, the keys of its prompt first.

        A slice of one matrix: it depends on the distance between query and key alone.
        """
        size, most = self.sizes[segment], self._most_before
        if window not in self._bands:
            longest = max(self.sizes)
            distance = torch.arange(longest)[:, None] - torch.arange(-most, longest)
            self._bands[window] = _reached(distance, window).to(self.device)
        return self._bands[window][:size, most - self.before(segment) : most + size]

    @cached_property
    def varlen(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, int, int]:
        """(cumulative numbers of queries, of keys, int32; int64 [K] places of the keys in the
        row, segment after segment; most queries, most keys of a segment)."""
        ends = torch.tensor([0, *self.sizes]).cumsum(0)
        spans = [torch.arange(a, b) for a, b in zip(ends.tolist(), ends[1:].tolist())]
        keys = [
            spans[segment] if owner == segment else torch.cat([spans[owner], spans[segment]])
            for segment, owner in enumerate(self.owners)
        ]
        counts = [len(part) for part in keys]
        key_ends = torch.tensor([0, *counts]).cumsum(0)
        return (
            ends.int().to(self.device),
            key_ends.int().to(self.device),
            torch.cat(keys).to(self.device),
            max(self.sizes),
            max(counts),
        )


def _reached(distance: torch.Tensor, window: int | None) -> torch.Tensor:
    """Which keys, so far before their queries, are attended to."""
    return distance >= 0 if window is None else (distance >= 0) & (distance < window)


def packed_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    packed_row: PackedRow | None = None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    dropout: float = 0.0,
    is_causal: bool | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Attention as transformers calls it: query [1, heads, T, d] to output [1, T, heads, d]."""
    unknown = [
        name for name in ("softcap", "s_aux", "position_bias") if others.get(name) is not None
    ]
    if packed_row is None or attention_mask is not None or dropout or is_causal is False or unknown:
        raise InvariantError(
            f"attention over a packed row was called by {type(module).__name__} with "
            f"{unknown or 'a mask, dropout or no description of the row'}"
        )
    if _has_window(module) and sliding_window is None:
        raise InvariantError(f"{type(module).__name__} does not say its sliding window")
    window = sliding_window or None
    _, heads, length, width = query.shape
    if query.is_cuda and _fits_varlen(query, value):
        return _varlen(packed_row, query, key, value, scaling, window), None
    if length**2 * heads * width <= DENSE_ELEMENTS * len(packed_row.sizes):
        out = _attend(query, key, value, scaling, packed_row.dense_mask(window))
    else:
        out = _by_segment(packed_row, query, key, value, scaling, window)
    return out.transpose(1, 2), None


def use_packed_attention(model: Any) -> None:
    """Make `model` attend over packed rows from now on, and over nothing else."""
    from transformers import AttentionInterface

    AttentionInterface.register(IMPLEMENTATION, packed_attention)
    model.set_attn_implementation(IMPLEMENTATION)


def _by_segment(
    row: PackedRow,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float | None,
    window: int | None,
) -> torch.Tensor:
    queries, keys, values = (each.split(row.sizes, dim=2) for each in (query, key, value))
    outputs = []
    for segment, owner in enumerate(row.owners):
        own_key, own_value = keys[segment], values[segment]
        if owner == segment and not (window and window < row.sizes[segment]):
            outputs.append(_attend(queries[segment], own_key, own_value, scaling, None))
            continue
        if owner != segment:
            own_key = torch.cat([keys[owner], own_key], dim=2)
            own_value = torch.cat([values[owner], own_value], dim=2)
        mask = row.band(segment, window)
        outputs.append(_attend(queries[segment], own_key, own_value, scaling, mask))
    return torch.cat(outputs, dim=2)


def _attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float | None,
    mask: torch.Tensor | None,
) -> torch.Tensor:
    """Causal without a mask."""
    if query.is_cuda:  # torch's fused kernels there take no groups in fp32
        groups = query.shape[1] // key.shape[1]
        key, value = (each.repeat_interleave(groups, dim=1) for each in (key, value))
    return scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        is_causal=mask is None,
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )


@cache
def _torch_varlen() -> tuple[Callable[..., Any], frozenset[str]] | None:
    """Torch's attention on sequences of different lengths, and what it can be told by name; None
    where it takes neither windows nor scales (torch 2.10) or is not there (before)."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    names = frozenset(inspect.signature(varlen_attn).parameters)
    return (varlen_attn, names) if {"scale", "window_size"} <= names else None


def _fits_varlen(query: torch.Tensor, value: torch.Tensor) -> bool:
    """Whether there are kernels for it on a GPU: those of Flash Attention."""
    width, half = query.shape[3], query.dtype in (torch.float16, torch.bfloat16)
    fits = half and width == value.shape[3] <= 256 and width % 8 == 0
    return fits and _torch_varlen() is not None


def _varlen(
    row: PackedRow,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float | None,
    window: int | None,
) -> torch.Tensor:
    known = _torch_varlen()
    assert known is not None
    attend, names = known
    query_ends, key_ends, places_K, most_queries, most_keys = row.varlen
    keys, values = (each[0].transpose(0, 1).index_select(0, places_K) for each in (key, value))
    groups, more = query.shape[1] // key.shape[1], dict[str, bool]()
    if "enable_gqa" in names:
        more["enable_gqa"] = groups > 1
    elif groups > 1:  # torch 2.11
        keys, values = (each.repeat_interleave(groups, dim=1) for each in (keys, values))
    out = attend(
        query[0].transpose(0, 1),
        keys,
        values,
        query_ends,
        key_ends,
        most_queries,
        most_keys,
        scale=scaling,
        window_size=(window - 1 if window else -1, 0),
        **more,
    )
    assert isinstance(out, torch.Tensor)  # without the numbers that were not asked for
    return out[None]


def _has_window(module: Any) -> bool:
    """Whether this layer attends to its last tokens only. Families whose layers are all alike hand
    on the configuration's window, or have none, whatever it says."""
    kinds = getattr(getattr(module, "config", None), "layer_types", None)
    return bool(kinds and kinds[module.layer_idx] == "sliding_attention")
