"""Seeds, batches and groups; then the same on real Ray actors, one of which dies."""

import importlib.util
import json
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mgsrl.cluster.session import ray_session
from mgsrl.config import ClusterConfig, DomainConfig, RolloutConfig, SyncConfig
from mgsrl.errors import ConfigError, InvariantError, MissingPathError
from mgsrl.rollout.actor import (
    RolloutWorker,
    check_engine,
    check_tensor_parallel,
    cpu_threads,
    rollout_pools,
    worker_environment,
)
from mgsrl.rollout.dispatch import Order, deal
from mgsrl.rollout.engine import EngineSpec
from mgsrl.rollout.sampler import Sampler, request_seed, training_sampling
from mgsrl.sync.client import RolloutClient
from mgsrl.sync.object_store import ObjectStoreSender
from mgsrl.types import GenerationRequest, Prompt, Sampling
from tests.sync.sources import ModuleSource, perturbed

SAMPLING = {"math": Sampling(1.0, 8), "chat": Sampling(0.7, 6)}


def prompts() -> dict[str, list[Prompt]]:
    return {
        domain: [
            Prompt(id=f"p{i}", domain=domain, messages=(), token_ids=(5 + i, 9, 30)[: 1 + i % 3])
            for i in range(4)
        ]
        for domain in ("math", "chat")
    }


def test_seeds_are_stable_and_distinct() -> None:
    assert request_seed(0, 1, "math/p0", 0) == 25871629189363182
    seeds = {
        request_seed(run, step, prompt, sample)
        for run in range(3)
        for step in range(-1, 4)
        for prompt in ("a", "b", "1", "11")
        for sample in range(8)
    }
    assert len(seeds) == 3 * 5 * 4 * 8
    assert all(0 <= seed < 2**63 for seed in seeds)


def orders(count: int, samples: int) -> list[Order]:
    """Of prompts of 1 to 40 tokens, and 4 to 64 expected ones."""
    return [
        Order(
            3,
            tuple(
                GenerationRequest(f"3/{i}/{j}", (1,) * (1 + i * 7 % 40), 0, Sampling(1.0, 64))
                for j in range(samples)
            ),
            tokens=4.0 ** (1 + i % 3),
        )
        for i in range(count)
    ]


def test_one_worker_gets_everything_as_it_is() -> None:
    assert deal(orders(5, 4), 1) == [orders(5, 4)]
    assert deal([], 1) == [[]]
    assert deal([], 3) == [[], [], []]


@pytest.mark.parametrize("workers", [2, 3, 8])
def test_shares_are_balanced_by_expected_work_whole_and_deterministic(workers: int) -> None:
    shares = deal(orders(24, 4), workers)
    assert shares == deal(orders(24, 4), workers)
    assert sorted(o.requests[0].id for share in shares for o in share) == sorted(
        o.requests[0].id for o in orders(24, 4)
    )
    loads = [sum(order.work for order in share) for share in shares]
    assert max(loads) - min(loads) <= max(order.work for order in orders(24, 4))
    for share in shares:  # the long ones first: they end last
        assert [o.work for o in share] == sorted((o.work for o in share), reverse=True)


def test_domains_override_sampling() -> None:
    config = RolloutConfig(temperature=0.9, max_new_tokens=32)
    domains = {"math": DomainConfig(), "chat": DomainConfig(temperature=0.7, max_new_tokens=64)}
    assert training_sampling(config, domains) == {
        "math": Sampling(0.9, 32),
        "chat": Sampling(0.7, 64),
    }


def test_tensor_parallelism_is_for_vllm_on_gpus() -> None:
    check_tensor_parallel(RolloutConfig(), "cpu")
    check_tensor_parallel(RolloutConfig(tensor_parallel_size=2), "cuda")
    with pytest.raises(ConfigError, match="tensor_parallel_size"):
        check_tensor_parallel(RolloutConfig(tensor_parallel_size=2), "cpu")
    with pytest.raises(ConfigError, match="tensor_parallel_size"):
        check_tensor_parallel(RolloutConfig(tensor_parallel_size=2, engine="transformers"), "cuda")


def test_small_models_get_one_thread(tiny_model: Path) -> None:
    assert cpu_threads(str(tiny_model), 1) == 1
    assert cpu_threads("owner/large-model", 1) >= 1


def spec(path: Path, engine: str = "transformers", **config: Any) -> EngineSpec:
    return EngineSpec(
        config=RolloutConfig(engine=engine, start_limit_s=120, **config),
        model_path=str(path),
        max_model_len=64,
    )


def make_sampler(path: Path, **config: Any) -> Sampler:
    pools = rollout_pools(spec(path, num_workers=2, **config), {"math": 1, "chat": 1})
    return Sampler(pools, SAMPLING, samples_per_prompt=3, seed=11, limit_s=120)


@pytest.fixture(scope="module")
def ray_local() -> Iterator[None]:
    with ray_session(ClusterConfig(object_store_gib=0.2)):
        yield


@pytest.fixture(scope="module")
def sampler(ray_local: None, tiny_model: Path) -> Sampler:
    """Two workers that serve both domains; its tests run in the order of this file."""
    shared = make_sampler(tiny_model)
    shared.wait_ready()
    return shared


def in_this_process(path: Path, step: int) -> dict[str, list[tuple[tuple[int, ...], ...]]]:
    """What one engine gives, without Ray."""
    worker = RolloutWorker(spec(path))
    return {
        domain: [
            tuple(
                worker.generate(
                    [
                        GenerationRequest(
                            "x",
                            prompt.token_ids,
                            request_seed(11, step, f"{domain}/{prompt.id}", sample),
                            SAMPLING[domain],
                        )
                    ]
                )[0].token_ids
                for sample in range(3)
            )
            for prompt in of_domain
        ]
        for domain, of_domain in prompts().items()
    }


def tokens(groups: dict[str, Any]) -> dict[str, Any]:
    return {
        domain: [tuple(r.token_ids for r in group.rollouts) for group in of_domain]
        for domain, of_domain in groups.items()
    }


def test_a_missing_model_stops_before_any_actor(tmp_path: Path) -> None:
    with pytest.raises(MissingPathError):
        rollout_pools(spec(tmp_path / "none"), {"math": 1})


def test_vllm_is_looked_for_before_any_actor(monkeypatch: pytest.MonkeyPatch) -> None:
    check_engine(RolloutConfig(engine="transformers"), "cpu")
    with pytest.raises(ConfigError, match="does not take weights by NCCL"):
        check_engine(RolloutConfig("transformers", sync=SyncConfig(transfer="nccl")), "cuda")
    with pytest.raises(ConfigError, match="NCCL"):
        check_engine(RolloutConfig(sync=SyncConfig(transfer="nccl")), "cpu")
    monkeypatch.setattr("mgsrl.rollout.support.NUMA_LIBRARY", "libnowhere.so.1")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "vllm", None)  # Python's own way to say: not installed
        with pytest.raises(ConfigError, match="neither is installed"):
            check_engine(RolloutConfig(engine="vllm"))
    if importlib.util.find_spec("vllm") is not None:
        check_engine(RolloutConfig(engine="vllm"), "cuda")
        with pytest.raises(ConfigError, match="libnuma1"):
            check_engine(RolloutConfig(engine="vllm"), "cpu")


@pytest.mark.ray_cluster
def test_mistakes_that_loading_shows_are_told_plainly(
    ray_local: None, tiny_model: Path, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    shutil.copytree(tiny_model, tmp_path, dirs_exist_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").unlink()
    config = json.loads((tmp_path / "config.json").read_text()) | {"eos_token_id": None}
    (tmp_path / "config.json").write_text(json.dumps(config))
    pool = rollout_pools(spec(tmp_path), {"math": 1})["math"]
    try:
        with pytest.raises(ConfigError, match="no end-of-sequence token"):
            pool.wait_ready()
    finally:
        pool.stop()


@pytest.mark.ray_cluster
def test_groups_come_in_order_whoever_makes_them(sampler: Sampler, tiny_model: Path) -> None:
    progress: list[tuple[int, int]] = []
    groups = sampler.rollout(prompts(), 5, lambda done, total: progress.append((done, total)))
    assert [g.prompt.id for g in groups["chat"]] == ["p0", "p1", "p2", "p3"]
    assert tokens(groups) == in_this_process(tiny_model, 5)
    assert progress[-1] == (24, 24)
    assert len(sampler.distinct_pools) == 1
    assert len(sampler.handles) == 2


@pytest.mark.ray_cluster
def test_evaluation_has_its_own_seeds_and_settings(sampler: Sampler) -> None:
    evaluated = tokens(sampler.evaluate(prompts(), samples_per_prompt=3))
    assert evaluated == tokens(sampler.evaluate(prompts(), samples_per_prompt=3))
    assert evaluated != tokens(sampler.rollout(prompts(), 0))
    greedy = sampler.evaluate(prompts(), {"math": Sampling(0.0, 8)}, samples_per_prompt=2)
    assert all(a.token_ids == b.token_ids for a, b in (g.rollouts for g in greedy["math"]))


@pytest.mark.ray_cluster
def test_dedicated_workers_give_the_same_responses(sampler: Sampler, tiny_model: Path) -> None:
    dedicated = make_sampler(tiny_model, assignment="dedicated")
    try:
        assert len({facts["pid"] for facts in dedicated.wait_ready()}) == 2
        assert len(dedicated.distinct_pools) == 2
        assert tokens(dedicated.rollout(prompts(), 5)) == tokens(sampler.rollout(prompts(), 5))
    finally:
        dedicated.stop()


@pytest.mark.ray_cluster
def test_a_worker_killed_while_it_generates_loses_nothing(
    sampler: Sampler, tiny_model: Path
) -> None:
    """Its replacement gets the current weights, then the same requests with the same seeds."""
    import ray

    source = ModuleSource(perturbed(tiny_model))

    def publish(handles: list[Any]) -> None:
        ObjectStoreSender(source, RolloutClient(handles, 60), True).send_weights(1)

    publish(sampler.handles)
    expected = tokens(sampler.rollout(prompts(), 9))
    restarted: list[Any] = []
    victim, pool = sampler.handles[0], sampler.distinct_pools[0]
    pool.on_restart = lambda handle: (restarted.append(handle), publish([handle]))
    victim.__ray_call__.remote(lambda worker: time.sleep(60))  # busy: its batch must wait
    threading.Timer(1.0, ray.kill, [victim]).start()
    groups = sampler.rollout(prompts(), 9)
    assert tokens(groups) == expected
    assert {r.weight_version for of in groups.values() for g in of for r in g.rollouts} == {1}
    assert len(restarted) == 1
    assert victim not in sampler.handles


@pytest.mark.ray_cluster
def test_a_replacement_without_the_current_weights_is_noticed(sampler: Sampler) -> None:
    import ray

    sampler.distinct_pools[0].on_restart = None
    ray.kill(sampler.handles[1])
    sampler.rollout(prompts(), 2)  # the other worker makes what was the dead one's
    with pytest.raises(InvariantError, match=r"\[-1, 1\]"):
        sampler.rollout(prompts(), 3)


SLOW = """
import os, pathlib, time
from mgsrl.rollout.transformers_engine import TransformersEngine

class Slow(TransformersEngine):
    def generate(self, requests):
        time.sleep(0.3)
        with (pathlib.Path(__file__).parent / str(os.getpid())).open("a") as log:
            log.writelines(request.id + "\\n" for request in requests)
        return super().generate(requests)
"""


@pytest.mark.ray_cluster
def test_rollouts_go_on_while_weights_arrive_workers_die_and_others_are_evaluated(
    ray_local: None, tiny_model: Path, tmp_path: Path
) -> None:
    """Only what a dead worker had not handed over is made again; all tokens are those of their
    requests and versions."""
    import ray

    file = tmp_path / "slow.py"
    file.write_text(SLOW)
    sampler = make_sampler(tiny_model, engine=f"{file}:Slow", max_prompts_in_flight=2)
    source = ModuleSource(perturbed(tiny_model))

    def publish(handles: list[Any], version: int) -> None:
        ObjectStoreSender(source, RolloutClient(handles, 60), True).send_weights(version)

    sampler.staleness = 3  # from -1, the weights that it loaded, to 2
    sampler.distinct_pools[0].on_restart = lambda handle: publish([handle], 2)
    try:
        pids = [facts["pid"] for facts in sampler.wait_ready()]
        begin = time.monotonic()
        sampler.submit(prompts(), 5)
        sampler.submit(prompts(), 6)
        assert time.monotonic() - begin < 2.0
        wait_for_lines(tmp_path / str(pids[0]), 4)
        publish(sampler.handles, 2)
        evaluated = sampler.evaluate(prompts())
        kept = {id_ for s in sampler.gather().values() for id_ in s.made}
        assert 0 < len(kept) < 24, "an evaluation waited for what was asked before"
        victim = sampler.handles[0]
        ray.kill(victim)
        first, second = sampler.collect(5), sampler.collect(6)
        assert not sampler.outstanding
        again = sampler.rollout(prompts(), 6)
        assert tokens(second) == tokens(again)
        assert tokens(evaluated) == tokens(sampler.evaluate(prompts()))
    finally:
        sampler.stop()
    old = in_this_process(tiny_model, 5)
    versions = {r.weight_version for of in first.values() for g in of for r in g.rollouts}
    assert versions == {-1, 2}
    for domain, of_domain in first.items():
        for index, group in enumerate(of_domain):
            for sample, rollout in enumerate(group.rollouts):
                if rollout.weight_version == -1:
                    assert rollout.token_ids == old[domain][index][sample]
    made = [(tmp_path / str(pid)).read_text().split() for pid in pids]
    repeated = [id_ for id_ in made[1] if id_ in made[0]]
    assert not kept & set(repeated), "made again although it had been handed over"


def wait_for_lines(file: Path, count: int) -> None:
    deadline = time.monotonic() + 60
    while not file.exists() or len(file.read_text().splitlines()) < count:
        assert time.monotonic() < deadline
        time.sleep(0.02)


OWN = """
from mgsrl.rollout.engine import Engine
from mgsrl.rollout.transformers_engine import TransformersEngine

class Mine(TransformersEngine):
    hint = " (it takes no time)"

    @classmethod
    def environment(cls, config, device):
        return {"MINE": "1"}

class Half(Engine):
    def generate(self, requests):
        return []

    def close(self):
        pass

class Nothing:
    pass
"""


def test_an_engine_from_a_file_is_checked_before_any_actor(
    tiny_model: Path, tmp_path: Path
) -> None:
    file = tmp_path / "mine.py"
    file.write_text(OWN)
    check_engine(RolloutConfig(engine=f"{file}:Mine"), "cpu")
    own = spec(tiny_model, engine=f"{file}:Mine")
    assert worker_environment(own)["MINE"] == "1"
    rollouts = RolloutWorker(own).generate([GenerationRequest("r", (5, 9), 1, Sampling(1.0, 4))])
    assert rollouts[0].token_ids
    for name, said in (("Half", "without .*logprobs"), ("Nothing", "no rollout engine")):
        with pytest.raises(ConfigError, match=f"(?s){said}"):
            check_engine(RolloutConfig(engine=f"{file}:{name}"), "cpu")
    with pytest.raises(ConfigError, match="did you mean 'vllm'"):
        RolloutConfig(engine="vlm").validate()
