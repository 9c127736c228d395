"""Seconds of stages: against an H200's steps, and as they must depend on what they are of."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from mgsrl.cluster.hardware import GPUS
from mgsrl.cluster.roofline import Engine, Learner, Ring, Share, gpu_rates
from mgsrl.config.model_shape import model_shape

MEASURED = json.loads((Path(__file__).parents[2] / "mgsrl/assets/plan_measured.json").read_text())
H200 = {row["model"]: row for row in MEASURED["seconds"]["rows"]}
"""Sequences of a micro-batch and seconds of a step, as in the README: 192 responses of 512 + 512
tokens, prompts not shared, three domains, a reference, no recomputation, one rank, bfloat16."""
SEVEN = "Qwen/Qwen2.5-7B"


def learner(name: str, gpu: str = "H200-141GB", ranks: int = 1, per_node: int = 8) -> Learner:
    return Learner(
        shape=model_shape(name),
        rates=gpu_rates(GPUS[gpu], eager=False),
        ring=Ring(ranks, per_node),
        dtype="bfloat16",
        zero_stage=2,
        recomputes=False,
        rows=3,
        row_dtype="float32",
    )


@pytest.mark.parametrize("name", H200)
def test_an_h200s_steps(name: str) -> None:
    seconds = H200[name]["measured"]
    share = Share(192 * 1024, 192 * 512, 192 * 1024**2 / 2, 192 // H200[name]["micro_batch"])
    found = learner(name)
    total = found.reference(share) + found.backward(share) + found.surgery() + found.step()
    assert total == pytest.approx(seconds, rel=0.12)
    assert total == pytest.approx(H200[name]["planned"], rel=0.01)  # what a plan says of its error
    assert found.surgery() < 0.003 * seconds  # 0.3 % were measured, launches included


def test_ranks_over_machines_talk_more_slowly() -> None:
    share = Share(100_000, 50_000, 1e9, 20)
    near = replace(learner(SEVEN, "A100-80GB", 16, 16), zero_stage=3)
    far = replace(near, ring=Ring(16, 1))
    assert far.gathers(share, 1) > 5 * near.gathers(share, 1)
    assert far.backward(share) > near.backward(share) == 3 * near.one_pass(share)
    alone = replace(near, ring=Ring(1, 1))
    assert alone.gathers(share, 1) == 0
    recomputed = replace(alone, recomputes=True)
    assert recomputed.backward(share) == pytest.approx(4 / 3 * alone.backward(share))


def engine(most: int = 256, parallel: int = 1) -> Engine:
    rates = gpu_rates(GPUS["H100-80GB"], eager=False)
    return Engine(model_shape(SEVEN), rates, "bfloat16", parallel, most)


def test_decoding_reads_the_weights_or_multiplies() -> None:
    alone = engine().iteration(1, 0)
    weights = 2 * 7.07e9
    assert alone == pytest.approx(weights / (0.8 * 3.35e12) + 4e-3, rel=0.01)
    assert engine().iteration(64, 0) == pytest.approx(alone, rel=0.01)  # one reading serves all
    assert engine().iteration(8192, 0) > 3 * alone
    assert engine().iteration(64, 8192) > 1.5 * alone  # the cache is read too
    assert engine(parallel=2).iteration(1, 0) < alone


def test_a_long_response_ends_alone() -> None:
    even, one_long = [100.0] * 64, [100.0] * 63 + [1000.0]
    assert engine().decode(even, 100) == pytest.approx(100 * engine().iteration(64, 150), rel=0.05)
    tail = engine().decode(one_long, 100) - engine().decode(even, 100)
    assert tail == pytest.approx(900 * engine().iteration(1, 650), rel=0.05)
    halves = engine(most=32).decode(even, 100)
    assert halves == pytest.approx(200 * engine().iteration(32, 150), rel=0.05)
    assert engine().decode([], 100) == 0
