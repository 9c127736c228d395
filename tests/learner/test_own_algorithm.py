"""One domain with another loss, advantage and aggregation than the others: the textbook's update.

The sums over a domain's responses have denominators of the whole batch, whichever it takes.
"""

from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest

from mgsrl.algo.advantages import with_advantages
from mgsrl.surgery import module_map
from mgsrl.types import Reward
from tests.learner.parts import (
    DOMAINS,
    Case,
    Groups,
    algo_of,
    make_batch,
    make_spec,
    one_step,
    relative_error,
    spawn,
    textbook,
    whole_weights,
)

pytestmark = pytest.mark.timeout(900)

STEPS = 2
OWN = {
    "chat": {
        "advantage": "rloo",
        "loss": "cispo",
        "aggregation": "sequence_mean",
        "clip_low": 0.02,
        "clip_high": 0.02,
    },
    "instructions": {"normalize_std": False, "aggregation": "sequence_sum_norm"},
}
CASES = {
    "stage2": Case(own=OWN, updates_per_batch=2, lr=3e-3),
    "stage3": Case(own=OWN, updates_per_batch=2, lr=3e-3, zero_stage=3, micro_batch_size=1),
}


def rewarded(groups: Groups) -> Groups:
    """What is drawn as advantages as rewards."""
    return {
        domain: [
            replace(group, rewards=tuple(map(Reward, group.advantages)), advantages=())
            for group in of_domain
        ]
        for domain, of_domain in groups.items()
    }


def by_hand(groups: Groups) -> Groups:
    def of(domain: str, rewards: tuple[float, ...]) -> tuple[float, ...]:
        total, number = sum(rewards), len(rewards)
        if domain == "chat":
            return tuple(r - (total - r) / (number - 1) for r in rewards)
        scale = stdev(rewards) + 1e-6 if domain == "math" else 1.0
        return tuple((r - fmean(rewards)) / scale for r in rewards)

    return {
        domain: [replace(group, advantages=of(domain, group.advantages)) for group in of_domain]
        for domain, of_domain in groups.items()
    }


def run_cases(rank: int, world_size: int, address: str, model: Path) -> dict[str, Any]:
    from mgsrl.learner.worker import LearnerWorker

    results: dict[str, Any] = {}
    for name, case in CASES.items():
        worker = LearnerWorker(make_spec(model, case, world_size), rank, world_size, "cpu", 1)
        worker.start(address)
        algos = {domain: algo_of(case, model, domain) for domain in DOMAINS}
        start, vocab_size = whole_weights(worker), worker.policy.config.vocab_size
        for step in range(STEPS):
            batch = make_batch(
                vocab_size,
                world_size,
                case.micro_batch_size,
                step,
                scored=lambda groups, algos=algos: with_advantages(rewarded(groups), algos),
            )
            losses, _, _ = one_step(worker, batch, rank, step)
        results[name] = {"start": start, "losses": losses, "weights": whole_weights(worker)}
    worker.stop()
    return results


def test_the_update_is_the_textbooks(tiny_untied_model: Path) -> None:
    results = spawn(run_cases, 2, tiny_untied_model)[0]
    modules = module_map(list(results["stage2"]["start"]))
    expected, _ = textbook(tiny_untied_model, CASES["stage2"], STEPS, modules, scored=by_hand)
    for found in results.values():
        assert relative_error(found["weights"], found["start"], expected) < 1e-5
        assert 0 < found["losses"]["chat"].clip_fraction < 1
    alike = replace(CASES["stage2"], own={"chat": OWN["chat"]})
    other, _ = textbook(tiny_untied_model, alike, STEPS, modules, scored=by_hand)
    assert relative_error(other, results["stage2"]["start"], expected) > 1e-3, (
        "it makes a difference"
    )
