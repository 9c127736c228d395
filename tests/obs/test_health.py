"""A run that cannot learn says so once, with the cause; a healthy one says nothing."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mgsrl.obs.health import DOMAIN_PATIENCE, PATIENCE, HealthWatch, symptoms, watched

DOMAINS = ("math", "chat")


def row(**changes):
    """A healthy step with `family=value` for every domain, or for one with `family__domain`."""
    values = {"grad_norm": 0.5, "learning_rate": 1e-6, "skipped": 0.0, "clip_fraction": 0.0}
    for domain in DOMAINS:
        values |= {f"live_groups/{domain}": 0.5, f"reward/{domain}": 0.3}
        values |= {f"{name}/{domain}": 0.0 for name in ("abstained", "cut_at_limit")}
        values |= {f"format_ok/{domain}": 1.0, f"grad_norm/{domain}": 0.5}
    for key, value in changes.items():
        family, _, domain = key.partition("__")
        in_all = domain == "" and f"{family}/math" in values and family != "grad_norm"
        names = [f"{family}/{d}" for d in DOMAINS] if in_all else [key.replace("__", "/")]
        values |= dict.fromkeys(names, value)
    return values


DEAD = {"live_groups": 0.0, "reward": 0.0}
CAUSES = [
    (DEAD, "all equal (with best_of_group: its two best), mean 0.000, 0.000;"),
    ({**DEAD, "cut_at_limit": 1.0}, "cut at the token limit"),
    ({**DEAD, "abstained": 1.0, "reward": math.nan}, "every reward abstained"),
    ({**DEAD, "format_ok": 0.0}, "no response holds a complete <response> block"),
    ({"grad_norm": 0.0}, "the gradient is exactly 0"),
    ({"skipped": 1.0, "grad_norm": math.nan}, "every step was skipped"),
    ({"learning_rate": 0.0}, "the learning rate is 0"),
]


def test_a_step_that_was_skipped_in_part_taught_something():
    watch = HealthWatch()
    assert [line for step in range(1, 9) for line in watch.step(step, row(skipped=0.25))] == []
    assert watch.learnt


def test_a_teacher_teaches_where_rewards_do_not():
    assert "domain/math" in symptoms(row(live_groups__math=0.0))
    assert symptoms(row(live_groups__math=0.0, teacher_kl__math=0.5)) == {}
    assert symptoms(row(**DEAD, teacher_kl__math=0.5, teacher_kl__chat=0.5)) == {}
    assert "no_signal" in symptoms(row(**DEAD, teacher_kl__math=0.5))


@pytest.mark.parametrize(("changes", "cause"), CAUSES)
def test_each_cause_is_said_once_after_some_steps(changes, cause):
    watch = HealthWatch()
    said = [(step, line) for step in range(1, 30) for line in watch.step(step, row(**changes))]
    ((step, line),) = said
    assert step == PATIENCE
    assert cause in line
    assert line.startswith(f"steps 1–{PATIENCE}: ")
    assert not watch.learnt
    assert watch.finish() == []
    (finding,) = watch.findings.values()
    assert finding.line.startswith("steps 1–29: ")  # the report tells the whole stretch


@pytest.mark.parametrize(("changes", "cause"), CAUSES)
def test_a_run_too_short_for_a_streak_says_it_at_its_end(changes, cause):
    watch = HealthWatch()
    assert watch.step(1, row(**changes)) == []
    (line,) = watch.finish()
    assert cause in line
    assert line.startswith("step 1: ")


def test_everything_cut_is_said_although_rewards_differ():
    watch = HealthWatch()
    lines = [line for step in (1, 2, 3, 4) for line in watch.step(step, row(cut_at_limit=1.0))]
    assert len(lines) == 1
    assert "raise rollout.max_new_tokens" in lines[0]
    assert watch.learnt


def test_one_good_step_in_between_ends_the_streak():
    watch = HealthWatch()
    rows = [row(**DEAD), row(**DEAD), row()] * 5
    assert [line for step, r in enumerate(rows) for line in watch.step(step, r)] == []
    assert watch.learnt
    assert watch.finish() == []


def test_a_domain_that_teaches_nothing_is_named_also_across_steps_without_it():
    watch, lines = HealthWatch(), []
    saturated = row(live_groups__chat=0.0, reward__chat=1.0)
    without = {k: v for k, v in row().items() if not k.endswith("/chat")}
    for step in range(1, 2 * DOMAIN_PATIENCE + 1):
        lines += watch.step(step, without if step % 2 else saturated)
    (line,) = lines
    assert "chat teaches nothing: the rewards of a group are all equal" in line
    assert ", mean 1.000;" in line
    assert line.startswith(f"steps 2–{2 * DOMAIN_PATIENCE}: ")


def test_families_that_were_folded_into_means_are_read_too():
    folded = {"live_groups/mean": 0.0, "reward/a": 0.0, "cut_at_limit/mean": 1.0, "grad_norm": 0.1}
    assert "cut at the token limit" in symptoms(folded)["no_signal"]


def test_a_resumed_run_does_not_repeat_itself_and_goes_on_counting():
    rows = [{"step": step, **row(**DEAD)} for step in range(1, 6)]
    assert watched(rows).step(6, row(**DEAD)) == []
    assert len(watched(rows[: PATIENCE - 1]).step(PATIENCE, row(**DEAD))) == 1


def test_a_damaged_row_is_passed_over():
    rows = [{"step": 1, "live_groups/math": "x", "cut_at_limit/math": [], "skipped": None}]
    assert watched(rows).finish() == []


@given(st.dictionaries(st.sampled_from(sorted(row())), st.none() | st.floats(), max_size=12))
def test_any_row_can_be_read(values):
    """Also of an older version, a damaged one, or one full of nulls."""
    watch = HealthWatch()
    for step in range(PATIENCE):
        watch.step(step, values)
    assert all(isinstance(line, str) for line in watch.finish())


@given(
    st.floats(0.01, 1),
    st.floats(1e-6, 1e3),
    st.floats(1e-9, 1),
    st.floats(0, 0.9),
    st.floats(-9, 9),
)
def test_a_healthy_step_has_no_symptoms(live, norm, rate, cut, reward):
    changes = {"live_groups": live, "cut_at_limit": cut, "reward": reward}
    assert symptoms(row(**changes, grad_norm=norm, learning_rate=rate)) == {}
