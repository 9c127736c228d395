"""What surgery adds to a plain data-parallel step: one all-reduce, and the gradient rows.

Counted by the profiler inside two gloo processes, so that no collective escapes, whoever calls it;
memory by the allocator's own record. The plain sum is compared with the mixed gradient here, too.
"""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from mgsrl.config.model_path import POCKET_POLICY, resolve_model_path
from tests.learner.parts import (
    DOMAINS,
    TEMPERATURES,
    Case,
    _logprobs,
    _loss,
    _samples,
    algo_of,
    make_batch,
    make_groups,
    make_spec,
    one_step,
    spawn,
)

STAGES = (0, 1, 2, 3)
POCKET = resolve_model_path("pocket", "policy.path", POCKET_POLICY)


def profiled(work: Any) -> tuple[Any, Counter[str], int]:
    """(result, collectives by name, most bytes that were allocated at once on top)."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        result = work()
    events = profiler.profiler.kineto_results.events()
    collectives = Counter(event.name() for event in events if event.name().startswith("c10d::"))
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return result, collectives, peak


def make_worker(case: Case, rank: int, world_size: int, address: str, model: Path) -> Any:
    from mgsrl.learner.worker import LearnerWorker

    worker = LearnerWorker(make_spec(model, case, world_size), rank, world_size, "cpu", 1)
    worker.start(address)
    return worker


def measure(rank: int, world_size: int, address: str, model: Path) -> dict[str, Any]:
    """Per stage: collectives and memory of the second step's stages, and the plain gradient."""
    results: dict[str, Any] = {}
    for stage in STAGES:
        for rows in ("float32", "bfloat16"):
            case = Case(zero_stage=stage, buffer_dtype=rows, kl_coef=0.0)
            worker = make_worker(case, rank, world_size, address, model)
            vocab_size = worker.policy.config.vocab_size
            batch = make_batch(vocab_size, world_size, 4)
            one_step(worker, batch, rank, 0)  # AdamW allocates its moments
            worker.grads.start(())  # as before the first batch: no rows
            _, _, load = profiled(
                lambda: worker.load_batch(batch.per_rank[rank], batch.totals)  # noqa: B023
            )
            for domain in batch.domains:
                worker.accumulate(domain)
            report, collectives, resolve = profiled(lambda: worker.resolve_conflicts(1))  # noqa: B023
            worker.optimizer_step(1)
            results[f"{stage}_{rows}"] = {
                "columns": worker.layout.num_columns,
                "load": load,
                "collectives": collectives,
                "resolve": resolve,
                "gram": tuple(report.gram_MDD.shape),
            }
        results[f"plain_{stage}"] = plain_gradients(stage, rank, world_size, address, model)
    worker.stop()
    return results


Pieces = dict[tuple[str, int], torch.Tensor]
"""(parameter name, first element) -> gradient."""


def plain_gradients(
    stage: int, rank: int, world_size: int, address: str, model: Path
) -> tuple[Pieces, Pieces]:
    """The sum of the domains' gradients, and that of the same batch as one domain."""
    domains = (*DOMAINS, "all")
    case = Case(zero_stage=stage, method="none", micro_batch_size=2, domains=domains)
    worker = make_worker(case, rank, world_size, address, model)
    batch = make_batch(worker.policy.config.vocab_size, world_size, case.micro_batch_size)
    part = batch.per_rank[rank]
    mixed = tuple(replace(b, domain="all") for batches in part.values() for b in batches)
    found = []
    for micro_batches in (part, {"all": mixed}):
        worker.load_batch(micro_batches, batch.totals)
        for domain in micro_batches:
            worker.accumulate(domain)
        worker.resolve_conflicts(0)
        combined_N = worker.grads.combined()
        found.append(
            {
                (shard.name, shard.start): combined_N[shard.column :][: shard.numel].clone()
                for shard in worker.layout.shards
            }
        )
    return found[0], found[1]


@pytest.fixture(scope="module")
def ranks() -> list[dict[str, Any]]:
    return spawn(measure, 2, Path(POCKET))


ROWS = [f"{stage}_{rows}" for stage in STAGES for rows in ("float32", "bfloat16")]


@pytest.mark.parametrize("name", ROWS)
def test_surgery_is_exactly_one_all_reduce(name: str, ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        assert rank[name]["collectives"] == {"c10d::allreduce_": 1}


@pytest.mark.parametrize("name", ROWS)
def test_extra_memory_is_the_rows(name: str, ranks: list[dict[str, Any]]) -> None:
    """D rows when the batch is loaded; nothing of a row's size while they are resolved, but the
    one fp32 row that rows of another type are combined into."""
    size = 4 if name.endswith("float32") else 2
    for rank in ranks:
        found = rank[name]
        rows = len(DOMAINS) * found["columns"] * size
        combined = 0 if size == 4 else found["columns"] * 4
        print(
            f"{name}: rows {rows:,} B; loading {found['load']:,} B, resolving "
            f"{found['resolve']:,} B (of which the combined row {combined:,} B)"
        )
        assert rows <= found["load"] < 1.02 * rows
        # Gramians of 2048 columns each, and of one block in another type.
        assert found["resolve"] - combined < 0.05 * rows + 2**22 * (size == 2)


@pytest.fixture(scope="module")
def exact() -> dict[str, torch.Tensor]:
    """One backward of the whole mixed batch in float64."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(POCKET, dtype=torch.float64)
    groups = make_groups(model.config.vocab_size)
    samples = {d: list(_samples(groups[d], TEMPERATURES[d])) for d in DOMAINS}
    rows = [sample for of_domain in samples.values() for sample in of_domain]
    sizes = (sum(len(s[1]) for s in rows), len(rows))
    for d in DOMAINS:
        old = [_logprobs(model, sample)[0].detach() for sample in samples[d]]
        _loss(model, model, samples[d], old, algo_of(Case(), POCKET), sizes).backward()
    return {name: p.grad.reshape(-1) for name, p in model.named_parameters()}


@pytest.mark.parametrize("stage", STAGES)
def test_plain_sum_is_the_mixed_gradient(
    stage: int, ranks: list[dict[str, Any]], exact: dict[str, torch.Tensor]
) -> None:
    """To 1e-6 of the same batch trained as one domain; to fp32's accuracy (measured 2.4e-6) of the
    float64 gradient."""
    found = {k: v for rank in ranks for k, v in rank[f"plain_{stage}"][0].items()}
    mixed = {k: v for rank in ranks for k, v in rank[f"plain_{stage}"][1].items()}
    wanted = {(n, start): exact[n][start:][: len(v)] for (n, start), v in found.items()}
    assert sum(map(len, wanted.values())) == sum(map(len, exact.values()))
    assert _error(found, mixed) < 1e-6
    assert _error(found, wanted) < 1e-5


def _error(found: Pieces, expected: Pieces) -> float:
    error = sum((found[k].double() - expected[k]).square().sum().item() for k in expected)
    return (error / sum(v.double().square().sum().item() for v in expected.values())) ** 0.5
