import math
from dataclasses import replace

import pytest

from mgsrl.obs import metrics
from mgsrl.obs.timers import StageTimers
from tests.obs.records import domain_stats, group, step_stats, surgery_report


def scalars_of(domains):
    return metrics.step_scalars(
        groups={d: [group(d, i) for i in range(2)] for d in domains},
        domain_stats={d: domain_stats() for d in domains},
        surgery=surgery_report(domains),
        step=step_stats(),
        times={**StageTimers().finish_step(), "time/total": 2.0},
        weight_version=5,
        canary_error=1e-6,
        packing=dict.fromkeys(["packing/padding", "packing/shared", "packing/waiting"], 0.0)
        | {"packing/forward_only": 0.5},
        restarts={"rollout": 0, "reward": 1},
        staleness={f"staleness/{d}": 1.0 for d in domains},
    )


def whole(folded):
    """What is not folded."""
    return {name for name in folded if not name.endswith(("/mean", "/min"))}


def test_rollout_metrics_by_hand():
    groups = {
        "math": [
            group(values=(1.0, 0.0), advantages=(1.0, -1.0), lengths=(3, 5)),
            group(index=1, values=(None, 0.5), advantages=(0.0, 0.0), lengths=(4, 8)),
        ]
    }
    m = metrics.rollout_metrics(groups)
    assert m["reward/math"] == pytest.approx(0.5)
    spread = [m[f"reward_{name}/math"] for name in ("std", "min", "max")]
    assert spread == pytest.approx([0.5, 0.0, 1.0])  # of 1, 0 and 0.5, n - 1
    assert m["response_length/math"] == pytest.approx(5.0)
    assert m["live_groups/math"] == 0.5
    assert m["abstained/math"] == 0.25
    assert m["format_ok/math"] == 0.75
    assert m["cut_at_limit/math"] == 0.5


def test_staleness_is_the_mean_over_tokens():
    old, new = group(lengths=(3, 5)), group(index=1, lengths=(4, 4))
    old = replace(old, rollouts=tuple(replace(r, weight_version=4) for r in old.rollouts))
    new = replace(new, rollouts=tuple(replace(r, weight_version=6) for r in new.rollouts))
    groups = {"math": [old, new], "chat": [old], "if": []}
    found = metrics.staleness_metrics(groups, version=6)
    assert found["staleness/math"] == 1.0
    assert found["staleness/chat"] == 2.0
    assert math.isnan(found["staleness/if"])
    assert metrics.oldest_version(groups) == 4


def test_live_groups_are_counted_but_for_rounding():
    """An estimator of one's own may leave 1e-17 where there is no signal."""
    groups = [group(values=(1.0, 1.0), advantages=(2e-17, 2e-17)), group(index=1)]
    assert metrics.rollout_metrics({"math": groups})["live_groups/math"] == 0.5


def test_shares_are_means_over_all_tokens():
    few = replace(domain_stats(), clip_fraction=0.5, truncated_fraction=0.1, num_tokens=100)
    many = replace(domain_stats(), clip_fraction=0.1, truncated_fraction=0.0, num_tokens=300)
    m = metrics.learner_metrics({"math": few, "chat": many})
    assert m["clip_fraction"] == pytest.approx(0.2)
    assert m["importance_capped"] == pytest.approx(0.025)
    nothing = metrics.learner_metrics({"math": replace(few, num_tokens=0)})
    assert math.isnan(nothing["clip_fraction"])


def test_the_importance_weight_is_measured_where_it_is_on():
    off = replace(domain_stats(), importance_ess=math.nan)
    masked = replace(off, importance_ess=0.5, masked_fraction=0.25)
    m = metrics.learner_metrics({"math": masked, "chat": off})
    assert (m["importance_ess/math"], m["importance_masked/math"]) == (0.5, 0.25)
    assert m["mismatch_kl/chat"] == 1e-9
    assert not {"importance_ess/chat", "importance_masked/chat"} & m.keys()


def test_nothing_is_folded_for_the_share_that_a_mask_leaves_out():
    scalars = {"loss/a": 1.0, "loss/b": 2.0}
    masked = {"importance_masked/a": 0.25, "importance_masked/b": 0.75}
    assert metrics.fold(scalars | masked, limit=2) == scalars | masked


def test_the_importance_weight_costs_no_other_metric_its_place():
    """As the spreads of rewards: whatever 83 scalars held without it is among 89 with it."""
    names = ("importance_ess", "mismatch_kl")
    families = [f for f in metrics.FOLD_ORDER if f != "surgery/conflict_rate"]
    for count in range(1, 12):
        full = {f"{f}/domain{i}": 0.0 for f in families for i in range(count)}
        full |= scalars_of(tuple(f"domain{i}" for i in range(count)))
        without = {k: v for k, v in full.items() if not k.startswith(names)}
        assert whole(metrics.fold(without, limit=83)) <= whole(metrics.fold(full, limit=89))


def test_a_domain_that_abstained_altogether_has_no_reward():
    m = metrics.rollout_metrics({"chat": [group("chat", values=(None, None), advantages=(0, 0))]})
    assert all(math.isnan(m[f"reward{name}/chat"]) for name in ("", "_std", "_min", "_max"))
    assert m["abstained/chat"] == 1.0


def test_three_domains_log_everything_within_the_limit():
    domains = ("math", "chat", "if")
    scalars = scalars_of(domains)
    assert len(scalars) <= metrics.MAX_SCALARS
    assert scalars["surgery/conflict_rate/mlp"] == 0.5
    per_domain = [f for f in metrics.FOLD_ORDER if f not in ("surgery/cosine", *metrics.WITH_TOTAL)]
    for family in ("reward", *per_domain):
        assert all(f"{family}/{d}" in scalars for d in domains), family
    assert scalars["surgery/cosine/math-chat"] == -0.5
    assert scalars["weights/version"] == 5.0
    assert scalars["throughput/tokens_per_second"] == 3 * 2 * 8 / 2.0


def test_a_single_response_has_no_spread():
    m = metrics.rollout_metrics({"chat": [group("chat", values=(0.7,), advantages=(0,))]})
    assert math.isnan(m["reward_std/chat"])
    assert m["reward_min/chat"] == m["reward_max/chat"] == 0.7


def test_the_spread_of_rewards_costs_no_other_metric_its_place():
    """It is folded before the others, and the limit leaves it room: with any number of domains all
    that 75 scalars without it held is still there."""
    families = [family for family in metrics.FOLD_ORDER if family != "staleness"]
    for count in range(1, 12):
        scalars = scalars_of(tuple(f"domain{i}" for i in range(count)))
        full = {f"{f}/domain{i}": 0.0 for f in families for i in range(count)} | scalars
        full = {k: v for k, v in full.items() if not k.startswith("staleness")}
        without = {k: v for k, v in full.items() if not k.startswith("reward_")}
        assert whole(metrics.fold(without, limit=75)) <= whole(metrics.fold(full, limit=80))


def test_eight_domains_fold_the_least_telling_families():
    domains = tuple(f"domain{i}" for i in range(8))
    scalars = scalars_of(domains)
    assert len(scalars) <= metrics.MAX_SCALARS + 2
    assert all(f"reward/{d}" in scalars for d in domains)
    assert all(f"response_length/{d}" in scalars for d in domains)
    assert scalars["surgery/cosine/min"] == -0.5
    assert scalars["abstained/mean"] == 0.0
    assert "abstained/domain0" not in scalars
    assert scalars["grad_norm"] == 0.7


def test_kinds_of_modules_go_first_and_leave_the_overall_rate():
    scalars = {f"surgery/conflict_rate/kind{i}": 0.5 for i in range(9)}
    scalars |= {"surgery/conflict_rate": 0.25, "loss/a": 1.0}
    assert metrics.fold(scalars, limit=11) == scalars
    assert metrics.fold(scalars, limit=10) == {"surgery/conflict_rate": 0.25, "loss/a": 1.0}


def test_nothing_is_folded_for_a_probe():
    scalars = {"loss/a": 1.0, "loss/b": 2.0}
    rare = {"surgery/probe/harm": 0.5, "time/probe": 3.0}
    assert metrics.fold(scalars | rare, limit=2) == scalars | rare


def test_nothing_is_folded_for_the_shares_of_a_curriculum():
    scalars = {"loss/a": 1.0, "loss/b": 2.0}
    shares = {"mixture/share/a": 0.25, "mixture/share/b": 0.75}
    assert metrics.fold(scalars | shares, limit=2) == scalars | shares


def test_folding_means_skip_what_is_not_finite():
    folded = metrics.fold({"loss/a": math.nan, "loss/b": 2.0, "reward/a": 1.0}, limit=1)
    assert folded == {"loss/mean": 2.0, "reward/a": 1.0}
