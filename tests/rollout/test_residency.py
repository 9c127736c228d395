"""The order of sleeping and waking, held for every engine, and on real ones."""

from collections.abc import Iterator
from itertools import product

import pytest
import torch

from mgsrl.config import RolloutConfig
from mgsrl.config.model_load import load_causal_lm
from mgsrl.config.model_path import POCKET, POCKET_POLICY, resolve_model_path
from mgsrl.errors import InvariantError
from mgsrl.rollout.actor import RolloutWorker
from mgsrl.rollout.engine import EngineSpec
from mgsrl.rollout.residency import KV_CACHE, PARTS, WEIGHTS, Residency
from mgsrl.sync.wire import pack_group
from mgsrl.types import GenerationRequest, Sampling

REQUESTS = [GenerationRequest(f"r{i}", (5, 6, 7 + i), i, Sampling(1.0, 6)) for i in range(3)]


def test_every_short_sequence_of_calls_ends_well_or_is_refused() -> None:
    """Against a model written the other way round: a list of what must have happened before."""
    calls = {
        "sleep 2": lambda r: r.sleep(2),
        "sleep 1": lambda r: r.sleep(1),
        "weights": lambda r: r.wake([WEIGHTS]),
        "kv": lambda r: r.wake([KV_CACHE]),
        "update": lambda r: (r.need_weights("update_weights"), r.filled()),
        "use": lambda r: r.need("generate"),
    }
    for names in product(calls, repeat=5):
        residency, legal = Residency(), True
        for index, name in enumerate(names):
            before = names[:index]
            slept = [i for i, b in enumerate(before) if b.startswith("sleep")]
            since = before[slept[-1] :] if slept else ()
            dropped = "sleep 2" in since and "update" not in since
            up = not slept or ("weights" in since and "kv" in since)
            whole = not slept or (up and not dropped)
            if name == "use" or name.startswith("sleep"):
                legal = whole
            elif name == "update":
                legal = not slept or "weights" in since
            elif name == "kv":
                legal = up or ("weights" in since and not dropped)
            try:
                calls[name](residency)
            except InvariantError:
                assert not legal, (before, name)
                break
            assert legal, (before, name)


def test_waking_what_is_awake_is_nothing() -> None:
    residency = Residency()
    assert residency.wake(PARTS) == []
    residency.sleep(1)
    assert residency.wake([WEIGHTS]) == [WEIGHTS]
    assert residency.wake(PARTS) == [KV_CACHE]


ENGINES = ["transformers", pytest.param("vllm", marks=[pytest.mark.slow, pytest.mark.vllm])]


@pytest.fixture(scope="module", params=ENGINES)
def worker(request: pytest.FixtureRequest) -> Iterator[RolloutWorker]:
    config = RolloutConfig(engine=request.param, kv_cache_gib=0.1, max_prompts_in_flight=8)
    worker = RolloutWorker(EngineSpec(config, POCKET, 64, sleeps=True))
    worker.ready()
    yield worker
    worker.close()


def published() -> dict[str, torch.Tensor]:
    path = resolve_model_path(POCKET, "policy.path", POCKET_POLICY)
    model = load_causal_lm(path, torch.float32, trust_remote_code=False)
    return {name: value.detach() for name, value in model.named_parameters()}


def update(worker: RolloutWorker, weights: dict[str, torch.Tensor], version: str) -> None:
    worker.start_weight_update()
    for name, value in weights.items():
        worker.update_weights(pack_group([name], [value]))
    worker.finish_weight_update(version)


def tokens(worker: RolloutWorker) -> list[tuple[int, ...]]:
    return [rollout.token_ids for rollout in worker.generate(REQUESTS)]


@pytest.mark.timeout(300)
def test_a_real_engine_sleeps_and_wakes(worker: RolloutWorker) -> None:
    weights, before = published(), tokens(worker)
    for version, level in enumerate((2, 1, 2)):
        worker.sleep(level)
        with pytest.raises(InvariantError, match="generate of an engine with kv_cache and weights"):
            worker.generate(REQUESTS)
        with pytest.raises(InvariantError, match="whose weights are asleep"):
            worker.start_weight_update()
        with pytest.raises(InvariantError):
            worker.wake_up([KV_CACHE])
        worker.wake_up([WEIGHTS])
        if level == 2:
            with pytest.raises(InvariantError, match="should follow an update"):
                worker.wake_up([KV_CACHE])
            update(worker, weights, str(version))
        with pytest.raises(InvariantError, match="engine with kv_cache asleep"):
            worker.logprobs([(5, 6, 7)])
        worker.wake_up([KV_CACHE])
        assert tokens(worker) == before


def test_weights_that_were_dropped_and_not_sent_again_are_seen(worker: RolloutWorker) -> None:
    """Also where somebody goes around the order: transformers' engine computes with NaN then."""
    if worker.spec.config.engine != "transformers":
        pytest.skip("vLLM's sleep does nothing on a CPU")
    held = {name: value.clone() for name, value in worker.engine._parameters().items()}
    worker.engine.sleep(2)
    assert sum(value.numel() for value in worker.engine.model.parameters()) == 0
    worker.engine.wake_up(PARTS)
    assert all(value.isnan().all() for value in worker.engine.model.parameters())
    update(worker, held, "9")
    assert tokens(worker) == tokens(worker)
