"""Packing: nothing lost, nothing doubled, whatever the ranks and the micro-batch size."""

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mgsrl.algo.advantages import with_advantages
from mgsrl.config.algo import AlgoConfig
from mgsrl.data.packing import PackedBatch, Packing, pack
from mgsrl.errors import InvariantError
from mgsrl.types import MicroBatch, Prompt, Reward, Rollout, RolloutGroup

DOMAINS = ("math", "chat", "if")


def group(domain: str, number: int, prompt_length: int, responses: list[int]) -> RolloutGroup:
    """Responses of the given lengths; a negative length is one whose reward abstained."""
    prompt = Prompt(f"p{number}", domain, (), tuple(range(1, prompt_length + 1)))
    rollouts, rewards = [], []
    for sample, length in enumerate(responses):
        tokens = tuple(100 * (number + 1) + sample for _ in range(abs(length)))
        logprobs = tuple(-0.5 - t for t in range(abs(length)))
        name = f"{number}/{sample}"
        rollouts.append(Rollout(name, tokens, logprobs, "", "stop", 0))
        rewards.append(Reward(None if length < 0 else 1.0))
    advantages = tuple(float(number) + sample / 10 for sample in range(len(responses)))
    return RolloutGroup(prompt, tuple(rollouts), tuple(rewards), advantages)


lengths = st.integers(-6, 6).filter(lambda n: n != 0)
rows = st.tuples(st.integers(1, 9), st.lists(lengths, min_size=2, max_size=4))
batches = st.dictionaries(st.sampled_from(DOMAINS), st.lists(rows, max_size=5))


def packed(
    batch: dict[str, list[Any]],
    micro_batch_size: int,
    world_size: int,
    *,
    halves: bool = False,
    **options: Any,
) -> PackedBatch:
    groups = {
        domain: [group(domain, i, p, responses) for i, (p, responses) in enumerate(rows)]
        for domain, rows in batch.items()
    }
    return pack(
        groups,
        Packing(
            micro_batch_size=micro_batch_size,
            world_size=world_size,
            max_response_length=8,
            temperatures={"math": 1.0, "chat": 0.7, "if": 1.0},
            **options,
        ),
        halves=halves,
    )


def real_lengths(micro: MicroBatch) -> list[int]:
    """[B] of prompt and response; 0 of a filler."""
    layout = micro.layout
    return [
        len(tokens_of(micro, index)) if micro.response_mask_BL[index].any() else 0
        for index in range(len(layout.responses))
    ]


def tokens_of(micro: MicroBatch, index: int) -> list[int]:
    layout = micro.layout
    prompt = layout.prompts[layout.prompt_of[index]]
    return [
        *micro.token_ids_T[prompt].tolist(),
        *micro.token_ids_T[layout.responses[index]].tolist(),
    ]


def sequences(batch: PackedBatch) -> Counter[tuple[Any, ...]]:
    """Every trained sequence with all that belongs to it, read back from the tensors."""
    found: Counter[tuple[Any, ...]] = Counter()
    for rank in batch.per_rank:
        for domain, micro_batches in rank.items():
            for micro in micro_batches:
                for row in range(len(micro.layout.responses)):
                    mask = micro.response_mask_BL[row].bool()
                    if mask.any():
                        found[
                            domain,
                            tuple(tokens_of(micro, row)),
                            tuple(micro.rollout_logprobs_BL[row][mask].tolist()),
                            round(float(micro.advantages_B[row]), 4),
                        ] += 1
    return found


@settings(max_examples=60, deadline=None)
@given(
    batch=batches,
    micro_batch_size=st.integers(1, 5),
    world_size=st.integers(1, 4),
    share=st.booleans(),
)
def test_every_trainable_sequence_once(
    batch: dict[str, list[Any]], micro_batch_size: int, world_size: int, share: bool
) -> None:
    result = packed(batch, micro_batch_size, world_size, share_prompts=share)
    alive = [n for rows in batch.values() for _, responses in rows for n in responses if n > 0]
    found = sequences(result)
    assert found.total() == len(alive) == result.totals.num_sequences
    assert result.totals.num_tokens == sum(alive)
    assert sum(len(key[2]) for key in found.elements()) == sum(alive)
    assert found == sequences(packed(batch, 100, 1))
    assert result.domains == tuple(
        d for d in batch if any(n > 0 for _, responses in batch[d] for n in responses)
    )


@settings(max_examples=60, deadline=None)
@given(
    batch=batches,
    micro_batch_size=st.integers(1, 5),
    world_size=st.integers(1, 4),
    share=st.booleans(),
)
def test_halves_are_every_other_prompt_and_together_the_whole_batch(
    batch: dict[str, list[Any]], micro_batch_size: int, world_size: int, share: bool
) -> None:
    result = packed(batch, micro_batch_size, world_size, halves=True, share_prompts=share)
    whole = packed(batch, micro_batch_size, world_size, share_prompts=share)
    assert sequences(result) == sequences(whole)
    assert result.totals == whole.totals
    assert whole.half_sizes == {}
    assert tuple(result.half_sizes) == result.domains == whole.domains
    for domain in result.domains:
        alive = [i for i, (_, lengths) in enumerate(batch[domain]) if any(n > 0 for n in lengths)]
        for half in (0, 1):
            assert prompts_of(result, domain, half) == {*alive[half::2]}
            assert result.half_sizes[domain][half] == len(alive[half::2])
        steps = zip(*(rank[domain] for rank in result.per_rank), strict=True)  # in lockstep
        assert all(len({micro.half for micro in step}) == 1 for step in steps)
        assert {micro.half for rank in whole.per_rank for micro in rank[domain]} == {0}


def prompts_of(batch: PackedBatch, domain: str, half: int) -> set[int]:
    """The numbers of the prompts with a sequence in this half: the advantage says which."""
    micros = [m for rank in batch.per_rank for m in rank[domain] if m.half == half]
    return {
        int(advantage + 0.01)  # `group` adds tenths
        for micro in micros
        for advantage, length in zip(micro.advantages_B.tolist(), real_lengths(micro), strict=True)
        if length
    }


@settings(max_examples=60, deadline=None)
@given(
    batch=batches,
    micro_batch_size=st.integers(1, 5),
    world_size=st.integers(1, 4),
    share=st.booleans(),
)
def test_ranks_stay_in_lockstep(
    batch: dict[str, list[Any]], micro_batch_size: int, world_size: int, share: bool
) -> None:
    result = packed(batch, micro_batch_size, world_size, share_prompts=share)
    assert len(result.per_rank) == world_size
    for domain in result.domains:
        counts = {len(rank[domain]) for rank in result.per_rank}
        total = sum(n > 0 for _, responses in batch[domain] for n in responses)
        assert len(counts) == 1
        assert -(-total // (micro_batch_size * world_size)) <= counts.pop() <= total
        for rank in result.per_rank:
            for micro in rank[domain]:
                check_shapes(micro, domain, micro_batch_size)
    assert all(tuple(rank) == result.domains for rank in result.per_rank)


def check_shapes(micro: MicroBatch, domain: str, micro_batch_size: int) -> None:
    layout = micro.layout
    rows, length = micro.response_mask_BL.shape
    assert micro.domain == domain
    assert 1 <= rows == len(layout.responses) == len(layout.prompt_of) <= micro_batch_size
    assert micro.rollout_logprobs_BL.shape == (rows, length)
    lengths = [span.stop - span.start for span in layout.responses]
    assert max(lengths) == length >= 1
    if micro.response_mask_BL.any():
        assert micro.response_mask_BL.sum(1).tolist() == lengths
    spans = sorted((*layout.prompts, *layout.responses), key=lambda span: span.start)
    assert spans[0].start == 0  # they tile the row
    assert [span.stop for span in spans] == [
        *(span.start for span in spans[1:]),
        len(micro.token_ids_T),
    ]
    prompts = [tuple(micro.token_ids_T[span].tolist()) for span in layout.prompts]
    assert len({*prompts}) == len(prompts)
    assert (micro.rollout_logprobs_BL[micro.response_mask_BL == 0] == 0).all()


def test_a_rank_with_nothing_left_gets_weight_zero() -> None:
    result = packed({"math": [(2, [3, 2])]}, 4, 3)
    filler = result.per_rank[2]["math"][0]
    assert filler.response_mask_BL.sum() == 0
    assert filler.advantages_B.tolist() == [0.0]


def test_a_domain_that_abstained_altogether_is_absent_everywhere() -> None:
    result = packed({"math": [(2, [-3, -2])], "chat": [(2, [1, 1])]}, 4, 2)
    assert result.domains == ("chat",)
    assert packed({"math": [(2, [-3, -2])]}, 4, 2).totals.num_sequences == 0


def test_responses_that_were_cut_count_nowhere_when_masked() -> None:
    """The rest is packed as if they had never been, with the advantages that it had."""
    whole = group("math", 1, 2, [3, 8, 5])
    kept, cut, other = whole.rollouts
    cut_group = replace(whole, rollouts=(kept, replace(cut, finish_reason="length"), other))
    short = group("math", 2, 2, [8])
    all_cut = replace(short, rollouts=(replace(short.rollouts[0], finish_reason="length"),))
    groups = {"math": [cut_group, all_cut], "chat": [all_cut]}
    options = Packing(2, 2, 8, {"math": 1.0, "chat": 1.0}, mask_overlong={"math", "chat"})
    result = pack(groups, options)
    assert result.domains == ("math",)
    assert (result.totals.num_tokens, result.totals.num_sequences) == (8, 2)
    without = replace(
        whole,
        rollouts=(kept, other),
        rewards=whole.rewards[::2],
        advantages=whole.advantages[::2],
    )
    assert sequences(result) == sequences(pack({"math": [without]}, options))
    assert pack(groups, replace(options, mask_overlong=())).totals.num_sequences == 5


@given(st.floats(0.01, 0.99), st.booleans())
def test_dead_groups_count_by_their_weight(weight: float, both: bool) -> None:
    """Weight 0 is as if they had never been; they are the groups whose advantages are all 0."""
    live, dead = group("math", 1, 2, [3, 8]), group("math", 2, 2, [4, 1, 2])
    live = replace(live, advantages=(0.0, -0.5))
    dead = replace(dead, advantages=(0.0,) * 3)
    groups = {"math": [dead, live], "chat": [dead]}
    options = Packing(2, 2, 8, {"math": 1.0, "chat": 1.0})
    without = {"math": [live], "chat": [] if both else [dead]}
    dropped = ("math", "chat") if both else ("math",)
    result = pack(groups, replace(options, dead_group_weights=dict.fromkeys(dropped, 0.0)))
    assert sequences(result) == sequences(pack(without, options))
    assert result.totals == pack(without, options).totals
    whole = pack(groups, options).totals
    assert (whole.num_tokens, whole.num_sequences) == (25, 8)
    result = pack(groups, replace(options, dead_group_weights={"math": weight}))
    assert result.totals.num_tokens == pytest.approx(18 + 7 * weight)
    assert result.totals.num_sequences == pytest.approx(5 + 3 * weight)
    masks = [m.response_mask_BL for rank in result.per_rank for of in rank.values() for m in of]
    assert sum(mask.sum().item() for mask in masks) == pytest.approx(result.totals.num_tokens)


@pytest.mark.parametrize("alike", [False, True])
def test_without_a_group_baseline_a_whole_domain_is_dead_or_none_of_it(alike: bool) -> None:
    """What `algo.dead_group_weight` does beside `reinforce_pp`."""
    one, two = group("math", 1, 2, [3, 5]), group("math", 2, 2, [1, 2])
    other = replace(one, rewards=(Reward(0.0), Reward(1.0)))
    two = two if alike else replace(two, rewards=(Reward(0.0), Reward(0.0)))
    scored = {"math": [one, two], "chat": [other]}
    groups = with_advantages(scored, AlgoConfig(advantage="reinforce_pp"))
    weights = {"math": 0.0, "chat": 0.0}
    options = Packing(2, 2, 8, dict.fromkeys(weights, 1.0), dead_group_weights=weights)
    assert pack(groups, options).domains == (("chat",) if alike else ("math", "chat"))
    assert pack(groups, options).totals.num_sequences == (2 if alike else 6)


def test_an_abstention_is_kept_where_the_reward_is_not_trained_on() -> None:
    groups = {name: [group(name, 1, 2, [3, -5]), group(name, 2, 2, [-1, -2])] for name in DOMAINS}
    options = Packing(2, 2, 8, dict.fromkeys(DOMAINS, 1.0), distilled={"chat"})
    result = pack(groups, options)
    assert Counter(domain for domain, *_ in sequences(result)) == {"math": 1, "chat": 4, "if": 1}
    assert result.totals.num_tokens == 3 + 11 + 3


@pytest.mark.parametrize("weights", [{"math": 0.0, "chat": 0.0}, {"math": 0.0, "chat": 0.25}])
@pytest.mark.parametrize("halves", [False, True])
def test_dead_groups_alone_are_packed_whole(weights: dict[str, float], halves: bool) -> None:
    """Else nothing would be left of the step, and its KL could not be trained on."""
    dead = replace(group("math", 2, 2, [4, 1, -2]), advantages=(0.0,) * 3)
    silent = replace(group("math", 1, 2, [-4, -1]), advantages=(0.0,) * 2)
    groups = {"math": [dead, silent], "chat": [silent]}
    options = Packing(2, 2, 8, {"math": 1.0, "chat": 1.0})
    result = pack(groups, replace(options, dead_group_weights=weights), halves=halves)
    whole = pack(groups, options, halves=halves)
    assert result.domains == ("math",), "what abstained is left out nevertheless"
    assert sequences(result) == sequences(whole)
    assert (result.totals, result.half_sizes) == (whole.totals, whole.half_sizes)
    assert result.totals.num_tokens == 5
    assert pack({"math": [silent]}, replace(options, dead_group_weights=weights)).domains == ()


def test_dtypes_and_temperature() -> None:
    micro = packed({"chat": [(2, [3, 2])]}, 4, 1).per_rank[0]["chat"][0]
    assert micro.token_ids_T.dtype == torch.int64
    assert micro.response_mask_BL.dtype == micro.rollout_logprobs_BL.dtype == torch.float32
    assert micro.advantages_B.dtype == torch.float32
    assert micro.temperature == 0.7


def test_ranks_get_equally_long_work() -> None:
    """What the ranks compute side by side differs little in length, and padding is low."""
    rows = [(5, [1 + (7 * i + 3 * j) % 60 for j in range(8)]) for i in range(16)]
    result = packed({"math": rows}, 4, 4)
    widths = [[max(real_lengths(micro)) for micro in rank["math"]] for rank in result.per_rank]
    assert all(max(step) - min(step) <= 4 for step in zip(*widths, strict=True))
    padded = sum(m.response_mask_BL.numel() for rank in result.per_rank for m in rank["math"])
    assert result.totals.num_tokens / padded > 0.9


def test_the_same_groups_give_the_same_tensors() -> None:
    batch = {"math": [(3, [2, 2, 2]), (3, [2, 2])], "chat": [(1, [4, 1])]}
    one, two = packed(batch, 2, 2), packed(batch, 2, 2)
    assert one.domains == two.domains == ("math", "chat")
    for first, second in zip(one.per_rank, two.per_rank, strict=True):
        for domain in one.domains:
            for a, b in zip(first[domain], second[domain], strict=True):
                assert torch.equal(a.token_ids_T, b.token_ids_T)
                assert a.layout == b.layout


def test_groups_that_were_not_scored_are_refused() -> None:
    unscored = RolloutGroup(
        Prompt("p", "math", (), (1,)), (Rollout("r", (1,), (0.0,), "", "stop", 0),)
    )
    options = Packing(1, 1, 8, {"math": 1.0})
    with pytest.raises(InvariantError, match="one per response"):
        pack({"math": [unscored]}, options)
    short = RolloutGroup(
        unscored.prompt, (Rollout("r", (1, 2), (0.0,), "", "stop", 0),), (Reward(1.0),), (0.0,)
    )
    with pytest.raises(InvariantError, match="one per response token"):
        pack({"math": [short]}, options)


@settings(max_examples=60, deadline=None)
@given(
    batch=batches,
    silent=st.sets(st.integers(0, 4)),
    micro_batch_size=st.integers(1, 5),
    world_size=st.integers(1, 4),
    halves=st.booleans(),
    share=st.booleans(),
)
def test_what_has_no_advantage_is_kept_out_of_the_backward(
    batch: dict[str, list[Any]],
    silent: set[int],
    micro_batch_size: int,
    world_size: int,
    halves: bool,
    share: bool,
) -> None:
    """It counts in everything, in micro-batches of its own, in lockstep."""
    groups = {
        domain: [
            replace(each, advantages=(0.0,) * len(each.advantages)) if number in silent else each
            for number, each in enumerate(
                group(domain, i + 1, p, responses) for i, (p, responses) in enumerate(rows)
            )
        ]
        for domain, rows in batch.items()
    }
    options = Packing(
        micro_batch_size,
        world_size,
        8,
        dict.fromkeys(DOMAINS, 1.0),
        share_prompts=share,
    )
    whole = pack(groups, options, halves=halves)
    result = pack(groups, replace(options, only_advantages_teach=DOMAINS), halves=halves)
    assert sequences(result) == sequences(whole)
    assert (result.totals, result.half_sizes) == (whole.totals, whole.half_sizes)
    assert result.domains == whole.domains
    for domain in result.domains:
        for step in zip(*(rank[domain] for rank in result.per_rank), strict=True):
            assert len({(micro.half, micro.trains) for micro in step}) == 1
            for micro in step:
                has_row = micro.response_mask_BL.any(1)
                assert ((micro.advantages_B[has_row] != 0) == micro.trains).all()
    assert all(m.trains for rank in whole.per_rank for ms in rank.values() for m in ms)


def test_the_metrics_of_packing() -> None:
    """Two ranks: lengths 10 and 10 beside each other, then 4 alone; 20 more are not trained on."""
    alive = group("math", 1, 2, [8, 8, 2])
    dead = replace(group("math", 2, 2, [8, 8]), advantages=(0.0, 0.0))
    options = Packing(1, 2, 8, {"math": 1.0}, only_advantages_teach={"math"})
    scalars = pack({"math": [alive, dead]}, options).scalars
    assert scalars == {
        "packing/padding": 0.0,
        "packing/shared": 0.0,
        "packing/waiting": pytest.approx(3 * 4 / (3 * (20 + 8) + 20)),
        "packing/forward_only": pytest.approx(20 / 44),
    }
    wide = replace(options, world_size=1, micro_batch_size=2)
    padded = pack({"math": [group("math", 1, 2, [38, 37])]}, wide)
    assert padded.scalars["packing/padding"] == pytest.approx(1 / 80)
    shared = pack({"math": [group("math", 1, 2, [38, 37])]}, replace(wide, share_prompts=True))
    assert shared.scalars["packing/padding"] == 0
    assert shared.scalars["packing/shared"] == pytest.approx(2 / 79)
    assert pack({}, options).scalars == {}
