"""Dealing: every sample once, within the limit, in lockstep, with little padding and waiting."""

import json
import random
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mgsrl.data import dealing
from mgsrl.data.dealing import PADDING, Limit, Pieces, Sample, deal, span
from mgsrl.errors import InvariantError
from mgsrl.types import Prompt, Rollout

Lengths = list[tuple[int, list[int]]]
"""Tokens of a prompt and of its responses."""
Steps = list[list[Pieces]]

LONGEST = 9 + 30
group_lengths = st.tuples(st.integers(1, 9), st.lists(st.integers(1, 30), min_size=1, max_size=8))
limits = st.builds(
    Limit,
    sequences=st.integers(1, 12),
    tokens=st.none() | st.integers(LONGEST, 200),
    share=st.booleans(),
)
ranks = st.integers(1, 5)
batches = st.lists(group_lengths, max_size=9)


def groups_of(lengths: Lengths) -> list[list[Sample]]:
    return [
        [
            Sample(
                Prompt(str(number), "math", (), (1,) * prompt),
                Rollout(f"{number}/{sample}", (2,) * response, (), "", "stop", 0),
                1.0,
            )
            for sample, response in enumerate(responses)
        ]
        for number, (prompt, responses) in enumerate(lengths)
    ]


def names(steps: Steps) -> list[list[list[list[str]]]]:
    return [
        [[[s.rollout.request_id for s in piece] for piece in pieces] for pieces in step]
        for step in steps
    ]


def all_samples(steps: Steps) -> list[Sample]:
    return [s for step in steps for pieces in step for piece in pieces for s in piece]


@settings(max_examples=300, deadline=None)
@given(lengths=batches, limit=limits, world_size=ranks)
def test_every_sample_once_within_the_limit_and_in_lockstep(
    lengths: Lengths, limit: Limit, world_size: int
) -> None:
    groups = groups_of(lengths)
    steps = deal(groups, limit, world_size)
    dealt = sorted(sample.rollout.request_id for sample in all_samples(steps))
    assert dealt == sorted(sample.rollout.request_id for group in groups for sample in group)
    for step in steps:
        assert len(step) == world_size
        assert any(step)  # somebody has work
        for pieces in step:
            if limit.tokens is None:
                assert sum(map(len, pieces)) <= limit.sequences
            else:
                assert limit.cost(pieces) <= limit.tokens
            for piece in pieces:
                assert len({sample.prompt.id for sample in piece}) == 1
                assert limit.share or len(piece) == 1
    assert names(deal(groups, limit, world_size)) == names(steps)


@settings(max_examples=200, deadline=None)
@given(lengths=batches, limit=limits, world_size=ranks)
def test_costs_are_the_tokens_that_are_computed(
    lengths: Lengths, limit: Limit, world_size: int
) -> None:
    """Counted from the samples: rows as long as the longest, or prompts once in a micro-batch."""
    steps = deal(groups_of(lengths), limit, world_size)
    for pieces in [pieces for step in steps for pieces in step]:
        samples = [sample for piece in pieces for sample in piece]
        prompts = {sample.prompt.id: len(sample.prompt.token_ids) for sample in samples}
        if limit.share:
            assert len(prompts) == len(pieces)  # no group twice
            expected = sum(prompts.values()) + sum(len(s.rollout.token_ids) for s in samples)
        else:
            expected = len(samples) * max((sample.length for sample in samples), default=0)
        assert limit.cost(pieces) == expected


@settings(max_examples=200, deadline=None)
@given(lengths=batches, size=st.integers(1, 12), budget=st.none() | st.integers(LONGEST, 200))
def test_rows_are_padded_little(lengths: Lengths, size: int, budget: int | None) -> None:
    for step in deal(groups_of(lengths), Limit(size, budget), 1):
        real = sum(sample.length for sample in all_samples([step]))
        assert real >= (1 - PADDING) * Limit(size).cost(step[0])


@settings(max_examples=200, deadline=None)
@given(lengths=batches, world_size=ranks)
def test_groups_are_spread_as_longest_first_promises(lengths: Lengths, world_size: int) -> None:
    """A greedy schedule ends at most one piece after the mean (Graham 1969)."""
    limit, groups = Limit(1000, share=True), groups_of(lengths)
    steps = deal(groups, limit, world_size)
    costs = [limit.cost([group]) for group in groups]
    assert len(steps) == bool(groups)
    assert span(steps, limit) <= sum(costs) / world_size + max(costs, default=0)


@pytest.mark.parametrize(
    ("lengths", "limit", "world_size", "expected"),
    [
        # The whole batch in one micro-batch.
        ([(3, [2, 2]), (3, [2, 2])], Limit(4, share=True), 1, [14]),
        # A group of four in two micro-batches of two.
        ([(3, [5, 4, 2, 1])], Limit(2, share=True), 1, [9, 9]),
        # One group, two ranks: both compute the prompt, and half of the responses.
        ([(3, [5, 4, 2, 1])], Limit(4, share=True), 2, [9]),
        # Five equal groups on four ranks: the fifth is shared out.
        ([(1, [2, 2, 2, 2])] * 5, Limit(100, share=True), 4, [12]),
        # Tokens instead of sequences: one long response, or many short ones.
        ([(1, [29]), (1, [9, 9, 9])], Limit(1, 30), 1, [30, 30]),
        ([(2, [28]), (2, [9, 9, 9])], Limit(1, 30, True), 1, [30, 29]),
        # Rows far shorter than the longest go for themselves.
        ([(1, [99, 98, 9, 9])], Limit(4), 1, [200, 20]),
    ],
)
def test_examples(lengths: Lengths, limit: Limit, world_size: int, expected: list[int]) -> None:
    steps = deal(groups_of(lengths), limit, world_size)
    assert [max(map(limit.cost, step)) for step in steps] == expected


def test_a_sample_longer_than_the_budget_is_refused() -> None:
    for share in (False, True):
        with pytest.raises(InvariantError, match="40 tokens in a budget of 39"):
            deal(groups_of([(10, [2, 30])]), Limit(8, 39, share), 1)


# ---- recorded lengths ----------------------------------------------------------------------------


def pocket_lengths() -> list[Lengths]:
    """The first three steps of the bundled run (`mgsrl train`), by step and domain."""
    rows = json.loads((Path(__file__).parent / "lengths.json").read_text(encoding="utf-8"))
    return [[(prompt, responses) for prompt, responses in groups] for _, groups in rows]


def drawn(
    seed: int, prompts: int, median_prompt: int, median_response: int, most: tuple[int, int]
) -> Lengths:
    """Log-normal lengths, of prompts with a sigma of 0.6, of responses with one of 0.8."""
    rng = random.Random(seed)

    def length(median: int, sigma: float, low: int, high: int) -> int:
        return max(low, min(high, round(median * rng.lognormvariate(0.0, sigma))))

    return [
        (
            length(median_prompt, 0.6, 16, most[0]),
            [length(median_response, 0.8, 4, most[1]) for _ in range(8)],
        )
        for _ in range(prompts)
    ]


DISTRIBUTIONS: dict[str, list[Lengths]] = {
    "pocket": pocket_lengths(),
    # Medians as of prompts with the recipe's preamble, and of its base models' first reasoning.
    "recipe": [drawn(seed, 22, 200, 550, (896, 4096)) for seed in range(4)],
    "smollm2": [drawn(seed, 1, 120, 64, (256, 64)) for seed in range(8)],
}
SIZES = {
    "pocket": (Limit(64), Limit(1, 256)),
    "recipe": (Limit(1), Limit(4), Limit(1, 5120), Limit(1, 16384)),
    "smollm2": (Limit(4), Limit(8), Limit(1, 512)),
}
WAITING = {1: 0.0, 2: 0.025, 4: 0.065, 8: 0.12}
"""By ranks: of eight responses to one prompt, eight get one each."""


@pytest.mark.parametrize("share", [False, True], ids=["rows", "packed"])
@pytest.mark.parametrize("world_size", [1, 2, 4, 8])
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_padding_and_waiting_on_recorded_lengths(name: str, world_size: int, share: bool) -> None:
    for limit in SIZES[name]:
        limit = Limit(limit.sequences, limit.tokens, share)
        computed = real = slots = 0
        for lengths in DISTRIBUTIONS[name]:
            steps = deal(groups_of(lengths), limit, world_size)
            computed += sum(limit.cost(pieces) for step in steps for pieces in step)
            pieces = [piece for step in steps for pieces in step for piece in pieces]
            real += sum(len(piece[0].prompt.token_ids) for piece in pieces) if share else 0
            real += sum(
                len(s.rollout.token_ids) if share else s.length for piece in pieces for s in piece
            )
            slots += world_size * span(steps, limit)
        print(name, world_size, limit, f"{1 - real / computed:.3f} {1 - computed / slots:.3f}")
        assert 1 - real / computed <= (0 if share else 0.05)
        assert 1 - computed / slots <= WAITING[world_size]


def test_large_batches_are_dealt_while_nobody_waits_long() -> None:
    """4,096 responses on 8 ranks, whose devices stand still meanwhile: half a minute when every
    micro-batch was looked at in Python for every group."""
    draw = random.Random(0)
    lengths = [
        (draw.randint(1, 512), [min(4096, int(draw.expovariate(1 / 1365)) + 1) for _ in range(8)])
        for _ in range(512)
    ]
    groups = groups_of(lengths)
    begin = time.process_time()
    steps = deal(groups, Limit(1, 4608, True), 8)
    assert time.process_time() - begin < 10.0
    assert len(all_samples(steps)) == 4096


def test_a_group_is_not_divided_in_more_parts_than_it_has_samples(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Or every rank more would be a way more to try: 64 ranks took ten times as long as 8."""
    tried, balanced = [], dealing._balanced

    def counted(pieces: Pieces, limit: Limit, world_size: int) -> list[list[Pieces]]:
        tried.append(len(pieces))
        return balanced(pieces, limit, world_size)

    monkeypatch.setattr(dealing, "_balanced", counted)
    steps = deal(groups_of([(4, [9, 5, 2])] * 70), Limit(1, 40, True), 64)
    assert len(all_samples(steps)) == 210
    assert len(tried) <= 1 + 2 * 2  # whole, in two and in three parts, all groups or the last ones
