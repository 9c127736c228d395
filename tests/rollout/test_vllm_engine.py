"""Real vLLM in rollout actors: parity with transformers, seeds, weight updates, the stale head.

Two actors (tied and untied embeddings) are started once for all tests of this file.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from mgsrl.cluster.session import ray_session
from mgsrl.config import ClusterConfig, RolloutConfig
from mgsrl.errors import StaleWeightsError
from mgsrl.rollout.actor import rollout_pools
from mgsrl.rollout.engine import EngineSpec
from mgsrl.rollout.vllm_engine import PREFILL_TOKENS
from mgsrl.sync.canary import CanaryError, check_canary, compare_logprobs
from mgsrl.sync.client import RolloutClient
from mgsrl.sync.fingerprint import Proof, Published, compare, fingerprint
from mgsrl.sync.object_store import ObjectStoreSender
from mgsrl.sync.publication import Publication
from mgsrl.sync.source import WeightSource
from mgsrl.sync.wire import pack_group
from mgsrl.types import GenerationRequest, Rollout, Sampling
from tests.sync.sources import perturbed

pytestmark = [pytest.mark.vllm, pytest.mark.ray_cluster]

MAX_MODEL_LEN = 96
SEQUENCES = [(5, 9, 30, 31, 32, 77, 120), (8, 9, 10, 200, 201), tuple(range(40, 90))]


@pytest.fixture(scope="module")
def actors(tiny_model: Path, tiny_untied_model: Path) -> Iterator[dict[str, Any]]:
    config = RolloutConfig(engine="vllm", start_limit_s=240)
    narrow = RolloutConfig(engine="vllm", start_limit_s=240)
    narrow.kv_cache_gib = 3e-4  # 600 tokens of the tiny model, less than a configuration may have
    with ray_session(ClusterConfig(object_store_gib=0.2)):
        pools = {
            name: rollout_pools(EngineSpec(config, str(path), MAX_MODEL_LEN), {"math": 1})["math"]
            for name, path, config in (
                ("tied", tiny_model, config),
                ("untied", tiny_untied_model, narrow),
            )
        }
        for pool in pools.values():
            print(pool.wait_ready())
        yield {name: pool.handles[0] for name, pool in pools.items()}


def call(handle: Any, method: str, *args: Any) -> Any:
    import ray

    return ray.get(getattr(handle, method).remote(*args), timeout=120)


@pytest.fixture(scope="module")
def tied(actors: dict[str, Any]) -> Any:
    return actors["tied"]


def request(seed: int, prompt: tuple[int, ...] = (5, 9, 30), **sampling: Any) -> GenerationRequest:
    settings = {"temperature": 1.0, "max_new_tokens": 12, **sampling}
    return GenerationRequest(f"r{seed}", prompt, seed, Sampling(**settings))


@torch.no_grad()
def logits_after(model: torch.nn.Module, prompt: Any, response: Any) -> torch.Tensor:
    """[T, V] logits from which each response token was drawn."""
    tokens = torch.tensor([[*prompt, *response]])
    return model(tokens).logits[0, len(prompt) - 1 : -1]


def expected_logprobs(
    model: torch.nn.Module, prompt: Any, response: Any, temperature: float = 1.0
) -> torch.Tensor:
    logprobs = torch.log_softmax(logits_after(model, prompt, response) / temperature, dim=-1)
    return logprobs.gather(1, torch.tensor(response)[:, None]).squeeze(1)


def learner_scores(model: torch.nn.Module) -> list[list[float]]:
    return [[0.0, *expected_logprobs(model, s[:1], s[1:]).tolist()] for s in SEQUENCES]


def publish(handle: Any, model: torch.nn.Module, version: int) -> Published:
    """Send the model's weights; their fingerprints."""
    publication = Publication(
        WeightSource(model), model, as_checkpoint=True, engine_dtype=torch.float32, keep=True
    )
    publication.version = version
    ObjectStoreSender(publication, RolloutClient([handle], 60), True).send_weights(version)
    return publication.fingerprints


def canary_error(handle: Any, model: torch.nn.Module) -> CanaryError:
    return compare_logprobs(call(handle, "logprobs", SEQUENCES), learner_scores(model))


def proof(handle: Any, published: Published, version: int) -> Proof:
    return compare(call(handle, "probe", version, list(published)), published)


@pytest.mark.capability(
    feature="log-probabilities of what was sampled", engine="vllm", dtype="float32"
)
@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.6])
def test_logprobs_are_of_the_sampling_distribution(
    tied: Any, tiny_model: Path, temperature: float
) -> None:
    model = perturbed(tiny_model)
    publish(tied, model, 1)
    prompts = [(5, 9, 30), (7,), tuple(range(40, 80))]
    requests = [request(s, prompts[s % 3], temperature=temperature) for s in range(12)]
    rollouts: list[Rollout] = call(tied, "generate", requests)
    assert [r.request_id for r in rollouts] == [r.id for r in requests]
    for made, wanted in zip(rollouts, requests, strict=True):
        expected = expected_logprobs(model, wanted.token_ids, made.token_ids, temperature)
        assert torch.allclose(torch.tensor(made.logprobs), expected, atol=1e-4)
        assert made.weight_version == 1


@pytest.mark.capability(feature="nucleus in evaluation", engine="vllm", dtype="float32")
def test_a_nucleus_gives_the_logprobs_of_the_nucleus(tied: Any, tiny_model: Path) -> None:
    model = perturbed(tiny_model)
    publish(tied, model, 1)
    rollouts = call(tied, "generate", [request(s, top_p=0.5) for s in range(8)])
    assert len(rollouts) == 8
    for made in rollouts:
        probs = torch.softmax(logits_after(model, (5, 9, 30), made.token_ids), dim=-1)
        ordered, index = probs.sort(dim=-1, descending=True)
        kept = (ordered.cumsum(dim=-1) - ordered) < 0.5
        nucleus = torch.zeros_like(probs).scatter_(1, index, ordered * kept)
        nucleus /= nucleus.sum(dim=-1, keepdim=True)
        chosen = nucleus.gather(1, torch.tensor(made.token_ids)[:, None]).squeeze(1)
        assert torch.allclose(torch.tensor(made.logprobs), chosen.log(), atol=1e-4)


@pytest.mark.capability(feature="equal requests, equal bits", engine="vllm", dtype="float32")
def test_equal_requests_give_equal_bits_and_seeds_matter(tied: Any) -> None:
    batch = [request(seed, (7, 8) * (1 + seed % 4)) for seed in range(16)]
    first = call(tied, "generate", batch)
    call(tied, "generate", batch[:5])  # leaves other prefixes behind
    assert call(tied, "generate", batch) == first
    alone = [call(tied, "generate", [one])[0].token_ids for one in batch[:4]]
    assert alone == [r.token_ids for r in first[:4]]
    assert len({r.token_ids for r in first}) > 12


def test_more_prompts_than_one_step_takes_wait_whole(tied: Any) -> None:
    """A prompt in pieces ended a run on the CPU; no response depends on which prompts waited."""
    prompts = [tuple((7 * i + j) % 250 for j in range(90)) for i in range(100)]
    assert sum(map(len, prompts)) > PREFILL_TOKENS
    batch = [request(i, prompt, max_new_tokens=4) for i, prompt in enumerate(prompts)]
    made = call(tied, "generate", batch)
    assert call(tied, "generate", batch[90:]) == made[90:]


def test_stops_and_text(tied: Any, tiny_model: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    rollouts = call(
        tied, "generate", [request(s, max_new_tokens=80, temperature=1.5) for s in range(24)]
    )
    assert {r.finish_reason for r in rollouts} == {"stop", "length"}
    for rollout in rollouts:
        ended = rollout.token_ids[-1] == tokenizer.eos_token_id
        assert ended is (rollout.finish_reason == "stop")
        assert tokenizer.eos_token_id not in rollout.token_ids[:-1]
        assert rollout.text == tokenizer.decode(rollout.token_ids, skip_special_tokens=True)


@pytest.mark.capability(feature="new weights in place", engine="vllm", dtype="float32")
@pytest.mark.parametrize("which", ["tied", "untied"])
def test_updates_reach_every_module(
    which: str, actors: dict[str, Any], tiny_model: Path, tiny_untied_model: Path
) -> None:
    handle = actors[which]
    path = tiny_model if which == "tied" else tiny_untied_model
    publish(handle, perturbed(path), 1)
    model = perturbed(path, seed=8, scale=0.1)
    assert canary_error(handle, model).mean > 0.05  # the old weights are far away
    published = publish(handle, model, 2)
    error = canary_error(handle, model)
    print(f"{which}: parity after an update {error}")
    assert error.max < 1e-4
    assert call(handle, "generate", [request(0)])[0].weight_version == 2
    assert proof(handle, published, 2) == Proof((), (), 20 + (which == "untied"))
    heads = [seen for seen in call(handle, "probe", 2, list(published)) if "head" in seen.name]
    assert len(heads) == 1  # a tied head is compared with the embedding


def test_the_canary_catches_a_stale_lm_head(tied: Any, tiny_model: Path) -> None:
    publish(tied, perturbed(tiny_model), 1)
    model = perturbed(tiny_model, seed=8, scale=0.1)
    with without(tied, "repack_lm_heads"):
        published = publish(tied, model, 2)
        print(f"without the repair: {canary_error(tied, model)}")
        assert proof(tied, published, 2).stale == ("lm_head.weight",)  # nothing else is blamed
        with pytest.raises(StaleWeightsError, match="lm_head"):
            check(tied, model, published, 2)
    check(tied, model, publish(tied, model, 3), 3)
    assert canary_error(tied, model).max < 1e-4


@pytest.mark.capability(
    feature="weights that did not arrive stop the run", engine="vllm", dtype="float32"
)
def test_an_update_that_never_came_is_seen_in_every_parameter(tied: Any, tiny_model: Path) -> None:
    published = publish(tied, perturbed(tiny_model), 1)
    later = perturbed(tiny_model, scale=0.05 + 1e-6)
    stale = {name: (fingerprint(value, 1),) for name, value in later.named_parameters()}
    assert proof(tied, published, 1).stale == ()
    assert len(proof(tied, stale, 1).stale) == len(call(tied, "probe", 1, list(stale)))


def check(handle: Any, model: torch.nn.Module, published: Published, version: int) -> None:
    note = check_canary(
        canary_error(handle, model),
        proof(handle, published, version),
        threshold=0.02,
        rounds=False,
        baseline=None,
        weight_version=version,
        worker="rollout worker 0",
    )
    assert note is None


class without:  # noqa: N801  reads as a sentence
    """Switch one of the receiver's repairs off inside an actor's process."""

    def __init__(self, handle: Any, repair: str) -> None:
        self.handle, self.repair = handle, repair

    def __enter__(self) -> None:
        def switch_off(_worker: Any, repair: str) -> None:
            from mgsrl.sync import vllm_receiver

            vllm_receiver._kept = getattr(vllm_receiver, repair)
            setattr(vllm_receiver, repair, lambda model: None)

        self._run(switch_off)

    def __exit__(self, *_: object) -> None:
        def switch_on(_worker: Any, repair: str) -> None:
            from mgsrl.sync import vllm_receiver

            setattr(vllm_receiver, repair, vllm_receiver._kept)

        self._run(switch_on)

    def _run(self, function: Callable[[Any, str], None]) -> None:
        import ray

        ray.get(self.handle.__ray_call__.remote(function, self.repair), timeout=30)


def on_engine(handle: Any, function: Callable[..., Any], *args: Any) -> Any:
    """Call it with the actor's engine, on the engine's thread."""
    import ray

    def run(worker: Any, inner: Any, *given: Any) -> Any:
        return worker._running.call(inner, worker.engine, *given)

    return ray.get(handle.__ray_call__.remote(run, function, *args), timeout=120)


def step_by_step(engine: Any, requests: Any, steps: int, between: Any) -> list[Rollout]:
    """Responses with something done after so many steps."""
    engine.submit(requests)
    made = [rollout for _ in range(steps) for rollout in engine.step()]
    between(engine)
    while len(made) < len(requests):
        made += engine.step()
    return sorted(made, key=lambda rollout: int(rollout.request_id[1:]))


def update(weights: Any, version: int) -> Callable[[Any], None]:
    def between(engine: Any) -> None:
        engine.start_weight_update()
        for payload in weights:
            engine.update_weights(payload)
        engine.finish_weight_update(str(version))

    return between


def test_new_weights_reach_responses_that_are_being_made(tied: Any, tiny_model: Path) -> None:
    """Every token is of the version that its response names: sampled from it, given all before."""
    old, new = perturbed(tiny_model), perturbed(tiny_model, seed=8, scale=0.1)
    publish(tied, old, 1)
    requests = [request(s, (5, 9, 30, 7 + s), max_new_tokens=4 + 3 * s) for s in range(12)]
    undisturbed = call(tied, "generate", requests)
    payloads = [pack_group([name], [value]) for name, value in WeightSource(new)]
    made = on_engine(tied, step_by_step, requests, 8, update(payloads, 2))
    assert {len(rollout.weight_versions) for rollout in made} == {1, 2}
    for rollout, wanted, before in zip(made, requests, undisturbed, strict=True):
        (_, count), *_ = rollout.weight_versions
        assert rollout.token_ids[:count] == before.token_ids[:count]
        start = 0
        for version, tokens in rollout.weight_versions:
            model = {1: old, 2: new}[version]
            expected = expected_logprobs(model, wanted.token_ids, rollout.token_ids)
            here = slice(start, start + tokens)
            got = torch.tensor(rollout.logprobs)
            assert torch.allclose(got[here], expected[here], atol=1e-4)
            start += tokens
        assert start == len(rollout.token_ids)
    assert call(tied, "generate", requests)[0].weight_versions[0][0] == 2


def test_an_update_to_the_same_weights_changes_no_token(tied: Any, tiny_model: Path) -> None:
    model = perturbed(tiny_model)
    publish(tied, model, 1)
    requests = [request(s, (5, 9, 30, 7 + s), max_new_tokens=20) for s in range(8)]
    undisturbed = call(tied, "generate", requests)
    payloads = [pack_group([name], [value]) for name, value in WeightSource(model)]
    made = on_engine(tied, step_by_step, requests, 6, update(payloads, 2))
    assert [r.token_ids for r in made] == [r.token_ids for r in undisturbed]
    changes = {r.version_changes for r in made}
    assert any(changes)
    assert changes <= {(), *(((token, 2),) for token in range(1, 20))}


def test_a_cache_too_small_for_all_changes_no_bit(actors: dict[str, Any]) -> None:
    """Responses are given up in the middle, and go on later with what they have."""

    def count(engine: Any) -> None:
        scheduler = engine.llm.llm_engine.engine_core.engine_core.scheduler
        give_up, engine.given_up = scheduler._preempt_request, 0

        def counted(*args: Any, **options: Any) -> None:
            engine.given_up += 1
            give_up(*args, **options)

        scheduler._preempt_request = counted

    narrow = actors["untied"]
    on_engine(narrow, count)
    batch = [request(i, (9, i, 3), max_new_tokens=80) for i in range(16)]
    together = call(narrow, "generate", batch)
    assert on_engine(narrow, lambda engine: engine.given_up) > 0
    assert together == [call(narrow, "generate", [one])[0] for one in batch]


def test_scores_and_other_requests_do_not_disturb_what_is_in_flight(
    tied: Any, tiny_model: Path
) -> None:
    model = perturbed(tiny_model)
    publish(tied, model, 1)
    requests = [request(s, (5, 9, 30, 7 + s), max_new_tokens=20) for s in range(8)]
    undisturbed = call(tied, "generate", requests)
    beside = [request(s, (8, 8, s), max_new_tokens=4) for s in range(50, 54)]
    alone = call(tied, "generate", beside)
    found: list[Any] = []

    def between(engine: Any) -> list[Any]:
        return [engine.logprobs(SEQUENCES), engine.generate(beside)]

    def watched(engine: Any, *args: Any) -> Any:
        seen: list[Any] = []
        made = step_by_step(engine, *args, lambda e: seen.extend(between(e)))
        return made, seen

    made, found = on_engine(tied, watched, requests, 5)
    assert [r.token_ids for r in made] == [r.token_ids for r in undisturbed]
    assert [r.token_ids for r in found[1]] == [r.token_ids for r in alone]
    assert compare_logprobs(found[0], learner_scores(model)).max < 1e-4


def test_bfloat16_weights_load_into_a_float32_engine(tied: Any, tiny_model: Path) -> None:
    learner = perturbed(tiny_model, seed=9)
    sent = perturbed(tiny_model, seed=9)
    for kept, value in zip(learner.parameters(), sent.parameters()):
        value.data = value.data.to(torch.bfloat16)
        kept.data = value.data.to(torch.float32)
    publish(tied, sent, 4)
    assert canary_error(tied, learner).max < 1e-4


def test_what_cannot_be_scored_is_refused(tied: Any) -> None:
    from ray.exceptions import RayTaskError

    with pytest.raises(RayTaskError, match="temperature 1 only"):
        call(tied, "logprobs", SEQUENCES, 0.7)
    with pytest.raises(RayTaskError, match="longer than the engine's context"):
        call(tied, "generate", [request(0, (5,) * (MAX_MODEL_LEN + 1))])
    assert len(call(tied, "logprobs", [(5,) * MAX_MODEL_LEN])[0]) == MAX_MODEL_LEN
