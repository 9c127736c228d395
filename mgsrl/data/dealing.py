"""Which sequences are computed together: a domain's groups -> the micro-batches of all ranks.

Ranks wait for each other at every micro-step, so what they compute side by side should cost about
the same. A micro-batch costs its tokens. Rows of one sequence each are padded to the longest of
them; packed, there is no padding, and samples of one group that are together share their prompt.

Rows are sorted by length, and a micro-batch ends before more than `PADDING` of it would be padding.
Packed groups stay whole where they fit and where that balances; pieces go, longest first, to the
micro-batch with the least in it (LPT; Graham 1969).

Left out: the attention's cost, which grows with the square of a sequence's length (under a tenth
of the work at the recipe's 4,096 tokens and 7B parameters), and optimal packing, a few percent
better than LPT.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mgsrl.errors import InvariantError
from mgsrl.types import Prompt, Rollout

PADDING = 0.05
"""Largest share of a micro-batch of rows that is padding, unless one row for each rank has more."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One response to train on."""

    prompt: Prompt
    rollout: Rollout
    advantage: float
    weight: float = 1
    """In the loss and its denominators."""

    @property
    def length(self) -> int:
        return len(self.prompt.token_ids) + len(self.rollout.token_ids)


Piece = list[Sample]
"""Samples of one group that are computed together."""
Pieces = list[Piece]
"""A micro-batch, with nothing in it where a rank has nothing left."""


@dataclass(frozen=True, slots=True)
class Limit:
    """What a micro-batch may hold."""

    sequences: int
    """At most so many; not looked at where `tokens` is given."""
    tokens: int | None = None
    """The most tokens that it may cost."""
    share: bool = False
    """Whether groups are packed, each with one copy of its prompt; rows are padded otherwise."""

    def cost(self, pieces: Pieces) -> int:
        """Tokens that the model computes for a micro-batch."""
        if self.share:
            return sum(_tokens(piece) for piece in pieces)
        lengths = [sample.length for piece in pieces for sample in piece]
        return len(lengths) * max(lengths, default=0)

    @property
    def room(self) -> int:
        """The most, in what `size` counts."""
        return self.sequences if self.tokens is None else self.tokens

    def size(self, piece: Sequence[Sample]) -> int:
        """What samples of one group take of it."""
        return len(piece) if self.tokens is None else _tokens(piece)


def _tokens(piece: Sequence[Sample]) -> int:
    """Of samples of one group, their prompt counted once."""
    prompt = len(piece[0].prompt.token_ids) if piece else 0
    return prompt + sum(len(sample.rollout.token_ids) for sample in piece)


def deal(groups: Sequence[Sequence[Sample]], limit: Limit, world_size: int) -> list[list[Pieces]]:
    """Micro-batches by micro-step and rank: every sample once; a rank may go without.

    Args:
        groups: samples by prompt, none empty.

    Raises:
        InvariantError: a sample alone is longer than the budget.
    """
    if not groups:
        return []
    if limit.tokens is not None:
        longest = max(s.length for group in groups for s in group)
        if longest > limit.tokens:
            raise InvariantError(f"{longest} tokens in a budget of {limit.tokens}")
    return (_deal_groups if limit.share else _deal_rows)(groups, limit, world_size)


def span(steps: Sequence[Sequence[Pieces]], limit: Limit) -> int:
    """Tokens of the slowest rank of every micro-step, added up: the time that all take."""
    return sum(max(map(limit.cost, ranks)) for ranks in steps)


def _to_and_fro(items: Sequence[Sample], places: int) -> Pieces:
    """Dealt to so many places, starting from either end in turn."""
    dealt: Pieces = [[] for _ in range(places)]
    for index, item in enumerate(items):
        lap, place = divmod(index, places)
        dealt[place if lap % 2 == 0 else places - 1 - place].append(item)
    return dealt


# ---- rows ------------------------------------------------------------------------------------


def _deal_rows(
    groups: Sequence[Sequence[Sample]], limit: Limit, world_size: int
) -> list[list[Pieces]]:
    """Longest first, in runs of as many rows for every rank."""
    # sorted() is stable: equal lengths keep the order of prompts and samples.
    rest = sorted((s for group in groups for s in group), key=lambda s: -s.length)
    steps = []
    while rest:
        longest = rest[0].length
        most = limit.sequences if limit.tokens is None else limit.tokens // longest
        real = count = 0
        for start in range(0, min(most * world_size, len(rest)), world_size):
            lap = rest[start : start + world_size]
            real += sum(sample.length for sample in lap)
            if start and real < (1 - PADDING) * longest * (start + len(lap)):
                break
            count = start + len(lap)
        run, rest = rest[:count], rest[count:]
        steps.append([[[sample] for sample in rows] for rows in _to_and_fro(run, world_size)])
    return steps


# ---- groups ----------------------------------------------------------------------------------


def _deal_groups(
    groups: Sequence[Sequence[Sample]], limit: Limit, world_size: int
) -> list[list[Pieces]]:
    """The best of several ways to divide groups, by micro-steps, then by the slowest ranks' tokens.

    Dividing a group costs another copy of its prompt, and gives ranks without work some.
    """
    by_cost = sorted(groups, key=lambda group: -_tokens(group))
    best = _balanced([p for group in by_cost for p in _divide(group, 1, limit)], limit, world_size)
    left_over = len(groups) % (len(best) * world_size)
    most = min(max(world_size, 2), max(map(len, groups)))  # no group has more parts than samples
    for parts in range(2, most + 1):
        for whole in sorted({0, len(groups) - left_over}):
            pieces = [
                piece
                for place, group in enumerate(by_cost)
                for piece in _divide(group, parts if place >= whole else 1, limit)
            ]
            steps = _balanced(pieces, limit, world_size)
            best = min(best, steps, key=lambda s: (len(s), span(s, limit)))
    return best


def _divide(group: Sequence[Sample], parts: int, limit: Limit) -> Pieces:
    """The group in `parts`, or in more where these would be too large."""
    by_length = sorted(group, key=lambda sample: -sample.length)
    for number in range(min(parts, len(group)), len(group) + 1):
        pieces = _to_and_fro(by_length, number)
        if all(limit.size(piece) <= limit.room for piece in pieces):
            break
    return pieces


def _balanced(pieces: Pieces, limit: Limit, world_size: int) -> list[list[Pieces]]:
    """As few micro-steps as LPT finds room in; micro-batches of like cost side by side."""
    by_cost = sorted(pieces, key=lambda piece: -_tokens(piece))
    num_steps = -(-sum(map(limit.size, pieces)) // (limit.room * world_size))
    while (bins := _filled(by_cost, limit, num_steps * world_size)) is None:
        num_steps += 1
    bins.sort(key=limit.cost, reverse=True)
    return [bins[start : start + world_size] for start in range(0, len(bins), world_size)]


def _filled(by_cost: Pieces, limit: Limit, number: int) -> list[Pieces] | None:
    """So many micro-batches; None where a piece finds no room."""
    bins: list[dict[str, Piece]] = [{} for _ in range(number)]
    costs, room = np.zeros(number, np.int64), np.full(number, limit.room)
    for piece in by_cost:
        size = limit.size(piece)
        fits = np.flatnonzero(room >= size)
        if not len(fits):
            return None
        least = fits[costs[fits].argmin()]
        together = bins[least].setdefault(piece[0].prompt.id, [])
        before = _tokens(together)
        together += piece
        costs[least] += _tokens(together) - before
        room[least] -= size
    return [list(pieces.values()) for pieces in bins]
