"""Quotas, epochs, seeds and resumption of the mixture."""

import json
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mgsrl.data.mixture import Mixture
from mgsrl.errors import CheckpointError, ConfigError, DataError
from mgsrl.types import Prompt


def prompts(domain: str, size: int) -> list[Prompt]:
    return [Prompt(f"p{i}", domain, (), (i,)) for i in range(size)]


def mixture(seed: int = 0, shuffle: bool = True, **sizes: int) -> Mixture:
    return Mixture(
        {d: prompts(d, n) for d, n in sizes.items()}, dict.fromkeys(sizes, 3), seed, shuffle
    )


@settings(max_examples=60, deadline=None)
@given(size=st.integers(1, 12), data=st.data(), seed=st.integers(0, 5), shuffle=st.booleans())
def test_epochs_hold_every_prompt_once_and_steps_none_twice(
    size: int, data: st.DataObject, seed: int, shuffle: bool
) -> None:
    quota = data.draw(st.integers(1, size))
    mix = Mixture({"d": prompts("d", size)}, {"d": quota}, seed, shuffle)
    drawn: list[str] = []
    for _ in range(3 * size):
        step = [prompt.id for prompt in mix.next_prompts({"d": quota})["d"]]
        assert len(set(step)) == len(step) == quota
        drawn += step
    for start in range(0, len(drawn) - size + 1, size):
        assert Counter(drawn[start : start + size]) == Counter(f"p{i}" for i in range(size))


@settings(max_examples=30, deadline=None)
@given(size=st.integers(3, 10), before=st.integers(0, 12), after=st.integers(1, 12))
def test_restoring_gives_what_going_on_would_have_given(size: int, before: int, after: int) -> None:
    one = mixture(a=size, b=size + 1)
    for _ in range(before):
        one.next_prompts({"a": 3, "b": 3})
    state = json.loads(json.dumps(one.state()))
    two = mixture(a=size, b=size + 1)
    two.restore(state)
    for _ in range(after):
        assert one.next_prompts({"b": 1, "a": 2}) == two.next_prompts({"b": 1, "a": 2})


def test_a_domain_does_not_depend_on_the_others() -> None:
    alone, mixed = mixture(a=7), mixture(a=7, b=5)
    for _ in range(6):
        assert alone.next_prompts({"a": 3})["a"] == mixed.next_prompts({"b": 2, "a": 3})["a"]


@settings(max_examples=40, deadline=None)
@given(size=st.integers(1, 9), data=st.data())
def test_quotas_may_change_from_step_to_step(size: int, data: st.DataObject) -> None:
    mix = Mixture({"d": prompts("d", size)}, {"d": size}, 0, True)
    drawn: list[str] = []
    for quota in data.draw(st.lists(st.integers(1, size), min_size=1, max_size=20)):
        step = [prompt.id for prompt in mix.next_prompts({"d": quota})["d"]]
        assert len(set(step)) == len(step) == quota
        drawn += step
    counts = Counter(drawn)
    assert max(counts.values()) - min(counts[f"p{i}"] for i in range(size)) <= 1


def test_peek_takes_the_domains_in_turn_and_moves_nothing() -> None:
    mix = mixture(a=5, b=3)
    peeked = mix.peek(7)
    assert [prompt.domain for prompt in peeked] == ["a", "b", "a", "b", "a", "b", "a"]
    assert len(mix.peek(100)) == 8
    before = mix.next_prompts({"a": 3})
    assert before == mixture(a=5, b=3).next_prompts({"a": 3})
    assert mix.peek(7) == peeked


def test_domains_come_in_the_order_asked_for() -> None:
    assert list(mixture(a=5, b=5).next_prompts({"b": 1, "a": 1})) == ["b", "a"]


def test_seeds_and_shuffle() -> None:
    first = [mixture(seed=s, a=50).next_prompts({"a": 3})["a"] for s in (0, 0, 1)]
    assert first[0] == first[1] != first[2]
    plain = mixture(shuffle=False, a=50)
    assert [p.id for p in plain.next_prompts({"a": 3})["a"]] == ["p0", "p1", "p2"]


def test_a_quota_larger_than_the_data() -> None:
    with pytest.raises(DataError, match="fewer prompts than one step takes"):
        mixture(a=2)
    with pytest.raises(DataError, match="at least 6 prompts"):
        mixture(a=5).next_prompts({"a": 6})


def test_an_unknown_domain_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'math'"):
        mixture(math=3).next_prompts({"maths": 1})


def test_a_checkpoint_of_other_data_is_refused() -> None:
    state = mixture(a=5).state()
    with pytest.raises(CheckpointError, match="other data"):
        mixture(a=6).restore(state)
    with pytest.raises(CheckpointError, match="other domains"):
        mixture(b=5).restore(state)


def test_other_data_go_on_where_they_are_allowed() -> None:
    """In their place where there are as many, else from the beginning; and it is said."""
    old = mixture(a=5, b=9)
    old.next_prompts({"a": 3, "b": 3})
    state = old.state()
    state["b"]["digest"] = "of other texts"
    new = mixture(a=6, b=9)
    assert new.restore(state, lambda source: True) == ["a", "b"]
    assert [new.state()[name]["position"] for name in ("a", "b")] == [0, 3]
    with pytest.raises(CheckpointError, match=r"resume\.allow=\[domains\.a\.source\]"):
        mixture(a=6, b=9).restore(state, lambda source: source == "b")


def several(web: float = 1.0, size: int = 40) -> Mixture:
    """A domain `a` with two sources (weights 2 and `web`) and a domain `b` with one."""
    sizes = {"a": 20, "a/web": size, "b": 9}
    return Mixture(
        {name: prompts(name, size) for name, size in sizes.items()},
        {"a": 4, "b": 2},
        0,
        True,
        {"a": {"a": 2.0, "a/web": web}, "b": {"b": 1.0}},
    )


def test_sources_share_a_domain_by_weight_in_every_batch_and_over_time() -> None:
    mix, drawn = several(), Counter[str]()
    for step in range(1, 13):
        batch = mix.next_prompts({"a": 4, "b": 2})
        assert [len(batch["a"]), len(batch["b"])] == [4, 2]
        counts = Counter(prompt.domain for prompt in batch["a"])
        assert counts["a"] in (2, 3)
        drawn += counts
        assert abs(drawn["a"] - step * 8 / 3) < 1
    assert drawn == {"a": 32, "a/web": 16}


def test_no_source_repeats_a_prompt_within_its_epoch() -> None:
    mix = several(web=6.0)
    drawn = [p for _ in range(13) for p in mix.next_prompts({"a": 4})["a"] if p.domain == "a/web"]
    assert len(drawn) == 39
    assert len({prompt.id for prompt in drawn}) == 39


@settings(max_examples=20, deadline=None)
@given(before=st.integers(0, 20), after=st.integers(1, 20))
def test_several_sources_go_on_where_they_stopped(before: int, after: int) -> None:
    one, two = several(), several()
    for _ in range(before):
        one.next_prompts({"a": 4, "b": 2})
    two.restore(json.loads(json.dumps(one.state())))
    for _ in range(after):
        assert one.next_prompts({"a": 4, "b": 2}) == two.next_prompts({"a": 4, "b": 2})


def test_domains_and_sources_may_come_and_go() -> None:
    old = mixture(a=20, b=9)
    seen = old.next_prompts({"a": 3, "b": 2})["a"]
    grown = several(web=5.0)
    grown.restore(json.loads(json.dumps(old.state())))
    more = [p for _ in range(17) for p in grown.next_prompts({"a": 4})["a"] if p.domain == "a"]
    later = more[:17]  # the rest of the epoch that `old` began
    assert not {p.id for p in later} & {p.id for p in seen}
    # `b` goes and comes back: its cursor waits in the checkpoint.
    alone = mixture(a=20)
    alone.restore(old.state())
    again = mixture(a=20, b=9)
    again.restore(json.loads(json.dumps(alone.state())))
    assert again.next_prompts({"b": 2}) == old.next_prompts({"b": 2})


def test_a_source_smaller_than_its_quota_is_named() -> None:
    with pytest.raises(DataError, match="a/web has fewer prompts"):
        several(web=20.0, size=3)
