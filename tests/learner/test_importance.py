"""Importance weights of sequences and masks, on two ranks: the textbook's update and metrics."""

from pathlib import Path
from typing import Any

import pytest
import torch

from mgsrl.surgery import module_map
from tests.learner.parts import (
    DOMAINS,
    TEMPERATURES,
    Case,
    algo_of,
    importance,
    make_batch,
    make_groups,
    make_spec,
    one_step,
    relative_error,
    spawn,
    textbook,
    whole_weights,
)
from tests.learner.parts import _logprobs as logprobs_of
from tests.learner.parts import _samples as samples_of

pytestmark = pytest.mark.timeout(900)

STEPS = 2
MASKED = {
    "math": {"importance_mask": "token"},
    "chat": {
        "importance_level": "sequence",
        "importance_mask": "sequence",
        "importance_low": 0.02,
        "importance_high": 50.0,
        "importance_cap": 3.0,
    },
    "instructions": {
        "importance_cap": None,
        "importance_mask": "geometric",
        "importance_low": 0.4,
        "importance_high": 2.0,
    },
}
"""A mask of each kind."""
CASES = {
    "masks": Case(own=MASKED),
    "masks3": Case(own=MASKED, zero_stage=3, micro_batch_size=1),
    "two_updates": Case(
        own=MASKED | {"instructions": {"importance_level": "sequence", "importance_cap": 1.5}},
        updates_per_batch=2,
        lr=3e-3,
    ),
}

SHARED = {"masks": "masks", "masks3": "masks", "two_updates": "two_updates"}
"""Whose textbook is whose."""


def run_cases(rank: int, world_size: int, address: str, model: Path) -> dict[str, Any]:
    from mgsrl.learner.worker import LearnerWorker

    results: dict[str, Any] = {}
    for name, case in CASES.items():
        worker = LearnerWorker(make_spec(model, case, world_size), rank, world_size, "cpu", 1)
        worker.start(address)
        start, losses = whole_weights(worker), []
        for step in range(STEPS):
            vocab_size = worker.policy.config.vocab_size
            batch = make_batch(vocab_size, world_size, case.micro_batch_size, step)
            losses.append(one_step(worker, batch, rank, step)[0])
        results[name] = {"start": start, "losses": losses, "weights": whole_weights(worker)}
    worker.stop()
    return results


@pytest.fixture(scope="module")
def results(tiny_untied_model: Path) -> dict[str, Any]:
    return spawn(run_cases, 2, tiny_untied_model)[0]


@pytest.fixture(scope="module")
def expected(results: dict[str, Any], tiny_untied_model: Path) -> dict[str, Any]:
    """The textbook's weights; those of both stages are the same."""
    modules = module_map(list(results["masks"]["start"]))
    of = {n: textbook(tiny_untied_model, CASES[n], STEPS, modules)[0] for n in set(SHARED.values())}
    return {name: of[SHARED[name]] for name in CASES}


@pytest.mark.parametrize("name", CASES)
def test_the_update_is_the_textbooks(
    name: str, results: dict[str, Any], expected: dict[str, Any]
) -> None:
    found = results[name]
    assert relative_error(found["weights"], found["start"], expected[name]) < 1e-5


@pytest.mark.parametrize("name", ["masks", "masks3"])
def test_the_metrics_are_those_of_the_whole_domain(
    name: str, results: dict[str, Any], tiny_untied_model: Path
) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_untied_model, dtype=torch.float64)
    groups = make_groups(model.config.vocab_size, 0)
    for domain in DOMAINS:
        algo = algo_of(CASES[name], tiny_untied_model, domain)
        weights, kept, kl = [], [], []
        for sample in samples_of(groups[domain], TEMPERATURES[domain]):
            old = logprobs_of(model, sample)[0].detach()
            for values, each in zip((weights, kept), importance(old, sample[2], algo)):
                values.append(each)
            ratio = (old - torch.tensor(sample[2], dtype=torch.float64)).exp()
            kl.append(ratio - 1 - ratio.log())
        w, k, stats = torch.cat(weights), torch.cat(kept), results[name]["losses"][0][domain]
        share = (w.sum() ** 2 / (len(w) * (w**2).sum())).item()
        assert stats.importance_ess == pytest.approx(share, rel=1e-5)
        assert stats.masked_fraction == pytest.approx(1 - k.mean().item(), abs=1e-9)
        assert 0.05 < stats.masked_fraction < 0.95
        assert stats.mismatch_kl == pytest.approx(torch.cat(kl).mean().item(), rel=1e-4)
